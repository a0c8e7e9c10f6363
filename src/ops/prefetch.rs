//! The files that runs of an image read at first: recorded by one run that found them on the disk, and read ahead for those
//! that find them there again.
//!
//! A run whose files are in memory pays for a look at two of them; nothing is recorded of it, as nothing tells what it read. What a run
//! read from the disk says the kernel, which counts it for each process; which pages that were is looked up when the run is over, and its
//! caller has the outcome.

use crate::oci::Digest;
use crate::store::{Store, StoreError};

/// A run that read fewer bytes from the disk found its files in memory.
const LEAST_READ: u64 = 4 << 20;
/// Of what is in memory afterwards the run may have read this part at least: what other images use as well is there before.
const SHARE: u64 = 4;

/// What is known before a run of where its files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Readiness {
    /// Nothing: no run has told.
    #[default]
    Unknown,
    /// They are in memory.
    Warm,
    /// They were not, and the kernel reads them.
    Asked,
}

/// Has the kernel read what runs of the image read at first, when it is not in memory. Does not wait for it.
pub(super) fn prefetch(store: &Store, image: &Digest) -> Readiness {
    match store.images().start_files(image) {
        None => Readiness::Unknown,
        Some(files) if files.are_cold() => {
            files.ask_for();
            Readiness::Asked
        }
        Some(_) => Readiness::Warm,
    }
}

/// Whether a run that read so many bytes from the disk can tell which files that were.
pub(super) fn can_tell(readiness: Readiness, read_bytes: u64) -> bool {
    readiness == Readiness::Unknown && read_bytes >= LEAST_READ
}

/// Records what is in memory of an image after a run of it that read `read_bytes` from the disk; returns how many bytes that are, or
/// none when it cannot be told from what else is there.
///
/// # Errors
///
/// [`StoreError`] when it cannot be kept.
pub fn record_start_files(store: &Store, image: &Digest, read_bytes: u64) -> Result<Option<u64>, StoreError> {
    store
        .images()
        .measure_start_files(image, read_bytes.saturating_mul(SHARE))
}

/// Reads into memory what runs of the image read at first; returns how many bytes those are, or none when no run has told.
pub(super) fn make_resident(store: &Store, image: &Digest) -> Option<u64> {
    store.images().start_files(image)?.ask_for();
    // Asked for all at once, and then waited for.
    Some(store.images().start_files(image)?.read_through())
}
