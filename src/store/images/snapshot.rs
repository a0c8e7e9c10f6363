//! The snapshot of an image: what a run needs to know of it, prepared once all its layers are unpacked.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::image::Image;
use crate::oci::{Descriptor, DiffId, Digest, ImageConfigBody};
use crate::policy::ExtractionLimits;
use crate::store::disk::stamp::Stamp;
use crate::store::trees::budget::Budget;
use crate::store::{io_error, Store, StoreError};
use crate::sys::pool;

/// Everything `run` needs of an image whose layers are unpacked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Always 1.
    pub schema: u32,
    /// The image.
    pub manifest: Digest,
    /// Layers that can be seen, base first.
    pub layers: Vec<DiffId>,
    /// What to run and how.
    pub config: ImageConfigBody,
    /// Bytes of the layers' blobs.
    pub size: u64,
    /// Bytes of the layers' files.
    pub unpacked_bytes: u64,
    /// The boot in which every layer was last known to be whole; none in snapshots of an older gantry. Never `durable`: a
    /// layer may have been unpacked again since.
    boot: Option<Stamp>,
}

impl Store {
    /// The prepared form of an image, if it is complete and was made or looked at in this boot of the machine. Reads one
    /// small file, however many layers there are.
    pub fn snapshot(&self, digest: &Digest) -> Result<Option<Snapshot>, StoreError> {
        let snapshot = self.read_snapshot(digest)?;
        Ok(snapshot.filter(|snapshot| snapshot.boot.as_ref() == Some(&self.boot)))
    }

    /// Returns the snapshot after re-checking every layer written before this boot; damaged layers are unpacked again from
    /// their blobs. Only then the image itself has to be there.
    pub fn restore_snapshot(&self, digest: &Digest) -> Result<Snapshot, StoreError> {
        if let Some(mut snapshot) = self.read_snapshot(digest)? {
            let damaged = AtomicBool::new(false);
            in_pairs(&snapshot.layers, |diff_id| {
                damaged.fetch_or(!self.layer_is_whole(diff_id)?, Ordering::Relaxed);
                Ok(())
            })?;
            if !damaged.into_inner() {
                snapshot.boot = Some(self.boot.clone());
                self.write_snapshot(&snapshot)?;
                return Ok(snapshot);
            }
        }
        self.ensure_snapshot(&self.open_image(digest)?)
    }

    /// The snapshot as it is written, whether or not its layers are there.
    pub(crate) fn read_snapshot(&self, digest: &Digest) -> Result<Option<Snapshot>, StoreError> {
        let path = self.root.join(snapshot_name(digest));
        match fs::read(&path) {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path)(source)),
        }
    }

    /// Writes a snapshot unless it is there in the same words.
    fn write_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let name = snapshot_name(&snapshot.manifest);
        let json = self.canonical("snapshot", snapshot)?;
        if fs::read(self.root.join(&name)).ok().as_deref() == Some(&json) {
            return Ok(());
        }
        self.write_atomically(&name, &json)
    }

    /// Unpacks what is missing of an image, two layers at a time, and prepares it for runs. Idempotent.
    pub fn ensure_snapshot(&self, image: &Image) -> Result<Snapshot, StoreError> {
        self.snapshot_within(image, &ExtractionLimits::default())
    }

    fn snapshot_within(&self, image: &Image, limits: &ExtractionLimits) -> Result<Snapshot, StoreError> {
        let layers: Vec<(&Descriptor, &DiffId)> = image
            .manifest
            .layers
            .iter()
            .zip(&image.config.rootfs.diff_ids)
            .collect();
        let missing: Vec<_> = layers
            .iter()
            .filter(|(layer, diff_id)| self.layer_tree(diff_id).is_none() || !self.is_origin(diff_id, &layer.digest))
            .copied()
            .collect();
        if !missing.is_empty() {
            let budget = self.budget(&layers, limits);
            in_pairs(&missing, |(layer, diff_id)| {
                self.unpack_within(layer, diff_id, limits, &budget).map(|_| ())
            })?;
        }
        let snapshot = Snapshot {
            schema: 1,
            manifest: image.digest,
            layers: self.visible_layers(&image.config.rootfs.diff_ids).to_vec(),
            config: image.config.config.clone(),
            size: image.manifest.layers.iter().map(|layer| layer.size).sum(),
            unpacked_bytes: layers.iter().filter_map(|(_, diff_id)| self.layer_bytes(diff_id)).sum(),
            boot: Some(self.boot.clone()),
        };
        self.write_snapshot(&snapshot)?;
        Ok(snapshot)
    }

    /// What is left of the limits for the layers that are missing.
    fn budget(&self, layers: &[(&Descriptor, &DiffId)], limits: &ExtractionLimits) -> Budget {
        let budget = Budget::new(limits);
        let distinct: BTreeSet<&DiffId> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
        for diff_id in distinct
            .into_iter()
            .filter(|diff_id| self.layer_tree(diff_id).is_some())
        {
            let Some(stamp) = self.layer_stamp(diff_id) else {
                continue;
            };
            // Over the limit already: the first file that comes on top is refused.
            let _ = (
                budget.take_bytes(stamp.unpacked_bytes),
                budget.take_entries(stamp.entries),
            );
        }
        budget
    }
}

/// Does `work` for each item, two at a time.
fn in_pairs<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<(), StoreError> + Sync) -> Result<(), StoreError> {
    pool::each(2, items, |item, _| work(item)).map(drop)
}

fn snapshot_name(digest: &Digest) -> PathBuf {
    PathBuf::from("snapshots").join(format!("{}.json", digest.hex()))
}

#[cfg(test)]
pub(crate) mod tests;
