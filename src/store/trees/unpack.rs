//! Unpacks the blob of a layer: verified while it is read, once for all images that have the layer.
//!
//! What is unpacked is always compared with the diff id. The blob is hashed as well unless it is known to be whole: this boot
//! wrote it, or has read it (see [`whole`](crate::store::content::whole)).
//!
//! A blob that turns out to be damaged is removed, so that whoever can make or fetch it does so.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::budget::Budget;
use super::folder::LayerFolder;
use super::staging::{LayerStaging, Visit};
use crate::archive::tar_reader::{read_layer, Change, TarError};
use crate::oci::{Compression, Descriptor, DiffId, Digest};
use crate::policy::ExtractionLimits;
use crate::store::content::blobs::{Blobs, Verified};
use crate::store::content::whole::Content;
use crate::store::disk::locks::Locks;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::space;

/// The window of a zstd stream, as a power of two, that a layer may have which is unpacked beside many others: 8 MiB is what
/// every reader must understand (RFC 8878). Another one is unpacked from its blob.
const SHARED_WINDOW_LOG: u32 = 23;
/// What files and directories are rounded up to: the blocks of the usual file systems.
const BLOCK: u64 = 4096;
/// Held while a layer is unpacked whose window is larger: 128 MiB for each of several would be too much.
static LARGE_WINDOW: Mutex<()> = Mutex::new(());

/// Unpacks a layer that may be one of several which share a `budget`; [`Trees::unpack`](super::Trees::unpack) has the contract.
pub(in crate::store) fn ensure(
    disk: &Disk,
    layer: &Descriptor,
    diff_id: &DiffId,
    limits: &ExtractionLimits,
    budget: &Budget,
) -> Result<PathBuf, StoreError> {
    let folder = LayerFolder::of(disk, diff_id);
    let is_ours = || folder.is_from(&layer.digest);
    if let Some(tree) = folder.trusted_tree().filter(|_| is_ours()) {
        return Ok(tree);
    }
    let _single = Locks::of(disk).layer(diff_id)?;
    let is_whole = folder.verify()?;
    let done = match is_whole {
        true if is_ours() => return Ok(folder.tree()),
        true => in_turn(layer, limits, |limits| {
            read_whole(disk, layer, diff_id, limits, &mut |_, _| Ok(())).map(|()| folder.tree())
        }),
        false => in_turn(layer, limits, |limits| unpack(disk, layer, diff_id, limits, budget)),
    };
    match done {
        Ok(tree) => folder.note_origin(&layer.digest).map(|()| tree),
        Err(StoreError::NoBlob { digest }) if !is_whole => Err(StoreError::LayerLost {
            diff_id: *diff_id,
            digest,
        }),
        Err(
            StoreError::Layer { .. } | StoreError::Digest { .. } | StoreError::Size { .. } | StoreError::DiffId { .. },
        ) if !Content::Blob.has_digest(disk, &layer.digest) => {
            remove_blob(disk, &layer.digest)?;
            Err(StoreError::LayerLost {
                diff_id: *diff_id,
                digest: layer.digest,
            })
        }
        Err(error) => Err(error),
    }
}

/// Bytes that the files of a layer take on the disk, as its blob says, which is read for that.
///
/// # Errors
/// As [`ensure`], of a blob that is damaged or no layer.
pub(in crate::store) fn measure(
    disk: &Disk,
    layer: &Descriptor,
    diff_id: &DiffId,
    limits: &ExtractionLimits,
) -> Result<u64, StoreError> {
    in_turn(layer, limits, |limits| {
        let mut bytes = 0u64;
        read_whole(disk, layer, diff_id, limits, &mut |_, change| {
            bytes = bytes.saturating_add(match change {
                Change::File { size, .. } => size.div_ceil(BLOCK).saturating_mul(BLOCK),
                Change::Directory { .. } => BLOCK,
                _ => 0,
            });
            Ok(())
        })?;
        Ok(bytes)
    })
}

/// Removes a blob whose bytes are not those of its digest.
fn remove_blob(disk: &Disk, digest: &Digest) -> Result<(), StoreError> {
    let path = Blobs::of(disk).path(digest);
    let gone = fault::point(fault::Step::DamagedBlob).and_then(|()| fs::remove_file(&path));
    gone.map_err(io_error("remove damaged", &path))
}

/// How much memory a layer may take that is unpacked from a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Memory {
    /// What each of many may take.
    OfMany,
    /// All that a layer may have: one at a time.
    OfOne,
}

impl Memory {
    /// Does `work` with the limits of a layer that may have so much.
    fn with<T>(self, limits: &ExtractionLimits, work: impl FnOnce(&ExtractionLimits) -> T) -> T {
        match self {
            Self::OfMany => work(&shared(limits)),
            Self::OfOne => {
                let _alone = LARGE_WINDOW.lock().unwrap_or_else(PoisonError::into_inner);
                work(limits)
            }
        }
    }
}

/// Unpacks a layer from a stream that others verify.
pub(in crate::store) fn stage_stream(
    disk: &Disk,
    layer: &Descriptor,
    diff_id: &DiffId,
    (limits, memory): (&ExtractionLimits, Memory),
    budget: &Budget,
    blob: &mut dyn Read,
) -> Result<LayerStaging, StoreError> {
    let mut staging = LayerStaging::begin(disk)?;
    let read = memory.with(limits, |limits| {
        staging.fill(layer, budget, |visit| read_stream(layer, diff_id, limits, blob, visit))
    });
    match finish(&mut staging, read, layer, budget) {
        Ok(()) => Ok(staging),
        Err(error) => {
            staging.pay_back(budget);
            Err(error)
        }
    }
}

