//! Whole images: their documents, their names, the snapshots that runs start from, and what goes when nothing needs it.

pub(super) mod arriving_image;
pub(super) mod documents;
pub(super) mod evict;
pub(super) mod gc;
pub(super) mod inventory;
pub(super) mod names;
pub(super) mod needs;
mod origins;
pub(super) mod pin_marks;
pub(super) mod room_taken;
pub(super) mod snapshot;
pub(super) mod start_files;
mod unnamed;

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::content::blobs::Blobs;
use super::disk::locks::Locks;
use super::disk::Disk;
use super::StoreError;
use crate::oci::{Digest, ImageConfig, Manifest};
use crate::policy::ExtractionLimits;
use arriving_image::ArrivingImage;
use documents::Image;
use snapshot::Snapshot;
use start_files::StartFiles;

/// The images of a store, by their digests.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    disk: &'a Disk,
}

impl<'a> Images<'a> {
    pub(in crate::store) fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    /// Stores a configuration; returns the digest and size of its descriptor.
    pub fn put_config(self, config: &ImageConfig) -> Result<(Digest, u64), StoreError> {
        documents::put(self.disk, "image config", config)
    }

    /// Stores a manifest whose config and layers are in the store; returns the image's digest.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when something of it is not in the store.
    pub fn put_manifest(self, manifest: &Manifest) -> Result<Digest, StoreError> {
        let (digest, _) = documents::put(self.disk, "manifest", manifest)?;
        Ok(digest)
    }

    /// Opens an image: both documents verified by digest, parsed, and checked against each other.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it is not in the store; an image whose blobs were dropped after unpacking is only known
    /// by its [`snapshot`](Self::snapshot).
    pub fn open(self, digest: &Digest) -> Result<Image, StoreError> {
        Image::open(self.disk, digest)
    }

    /// The snapshot of an image, if it is complete and was made or looked at in this boot of the machine. Reads one small
    /// file, however many layers there are.
    pub fn snapshot(self, digest: &Digest) -> Result<Option<Snapshot>, StoreError> {
        let snapshot = Snapshot::read(self.disk, digest)?;
        Ok(snapshot.filter(|snapshot| snapshot.is_of_this_boot(self.disk)))
    }

    /// The trees that the root of a run of an image is made of, top first.
    pub fn trees(self, snapshot: &Snapshot) -> Vec<PathBuf> {
        snapshot.trees(self.disk)
    }

    /// The snapshot as it is written, whether or not its layers are there.
    pub(crate) fn read_snapshot(self, digest: &Digest) -> Result<Option<Snapshot>, StoreError> {
        Snapshot::read(self.disk, digest)
    }

    /// Returns the snapshot after re-checking every layer written before this boot; damaged layers are unpacked again from
    /// their blobs. Only then the image itself has to be there.
    ///
    /// # Errors
    /// [`StoreError::LayerLost`] names a layer that cannot be brought back.
    pub fn restore(self, digest: &Digest) -> Result<Snapshot, StoreError> {
        match Snapshot::check(self.disk, digest)? {
            Some(snapshot) => Ok(snapshot),
            None => self.prepare(&self.open(digest)?),
        }
    }

    /// The layers of an image that is about to come, to be unpacked while they do.
    pub fn arriving(self, manifest: &Manifest, config: &ImageConfig) -> ArrivingImage<'a> {
        ArrivingImage::new(self.disk, manifest, config, &ExtractionLimits::default())
    }

    /// The files that runs of an image read at first, when a run has told. Opens one small file.
    pub fn start_files(self, digest: &Digest) -> Option<StartFiles<'a>> {
        StartFiles::find(self.disk, digest)
    }

    /// Records which files of an image are in memory, after a run that read them from the disk; returns how many bytes those are.
    /// None, and nothing is recorded, when they are more than `most`, or more than is ever kept.
    pub fn measure_start_files(self, digest: &Digest, most: u64) -> Result<Option<u64>, StoreError> {
        match Snapshot::read(self.disk, digest)? {
            Some(snapshot) => StartFiles::measure(self.disk, digest, &snapshot.layers, most),
            None => Ok(None),
        }
    }

    /// Pins an image, which stays until it is unpinned; whether it was not pinned before.
    pub fn pin(self, digest: &Digest) -> Result<bool, StoreError> {
        pin_marks::pin(self.disk, digest)
    }

    /// Pins an image no longer; whether it was pinned.
    pub fn unpin(self, digest: &Digest) -> Result<bool, StoreError> {
        pin_marks::unpin(self.disk, digest)
    }

    /// The pinned images.
    pub fn pinned(self) -> Result<Vec<Digest>, StoreError> {
        pin_marks::list(self.disk)
    }

    /// Notes that the registry of `place`, which is host and repository, has the image: it can be fetched again.
    pub fn note_origin(self, digest: &Digest, place: &str) -> Result<(), StoreError> {
        origins::note(self.disk, digest, place)
    }

    /// Takes that back: the registry has it no more.
    pub fn forget_origin(self, digest: &Digest, place: &str) -> Result<(), StoreError> {
        origins::forget(self.disk, digest, place)
    }

    /// The registries that are known to have the image, as host and repository.
    pub fn origins(self, digest: &Digest) -> BTreeSet<String> {
        origins::of(self.disk, digest)
    }

    /// [Prepares](Self::prepare) an image that just came, whose lease the caller holds: from then on no eviction takes of it
    /// what is there.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare); [`StoreError::NoBlob`] and [`StoreError::LayerLost`] also for what an eviction took while it
    /// came, which is then to be brought again.
    pub fn settle(self, image: &Image) -> Result<Snapshot, StoreError> {
        Locks::of(self.disk).wait_out_eviction()?;
        let blobs = image.blobs();
        if let Some(lost) = blobs
            .iter()
            .find(|blob| Blobs::of(self.disk).size(&blob.digest) != Some(blob.size))
        {
            return Err(StoreError::NoBlob { digest: lost.digest });
        }
        self.prepare(image)
    }

    /// Bytes on the disk that an image would take more, were it prepared: its blobs, which have to be there, are read for that.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn room_to_unpack(self, image: &Image) -> Result<u64, StoreError> {
        snapshot::room_to_unpack(self.disk, image, &ExtractionLimits::default())
    }

    /// Unpacks what is missing of an image, two layers at a time, and prepares it for runs. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Layer`] when a layer is refused, [`StoreError::LayerLost`] when its blob is missing or damaged.
    pub fn prepare(self, image: &Image) -> Result<Snapshot, StoreError> {
        Snapshot::prepare(self.disk, image, &ExtractionLimits::default())
    }
}
