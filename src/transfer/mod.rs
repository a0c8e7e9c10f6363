//! Moves bytes between this machine and others.

mod fetch;

pub use fetch::{fetch, FetchError, FetchItem};
