//! Unpacks the blob of a layer: verified while it is read, once for all images that have the layer.
//!
//! A blob that turns out to be damaged is removed, so that whoever can make or fetch it does so.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::budget::Budget;
use super::folder::LayerFolder;
use super::staging::LayerStaging;
use crate::archive::tar_reader::{read_layer, Change};
use crate::oci::{Compression, Descriptor, DiffId};
use crate::policy::ExtractionLimits;
use crate::store::content::blobs::{Blobs, Verified};
use crate::store::content::whole::Content;
use crate::store::disk::locks::Locks;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};

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
        true => read_whole(disk, layer, diff_id, limits, &mut |_, _| Ok(())).map(|()| folder.tree()),
        false => unpack(disk, layer, diff_id, limits, budget),
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
            let path = Blobs::of(disk).path(&layer.digest);
            fs::remove_file(&path).map_err(io_error("remove damaged", &path))?;
            Err(StoreError::LayerLost {
                diff_id: *diff_id,
                digest: layer.digest,
            })
        }
        Err(error) => Err(error),
    }
}

/// Reads a layer's blob to its end; what `visit` was told is the layer's only when this succeeds.
fn read_whole(
    disk: &Disk,
    layer: &Descriptor,
    diff_id: &DiffId,
    limits: &ExtractionLimits,
    visit: &mut dyn FnMut(&str, Change<'_>) -> io::Result<()>,
) -> Result<(), StoreError> {
    let blobs = Blobs::of(disk);
    let compression = Compression::of_layer(layer).map_err(|source| StoreError::Document {
        digest: layer.digest,
        source,
    })?;
    let mut verified = Verified::new(blobs.open(&layer.digest)?, layer.size);
    let got = read_layer(&mut verified, compression, limits, visit).map_err(|source| StoreError::Layer {
        digest: layer.digest,
        source,
    })?;
    // A gzip reader may stop before the last bytes of the blob; they count for its digest all the same.
    io::copy(&mut verified, &mut io::sink()).map_err(io_error("read", &blobs.path(&layer.digest)))?;
    verified.check(layer)?;
    if got != *diff_id {
        return Err(StoreError::DiffId {
            digest: layer.digest,
            expected: *diff_id,
            got,
        });
    }
    Ok(())
}

fn unpack(
    disk: &Disk,
    layer: &Descriptor,
    diff_id: &DiffId,
    limits: &ExtractionLimits,
    budget: &Budget,
) -> Result<PathBuf, StoreError> {
    let mut staging = LayerStaging::begin(disk)?;
    let read = read_whole(disk, layer, diff_id, limits, &mut |path, change| {
        staging.apply(path, change, budget)
    })
    .and_then(|()| staging.write_whiteouts(layer, budget));
    if let (Err(StoreError::Layer { digest, .. }), Some(source)) = (&read, budget.exceeded()) {
        return Err(StoreError::Layer {
            digest: *digest,
            source,
        });
    }
    read?;
    staging.describe()?;
    staging.take_place(diff_id)
}
