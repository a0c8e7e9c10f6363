//! The `gantry` binary: hands the arguments to [`gantry::cli`] and exits with its code.
//!
//! It starts without Rust's own start-up, of which [`gantry::cli::main`] does what is of use: a run starts it twice
//! (docs/decisions.md).
#![no_main]
#![allow(
    unsafe_code,
    reason = "the C library calls what has this name, and there is no other"
)]

use std::ffi::{c_char, c_int};

/// How Rust's programs end that panic, where panics are caught.
const PANICKED: c_int = 101;

// SAFETY: the one function of this name and shape, as the C library declares it.
#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    let code = std::panic::catch_unwind(gantry::cli::main).map_or(PANICKED, c_int::from);
    #[allow(
        clippy::exit,
        reason = "writes what standard output still has, as Rust's own start-up does in the end"
    )]
    std::process::exit(code)
}
