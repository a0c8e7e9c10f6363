//! Requirements -> [`Lock`]: exactly which wheels, with address, size and hash.
//!
//! ```text
//! requirements -> ask (uv, by a program that uv.rs finds, at an index that index.rs finds) -> pylock -> Lock
//! ```
//!
//! [`young_lock`] remembers what was answered for a day.

mod age;
mod ask;
mod index;
mod locked;
mod missing;
mod programs;
mod pylock;
mod resolver;
pub mod uv;

pub use age::{young_lock, Wish, LOCK_AGE};
pub use index::{Index, IndexError};
pub use locked::{Lock, LockError, LockedSdist, LockedWheel, LARGE_IMAGE, MAX_IMAGE};
pub use missing::MissingWheel;
pub use programs::Deadlines;
pub use pylock::{fits_where_built, GLIBC};
pub use resolver::{Lookups, Resolution, Resolver};
