//! Whole images: manifest, configuration and layers, and the snapshot a run starts from.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::{io_error, Stamp, Store, StoreError};
use crate::oci::{
    media_type, parse_config, parse_manifest, to_canonical_json, Descriptor, DiffId, Digest, ImageConfig,
    ImageConfigBody, Manifest, MAX_DOCUMENT_BYTES,
};
use crate::policy::ExtractionLimits;
use crate::sys::pool;

/// A parsed and verified image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the manifest's raw bytes.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// Its raw bytes.
    pub manifest_raw: Vec<u8>,
    /// The configuration.
    pub config: ImageConfig,
}

impl Image {
    /// The descriptor of its manifest.
    pub fn descriptor(&self) -> Descriptor {
        let name = self.manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST);
        Descriptor::new(name, self.digest, self.manifest_raw.len() as u64)
    }

    /// Every blob: layers, configuration, manifest.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let mut blobs = self.manifest.layers.clone();
        blobs.push(self.manifest.config.clone());
        blobs.push(self.descriptor());
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        blobs
    }
}

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
    /// Stores a configuration; returns its descriptor's digest and size.
    pub fn put_config(&self, config: &ImageConfig) -> Result<(Digest, u64), StoreError> {
        let bytes = self.canonical("image config", config)?;
        Ok((self.put_blob(&bytes)?, bytes.len() as u64))
    }

    /// Stores a manifest whose config and layers are in the store; returns the image's digest.
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<Digest, StoreError> {
        let bytes = self.canonical("manifest", manifest)?;
        self.put_blob(&bytes)
    }

    fn canonical<T: Serialize>(&self, what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
        to_canonical_json(value).map_err(|source| StoreError::Json {
            action: "write",
            path: PathBuf::from(what),
            source,
        })
    }

    /// Opens an image: both documents verified by digest, parsed, and checked against each other.
    pub fn open_image(&self, digest: &Digest) -> Result<Image, StoreError> {
        let refused = |digest| move |source| StoreError::Document { digest, source };
        let manifest_raw = self.read_document(digest, MAX_DOCUMENT_BYTES)?;
        let manifest = parse_manifest(&manifest_raw).map_err(refused(*digest))?;
        let config = self.read_document(&manifest.config.digest, MAX_DOCUMENT_BYTES)?;
        super::check_descriptor(&manifest.config, manifest.config.digest, config.len() as u64)?;
        let config = parse_config(&config, &manifest).map_err(refused(manifest.config.digest))?;
        Ok(Image {
            digest: *digest,
            manifest,
            manifest_raw,
            config,
        })
    }

    /// The prepared form of an image, if it is complete and was made or looked at in this boot of the machine. Reads one
    /// small file, however many layers there are.
    pub fn snapshot(&self, digest: &Digest) -> Result<Option<Snapshot>, StoreError> {
        let snapshot = self.read_snapshot(digest)?;
        Ok(snapshot.filter(|snapshot| snapshot.boot.as_ref() == Some(&self.boot)))
    }

    /// The same when that gives none: layers of an earlier boot are read and compared, and unpacked again when they are
    /// damaged or missing. Only then the image itself has to be there.
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
#[path = "images_tests.rs"]
pub(crate) mod tests;
