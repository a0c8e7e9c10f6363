//! Whole images: their documents, the snapshots that runs start from, and what goes when nothing needs it.

pub(super) mod gc;
pub(super) mod image;
pub(crate) mod snapshot;
