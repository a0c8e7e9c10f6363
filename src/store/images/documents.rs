//! The documents of an image: written in one canonical form, verified whenever they are read.

use std::path::PathBuf;

use serde::Serialize;

use crate::oci::{
    media_type, parse_config, parse_manifest, to_canonical_json, Descriptor, Digest, ImageConfig, Manifest,
    MAX_DOCUMENT_BYTES,
};
use crate::store::content::blobs::Blobs;
use crate::store::disk::Disk;
use crate::store::{check_descriptor, StoreError};

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
    pub(super) fn open(disk: &Disk, digest: &Digest) -> Result<Self, StoreError> {
        let refused = |digest| move |source| StoreError::Document { digest, source };
        let blobs = Blobs::of(disk);
        let manifest_raw = blobs.read_document(digest, MAX_DOCUMENT_BYTES)?;
        let manifest = parse_manifest(&manifest_raw).map_err(refused(*digest))?;
        let config = blobs.read_document(&manifest.config.digest, MAX_DOCUMENT_BYTES)?;
        check_descriptor(&manifest.config, manifest.config.digest, config.len() as u64)?;
        let config = parse_config(&config, &manifest).map_err(refused(manifest.config.digest))?;
        Ok(Self {
            digest: *digest,
            manifest,
            manifest_raw,
            config,
        })
    }

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

/// Stores a document in its canonical form; returns its digest and size.
pub(super) fn put<T: Serialize>(disk: &Disk, what: &'static str, value: &T) -> Result<(Digest, u64), StoreError> {
    let bytes = canonical(what, value)?;
    Ok((Blobs::of(disk).put(&bytes)?, bytes.len() as u64))
}

/// The canonical form of a document; an error calls it `what`.
pub(super) fn canonical<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    to_canonical_json(value).map_err(|source| StoreError::Json {
        action: "write",
        path: PathBuf::from(what),
        source,
    })
}
