//! What is printed: data on standard output, errors on standard error.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PIPE_BUF;
use serde::Serialize;

use super::error::CommandError;
use super::escape::escape;
use super::hint::hint;
use super::proxy;
use crate::policy::messages;
use crate::sys::streams;

/// Prints `value` as JSON on one line; returns the exit code of success.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<u8, CommandError> {
    let json = serde_json::to_string(value).map_err(|source| failed(source.into()))?;
    print_line(&json)
}

/// Prints a line of data; returns the exit code of success. A closed pipe is a quiet success: the reader has what it
/// wanted.
pub(super) fn print_line<T: Display + ?Sized>(line: &T) -> Result<u8, CommandError> {
    match standard_output().and_then(|mut stdout| writeln!(stdout, "{line}")) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(source) => Err(failed(source)),
        Ok(()) => Ok(0),
    }
}

/// Our standard output; an error when nobody gave us one.
pub(super) fn standard_output() -> io::Result<io::Stdout> {
    match streams::is_standard_output_closed() {
        true => Err(Errno::BADF.into()),
        false => Ok(io::stdout()),
    }
}

/// Prints `error:`, its causes and a hint to standard error.
pub(super) fn print_error(error: &CommandError) {
    let mut text = String::new();
    let prefixes = std::iter::once("error").chain(std::iter::repeat("caused by"));
    for (prefix, message) in prefixes.zip(messages(error)) {
        text.push_str(&format!("{prefix}: {}\n", indented(&message)));
    }
    if let Some(hint) = proxy::hint(error).or_else(|| hint(error).map(Cow::into_owned)) {
        text.push_str(&format!("\nhint: {}\n", escape(&hint)));
    }
    narrate(&text);
}

/// Writes to standard error. If it is closed, or nobody reads it for a second, there is nobody to tell: what gantry says is
/// never what it waits for.
pub(super) fn narrate(text: &str) {
    let stderr = io::stderr();
    let second = Duration::from_secs(1);
    // A pipe that is ready takes so many bytes at once (pipe(7)).
    for part in text.as_bytes().chunks(PIPE_BUF) {
        if !is_ready(&stderr, second) || stderr.lock().write_all(part).is_err() {
            return;
        }
    }
}

/// Whether the next bytes can be written without waiting for longer than `longest`.
pub(super) fn is_ready(descriptor: impl AsFd, longest: Duration) -> bool {
    let mut events = [PollFd::new(&descriptor, PollFlags::OUT)];
    let until = Instant::now() + longest;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(&mut events, Timespec::try_from(left).ok().as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn indented(text: &str) -> String {
    escape(text.trim_end()).replace('\n', "\n  ")
}

/// Standard output cannot be written.
pub(super) fn failed(source: io::Error) -> CommandError {
    CommandError::File {
        action: "write",
        path: "standard output".to_owned(),
        source,
    }
}
