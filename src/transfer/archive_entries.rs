//! The entries of an archive of images, each in a scratch file that is called by its digest.
//!
//! The archive is a stranger's. A name in it is compared and never a path of this machine. What stays in memory is bounded:
//! a name, a digest and a size for each entry.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::archive_end::{Place, Watched};
use super::archive_room::ArchiveRoom;
use super::TransferError;
use crate::archive::tar_reader::names_or_sizes;
use crate::oci::{parse_docker_archive, Digest, DockerImage, Hashed, MAX_DOCUMENT_BYTES};
use crate::store::{copy, io_error, CopyError, StoreError};

/// Layers, documents and directories of a hundred images.
const MAX_ENTRIES: usize = 20_000;
/// Bytes of an extended header; writers that use them for times and attributes have a few hundred.
const MAX_HEADER: u64 = 64 << 10;
/// All files of one archive together.
const MAX_BYTES: u64 = 40 << 30;
/// By which an archive says that it is one of `docker save`.
const DOCKER: &str = "manifest.json";

/// A file of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
}

/// The entries of an archive.
#[derive(Debug)]
pub(super) struct Entries {
    directory: PathBuf,
    files: BTreeMap<String, Entry>,
    /// Where each link leads.
    links: BTreeMap<String, String>,
    digests: BTreeSet<Digest>,
    /// After how many bytes the archive ended that nobody closed. What is in it is whole.
    unclosed_at: Option<u64>,
}

impl Entries {
    /// Reads an archive to its end; its files go into `directory`, as far as there is `room`.
    pub(super) fn read(directory: &Path, reader: impl Read, mut room: ArchiveRoom<'_>) -> Result<Self, TransferError> {
        let mut all = Self {
            directory: directory.to_owned(),
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            digests: BTreeSet::new(),
            unclosed_at: None,
        };
        let place = Place::default();
        let reader = Watched {
            inner: reader,
            place: &place,
        };
        let (mut total, mut archive) = (0u64, tar::Archive::new(reader));
        let cut = |source| match place.end() {
            Some(at) => ends_early(at, "the header or the padding of an entry is cut off".to_owned()),
            None => unreadable(source),
        };
        // Raw: what the crate makes of long names and extended headers it keeps in memory, however long they are.
        for (number, entry) in archive.entries().map_err(unreadable)?.raw(true).enumerate() {
            let entry = entry.map_err(cut)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            total = total.saturating_add(entry.size());
            if number >= MAX_ENTRIES || total > MAX_BYTES {
                return Err(refused(
                    &path,
                    "the archive is over the limit of 20000 entries or 40 GiB",
                ));
            }
            all.add(&path, entry, &mut room, &place)?;
        }
        all.unclosed_at = place.end();
        Ok(all)
    }

    fn add(
        &mut self,
        path: &str,
        entry: tar::Entry<'_, impl Read>,
        room: &mut ArchiveRoom<'_>,
        place: &Place,
    ) -> Result<(), TransferError> {
        let name = bare(path).trim_end_matches('/');
        let kind = entry.header().entry_type();
        match kind {
            tar::EntryType::Directory => return Ok(()),
            tar::EntryType::XHeader | tar::EntryType::XGlobalHeader => return check_header(path, entry, place),
            tar::EntryType::Regular | tar::EntryType::Symlink => {}
            tar::EntryType::GNULongName | tar::EntryType::GNULongLink => {
                return Err(refused(
                    path,
                    "it gives the next entry a name or a target of over 100 characters",
                ))
            }
            _ => return Err(refused(path, "it is neither a file nor a directory")),
        }
        let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
        if !name.split('/').all(is_plain) {
            return Err(refused(path, "its name leads out of the archive, or is none"));
        }
        if self.files.contains_key(name) || self.links.contains_key(name) {
            return Err(refused(path, "it is there twice"));
        }
        if kind == tar::EntryType::Symlink {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            self.links.insert(name.to_owned(), target);
            return Ok(());
        }
        let expected: Option<Digest> = match name.strip_prefix("blobs/sha256/") {
            Some(hex) => format!("sha256:{hex}").parse().map(Some),
            None => Ok(None),
        }
        .map_err(|_| refused(path, "its name is no digest"))?;
        let size = entry.size();
        let stored = room.pass(entry, size, |content| self.write(content))?;
        check_length(path, stored.size, size, place)?;
        if let Some(expected) = expected.filter(|expected| *expected != stored.digest) {
            let got = stored.digest;
            return Err(StoreError::Digest { expected, got }.into());
        }
        self.files.insert(name.to_owned(), stored);
        Ok(())
    }

    /// Writes what `content` gives into a file that is called by its digest.
    fn write(&mut self, content: &mut impl Read) -> Result<Entry, TransferError> {
        let path = self.directory.join("incoming");
        let mut file = Hashed::new(File::create(&path).map_err(io_error("write", &path))?);
        copy(content, &mut file).map_err(|error| match error {
            CopyError::Read(source) => unreadable(source),
            CopyError::Write(source) => io_error("write", &path)(source).into(),
        })?;
        file.flush().map_err(io_error("write", &path))?;
        let (digest, size) = (file.hasher.clone().digest(), file.hasher.bytes());
        fs::rename(&path, self.directory.join(digest.hex())).map_err(io_error("write", &path))?;
        self.digests.insert(digest);
        Ok(Entry { digest, size })
    }

