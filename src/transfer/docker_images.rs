//! The images of an archive of `docker save` or `podman save`.
//!
//! Such an archive has configurations and layers, and names for them, but no manifests: the manifest is made here, of the
//! bytes as they are, so that one archive gives one digest on every machine. Where docker wrote an image layout beside
//! (since version 25), the manifest is the one that lies there.

use std::collections::{BTreeMap, BTreeSet};

use super::archive_entries::{refused, Entries, Entry};
use super::error::MAX_IMAGES;
use super::TransferError;
use crate::oci::{
    media_type, parse_config, parse_index, parse_manifest, to_canonical_json, Compression, Descriptor, DiffId, Digest,
    DockerImage, ImageIndex, Manifest, ParseImageError, MAX_DOCUMENT_BYTES, REF_NAME,
};

/// Indexes inside the index.
const MAX_DEPTH: usize = 3;

/// A descriptor for each name of each image; for an image without a name, one without.
pub(super) fn find_images(
    entries: &mut Entries,
    images: &[DockerImage],
    index: Option<&ImageIndex>,
) -> Result<Vec<Descriptor>, TransferError> {
    let mut written = Written::default();
    if let Some(index) = index {
        written.collect(entries, &index.manifests, MAX_DEPTH)?;
    }
    let mut found = Vec::new();
    for image in images {
        let config = entries.find(&image.config)?;
        let descriptor = match written.manifests.get(&config.digest) {
            Some(descriptor) => descriptor.clone(),
            None => make_manifest(entries, image, &config)?,
        };
        if image.names().is_empty() {
            found.push(descriptor.clone());
        }
        for name in image.names() {
            let mut named = descriptor.clone();
            named.annotations.insert(REF_NAME.to_owned(), name.clone());
            found.push(named);
        }
    }
    Ok(found)
}

/// The manifests that are in the archive.
#[derive(Default)]
struct Written {
    /// By the digests of their configurations.
    manifests: BTreeMap<Digest, Descriptor>,
    /// Documents that were read: each is read once, however often it is listed.
    read: BTreeSet<Digest>,
}

impl Written {
    fn collect(&mut self, entries: &Entries, listed: &[Descriptor], depth: usize) -> Result<(), TransferError> {
        for descriptor in listed {
            let entry = Entry {
                digest: descriptor.digest,
                size: descriptor.size,
            };
            let is_index = media_type::is_index(&descriptor.media_type) && depth > 0;
            let is_wanted = is_index || media_type::is_manifest(&descriptor.media_type);
            if !is_wanted || !entries.has(&entry.digest) || self.read.len() >= MAX_IMAGES {
                continue;
            }
            if !self.read.insert(entry.digest) {
                continue;
            }
            let raw = entries.start(&entry, MAX_DOCUMENT_BYTES + 1)?;
            // What cannot be read is not the manifest of an image that `manifest.json` names.
            if is_index {
                if let Ok(index) = parse_index(&raw) {
                    self.collect(entries, &index.manifests, depth - 1)?;
                }
            } else if let Ok(manifest) = parse_manifest(&raw) {
                let own = Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size);
                self.manifests.entry(manifest.config.digest).or_insert(own);
            }
        }
        Ok(())
    }
}

fn make_manifest(entries: &mut Entries, image: &DockerImage, config: &Entry) -> Result<Descriptor, TransferError> {
    let mut layers = Vec::new();
    for path in image.layers() {
        let entry = entries.find(path)?;
        let name = match Compression::of_bytes(&entries.start(&entry, Compression::MAGIC as u64)?) {
            Compression::Plain => media_type::LAYER_TAR,
            Compression::Gzip => media_type::LAYER_GZIP,
            Compression::Zstd => media_type::LAYER_ZSTD,
        };
        layers.push(Descriptor::new(name, entry.digest, entry.size));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        config: Descriptor::new(media_type::CONFIG, config.digest, config.size),
        layers,
        annotations: BTreeMap::new(),
    };
    check_layers(entries, image, config, &manifest)?;
    let raw = to_canonical_json(&manifest).map_err(|source| TransferError::Document {
        path: "manifest.json".into(),
        source: ParseImageError::Json {
            document: "manifest",
            source,
        },
    })?;
    let own = entries.put(&raw)?;
    Ok(Descriptor::new(media_type::MANIFEST, own.digest, own.size))
}

/// Whether the layers are those that the configuration means. One that is compressed shows it when it is unpacked.
fn check_layers(
    entries: &Entries,
    image: &DockerImage,
    config: &Entry,
    manifest: &Manifest,
) -> Result<(), TransferError> {
    if config.size > MAX_DOCUMENT_BYTES {
        return Err(refused(
            &image.config,
            "it is the configuration of an image, and longer than 4 MiB",
        ));
    }
    let raw = entries.start(config, MAX_DOCUMENT_BYTES)?;
    let config = parse_config(&raw, manifest).map_err(|source| TransferError::Document {
        path: image.config.chars().take(200).collect::<String>().into(),
        source,
    })?;
    for ((path, layer), expected) in image.layers().iter().zip(&manifest.layers).zip(config.rootfs.diff_ids) {
        let got = DiffId::of_plain(&layer.digest);
        if layer.media_type == media_type::LAYER_TAR && got != expected {
            return Err(TransferError::ArchivedLayer {
                path: path.chars().take(200).collect(),
                expected,
                got,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
