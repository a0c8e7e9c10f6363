//! What is printed: data on standard output, errors on standard error.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use super::error::CommandError;
use super::escape::escape;
use super::hint::hint;
use super::proxy;
use crate::policy::messages;

/// Prints `value` as JSON on one line; returns the exit code of success.
pub fn print_json<T: Serialize>(value: &T) -> Result<u8, CommandError> {
    let json = serde_json::to_string(value).map_err(|source| failed(source.into()))?;
    print_line(&json)
}

/// Prints a line of data; returns the exit code of success. A closed pipe is a quiet success: the reader has what it
/// wanted.
pub fn print_line<T: Display + ?Sized>(line: &T) -> Result<u8, CommandError> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(source) => Err(failed(source)),
        Ok(()) => Ok(0),
    }
}

/// Prints `error:`, its causes and a hint to standard error.
pub fn print_error(error: &CommandError) {
    let mut text = String::new();
    let prefixes = std::iter::once("error").chain(std::iter::repeat("caused by"));
    for (prefix, message) in prefixes.zip(messages(error)) {
        text.push_str(&format!("{prefix}: {}\n", indented(&message)));
    }
    if let Some(hint) = proxy::hint(error).or_else(|| hint(error).map(Cow::into_owned)) {
        text.push_str(&format!("\nhint: {}\n", escape(&hint)));
    }
    // If standard error is closed, there is nobody to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn indented(text: &str) -> String {
    escape(text.trim_end()).replace('\n', "\n  ")
}

fn failed(source: io::Error) -> CommandError {
    CommandError::File {
        action: "write",
        path: "standard output".to_owned(),
        source,
    }
}
