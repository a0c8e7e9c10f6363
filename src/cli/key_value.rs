//! `NAME=VALUE`, as options take it.

use crate::build::image::CREATED_LABEL;

/// The name, which is not empty, and the value.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    split(text, "want NAME=VALUE")
}

/// The key of a label, and what it is.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = split(text, "want KEY=VALUE")?;
    match key.as_str() {
        CREATED_LABEL => Err(format!(
            "{key} says when the image was made, which the build writes itself; SOURCE_DATE_EPOCH sets that time"
        )),
        _ => Ok((key, value)),
    }
}

fn split(text: &str, wanted: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(wanted.to_owned()),
    }
}
