//! Attacks on the sandbox, as functions run through the binary; `docs/security.md` says which promise each one tests.
//!
//! An attack is a Python function of one of the files of this folder. It runs twice: inside (`gantry run`) and outside,
//! as the same user on the same kernel. Each row of [`rows`] states both answers, and they must differ: an attack that
//! is refused outside as well would prove nothing. Attacks that show from outside (what is left, what comes out, who
//! else is hit) are in [`scenes`].

mod harness;
mod output;
mod profile;
mod promises;
mod rows;
mod scenes;
