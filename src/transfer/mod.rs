//! Images between places (the store, image layouts, OCI archives; registries will be one more), and downloads.
//!
//! ```text
//! Source  --- copy_image: documents, then layers, each verified while it is read --->  Destination
//! ```
//!
//! `pull`, `push`, `copy`, `save` and `load` are that one loop between two places. What a name means is each place's own:
//! [`Layout::find`], [`ArchiveSource::images`], and the names of the store.

mod archive_source;
mod archive_start;
mod archive_target;
mod error;
mod fetch;
mod image_copy;
mod layout;
mod local;
mod named;
mod peer;

pub use archive_source::ArchiveSource;
pub use archive_target::ArchiveTarget;
pub use error::TransferError;
pub use fetch::{fetch, FetchError, FetchItem};
pub use image_copy::copy_image;
pub use layout::Layout;
pub use local::ensure_copied;
pub use named::name_of;
pub use peer::{Destination, Documents, Incoming, Peer, Source};

#[cfg(test)]
mod tests;
