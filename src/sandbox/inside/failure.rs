//! What an init says before it ends: which step failed, and the kernel's answer.

use std::io;

/// A step that failed, in the words of the error message, and why.
pub(super) type Failure = (String, io::Error);

/// Names the step whose system call `result` is of.
pub(super) fn step<T>(what: &str, result: rustix::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|errno| (what.to_owned(), errno.into()))
}

/// Names the step that failed with an error of the standard library.
pub(super) fn at(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| (what.to_owned(), error)
}
