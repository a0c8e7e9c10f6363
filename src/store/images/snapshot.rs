//! The snapshot of an image: what a run needs to know of it, prepared once all its layers are unpacked.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::documents::{canonical, Image};
use crate::oci::{Descriptor, DiffId, Digest, ImageConfigBody};
use crate::policy::ExtractionLimits;
use crate::store::disk::stamp::Stamp;
use crate::store::disk::Disk;
use crate::store::trees::budget::Budget;
use crate::store::trees::folder::LayerFolder;
use crate::store::trees::merged::{self, Merged};
use crate::store::trees::{unpack, Trees};
use crate::store::{io_error, StoreError};
use crate::sys::{cores, pool};

/// Layers that are unpacked or looked at at once; each takes up to 20 MiB of memory.
const MOST_AT_ONCE: usize = 8;

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
    /// The tree that stands for the lower ones of them. It may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    merged: Option<Merged>,
    /// The boot in which every layer was last known to be whole; none in snapshots of an older gantry. Never `durable`: a
    /// layer may have been unpacked again since.
    boot: Option<Stamp>,
}

impl Snapshot {
    /// The snapshot of an image as it is written; none when it is missing or damaged.
    pub(super) fn read(disk: &Disk, digest: &Digest) -> Result<Option<Self>, StoreError> {
        let path = disk.path(name(digest));
        match fs::read(&path) {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path)(source)),
        }
    }

    /// Whether all its layers are known to be whole since this boot.
    pub(super) fn is_of_this_boot(&self, disk: &Disk) -> bool {
        self.boot.as_ref() == Some(disk.boot())
    }

    /// The snapshot of an image after a look at every layer that was written before this boot; none when there is none, or
    /// a layer is missing or damaged.
    pub(super) fn check(disk: &Disk, digest: &Digest) -> Result<Option<Self>, StoreError> {
        let Some(mut snapshot) = Self::read(disk, digest)? else {
            return Ok(None);
        };
        let damaged = AtomicBool::new(false);
        at_once(&snapshot.layers, |diff_id| {
            damaged.fetch_or(!LayerFolder::of(disk, diff_id).is_whole()?, Ordering::Relaxed);
            Ok(())
        })?;
        if damaged.into_inner() {
            return Ok(None);
        }
        // One of an older gantry has no tree yet.
        let is_all = || Image::open(disk, digest).is_ok_and(|image| image.config.rootfs.diff_ids == snapshot.layers);
        snapshot.merged = match snapshot.merged.is_some() || is_all() {
            true => merged::ensure(disk, &snapshot.layers)?,
            false => None,
        };
        snapshot.boot = Some(disk.boot().clone());
        snapshot.write(disk)?;
        Ok(Some(snapshot))
    }

    /// The tree that stands for the lower ones of its layers.
    pub(crate) fn merged(&self) -> Option<&Merged> {
        self.merged.as_ref()
    }

    /// Without the tree that stands for several layers.
    pub fn layer_by_layer(self) -> Self {
        Self { merged: None, ..self }
    }

    /// The trees that its root is made of, top first: those of its layers, or of several of them as one.
    pub(in crate::store) fn trees(&self, disk: &Disk) -> Vec<PathBuf> {
        let merged = self.merged.as_ref();
        let merged = merged.and_then(|merged| Some((self.layers.get(merged.layers..)?, merged.tree(disk)?)));
        let (alone, tree) = merged.map_or((self.layers.as_slice(), None), |(alone, tree)| (alone, Some(tree)));
        let alone = alone.iter().rev().map(|layer| LayerFolder::of(disk, layer).tree());
        alone.chain(tree).collect()
    }

    /// Writes the snapshot unless it is there in the same words.
    fn write(&self, disk: &Disk) -> Result<(), StoreError> {
        let name = name(&self.manifest);
        let json = canonical("snapshot", self)?;
        if fs::read(disk.path(&name)).ok().as_deref() == Some(&json) {
            return Ok(());
        }
        disk.write_atomically(&name, &json)
    }

    /// Unpacks what is missing of an image within `limits`, a layer for each processor at a time, and writes its snapshot.
    pub(super) fn prepare(disk: &Disk, image: &Image, limits: &ExtractionLimits) -> Result<Self, StoreError> {
        let layers: Vec<(&Descriptor, &DiffId)> = layers_of(image).collect();
        let missing = missing(disk, image);
        if !missing.is_empty() {
            let budget = budget(disk, &layers, limits);
            at_once(&missing, |(layer, diff_id)| {
                unpack::ensure(disk, layer, diff_id, limits, &budget).map(|_| ())
            })?;
        }
        let trees = Trees::of(disk);
        let visible = trees.visible(&image.config.rootfs.diff_ids);
        let snapshot = Self {
            schema: 1,
            manifest: image.digest,
            layers: visible.to_vec(),
            // Where a root hides layers, the image's documents do not say what its tree is made of.
            merged: match visible == image.config.rootfs.diff_ids {
                true => merged::ensure(disk, visible)?,
                false => None,
            },
            config: image.config.config.clone(),
            size: image.manifest.layers.iter().map(|layer| layer.size).sum(),
            unpacked_bytes: layers.iter().filter_map(|(_, diff_id)| trees.bytes(diff_id)).sum(),
            boot: Some(disk.boot().clone()),
        };
        snapshot.write(disk)?;
        Ok(snapshot)
    }
}

