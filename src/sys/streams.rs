//! What a program does before its own `main`: the part of Rust's that is of use here, which `main.rs` leaves out.
//!
//! A standard stream that nobody gave us is `/dev/null`, or the next file that is opened would be it. Of standard input and output
//! that is remembered: one would seem to be empty, and what is written to the other would be lost without a word. A pipe that nobody reads is an error and no signal. What
//! Rust does besides is a name for this thread, which a panic says, and a message for a stack that has grown too far, for which
//! it reads the table of our memory at every start, and makes a stack for it.
#![allow(unsafe_code, reason = "asks the kernel for numbers that nobody may have opened")]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);
static IS_INPUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether nobody gave us a standard output.
pub(crate) fn is_standard_output_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}

/// Our standard input; an error when nobody gave us one, which would read as an empty one.
pub(crate) fn standard_input() -> io::Result<io::Stdin> {
    match IS_INPUT_CLOSED.load(Ordering::Relaxed) {
        true => Err(io::Error::other("it is closed")),
        false => Ok(io::stdin()),
    }
}

/// Prepares the streams; first of all.
pub(crate) fn prepare() {
    for number in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        if is_open(number) {
            continue;
        }
        match number {
            libc::STDIN_FILENO => IS_INPUT_CLOSED.store(true, Ordering::Relaxed),
            libc::STDOUT_FILENO => IS_CLOSED.store(true, Ordering::Relaxed),
            _ => {}
        }
        // SAFETY: a path that ends in NUL, and flags. The lowest number that is free is this one, for those below are open.
        let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if opened != number {
            // A program that goes on would print into its own files.
            let told = b"gantry: a standard stream is closed, and /dev/null cannot be opened in its place\n";
            // SAFETY: writes a live buffer of that length, where standard error is open.
            unsafe { libc::write(libc::STDERR_FILENO, told.as_ptr().cast(), told.len()) };
            std::process::abort();
        }
    }
    super::process::ignore_signal(libc::SIGPIPE);
}

fn is_open(number: i32) -> bool {
    // SAFETY: F_GETFD takes no pointer and changes nothing (fcntl(2)); an unused number is answered by EBADF.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::PathBuf;

    use super::super::process::{exit_now, is_ignored, wait};
    use super::super::vfork::vfork;
    use super::*;

    /// In a child, whose streams and signals are its own.
    #[test]
    fn a_stream_that_nobody_gave_us_is_the_null_device_and_a_broken_pipe_an_error() {
        let found = Cell::new(None);
        let pid = vfork(&|| {
            // SAFETY: a number of the child's own, which nobody uses there.
            unsafe { libc::close(libc::STDIN_FILENO) };
            prepare();
            let stream = std::fs::read_link("/proc/self/fd/0").ok();
            found.set(stream.zip(is_ignored(libc::SIGPIPE).ok()));
            exit_now(0)
        });
        assert_eq!(wait(pid.unwrap()).unwrap().code, Some(0));
        assert_eq!(found.take(), Some((PathBuf::from("/dev/null"), true)));
        assert!(!is_standard_output_closed());
        // The child has our memory.
        assert!(standard_input().is_err());
        IS_INPUT_CLOSED.store(false, Ordering::Relaxed);
    }
}
