//! Unpacked layers: how a tree is written, what it hides, whether it is whole, and how several look as one.

pub(super) mod budget;
mod file_digest;
pub(super) mod folder;
pub(super) mod listing;
pub(super) mod merged;
mod opaque;
mod relay;
pub(super) mod resident;
mod scaffold;
pub(super) mod stack;
pub(super) mod staging;
pub(super) mod unpack;
mod whiteouts;
mod writer;

use std::fs::File;
use std::path::PathBuf;

use super::disk::Disk;
use super::StoreError;
use crate::oci::{Descriptor, DiffId};
use crate::policy::ExtractionLimits;
use budget::Budget;
use folder::LayerFolder;
use opaque::is_opaque;
use staging::LayerStaging;

/// What the tree is called that stands for several of an image's layers, base first; none where each stands for itself.
pub fn merged_name(layers: &[DiffId]) -> Option<String> {
    merged::Merged::of(layers).map(|merged| merged.chain.hex())
}

/// The unpacked layers of a store.
#[derive(Debug, Clone, Copy)]
pub struct Trees<'a> {
    disk: &'a Disk,
}

impl<'a> Trees<'a> {
    pub(in crate::store) fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    /// Where the tree of a layer is, once it is unpacked.
    pub fn path(self, diff_id: &DiffId) -> PathBuf {
        LayerFolder::of(self.disk, diff_id).tree()
    }

    /// Bytes of the files of an unpacked layer.
    pub fn bytes(self, diff_id: &DiffId) -> Option<u64> {
        let stamp = LayerFolder::of(self.disk, diff_id).stamp()?;
        Some(stamp.unpacked_bytes)
    }

    /// Starts a tree.
    pub fn stage(self) -> Result<LayerStaging, StoreError> {
        LayerStaging::begin(self.disk)
    }

    /// Unpacks a layer unless it is there, whole, and known to be this blob's; checks digest, size and diff id while
    /// reading. Returns its tree. Idempotent; one process unpacks, others wait for it.
    ///
    /// # Errors
    /// [`StoreError::LayerLost`] when the blob is missing or damaged; a damaged one is removed.
    pub fn unpack(
        self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
    ) -> Result<PathBuf, StoreError> {
        unpack::ensure(self.disk, layer, diff_id, limits, &Budget::new(limits))
    }

    /// The layers that can be seen, of unpacked ones given bottom first. overlayfs does not ask whether the root of
    /// a layer is opaque, so the layers below such a root are left out.
    pub fn visible(self, layers: &[DiffId]) -> &[DiffId] {
        // What cannot be read is not there, and hides nothing.
        let hides = |layer: &DiffId| {
            let root = File::open(self.path(layer));
            root.and_then(is_opaque).unwrap_or(false)
        };
        let bottom = layers.iter().rposition(hides);
        layers.get(bottom.unwrap_or_default()..).unwrap_or_default()
    }

    /// The tree whose directories are the sandbox's mount points; it goes on top of every image.
    pub fn scaffold(self) -> Result<PathBuf, StoreError> {
        scaffold::ensure(self.disk)
    }
}