/// Reads a layer from a stream that others verify, and compares it with its diff id.
pub(in crate::store) fn check_stream(
    layer: &Descriptor,
    diff_id: &DiffId,
    (limits, memory): (&ExtractionLimits, Memory),
    blob: &mut dyn Read,
) -> Result<(), StoreError> {
    memory.with(limits, |limits| {
        read_stream(layer, diff_id, limits, blob, &mut |_, _| Ok(()))
    })
}

fn read_stream(
    layer: &Descriptor,
    diff_id: &DiffId,
    limits: &ExtractionLimits,
    blob: &mut dyn Read,
    visit: Visit<'_>,
) -> Result<(), StoreError> {
    let got = read_changes(layer, blob, limits, visit)?;
    check_diff_id(layer, diff_id, got)
}

fn read_changes(
    layer: &Descriptor,
    blob: &mut dyn Read,
    limits: &ExtractionLimits,
    visit: Visit<'_>,
) -> Result<DiffId, StoreError> {
    read_layer(blob, compression(layer)?, limits, visit).map_err(|source| StoreError::Layer {
        digest: layer.digest,
        source,
    })
}

fn compression(layer: &Descriptor) -> Result<Compression, StoreError> {
    Compression::of_layer(layer).map_err(|source| StoreError::Document {
        digest: layer.digest,
        source,
    })
}

fn check_diff_id(layer: &Descriptor, expected: &DiffId, got: DiffId) -> Result<(), StoreError> {
    if got == *expected {
        return Ok(());
    }
    Err(StoreError::DiffId {
        digest: layer.digest,
        expected: *expected,
        got,
    })
}

/// Reads a layer's blob to its end; what `visit` was told is the layer's only when this succeeds.
fn read_whole(
    disk: &Disk,
    layer: &Descriptor,
    diff_id: &DiffId,
    limits: &ExtractionLimits,
    visit: Visit<'_>,
) -> Result<(), StoreError> {
    let blobs = Blobs::of(disk);
    let file = blobs.open(&layer.digest)?;
    let is_known = blobs.size(&layer.digest) == Some(layer.size) && Content::Blob.is_trusted(disk, &layer.digest);
    let mut verified = match is_known {
        true => Verified::known(file),
        false => Verified::new(file, layer.size),
    };
    let got = read_changes(layer, &mut verified, limits, visit)?;
    // A gzip reader may stop before the last bytes of the blob; they count for its digest all the same.
    io::copy(&mut verified, &mut io::sink()).map_err(io_error("read", &blobs.path(&layer.digest)))?;
    verified.check(layer)?;
    check_diff_id(layer, diff_id, got)
}

fn unpack(
    disk: &Disk,
    layer: &Descriptor,
    diff_id: &DiffId,
    limits: &ExtractionLimits,
    budget: &Budget,
) -> Result<PathBuf, StoreError> {
    let mut staging = LayerStaging::begin(disk)?;
    let read = staging.fill(layer, budget, |visit| read_whole(disk, layer, diff_id, limits, visit));
    if let Err(error) = finish(&mut staging, read, layer, budget) {
        staging.pay_back(budget);
        return Err(error);
    }
    staging.describe()?;
    staging.take_place(diff_id)
}

/// Puts the whiteouts into a tree whose layer was read, and says which limit of the image ended the reading.
fn finish(
    staging: &mut LayerStaging,
    read: Result<(), StoreError>,
    layer: &Descriptor,
    budget: &Budget,
) -> Result<(), StoreError> {
    let read = read.and_then(|()| staging.write_whiteouts(layer, budget));
    let is_refused = |error: &TarError| matches!(error, TarError::Visit { source, .. } if source.kind() == io::ErrorKind::QuotaExceeded);
    match (read, budget.exceeded()) {
        (Err(StoreError::Layer { digest, source }), Some(limit)) if is_refused(&source) => {
            Err(StoreError::Layer { digest, source: limit })
        }
        // The disk's fault, not the layer's.
        (Err(StoreError::Layer { digest, source }), _) => match source {
            TarError::Visit { path, source } if space::is_full(&source) => Err(StoreError::NoSpace {
                action: "unpack",
                path: PathBuf::from(path),
                source,
            }),
            source => Err(StoreError::Layer { digest, source }),
        },
        (read, _) => read,
    }
}

/// Does `work` within the memory that many layers may take, and once more with all that a layer may have, one at a time,
/// when that is what a layer needs.
fn in_turn<T>(
    layer: &Descriptor,
    limits: &ExtractionLimits,
    work: impl Fn(&ExtractionLimits) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if compression(layer)? != Compression::Zstd {
        return work(limits);
    }
    match work(&shared(limits)) {
        Err(StoreError::Layer {
            source: TarError::Read(_),
            ..
        }) => {
            let _alone = LARGE_WINDOW.lock().unwrap_or_else(PoisonError::into_inner);
            work(limits)
        }
        other => other,
    }
}

/// `limits` for a layer that is unpacked beside many others.
fn shared(limits: &ExtractionLimits) -> ExtractionLimits {
    ExtractionLimits {
        window_log: limits.window_log.min(SHARED_WINDOW_LOG),
        ..limits.clone()
    }
}
