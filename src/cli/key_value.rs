//! `NAME=VALUE`, as options take it.

/// The name, which is not empty, and the value.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    split(text, "want NAME=VALUE")
}

/// The key of a label, and what it is.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    split(text, "want KEY=VALUE")
}

fn split(text: &str, wanted: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(wanted.to_owned()),
    }
}
