//! A Debian archive: where this machine gets it from, whom it trusts to sign it, and what its signed index lists.

mod list;
mod mirror;
mod pinned;
mod release;
mod signature;
mod version;

pub use list::find_newest;
pub use mirror::{find_mirrors, Configured, Mirror, MirrorError, Mirrors};
pub use pinned::{parse_locked, Archive, LockedDeb};
pub use release::Release;
pub use signature::{signed_text, SignatureError};
pub use version::compare;
