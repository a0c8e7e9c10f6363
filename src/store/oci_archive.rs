//! Images to and from OCI archives: a tar of an image layout, as `skopeo` and `podman save --format oci-archive` write it.
//!
//! Writing is deterministic: sorted entries, times and owners zero. Reading unpacks nothing by name: entries whose
//! names are blobs are hashed into scratch files, everything else but the two documents is an error, and only then are
//! the images imported like those of a layout, one at a time. What stays in memory is bounded: the index and a digest
//! for each name in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::copy::{copy, CopyError};
use super::layers::Verified;
use super::layout::{choose, Blobs, LayoutError};
use super::{io_error, Image, Scratch, Store, StoreError};
use crate::archive::tar_reader::names_or_sizes;
use crate::oci::{
    media_type, parse_index, parse_layout_version, to_canonical_json, Digest, Hashed, ImageIndex, MAX_DOCUMENT_BYTES,
    REF_NAME,
};
use crate::policy::Kind;

/// Layers, documents and directories of a hundred images.
const MAX_ENTRIES: usize = 20_000;
/// Names in the index: each distinct one costs a manifest and a configuration of up to 4 MiB to read.
const MAX_IMAGES: usize = 1000;
/// Bytes of an extended header; writers that use them for times and attributes have a few hundred.
const MAX_HEADER: u64 = 64 << 10;
/// Blobs of one archive together.
const MAX_BYTES: u64 = 40 << 30;

/// Why an archive was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Reading or writing it failed, or it is damaged.
    #[error("{action} archive")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// An entry that no OCI archive has.
    #[error("read archive entry {path:?}: {reason}")]
    Entry {
        /// Its name.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// More images than an archive may have.
    #[error("read archive: its index has {got} images of at most {MAX_IMAGES}")]
    TooMany {
        /// How many.
        got: usize,
    },
    /// A part is missing.
    #[error("read archive: it has no {part}")]
    Missing {
        /// Which.
        part: String,
    },
    /// An image in it is refused.
    #[error("{0}")]
    Image(#[from] LayoutError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl ArchiveError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Image(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::TooMany { .. } => Kind::Refused,
            Self::Io { .. } | Self::Entry { .. } | Self::Missing { .. } => Kind::Failed,
        }
    }
}

/// The two documents of a layout, as they are in an archive.
#[derive(Default)]
struct Documents {
    version: Option<Vec<u8>>,
    index: Option<Vec<u8>>,
}

/// An archive whose blobs are in scratch files, verified.
struct Unpacked {
    scratch: Scratch,
    blobs: BTreeMap<Digest, u64>,
}

impl Blobs for Unpacked {
    fn open(&mut self, digest: &Digest) -> Result<Box<dyn Read + '_>, LayoutError> {
        let path = self.scratch.path().join(digest.hex());
        match File::open(&path) {
            Ok(file) if self.blobs.contains_key(digest) => Ok(Box::new(file)),
            _ => Err(StoreError::NoBlob { digest: *digest }.into()),
        }
    }

    fn name(&self, digest: &Digest) -> PathBuf {
        PathBuf::from("blobs/sha256").join(digest.hex())
    }
}

impl Store {
    /// Writes `image` as an archive that calls it `name`.
    pub fn save_archive(&self, image: &Image, name: &str, out: impl Write) -> Result<(), ArchiveError> {
        let error = |source| ArchiveError::Io {
            action: "write",
            source,
        };
        let mut tar = tar::Builder::new(out);
        tar.mode(tar::HeaderMode::Deterministic);
        for blob in image.blobs() {
            let mut file = Verified::new(self.open_blob(&blob.digest)?, blob.size);
            let name = format!("blobs/sha256/{}", blob.digest.hex());
            append(&mut tar, &name, blob.size, &mut file).map_err(error)?;
            file.check(&blob)?;
        }
        let mut descriptor = image.descriptor();
        descriptor.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        let index = ImageIndex {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests: vec![descriptor],
        };
        let index = to_canonical_json(&index).map_err(|source| error(source.into()))?;
        append(&mut tar, "index.json", index.len() as u64, &index[..]).map_err(error)?;
        append(
            &mut tar,
            "oci-layout",
            super::LAYOUT.len() as u64,
            super::LAYOUT.as_bytes(),
        )
        .map_err(error)?;
        tar.into_inner().and_then(|mut out| out.flush()).map_err(error)
    }

