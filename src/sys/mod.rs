//! The kernel edge: what rustix does not wrap, and the only `unsafe` of the crate; and `fault`, by which tests fail what should
//! be durable.

pub(crate) mod clock;
pub(crate) mod cores;
pub(crate) mod fault;
pub(crate) mod inflate;
mod keeper;
pub(crate) mod kernel;
pub(crate) mod lock;
pub(crate) mod lockers;
pub(crate) mod net_namespace;
pub(crate) mod netlink;
pub(crate) mod page_cache;
pub(crate) mod pool;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod replace;
pub(crate) mod signal;
pub(crate) mod space;
pub(crate) mod streams;
pub(crate) mod tree;
pub(crate) mod vfork;