    /// Adds a document that is made of the archive.
    pub(super) fn put(&mut self, mut raw: &[u8]) -> Result<Entry, TransferError> {
        self.write(&mut raw)
    }

    /// Whether a file of this digest is there.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }

    /// A file, or what a link to a file of the archive leads to: `docker save` wrote such a one for a layer that is there
    /// already.
    pub(super) fn find(&self, name: &str) -> Result<Entry, TransferError> {
        let name = bare(name);
        if let Some(entry) = self.files.get(name) {
            return Ok(*entry);
        }
        let target = self.links.get(name).ok_or_else(|| {
            let error = refused(name, "manifest.json names it, and it is not in the archive");
            self.missing(&format!("manifest.json names {name:?}, and it is not there"), error)
        })?;
        let entry = resolve(name, target).and_then(|target| self.files.get(&target));
        entry
            .copied()
            .ok_or_else(|| refused(name, "it is a link, and not to a file of the archive"))
    }

    /// Why something is not there: `error`, but of an archive that nobody closed more was to come.
    pub(super) fn missing(&self, lacks: &str, error: TransferError) -> TransferError {
        match self.unclosed_at {
            Some(at) => ends_early(at, lacks.chars().take(300).collect()),
            None => error,
        }
    }

    /// The beginning of a file.
    pub(super) fn start(&self, entry: &Entry, most: u64) -> Result<Vec<u8>, TransferError> {
        let path = self.directory.join(entry.digest.hex());
        let file = File::open(&path).map_err(io_error("read", &path))?;
        let mut bytes = Vec::new();
        file.take(most)
            .read_to_end(&mut bytes)
            .map_err(io_error("read", &path))?;
        Ok(bytes)
    }

    /// A document: its bytes, one more than a document may have at most.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, TransferError> {
        let entry = self.files.get(name);
        entry.map(|entry| self.start(entry, MAX_DOCUMENT_BYTES + 1)).transpose()
    }

    /// What `manifest.json` says, if it is an archive of `docker save`.
    pub(super) fn docker(&self) -> Result<Option<Vec<DockerImage>>, TransferError> {
        let Some(raw) = self.document(DOCKER)? else {
            return Ok(None);
        };
        parse_docker_archive(&raw)
            .map(Some)
            .map_err(|source| TransferError::Document {
                path: DOCKER.into(),
                source,
            })
    }

    /// Refuses what an image layout has not.
    pub(super) fn check_layout(&self) -> Result<(), TransferError> {
        if let Some(link) = self.links.keys().next() {
            return Err(refused(link, "it is neither a file nor a directory"));
        }
        let is_of_layout =
            |name: &&String| matches!(name.as_str(), "oci-layout" | "index.json") || name.starts_with("blobs/sha256/");
        match self.files.keys().find(|name| !is_of_layout(name)) {
            Some(name) => Err(refused(name, "it does not belong to an image layout")),
            None => Ok(()),
        }
    }
}

/// A name without the `./` that some writers begin names with.
fn bare(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

/// The entry that `target` means in the place of `name`.
fn resolve(name: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "" | "." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

pub(super) fn refused(path: &str, reason: &'static str) -> TransferError {
    TransferError::Entry {
        path: path.chars().take(200).collect(),
        reason,
    }
}

fn ends_early(at: u64, lacks: String) -> TransferError {
    TransferError::EndsEarly { at, lacks }
}

/// Refuses the beginning of an entry that says it has `size` bytes.
fn check_length(path: &str, got: u64, size: u64, place: &Place) -> Result<(), TransferError> {
    match place.end() {
        Some(at) if got < size => {
            let path: String = path.chars().take(200).collect();
            Err(ends_early(
                at,
                format!("{path:?} has {size} bytes, of which {got} are there"),
            ))
        }
        _ => Ok(()),
    }
}

fn unreadable(source: io::Error) -> TransferError {
    TransferError::Io {
        action: "read",
        path: "archive".into(),
        source,
    }
}

/// Extended headers may say when a file was made or what attributes it has, which is nothing to us.
fn check_header(path: &str, entry: tar::Entry<'_, impl Read>, place: &Place) -> Result<(), TransferError> {
    let size = entry.size();
    if size > MAX_HEADER {
        return Err(refused(path, "it is an extended header of more than 64 KiB"));
    }
    let mut records = Vec::new();
    entry.take(MAX_HEADER).read_to_end(&mut records).map_err(unreadable)?;
    check_length(path, records.len() as u64, size, place)?;
    match names_or_sizes(&records) {
        Ok(false) => Ok(()),
        Ok(true) => Err(refused(
            path,
            "it is an extended header that gives another name or size",
        )),
        Err(_) => Err(refused(path, "it is a damaged extended header")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_an_entry_or_nowhere() {
        for (target, entry) in [
            ("../b/layer.tar", Some("b/layer.tar")),
            ("../b.tar", Some("b.tar")),
            ("layer", Some("a/layer")),
            ("../../b", None),
            ("/b", None),
            ("..//b", None),
            ("./b", None),
            ("", None),
        ] {
            assert_eq!(resolve("a/layer.tar", target).as_deref(), entry, "{target}");
        }
    }
}
