//! Images between places (the store, image layouts, OCI archives, registries), and downloads.
//!
//! ```text
//! Source  --- copy_image: documents, then layers, each verified while it is read --->  Destination
//! ```
//!
//! `pull`, `push`, `copy`, `save` and `load` are that one loop between two places. What a name means is each place's own:
//! [`Layout::find`], [`ArchiveSource::images`], [`Remote::find`], and the names of the store. [`Registries`] says which
//! registries there are; an image is fetched from the first of them that answers, by a [`Remote`], and pushed to the one that
//! is named, by a [`RemoteTarget`].

mod answerer;
mod archive_end;
mod archive_entries;
mod archive_outline;
mod archive_room;
mod archive_source;
mod archive_start;
mod archive_target;
mod attempt;
mod candidates;
mod circuit;
mod connections;
mod docker_images;
mod error;
mod fallback;
mod fetch;
mod image_copy;
mod layer_copy;
mod layer_fetch;
mod layout;
mod local;
mod login_places;
mod named;
mod nearby;
mod no_registry;
mod note;
mod passing;
mod peer;
mod persist;
mod poured;
mod preferred;
mod pull_budget;
mod pulled;
mod pushed;
mod race;
mod ranges;
mod referrers;
mod registries;
mod remote;
mod remote_blob;
mod remote_target;
mod removal;
mod shared_tag;
mod small;
mod verified;

pub(crate) use crate::registry::{ManagementApi, Taken, Unwanted};
pub use archive_source::ArchiveSource;
pub use archive_target::ArchiveTarget;
pub use attempt::{Asked, Attempt};
pub use circuit::{read_circuit, Circuit};
pub use error::TransferError;
pub use fetch::{fetch, FetchError, FetchItem};
pub use image_copy::{copy_image, copy_image_with, resolve_image, Companions};
pub use layout::Layout;
pub use login_places::{Credential, LoginPlaces};
pub use named::name_of;
pub use nearby::Nearby;
pub use peer::{Destination, Documents, Incoming, Keeps, Peer, Reach, Referrer, Source, StandIn, Tally, Written};
pub use preferred::Preferred;
pub use pulled::{copy_unpacked, ensure_copied, Brought};
pub use referrers::copy_referrers;
pub use registries::{Failover, Registries, RegistryEntry, Role, TransferRules};
pub use remote::Remote;
pub use remote_target::RemoteTarget;
pub use removal::{list_repositories, Keeper, Rehearsal, Removed};

#[cfg(test)]
mod tests;
