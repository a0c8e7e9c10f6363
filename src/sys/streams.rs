//! Whether our standard output was closed when we were started: before `main` Rust opens `/dev/null` in its place, and what is
//! written there would be lost without a word.
#![allow(
    unsafe_code,
    reason = "what runs before `main` is placed by hand, and asks the kernel without Rust's runtime"
)]

use std::sync::atomic::{AtomicBool, Ordering};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether nobody gave us a standard output.
pub(crate) fn is_standard_output_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}

extern "C" fn look() {
    // SAFETY: F_GETFD takes no pointer and changes nothing (fcntl(2)); an unused number is answered by EBADF.
    let answer = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    IS_CLOSED.store(answer < 0, Ordering::Relaxed);
}

// SAFETY: the loader calls the functions in this section once, before `main` and with the C convention (System V gABI,
// "Initialization and Termination Functions"); `look` needs nothing of Rust's runtime.
#[unsafe(link_section = ".init_array")]
#[used]
static LOOK: extern "C" fn() = look;
