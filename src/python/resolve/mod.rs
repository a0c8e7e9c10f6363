//! Requirements -> [`Lock`]: exactly which wheels, with address, size and hash.
//!
//! ```text
//! requirements -> ask (uv, by a program that uv.rs finds, at an index that index.rs finds, and the extra ones) -> pylock -> Lock
//! ```
//!
//! [`young_lock`] remembers what was answered for a day.

mod age;
mod ask;
mod extra;
mod index;
mod locked;
mod missing;
mod other_name;
mod programs;
mod pylock;
mod resolver;
mod target;
pub(crate) mod uv;

pub use age::LOCK_AGE;
pub(crate) use age::{young_lock, Wish};
pub(crate) use extra::{ExtraIndex, Login};
pub(crate) use locked::{Lock, LockError, LockedSdist, LockedWheel, LARGE_IMAGE, MAX_IMAGE};
pub(crate) use other_name::{find_absent, find_meant, Meant};
pub(crate) use pylock::fits_where_built;
pub(crate) use resolver::{Resolution, Resolver};
pub(crate) use target::Target;
