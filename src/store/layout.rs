//! Images to and from OCI image layouts on disk (OCI image specification, "Image Layout").
//!
//! A layout is somebody else's directory: files are opened without following links and without waiting on a pipe, must
//! be regular, and are verified by size and digest while they are copied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{check_descriptor, Image, Store, StoreError};
use crate::oci::{
    media_type, parse_config, parse_index, parse_manifest, to_canonical_json, Descriptor, Digest, Hasher, ImageIndex,
    ParseImageError, MAX_DOCUMENT_BYTES,
};

/// Indexes inside indexes: one level is common, more is a maze.
const MAX_INDEX_DEPTH: usize = 4;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why a layout was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system refused.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Not a regular file.
    #[error("read {path}: it is no regular file")]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A document that is refused.
    #[error("read {path}")]
    Document {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ParseImageError,
    },
    /// No image of that name, or more than one and none was named.
    #[error("find an image in {path}: {reason}")]
    NotFound {
        /// The layout.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// The store failed, or a blob is not what it is called.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document cannot be written.
    #[error("write {path}")]
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Where the blobs of an image come from.
pub(super) trait Blobs {
    /// Opens a blob; its bytes are verified by the caller.
    fn open(&mut self, digest: &Digest) -> Result<Box<dyn Read + '_>, LayoutError>;
    /// What it is called in messages.
    fn name(&self, digest: &Digest) -> PathBuf;
}

struct Directory<'a>(&'a Path);

impl Blobs for Directory<'_> {
    fn open(&mut self, digest: &Digest) -> Result<Box<dyn Read + '_>, LayoutError> {
        open_plain(&self.name(digest)).map(|file| Box::new(file) as Box<dyn Read>)
    }

    fn name(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }
}

impl Store {
    /// Copies an image of a layout into the store; `tag` is needed when it holds several.
    pub fn import_layout(&self, directory: &Path, tag: Option<&str>) -> Result<Image, LayoutError> {
        let chosen = choose_in(directory, tag)?;
        self.import(&mut Directory(directory), &chosen, 0)
    }

    /// What a layout calls its only image.
    pub fn layout_name(&self, directory: &Path) -> Result<Option<String>, LayoutError> {
        let chosen = choose_in(directory, None)?;
        Ok(chosen.annotations.get(REF_NAME).cloned())
    }

    /// Copies the image that `descriptor` leads to, verifying every byte.
    pub(super) fn import(
        &self,
        blobs: &mut dyn Blobs,
        descriptor: &Descriptor,
        depth: usize,
    ) -> Result<Image, LayoutError> {
        let path = blobs.name(&descriptor.digest);
        let raw = read_small(&mut *blobs.open(&descriptor.digest)?, &path)?;
        check_descriptor(descriptor, Digest::of(&raw), raw.len() as u64)?;
        let refused = |source| LayoutError::Document {
            path: path.clone(),
            source,
        };
        if matches!(
            descriptor.media_type.as_str(),
            media_type::INDEX | media_type::DOCKER_INDEX
        ) {
            let missing = |reason: &str| LayoutError::NotFound {
                path: path.clone(),
                reason: reason.to_owned(),
            };
            if depth >= MAX_INDEX_DEPTH {
                return Err(missing("indexes are nested too deep"));
            }
            let index = parse_index(&raw).map_err(refused)?;
            let ours = index.manifests.iter().find(|manifest| {
                manifest
                    .platform
                    .as_ref()
                    .is_none_or(|platform| platform.os == "linux" && platform.architecture == "amd64")
            });
            return self.import(
                blobs,
                ours.ok_or_else(|| missing("its index has no image for linux/amd64"))?,
                depth + 1,
            );
        }
        let manifest = parse_manifest(&raw).map_err(refused)?;
        let config_path = blobs.name(&manifest.config.digest);
        let config_raw = read_small(&mut *blobs.open(&manifest.config.digest)?, &config_path)?;
        check_descriptor(&manifest.config, Digest::of(&config_raw), config_raw.len() as u64)?;
        parse_config(&config_raw, &manifest).map_err(|source| LayoutError::Document {
            path: config_path,
            source,
        })?;
        for layer in &manifest.layers {
            self.import_blob(blobs, layer)?;
        }
        // The manifest last: once it is there, everything it names is.
        self.put_blob(&config_raw)?;
        self.put_blob(&raw)?;
        Ok(self.open_image(&descriptor.digest)?)
    }

