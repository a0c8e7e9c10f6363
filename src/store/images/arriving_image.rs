//! The layers of an image that are unpacked while their blobs come from elsewhere.

use std::collections::BTreeMap;
use std::io::Read;

use super::snapshot::budget;
use crate::oci::{Compression, Descriptor, DiffId, Digest, ImageConfig, Manifest};
use crate::policy::ExtractionLimits;
use crate::store::disk::Disk;
use crate::store::trees::budget::Budget;
use crate::store::trees::folder::LayerFolder;
use crate::store::trees::staging::LayerStaging;
use crate::store::trees::unpack::{self, Memory};
use crate::store::StoreError;

/// What the layers of an image are to become, and how much of the disk they may take together.
#[derive(Debug)]
pub struct ArrivingImage<'a> {
    disk: &'a Disk,
    limits: ExtractionLimits,
    budget: Budget,
    diff_ids: BTreeMap<Digest, DiffId>,
}

/// A layer whose files are written and are those of its diff id; they get their name when its blob has one. Dropped without
/// it leaves nothing.
#[derive(Debug)]
pub struct UnpackedLayer<'a> {
    disk: &'a Disk,
    budget: &'a Budget,
    blob: Digest,
    diff_id: DiffId,
    /// None when the store had them already.
    staged: Option<LayerStaging>,
}

impl<'a> ArrivingImage<'a> {
    pub(super) fn new(disk: &'a Disk, manifest: &Manifest, config: &ImageConfig, limits: &ExtractionLimits) -> Self {
        let layers: Vec<(&Descriptor, &DiffId)> = manifest.layers.iter().zip(&config.rootfs.diff_ids).collect();
        Self {
            disk,
            budget: budget(disk, &layers, limits),
            limits: limits.clone(),
            diff_ids: layers
                .iter()
                .map(|(layer, diff_id)| (layer.digest, **diff_id))
                .collect(),
        }
    }

    /// Unpacks a layer from the bytes of its blob, which somebody else verifies. What is left unread when this returns
    /// belongs to the blob all the same.
    ///
    /// # Errors
    ///
    /// [`StoreError::Layer`] for what is no layer or more than a layer may be, [`StoreError::DiffId`] for one that is another
    /// than the image says: both as far as the bytes are right.
    pub fn unpack(&self, layer: &Descriptor, blob: &mut dyn Read) -> Result<UnpackedLayer<'_>, StoreError> {
        self.stage(layer, blob, Memory::OfMany)
    }

    /// Whether a layer that was refused while it came may be one that takes more memory than there is for each of many.
    pub fn may_need_more(&self, layer: &Descriptor) -> bool {
        matches!(Compression::of_layer(layer), Ok(Compression::Zstd))
    }

    /// As [`unpack`](Self::unpack), with all the memory that a layer may have.
    ///
    /// # Errors
    ///
    /// As [`unpack`](Self::unpack).
    pub fn unpack_alone(&self, layer: &Descriptor, blob: &mut dyn Read) -> Result<UnpackedLayer<'_>, StoreError> {
        self.stage(layer, blob, Memory::OfOne)
    }

    fn stage(&self, layer: &Descriptor, blob: &mut dyn Read, memory: Memory) -> Result<UnpackedLayer<'_>, StoreError> {
        let diff_id = self.diff_id(layer)?;
        let folder = LayerFolder::of(self.disk, &diff_id);
        let is_there = folder.stamp().is_some() && folder.is_whole()?;
        let staged = match is_there {
            true => {
                unpack::check_stream(layer, &diff_id, (&self.limits, memory), blob)?;
                None
            }
            false => Some(unpack::stage_stream(
                self.disk,
                layer,
                &diff_id,
                (&self.limits, memory),
                &self.budget,
                blob,
            )?),
        };
        Ok(UnpackedLayer {
            disk: self.disk,
            budget: &self.budget,
            blob: layer.digest,
            diff_id,
            staged,
        })
    }

    fn diff_id(&self, layer: &Descriptor) -> Result<DiffId, StoreError> {
        let found = self.diff_ids.get(&layer.digest);
        found.copied().ok_or(StoreError::NoBlob { digest: layer.digest })
    }
}

impl UnpackedLayer<'_> {
    /// Gives the files their name; the blob has its own by now.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; no tree of that name stays.
    pub fn commit(mut self) -> Result<(), StoreError> {
        match self.staged.take() {
            Some(staged) => staged.commit(&self.diff_id, &self.blob).map(drop),
            None => LayerFolder::of(self.disk, &self.diff_id).note_origin(&self.blob),
        }
    }
}

impl Drop for UnpackedLayer<'_> {
    fn drop(&mut self) {
        if let Some(staged) = &self.staged {
            staged.pay_back(self.budget);
        }
    }
}
