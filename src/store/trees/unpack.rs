//! Unpacks the blob of a layer: verified while it is read, once for all images that have the layer.
//!
//! A blob that turns out to be damaged is removed, so that whoever can make or fetch it does so.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::budget::Budget;
use crate::archive::tar_reader::{read_layer, Change};
use crate::oci::{Compression, Descriptor, DiffId};
use crate::policy::ExtractionLimits;
use crate::store::content::blobs::Verified;
use crate::store::content::whole::Content;
use crate::store::{io_error, Store, StoreError};

impl Store {
    /// Unpacks a layer unless it is there, whole, and known to be this blob's; checks digest, size and diff id while reading.
    pub fn ensure_unpacked(
        &self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
    ) -> Result<PathBuf, StoreError> {
        self.unpack_within(layer, diff_id, limits, &Budget::new(limits))
    }

    /// [`Store::ensure_unpacked`] for one of several layers that have a budget together.
    pub(in crate::store) fn unpack_within(
        &self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
        budget: &Budget,
    ) -> Result<PathBuf, StoreError> {
        let is_ours = || self.is_origin(diff_id, &layer.digest);
        if let Some(tree) = self.layer_tree(diff_id).filter(|_| is_ours()) {
            return Ok(tree);
        }
        let _single = self.lock_layer(diff_id)?;
        let is_whole = self.verify_layer(diff_id)?;
        let done = match is_whole {
            true if is_ours() => return Ok(self.layer_path(diff_id)),
            true => self
                .read_whole(layer, diff_id, limits, &mut |_, _| Ok(()))
                .map(|()| self.layer_path(diff_id)),
            false => self.unpack(layer, diff_id, limits, budget),
        };
        match done {
            Ok(tree) => self.add_origin(diff_id, &layer.digest).map(|()| tree),
            Err(StoreError::NoBlob { digest }) if !is_whole => Err(StoreError::LayerLost {
                diff_id: *diff_id,
                digest,
            }),
            Err(
                StoreError::Layer { .. }
                | StoreError::Digest { .. }
                | StoreError::Size { .. }
                | StoreError::DiffId { .. },
            ) if !self.content_is(Content::Blob, &layer.digest) => {
                let path = self.blob_path(&layer.digest);
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
        &self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
        visit: &mut dyn FnMut(&str, Change<'_>) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let compression = Compression::of_layer(layer).map_err(|source| StoreError::Document {
            digest: layer.digest,
            source,
        })?;
        let mut verified = Verified::new(self.open_blob(&layer.digest)?, layer.size);
        let got = read_layer(&mut verified, compression, limits, visit).map_err(|source| StoreError::Layer {
            digest: layer.digest,
            source,
        })?;
        // A gzip reader may stop before the last bytes of the blob; they count for its digest all the same.
        io::copy(&mut verified, &mut io::sink()).map_err(io_error("read", &self.blob_path(&layer.digest)))?;
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
        &self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
        budget: &Budget,
    ) -> Result<PathBuf, StoreError> {
        let mut staging = self.stage_layer()?;
        let read = self
            .read_whole(layer, diff_id, limits, &mut |path, change| {
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
}