    /// Reads the images of an archive into the store; each comes with the name the archive gives it. The archive is
    /// refused as a whole.
    pub fn load_archive(&self, reader: impl Read) -> Result<Vec<(Option<String>, Digest)>, ArchiveError> {
        let (mut unpacked, documents) = self.unpack_archive(reader)?;
        let missing = |part: &str| ArchiveError::Missing { part: part.to_owned() };
        let version = documents.version.ok_or_else(|| missing("oci-layout"))?;
        parse_layout_version(&version).map_err(|source| LayoutError::Document {
            path: "oci-layout".into(),
            source,
        })?;
        let index = parse_index(&documents.index.ok_or_else(|| missing("index.json"))?).map_err(|source| {
            LayoutError::Document {
                path: "index.json".into(),
                source,
            }
        })?;
        if index.manifests.is_empty() {
            let reason = choose(&index, None).err().unwrap_or_default();
            return Err(LayoutError::NotFound {
                path: "archive".into(),
                reason,
            }
            .into());
        }
        if index.manifests.len() > MAX_IMAGES {
            return Err(ArchiveError::TooMany {
                got: index.manifests.len(),
            });
        }
        let (mut named, mut imported) = (Vec::new(), BTreeMap::new());
        for descriptor in &index.manifests {
            let key = (descriptor.digest, descriptor.size, descriptor.media_type.as_str());
            let digest = match imported.get(&key) {
                Some(digest) => *digest,
                None => self.import(&mut unpacked, descriptor, 0)?.digest,
            };
            imported.insert(key, digest);
            named.push((descriptor.annotations.get(REF_NAME).cloned(), digest));
        }
        Ok(named)
    }

    fn unpack_archive(&self, reader: impl Read) -> Result<(Unpacked, Documents), ArchiveError> {
        let error = |source| ArchiveError::Io { action: "read", source };
        let mut unpacked = Unpacked {
            scratch: self.scratch()?,
            blobs: BTreeMap::new(),
        };
        let (mut documents, mut total) = (Documents::default(), 0u64);
        let mut archive = tar::Archive::new(reader);
        // Raw: what the crate makes of long names and extended headers it keeps in memory, however long they are.
        for (number, entry) in archive.entries().map_err(error)?.raw(true).enumerate() {
            let mut entry = entry.map_err(error)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let refused = |reason| ArchiveError::Entry {
                path: path.chars().take(200).collect(),
                reason,
            };
            total = total.saturating_add(entry.size());
            if number >= MAX_ENTRIES || total > MAX_BYTES {
                return Err(refused("the archive is over the limit of 20000 entries or 40 GiB"));
            }
            let name = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/');
            match entry.header().entry_type() {
                tar::EntryType::Directory => continue,
                tar::EntryType::Regular => {}
                tar::EntryType::XHeader | tar::EntryType::XGlobalHeader => {
                    check_header(entry, refused)?;
                    continue;
                }
                _ => return Err(refused("it is neither a file nor a directory")),
            }
            match name {
                "oci-layout" | "index.json" => {
                    let mut bytes = Vec::new();
                    let read = entry.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
                    read.map_err(error)?;
                    let place = match name {
                        "index.json" => &mut documents.index,
                        _ => &mut documents.version,
                    };
                    if place.replace(bytes).is_some() {
                        return Err(refused("it is there twice"));
                    }
                }
                _ => {
                    let hex = name
                        .strip_prefix("blobs/sha256/")
                        .ok_or(refused("it does not belong to an image layout"))?;
                    let digest: Digest = format!("sha256:{hex}")
                        .parse()
                        .map_err(|_| refused("its name is no digest"))?;
                    let size = write_blob(&mut entry, unpacked.scratch.path(), &digest)?;
                    if unpacked.blobs.insert(digest, size).is_some() {
                        return Err(refused("it is there twice"));
                    }
                }
            }
        }
        Ok((unpacked, documents))
    }
}

/// Extended headers may say when a file was made or what attributes it has, which is nothing to us.
fn check_header(
    entry: tar::Entry<'_, impl Read>,
    refused: impl Fn(&'static str) -> ArchiveError,
) -> Result<(), ArchiveError> {
    if entry.size() > MAX_HEADER {
        return Err(refused("it is an extended header of more than 64 KiB"));
    }
    let mut records = Vec::new();
    entry
        .take(MAX_HEADER)
        .read_to_end(&mut records)
        .map_err(|source| ArchiveError::Io { action: "read", source })?;
    match names_or_sizes(&records) {
        Ok(false) => Ok(()),
        Ok(true) => Err(refused("it is an extended header that gives another name or size")),
        Err(_) => Err(refused("it is a damaged extended header")),
    }
}

fn write_blob(entry: &mut impl Read, directory: &Path, digest: &Digest) -> Result<u64, ArchiveError> {
    let path = directory.join(digest.hex());
    let mut file = Hashed::new(File::create(&path).map_err(io_error("write", &path))?);
    copy(entry, &mut file).map_err(|error| match error {
        CopyError::Read(source) => ArchiveError::Io { action: "read", source },
        CopyError::Write(source) => io_error("write", &path)(source).into(),
    })?;
    let (size, got) = (file.hasher.bytes(), file.hasher.digest());
    if got != *digest {
        return Err(StoreError::Digest { expected: *digest, got }.into());
    }
    Ok(size)
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, size: u64, contents: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    tar.append_data(&mut header, path, contents.take(size))
}

#[cfg(test)]
#[path = "oci_archive_tests.rs"]
mod tests;
