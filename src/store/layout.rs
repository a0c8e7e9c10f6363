//! Images to and from OCI image layouts on disk (OCI image specification, "Image Layout").
//!
//! A layout is somebody else's directory: files are opened without following links and without waiting on a pipe, must
//! be regular, and are verified by size and digest while they are copied. Files are written under a new random name and
//! renamed, so that no link that lies there leads a write out of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation, OFlags};
use rustix::io::Errno;

use super::copy::{copy, CopyError};
use super::{check_descriptor, io_error, Image, Store, StoreError};
use crate::archive::tar_reader::check_compression;
use crate::oci::{
    media_type, parse_config, parse_index, parse_layout_version, parse_manifest, put_in_index, Compression, Descriptor,
    Digest, Hashed, Hasher, ImageIndex, ParseImageError, MAX_DOCUMENT_BYTES, REF_NAME,
};
use crate::policy::Kind;

/// Indexes inside indexes: one level is common, more is a maze.
const MAX_INDEX_DEPTH: usize = 4;
/// The index of a layout is locked for the time it takes to write a few kilobytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries to lock it.
const BETWEEN: Duration = Duration::from_millis(10);

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
    /// A link or something else in the place of a directory.
    #[error("write into {path}: it is no directory")]
    NotADirectory {
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
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Another process is writing it and does not end.
    #[error("write into {path}: another process has locked it for more than {} seconds", PATIENCE.as_secs())]
    Busy {
        /// The layout.
        path: PathBuf,
    },
}

impl LayoutError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Busy { .. } => Kind::Busy,
            Self::Io { .. }
            | Self::NotAFile { .. }
            | Self::NotADirectory { .. }
            | Self::Document { .. }
            | Self::NotFound { .. } => Kind::Failed,
        }
    }
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
        let chosen = find_in_layout(directory, tag)?;
        self.import(&mut Directory(directory), &chosen, 0)
    }

    /// The image of a layout when the very same one, by its digest, was imported and unpacked before. Reads nothing of the
    /// layout but its index: whoever names a digest may have what the store has under it.
    pub fn find_imported(&self, directory: &Path, tag: Option<&str>) -> Result<Option<Image>, LayoutError> {
        let chosen = find_in_layout(directory, tag)?;
        let is_prepared = self.read_snapshot(&chosen.digest)?.is_some();
        let Some(image) = self.open_image(&chosen.digest).ok().filter(|_| is_prepared) else {
            return Ok(None);
        };
        for layer in &image.manifest.layers {
            if !self.has_blob(layer)? {
                return Ok(None);
            }
        }
        Ok((image.manifest_raw.len() as u64 == chosen.size).then_some(image))
    }

    /// What a layout calls its only image.
    pub fn layout_name(&self, directory: &Path) -> Result<Option<String>, LayoutError> {
        let chosen = find_in_layout(directory, None)?;
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
        check_size("manifest", descriptor, &path)?;
        let raw = read_small(&mut *blobs.open(&descriptor.digest)?, &path)?;
        check_descriptor(descriptor, Digest::of(&raw), raw.len() as u64)?;
        let refused = |source| LayoutError::Document {
            path: path.clone(),
            source,
        };
        let missing = |reason: &str| LayoutError::NotFound {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        if media_type::is_index(&descriptor.media_type) {
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
        if !media_type::is_manifest(&descriptor.media_type) {
            return Err(missing(&format!(
                "what is there has the media type {:?}, which is no image",
                descriptor.media_type
            )));
        }
        let manifest = parse_manifest(&raw).map_err(refused)?;
        let config_path = blobs.name(&manifest.config.digest);
        check_size("image config", &manifest.config, &config_path)?;
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
        let path = blobs.name(&layer.digest);
        let compression = Compression::of_layer(layer).map_err(|source| LayoutError::Document {
            path: path.clone(),
            source,
        })?;
        // One byte more than promised is enough to know that there are too many.
        let mut reader = blobs.open(&layer.digest)?.take(layer.size.saturating_add(1));
        let target = self.blob_path(&layer.digest);
        let failed = |error| match error {
            CopyError::Read(source) => LayoutError::Io {
                action: "copy",
                path: path.clone(),
                source,
            },
            CopyError::Write(source) => io_error("write", &target)(source).into(),
        };
        let mut start = Vec::new();
        let read = (&mut reader).take(Compression::MAGIC as u64).read_to_end(&mut start);
        read.map_err(|source| failed(CopyError::Read(source)))?;
        check_compression(compression, &start).map_err(|source| StoreError::Layer {
            digest: layer.digest,
            source,
        })?;
        let mut reader = start.chain(reader);
        // Naming a blob that the store has is not having it: the image may be somebody else's.
        if self.has_blob(layer)? {
            let mut hasher = Hasher::new();
            copy(&mut reader, &mut hasher).map_err(failed)?;
            return Ok(check_descriptor(layer, hasher.clone().digest(), hasher.bytes())?);
        }
        let mut writer = self.blob_writer()?;
        copy(&mut reader, &mut writer).map_err(failed)?;
        Ok(writer.commit_expecting(layer)?)
    }

    /// Copies an image of the store into a layout, made when it is not there; other images in it stay. An index that
    /// cannot be read is somebody's all the same: the layout is refused and stays as it is.
    pub fn export_layout(&self, image: &Image, directory: &Path, tag: Option<&str>) -> Result<(), LayoutError> {
        let mut descriptor = image.descriptor();
        if let Some(tag) = tag {
            descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        }
        let path = directory.join("index.json");
        let with_entry = || {
            let there = read_document(&path)?;
            put_in_index(there.as_deref(), &descriptor).map_err(|source| LayoutError::Document {
                path: path.clone(),
                source,
            })
        };
        // Before anything is written.
        with_entry()?;
        let has_version = has_version(&directory.join("oci-layout"))?;
        let folder = directory.join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(|source| LayoutError::Io {
            action: "make directory",
            path: folder.clone(),
            source,
        })?;
        for path in [&directory.join("blobs"), &folder] {
            if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
                return Err(LayoutError::NotADirectory { path: path.clone() });
            }
        }
        for blob in image.blobs() {
            let target = folder.join(blob.digest.hex());
            if fs::symlink_metadata(&target).is_ok_and(|found| found.is_file() && found.len() == blob.size) {
                continue;
            }
            replace(self, &target, |out| copy_verified(self, &blob, out, &target))?;
        }
        let write = |path: &Path, bytes: &[u8]| {
            replace(self, path, |out| {
                out.write_all(bytes).map_err(|source| LayoutError::Io {
                    action: "write",
                    path: path.to_owned(),
                    source,
                })
            })
        };
        if !has_version {
            write(&directory.join("oci-layout"), super::LAYOUT.as_bytes())?;
        }
        let _alone = lock(directory)?;
        write(&path, &with_entry()?)
    }
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

/// Puts what `fill` writes in the place of `target`, all of it or nothing; what a killed gantry wrote is swept.
fn replace(
    store: &Store,
    target: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), LayoutError>,
) -> Result<(), LayoutError> {
    let error = |source| LayoutError::Io {
        action: "write",
        path: target.to_owned(),
        source,
    };
    let temporary = store.beside(target)?;
    // Fails where anything lies already, a link as well.
    let mut file = File::create_new(temporary.path()).map_err(error)?;
    fill(&mut file)?;
    fs::rename(temporary.path(), target).map_err(error)
}

