//! An OCI archive as a place images come from: a tar of an image layout, as `skopeo` and `podman save --format oci-archive`
//! write it.
//!
//! A stream cannot be asked for a blob, so it is read to its end first. Nothing is unpacked by name: entries whose names are
//! blobs are hashed into scratch files, everything else but the two documents is an error. What stays in memory is bounded:
//! the index and a digest for each name in it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::archive_start::begin;
use super::error::MAX_IMAGES;
use super::named::choose;
use super::peer::Source;
use super::TransferError;
use crate::archive::tar_reader::names_or_sizes;
use crate::oci::{parse_index, parse_layout_version, Descriptor, Digest, Hashed, MAX_DOCUMENT_BYTES};
use crate::store::{copy, io_error, CopyError, Scratch, Store, StoreError};

/// Layers, documents and directories of a hundred images.
const MAX_ENTRIES: usize = 20_000;
/// Bytes of an extended header; writers that use them for times and attributes have a few hundred.
const MAX_HEADER: u64 = 64 << 10;
/// Both files stand in archives of docker only.
const OF_DOCKER: &str = "this is an archive of `docker save`; gantry reads OCI archives, which `podman save --format oci-archive` writes and `skopeo copy docker-archive:FILE oci-archive:NEW` makes of it";
/// Blobs of one archive together.
const MAX_BYTES: u64 = 40 << 30;

/// An archive whose blobs are in scratch files, each with the digest it is called by.
#[derive(Debug)]
pub struct ArchiveSource {
    scratch: Scratch,
    blobs: BTreeSet<Digest>,
    images: Vec<Descriptor>,
}

/// The two documents of a layout, as they are in an archive.
#[derive(Default)]
struct Documents {
    version: Option<Vec<u8>>,
    index: Option<Vec<u8>>,
}

impl ArchiveSource {
    /// Reads an archive to its end; its blobs stay in a scratch directory of `store` as long as the returned value.
    ///
    /// # Errors
    ///
    /// [`TransferError`]: the archive is refused as a whole.
    pub fn read(store: &Store, reader: impl Read) -> Result<Self, TransferError> {
        let reader = begin(reader)?;
        let scratch = store.scratch()?;
        let (blobs, documents) = unpack(scratch.path(), reader)?;
        let version = documents.version.ok_or(TransferError::Missing { part: "oci-layout" })?;
        let refused = |path: &str| {
            let path = PathBuf::from(path);
            |source| TransferError::Document { path, source }
        };
        parse_layout_version(&version).map_err(refused("oci-layout"))?;
        let index = documents.index.ok_or(TransferError::Missing { part: "index.json" })?;
        let index = parse_index(&index).map_err(refused("index.json"))?;
        if index.manifests.is_empty() {
            return Err(TransferError::NotFound {
                path: "archive".into(),
                reason: choose(&index.manifests, None).err().unwrap_or_default(),
            });
        }
        if index.manifests.len() > MAX_IMAGES {
            return Err(TransferError::TooMany {
                got: index.manifests.len(),
            });
        }
        Ok(Self {
            scratch,
            blobs,
            images: index.manifests,
        })
    }

    /// The image called `name`; without a name, the only one.
    ///
    /// # Errors
    ///
    /// [`TransferError::NotFound`] with the names there are.
    pub fn find(&self, name: Option<&str>) -> Result<Descriptor, TransferError> {
        choose(&self.images, name).map_err(|reason| TransferError::NotFound {
            path: "archive".into(),
            reason,
        })
    }

    /// Its images, at least one, in the order of its index; some may be one image under several names.
    pub fn images(&self) -> &[Descriptor] {
        &self.images
    }
}

impl Source for ArchiveSource {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        let path = self.scratch.path().join(blob.digest.hex());
        match File::open(&path) {
            Ok(file) if self.blobs.contains(&blob.digest) => Ok(Box::new(file)),
            _ => Err(StoreError::NoBlob { digest: blob.digest }.into()),
        }
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        PathBuf::from("blobs/sha256").join(digest.hex())
    }
}

fn unreadable(source: io::Error) -> TransferError {
    TransferError::Io {
        action: "read",
        path: "archive".into(),
        source,
    }
}

/// Puts the blobs into files of `directory` and returns their digests.
fn unpack(directory: &Path, reader: impl Read) -> Result<(BTreeSet<Digest>, Documents), TransferError> {
    let (mut blobs, mut documents, mut total) = (BTreeSet::new(), Documents::default(), 0u64);
    let mut archive = tar::Archive::new(reader);
    // Raw: what the crate makes of long names and extended headers it keeps in memory, however long they are.
    for (number, entry) in archive.entries().map_err(unreadable)?.raw(true).enumerate() {
        let mut entry = entry.map_err(unreadable)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refused = |reason| TransferError::Entry {
            path: path.chars().take(200).collect(),
            reason,
        };
        total = total.saturating_add(entry.size());
        if number >= MAX_ENTRIES || total > MAX_BYTES {
            return Err(refused("the archive is over the limit of 20000 entries or 40 GiB"));
        }
        match entry.header().entry_type() {
            tar::EntryType::Directory => continue,
            tar::EntryType::Regular => {}
            tar::EntryType::XHeader | tar::EntryType::XGlobalHeader => {
                check_header(entry, refused)?;
                continue;
            }
            _ => return Err(refused("it is neither a file nor a directory")),
        }
        let is_new = match path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/') {
            "oci-layout" => documents.version.replace(read_document(&mut entry)?).is_none(),
            "index.json" => documents.index.replace(read_document(&mut entry)?).is_none(),
            "manifest.json" | "repositories" => return Err(refused(OF_DOCKER)),
            name => {
                let hex = name
                    .strip_prefix("blobs/sha256/")
                    .ok_or(refused("it does not belong to an image layout"))?;
                let digest: Digest = format!("sha256:{hex}")
                    .parse()
                    .map_err(|_| refused("its name is no digest"))?;
                write_blob(&mut entry, directory, &digest)?;
                blobs.insert(digest)
            }
        };
        if !is_new {
            return Err(refused("it is there twice"));
        }
    }
    Ok((blobs, documents))
}

fn read_document(entry: &mut impl Read) -> Result<Vec<u8>, TransferError> {
    let mut bytes = Vec::new();
    let read = entry.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(unreadable)?;
    Ok(bytes)
}

/// Extended headers may say when a file was made or what attributes it has, which is nothing to us.
fn check_header(
    entry: tar::Entry<'_, impl Read>,
    refused: impl Fn(&'static str) -> TransferError,
) -> Result<(), TransferError> {
    if entry.size() > MAX_HEADER {
        return Err(refused("it is an extended header of more than 64 KiB"));
    }
    let mut records = Vec::new();
    entry.take(MAX_HEADER).read_to_end(&mut records).map_err(unreadable)?;
    match names_or_sizes(&records) {
        Ok(false) => Ok(()),
        Ok(true) => Err(refused("it is an extended header that gives another name or size")),
        Err(_) => Err(refused("it is a damaged extended header")),
    }
}

fn write_blob(entry: &mut impl Read, directory: &Path, digest: &Digest) -> Result<(), TransferError> {
    let path = directory.join(digest.hex());
    let mut file = Hashed::new(File::create(&path).map_err(io_error("write", &path))?);
    copy(entry, &mut file).map_err(|error| match error {
        CopyError::Read(source) => unreadable(source),
        CopyError::Write(source) => io_error("write", &path)(source).into(),
    })?;
    let got = file.hasher.digest();
    if got != *digest {
        return Err(StoreError::Digest { expected: *digest, got }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