    fn import_blob(&self, blobs: &mut dyn Blobs, layer: &Descriptor) -> Result<(), LayoutError> {
        if self.has_blob(layer)? {
            return Ok(());
        }
        let path = blobs.name(&layer.digest);
        let mut writer = self.blob_writer()?;
        // One byte more than promised is enough to know that there are too many.
        let mut reader = blobs.open(&layer.digest)?.take(layer.size.saturating_add(1));
        io::copy(&mut reader, &mut writer).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull => StoreError::NoSpace {
                action: "write",
                path: path.clone(),
                source,
            }
            .into(),
            _ => LayoutError::Io {
                action: "copy",
                path,
                source,
            },
        })?;
        Ok(writer.commit_expecting(layer)?)
    }

    /// Copies an image of the store into a layout, made when it is not there; other images in it stay.
    pub fn export_layout(&self, image: &Image, directory: &Path, tag: Option<&str>) -> Result<(), LayoutError> {
        let error = |action, path: &Path| {
            let path = path.to_owned();
            move |source| LayoutError::Io { action, path, source }
        };
        let folder = directory.join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(error("make directory", &folder))?;
        // A folder of its own: all that is left when we are stopped.
        let temporary = self.beside(&directory.join("index.json"))?;
        fs::create_dir(temporary.path()).map_err(error("make directory", temporary.path()))?;
        for blob in image.blobs() {
            let target = folder.join(blob.digest.hex());
            if fs::symlink_metadata(&target).is_ok_and(|found| found.is_file() && found.len() == blob.size) {
                continue;
            }
            let copy = temporary.path().join("blob");
            copy_verified(self, &blob, &copy)?;
            fs::rename(&copy, &target).map_err(error("write", &target))?;
        }
        let layout = directory.join("oci-layout");
        fs::write(&layout, super::LAYOUT).map_err(error("write", &layout))?;
        let path = directory.join("index.json");
        let mut index = match open_plain(&path) {
            Ok(mut file) => parse_index(&read_small(&mut file, &path)?).map_err(|source| LayoutError::Document {
                path: path.clone(),
                source,
            })?,
            Err(_) => ImageIndex {
                schema_version: 2,
                media_type: Some(media_type::INDEX.to_owned()),
                manifests: Vec::new(),
            },
        };
        let mut descriptor = Descriptor::new(media_type::MANIFEST, image.digest, image.manifest_raw.len() as u64);
        if let Some(tag) = tag {
            descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        }
        index
            .manifests
            .retain(|other| other.annotations.get(REF_NAME).map(String::as_str) != tag);
        index.manifests.push(descriptor);
        let json = to_canonical_json(&index).map_err(|source| LayoutError::Json {
            path: path.clone(),
            source,
        })?;
        let written = temporary.path().join("index.json");
        fs::write(&written, json).map_err(error("write", &written))?;
        fs::rename(&written, &path).map_err(error("write", &path))
    }
}

impl Image {
    /// Every blob: layers, configuration, manifest.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let mut blobs = self.manifest.layers.clone();
        blobs.push(self.manifest.config.clone());
        blobs.push(Descriptor::new(
            media_type::MANIFEST,
            self.digest,
            self.manifest_raw.len() as u64,
        ));
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        blobs
    }
}

fn copy_verified(store: &Store, blob: &Descriptor, target: &Path) -> Result<(), LayoutError> {
    let error = |source| LayoutError::Io {
        action: "write",
        path: target.to_owned(),
        source,
    };
    let mut file = store.open_blob(&blob.digest)?;
    let mut out = File::create(target).map_err(error)?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut chunk).map_err(error)?;
        let bytes = chunk.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        out.write_all(bytes).map_err(error)?;
    }
    Ok(check_descriptor(blob, hasher.clone().digest(), hasher.bytes())?)
}

fn choose_in(directory: &Path, tag: Option<&str>) -> Result<Descriptor, LayoutError> {
    let path = directory.join("index.json");
    let raw = read_small(&mut open_plain(&path)?, &path)?;
    let index = parse_index(&raw).map_err(|source| LayoutError::Document { path, source })?;
    choose(&index, tag).map_err(|reason| LayoutError::NotFound {
        path: directory.to_owned(),
        reason,
    })
}

/// The image of that name; without one, the only image.
pub(super) fn choose(index: &ImageIndex, tag: Option<&str>) -> Result<Descriptor, String> {
    let names: Vec<&str> = index
        .manifests
        .iter()
        .filter_map(|found| found.annotations.get(REF_NAME))
        .map(String::as_str)
        .collect();
    let mut matching = index.manifests.iter().filter(|found| match tag {
        Some(tag) => found.annotations.get(REF_NAME).is_some_and(|name| name == tag),
        None => true,
    });
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => Err(format!(
            "none is called {:?}; there are {names:?}",
            tag.unwrap_or_default()
        )),
        (Some(_), Some(_)) => Err(format!("there are several, name one of {names:?}")),
    }
}

fn open_plain(path: &Path) -> Result<File, LayoutError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let error = |source| LayoutError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(error)?;
    if file.metadata().map_err(error)?.is_file() {
        return Ok(file);
    }
    Err(LayoutError::NotAFile { path: path.to_owned() })
}

fn read_small(reader: &mut dyn Read, path: &Path) -> Result<Vec<u8>, LayoutError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| LayoutError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes)
}