/// Bytes that the layers take which are missing of an image whose blobs are there.
pub(super) fn room_to_unpack(disk: &Disk, image: &Image, limits: &ExtractionLimits) -> Result<u64, StoreError> {
    let sum = AtomicU64::new(0);
    // One whose tree is there is only compared with its blob.
    let mut missing = missing(disk, image);
    missing.retain(|(_, diff_id)| LayerFolder::of(disk, diff_id).trusted_tree().is_none());
    at_once(&missing, |(layer, diff_id)| {
        sum.fetch_add(unpack::measure(disk, layer, diff_id, limits)?, Ordering::Relaxed);
        Ok(())
    })?;
    Ok(sum.into_inner())
}

fn layers_of(image: &Image) -> impl Iterator<Item = (&Descriptor, &DiffId)> {
    image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids)
}

/// The layers that are to be unpacked, the largest first: the last one begun is the one that others wait for.
fn missing<'a>(disk: &Disk, image: &'a Image) -> Vec<(&'a Descriptor, &'a DiffId)> {
    let is_ready = |layer: &Descriptor, diff_id: &DiffId| {
        let folder = LayerFolder::of(disk, diff_id);
        folder.trusted_tree().is_some() && folder.is_from(&layer.digest)
    };
    let mut missing: Vec<_> = layers_of(image)
        .filter(|(layer, diff_id)| !is_ready(layer, diff_id))
        .collect();
    missing.sort_by_key(|(layer, _)| Reverse(layer.size));
    missing
}

/// What is left of the limits for the layers that are missing.
pub(super) fn budget(disk: &Disk, layers: &[(&Descriptor, &DiffId)], limits: &ExtractionLimits) -> Budget {
    let budget = Budget::new(limits);
    let distinct: BTreeSet<&DiffId> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
    for diff_id in distinct {
        let folder = LayerFolder::of(disk, diff_id);
        let (Some(_), Some(stamp)) = (folder.trusted_tree(), folder.stamp()) else {
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

/// Does `work` for each item, at least two at a time: one waits for the disk while the other computes.
fn at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<(), StoreError> + Sync) -> Result<(), StoreError> {
    let threads = cores::count().clamp(2, MOST_AT_ONCE);
    pool::each(threads, items, |item, _| work(item)).map(drop)
}

fn name(digest: &Digest) -> PathBuf {
    PathBuf::from("snapshots").join(format!("{}.json", digest.hex()))
}

#[cfg(test)]
pub(crate) mod tests;
