//! Whole images: manifest, configuration and layers, and the snapshot a run starts from.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::{io_error, Store, StoreError};
use crate::oci::{
    parse_config, parse_manifest, to_canonical_json, Descriptor, DiffId, Digest, ImageConfig, ImageConfigBody,
    Manifest, MAX_DOCUMENT_BYTES,
};
use crate::policy::ExtractionLimits;

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

    /// The prepared form of an image, if it is complete: its layers may have been collected since.
    pub fn snapshot(&self, digest: &Digest) -> Result<Option<Snapshot>, StoreError> {
        let path = self.root.join(snapshot_name(digest));
        match fs::read(&path) {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path)(source)),
        }
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
            .filter(|(_, diff_id)| self.layer_tree(diff_id).is_none())
            .copied()
            .collect();
        if !missing.is_empty() {
            self.unpack_all(&missing, &self.budget(&layers, limits), limits)?;
        }
        let snapshot = Snapshot {
            schema: 1,
            manifest: image.digest,
            layers: self.visible_layers(&image.config.rootfs.diff_ids).to_vec(),
            config: image.config.config.clone(),
            size: image.manifest.layers.iter().map(|layer| layer.size).sum(),
            unpacked_bytes: layers.iter().filter_map(|(_, diff_id)| self.layer_bytes(diff_id)).sum(),
        };
        let name = snapshot_name(&image.digest);
        let json = self.canonical("snapshot", &snapshot)?;
        if fs::read(self.root.join(&name)).ok().as_deref() != Some(&json) {
            self.write_atomically(&name, &json)?;
        }
        Ok(snapshot)
    }

    /// What is left of the limits for the layers that are missing.
    fn budget(&self, layers: &[(&Descriptor, &DiffId)], limits: &ExtractionLimits) -> Budget {
        let budget = Budget::new(limits);
        let distinct: BTreeSet<&DiffId> = layers.iter().map(|(_, diff_id)| *diff_id).collect();
        for (bytes, entries) in distinct.iter().filter_map(|diff_id| self.layer_cost(diff_id)) {
            // Over the limit already: the first file that comes on top is refused.
            let _ = (budget.take_bytes(bytes), budget.take_entries(entries));
        }
        budget
    }

    fn unpack_all(
        &self,
        layers: &[(&Descriptor, &DiffId)],
        budget: &Budget,
        limits: &ExtractionLimits,
    ) -> Result<(), StoreError> {
        let unpack =
            |(layer, diff_id): &(&Descriptor, &DiffId)| self.unpack_within(layer, diff_id, limits, budget).map(|_| ());
        let [first, rest @ ..] = layers else { return Ok(()) };
        if rest.is_empty() {
            return unpack(first);
        }
        let next = std::sync::atomic::AtomicUsize::new(0);
        let work = || -> Result<(), StoreError> {
            while let Some(layer) = layers.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                unpack(layer)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(work);
            let mine = work();
            let theirs = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            mine.and(theirs)
        })
    }
}

fn snapshot_name(digest: &Digest) -> PathBuf {
    PathBuf::from("snapshots").join(format!("{}.json", digest.hex()))
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
