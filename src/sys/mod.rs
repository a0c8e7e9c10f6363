//! The kernel edge: what rustix does not wrap, and the only `unsafe` of the crate.

pub mod clock;
pub mod inflate;
mod keeper;
pub mod kernel;
pub mod lock;
pub mod netlink;
pub mod pool;
pub mod process;
pub mod program;
pub mod replace;
pub mod signal;
pub mod space;
pub mod tree;
