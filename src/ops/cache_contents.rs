//! `gantry cache stats` and `gantry cache ls`: what the store holds, and what it takes.

use serde::Serialize;

use crate::oci::{Digest, Reference};
use crate::store::{Count, Store, StoreError};
use crate::upkeep::eviction::CacheLimits;
use crate::upkeep::stats::{stats, CacheStats, ImageRoom};

use super::images::{show, ImagesError};

/// Counts every file of the store.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn cache_stats(store: &Store, limits: CacheLimits) -> Result<CacheStats, StoreError> {
    Ok(stats(&store.inventory(Count::Exact)?, limits))
}

/// The images by last use, the latest first. Sizes of trees that were counted before are believed.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn cache_images(store: &Store) -> Result<Vec<ImageRoom>, StoreError> {
    Ok(stats(&store.inventory(Count::Noted)?, CacheLimits::default()).images)
}

/// An image that was pinned, or is pinned no longer.
#[derive(Debug, Clone, Serialize)]
pub struct PinnedImage {
    /// As typed.
    pub reference: String,
    /// The image.
    pub digest: Digest,
    /// Whether it was not so before.
    pub is_new: bool,
}

/// Whether an image is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It stays, whatever the store may hold, and also without a name.
    Set,
    /// It goes like others.
    Removed,
}

/// Pins the image that `reference` means now, or pins it no longer. Idempotent.
///
/// # Errors
/// [`ImagesError::Unknown`] when there is no such image.
pub fn pin(store: &Store, reference: &Reference, pin: Pin) -> Result<PinnedImage, ImagesError> {
    let unknown = || ImagesError::Unknown {
        reference: reference.to_string(),
    };
    let digest = store.names().find(reference)?.ok_or_else(unknown)?;
    let is_new = match pin {
        Pin::Set => {
            // An eviction that has begun is over, and none takes it until it is pinned.
            let _lease = store.locks().hold(&digest)?;
            show(store, reference)?;
            store.images().pin(&digest)?
        }
        Pin::Removed => store.images().unpin(&digest)?,
    };
    Ok(PinnedImage {
        reference: reference.to_string(),
        digest,
        is_new,
    })
}
