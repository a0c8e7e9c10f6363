//! An error and what caused it, from the outside in.

use std::error::Error;

/// `error`, its source, the source of that, and so on.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

/// The texts of `error` and its causes. A text that only repeats the end of the one before is left out: an error that
/// stands for its source says the same.
pub fn messages(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for message in causes(error).map(ToString::to_string) {
        if messages.last().is_none_or(|last| !last.ends_with(&message)) {
            messages.push(message);
        }
    }
    messages
}

/// `error` and its causes on one line, for documents.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let text = messages(error).join(": ");
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("{0}")]
        StandsFor(#[from] Inner),
        #[error("read a:\n  line 1")]
        Says { source: Inner },
        #[error("read a: no b")]
        Repeats { source: Inner },
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no b")]
    struct Inner;

    #[test]
    fn an_error_that_stands_for_its_source_is_said_once_and_both_are_found() {
        for (error, line) in [
            (Outer::StandsFor(Inner), "no b"),
            (Outer::Says { source: Inner }, "read a: line 1: no b"),
            (Outer::Repeats { source: Inner }, "read a: no b"),
        ] {
            assert_eq!(one_line(&error), line);
            assert_eq!(causes(&error).count(), 2);
            assert!(causes(&error).any(|cause| cause.is::<Inner>()));
        }
    }
}
