//! What the rest of the store writes files with: scratch directories, locks, copies that say which side failed.
//!
//! Nothing here knows what is stored.

pub(super) mod copy;
pub(crate) mod fault;
pub(super) mod locks;
pub(super) mod scratch;
pub(super) mod stamp;
