//! An archive as a place images come from: a tar of an image layout, as `skopeo` and `podman save --format oci-archive` write
//! it, or what `docker save` and `podman save` write.
//!
//! A stream cannot be asked for a blob, so it is read to its end first. Nothing is unpacked by name: see [`Entries`].

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::archive_entries::Entries;
use super::archive_outline::Outline;
use super::archive_room::ArchiveRoom;
use super::archive_start::begin;
use super::docker_images::find_images;
use super::error::MAX_IMAGES;
use super::named::{choose, companions_in, is_companion, referrers_in, subjects, Listed};
use super::peer::{Referrer, Source};
use super::verified::check_length;
use super::TransferError;
use crate::oci::{parse_index, parse_layout_version, Descriptor, Digest, ImageIndex};
use crate::store::{Scratch, Store, StoreError};

/// An archive whose files are in scratch files, each called by its digest.
#[derive(Debug)]
pub struct ArchiveSource {
    scratch: Scratch,
    entries: Entries,
    /// What its index lists.
    listed: Vec<Descriptor>,
    images: Vec<Descriptor>,
    subjects: OnceLock<Vec<Listed>>,
}

impl ArchiveSource {
    /// Reads an archive to its end; its files stay in a scratch directory of `store` as long as the returned value.
    ///
    /// # Errors
    ///
    /// [`TransferError`]: the archive is refused as a whole.
    pub fn read(store: &Store, reader: impl Read) -> Result<Self, TransferError> {
        Self::read_into(store, reader, ArchiveRoom::new(store, 0))
    }

    /// As [`read`](Self::read), of the archive `file`: where its images would not fit beside the copy that is made of it, also
    /// when all has gone that may, it is refused before a byte is copied and before anything goes for it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); [`StoreError::NoSpace`] when the disk has no room for it.
    pub fn read_file(store: &Store, file: &File) -> Result<Self, TransferError> {
        let unreadable = |source| TransferError::Io {
            action: "read",
            path: "archive".into(),
            source,
        };
        let found = file.metadata().map_err(unreadable)?;
        // Of a file with holes less is there than it is long.
        let bytes = found.len().min(found.blocks().saturating_mul(512));
        let needed = Outline::of(file).map_err(unreadable)?.room(store, bytes);
        let fits = needed.map_or(Ok(true), |needed| store.can_hold(needed))?;
        let reader = BufReader::new(file);
        match fits {
            true => Self::read_into(store, reader, ArchiveRoom::new(store, bytes)),
            // It may unpack to less than it is, and what others have does not go for that.
            false => {
                let store = store.making_no_room();
                Self::read_into(&store, reader, ArchiveRoom::new(&store, bytes))
            }
        }
    }

    fn read_into(store: &Store, reader: impl Read, room: ArchiveRoom<'_>) -> Result<Self, TransferError> {
        let reader = begin(reader)?;
        let scratch = store.scratch()?;
        let mut entries = Entries::read(scratch.path(), reader, room)?;
        let listed = match entries.docker()? {
            Some(images) => {
                let index = index(&entries)?;
                find_images(&mut entries, &images, index.as_ref())?
            }
            None => {
                entries.check_layout()?;
                let index = index(&entries)?;
                let index = index.ok_or_else(|| missing(&entries, "oci-layout"))?;
                index.manifests
            }
        };
        let images: Vec<Descriptor> = listed.iter().filter(|entry| !is_companion(entry)).cloned().collect();
        if images.is_empty() {
            return Err(TransferError::NotFound {
                path: "archive".into(),
                reason: choose(&images, None).err().unwrap_or_default(),
            });
        }
        if listed.len() > MAX_IMAGES {
            return Err(TransferError::TooMany { got: listed.len() });
        }
        Ok(Self {
            scratch,
            entries,
            listed,
            images,
            subjects: OnceLock::new(),
        })
    }

    /// The image called `name`; without a name, the only one.
    ///
    /// # Errors
    ///
    /// [`TransferError::NotFound`] with the names there are.
    pub fn find(&self, name: Option<&str>) -> Result<Descriptor, TransferError> {
        choose(&self.listed, name).map_err(|reason| TransferError::NotFound {
            path: "archive".into(),
            reason,
        })
    }

    /// Its images, at least one, in the order of its index; some may be one image under several names.
    pub fn images(&self) -> &[Descriptor] {
        &self.images
    }
}

/// The index of the image layout that the archive is; none when it is no layout.
fn index(entries: &Entries) -> Result<Option<ImageIndex>, TransferError> {
    let refused = |path: &str| {
        let path = PathBuf::from(path);
        |source| TransferError::Document { path, source }
    };
    let Some(version) = entries.document("oci-layout")? else {
        return Ok(None);
    };
    parse_layout_version(&version).map_err(refused("oci-layout"))?;
    let index = entries.document("index.json")?;
    let index = index.ok_or_else(|| missing(entries, "index.json"))?;
    parse_index(&index).map_err(refused("index.json")).map(Some)
}

fn missing(entries: &Entries, part: &'static str) -> TransferError {
    entries.missing(&format!("it has no {part}"), TransferError::Missing { part })
}

impl ArchiveSource {
    fn file(&self, blob: &Descriptor) -> Result<File, TransferError> {
        let path = self.scratch.path().join(blob.digest.hex());
        match File::open(&path) {
            Ok(file) if self.entries.has(&blob.digest) => Ok(file),
            _ => {
                let lacks = format!("blob {} is not there", blob.digest);
                Err(self
                    .entries
                    .missing(&lacks, StoreError::NoBlob { digest: blob.digest }.into()))
            }
        }
    }
}

impl Source for ArchiveSource {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        Ok(Box::new(self.file(blob)?))
    }

    fn look_at(&self, blob: &Descriptor) -> Result<(), TransferError> {
        check_length(&self.file(blob)?, blob)
    }

    fn referrers(&self, image: &Digest) -> Result<Vec<Descriptor>, TransferError> {
        let listed = || subjects(self.listed.clone(), &|entry| self.open(entry));
        Ok(referrers_in(self.subjects.get_or_init(listed), image))
    }

    fn companions(&self, image: &Digest) -> Result<Vec<Referrer>, TransferError> {
        Ok(companions_in(&self.listed, image))
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        PathBuf::from("blobs/sha256").join(digest.hex())
    }
}

#[cfg(test)]
mod tests;