fn copy_verified(store: &Store, blob: &Descriptor, out: &mut File, target: &Path) -> Result<(), LayoutError> {
    let source = store.blob_path(&blob.digest);
    let mut out = Hashed::new(out);
    copy(&mut store.open_blob(&blob.digest)?, &mut out).map_err(|error| match error {
        CopyError::Read(error) => io_error("read", &source)(error).into(),
        CopyError::Write(source) => LayoutError::Io {
            action: "write",
            path: target.to_owned(),
            source,
        },
    })?;
    let hasher = out.hasher;
    Ok(check_descriptor(blob, hasher.clone().digest(), hasher.bytes())?)
}

/// Refuses a document that is too large by what its descriptor says.
fn check_size(document: &'static str, descriptor: &Descriptor, path: &Path) -> Result<(), LayoutError> {
    let size = descriptor.size;
    if size <= MAX_DOCUMENT_BYTES {
        return Ok(());
    }
    Err(LayoutError::Document {
        path: path.to_owned(),
        source: ParseImageError::TooLarge { document, size },
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

/// What the index of a layout says of the image.
fn find_in_layout(directory: &Path, tag: Option<&str>) -> Result<Descriptor, LayoutError> {
    let path = directory.join("oci-layout");
    let version = read_small(&mut open_plain(&path)?, &path)?;
    parse_layout_version(&version).map_err(|source| LayoutError::Document { path, source })?;
    let path = directory.join("index.json");
    let index = parse_index(&read_small(&mut open_plain(&path)?, &path)?);
    let index = index.map_err(|source| LayoutError::Document { path, source })?;
    choose(&index, tag).map_err(|reason| LayoutError::NotFound {
        path: directory.to_owned(),
        reason,
    })
}

/// A document of a layout, if it is there.
fn read_document(path: &Path) -> Result<Option<Vec<u8>>, LayoutError> {
    match open_plain(path) {
        Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        file => read_small(&mut file?, path).map(Some),
    }
}

/// Whether the layout says its version already. A link that lies there is as good as nothing and is replaced.
fn has_version(path: &Path) -> Result<bool, LayoutError> {
    match read_document(path) {
        Err(LayoutError::NotAFile { .. }) | Ok(None) => Ok(false),
        Ok(Some(raw)) => parse_layout_version(&raw)
            .map(|()| true)
            .map_err(|source| LayoutError::Document {
                path: path.to_owned(),
                source,
            }),
        Err(error) => Err(error),
    }
}

/// Keeps other gantry processes from replacing the index of a layout between our reading and our writing it.
///
/// It is the directory that is locked, so that no file is left behind that no layout has. A file system without locks (some
/// network ones) has none here. Nothing else is waited for while it is held.
fn lock(directory: &Path) -> Result<File, LayoutError> {
    let failed = |source| LayoutError::Io {
        action: "lock",
        path: directory.to_owned(),
        source,
    };
    let file = File::open(directory).map_err(failed)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() >= until => {
                return Err(LayoutError::Busy {
                    path: directory.to_owned(),
                });
            }
            Err(Errno::WOULDBLOCK) => std::thread::sleep(BETWEEN),
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::BADF | Errno::NOSYS) => return Ok(file),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

fn open_plain(path: &Path) -> Result<File, LayoutError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let error = |source| LayoutError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    // A link, of which nothing more is wanted to be known.
    let is_link = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::LOOP);
    if file.as_ref().is_err_and(is_link) {
        return Err(LayoutError::NotAFile { path: path.to_owned() });
    }
    let file = file.map_err(error)?;
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

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
