//! An OCI archive as a place an image goes to: a tar of an image layout with one image, written as a stream.
//!
//! The bytes depend on the image, its name and what refers to it alone: blobs in the order of their digests, what refers to the
//! image as its source lists it, times and owners zero.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::layout::listed_entry;
use super::peer::{Destination, Documents, Incoming, Keeps, Kept, Reach, Written};
use super::TransferError;
use crate::oci::{put_in_index, Descriptor, Digest, LAYOUT_VERSION, REF_NAME};

/// What entries of a tar are filled up to.
const BLOCK: u64 = 512;
/// The folders of the blobs.
const FOLDERS: [&str; 2] = ["blobs/", "blobs/sha256/"];

/// An archive that is being written.
pub struct ArchiveTarget<W: Write> {
    state: Mutex<State<W>>,
}

struct State<W: Write> {
    out: W,
    /// Documents whose turn has not come, the last one first.
    pending: Vec<(Digest, Vec<u8>)>,
    /// What is there.
    written: BTreeSet<Digest>,
    /// Entries of the index beside the image.
    listed: Vec<Descriptor>,
    /// Whether the folders of the blobs are there.
    has_folders: bool,
}

impl<W: Write> std::fmt::Debug for ArchiveTarget<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ArchiveTarget")
    }
}

impl<W: Write> ArchiveTarget<W> {
    /// An archive that goes to `out`, which is flushed at its end and has to be complete then.
    pub fn new(out: W) -> Self {
        let state = State {
            out,
            pending: Vec::new(),
            written: BTreeSet::new(),
            listed: Vec::new(),
            has_folders: false,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        // After a panic the archive is incomplete, and its reader will know.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write> State<W> {
    fn append(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.append_header(path, bytes.len() as u64)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn append_header(&mut self, path: &str, size: u64) -> io::Result<()> {
        if !self.has_folders {
            self.has_folders = true;
            // skopeo without root gives a folder that no entry names to root, and fails.
            for folder in FOLDERS {
                self.append_entry(tar::EntryType::Directory, folder, 0o755, 0)?;
            }
        }
        self.append_entry(tar::EntryType::Regular, path, 0o644, size)
    }

    fn append_entry(&mut self, kind: tar::EntryType, path: &str, mode: u32, size: u64) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(path)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Fills the last block of an entry of `size` bytes.
    fn pad(&mut self, size: u64) -> io::Result<()> {
        let missing = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default();
        self.out
            .write_all([0; BLOCK as usize].get(..missing).unwrap_or_default())
    }

    /// Writes the documents whose digests come before `next`; all of them without one.
    fn append_pending(&mut self, next: Option<&Digest>) -> io::Result<()> {
        while let Some((digest, bytes)) = self.pending.pop() {
            if next.is_some_and(|next| digest > *next) {
                self.pending.push((digest, bytes));
                break;
            }
            self.append_document(&digest, &bytes)?;
        }
        Ok(())
    }

    fn append_document(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        match self.written.insert(*digest) {
            true => self.append(&blob_path(digest), bytes),
            false => Ok(()),
        }
    }
}

impl<W: Write + Send> Destination for ArchiveTarget<W> {
    fn begin(&self, image: &Documents) -> Result<(), TransferError> {
        let mut pending = vec![
            (image.descriptor.digest, image.manifest_raw.clone()),
            (image.manifest.config.digest, image.config_raw.clone()),
        ];
        pending.sort_by_key(|(digest, _)| std::cmp::Reverse(*digest));
        self.state().pending = pending;
        Ok(())
    }

    fn has(&self, layer: &Descriptor) -> Result<bool, TransferError> {
        Ok(self.state().written.contains(&layer.digest))
    }

    fn keeps_referrers(&self) -> Option<&dyn Keeps> {
        Some(self)
    }

    /// An archive is written from its beginning to its end.
    fn at_once(&self, _: Reach) -> usize {
        1
    }

    fn starts_over(&self) -> bool {
        false
    }

    fn put(&self, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError> {
        let mut state = self.state();
        state.append_pending(Some(&layer.digest)).map_err(unwritable)?;
        state
            .append_header(&blob_path(&layer.digest), layer.size)
            .map_err(unwritable)?;
        incoming.verify_into(&mut state.out, &unwritable)?;
        state.written.insert(layer.digest);
        state.pad(layer.size).map_err(unwritable)
    }

    fn finish(&self, image: &Documents, name: Option<&str>) -> Result<(), TransferError> {
        let mut entry = image.descriptor.clone();
        let name = name.map(|name| (REF_NAME.to_owned(), name.to_owned()));
        entry.annotations.extend(name);
        let mut state = self.state();
        let mut index = None;
        for entry in state.listed.iter().chain([&entry]) {
            let next = put_in_index(index.as_deref(), entry).map_err(|source| TransferError::Document {
                path: "index.json".into(),
                source,
            })?;
            index = Some(next);
        }
        let index = index.unwrap_or_default();
        let version = LAYOUT_VERSION.as_bytes();
        state
            .append_pending(None)
            .and_then(|()| state.append("index.json", &index))
            .and_then(|()| state.append("oci-layout", version))
            .and_then(|()| state.out.write_all(&[0; 2 * BLOCK as usize]))
            .and_then(|()| state.out.flush())
            .map_err(unwritable)
    }
}

impl<W: Write + Send> Keeps for ArchiveTarget<W> {
    fn put_artifact(&self, written: &Written<'_>) -> Result<Kept, TransferError> {
        let mut state = self.state();
        state
            .append_document(&written.descriptor.digest, written.raw)
            .map_err(unwritable)?;
        if !written.is_part {
            let mut entry = listed_entry(written);
            let name = written.tag.map(|tag| (REF_NAME.to_owned(), tag.to_owned()));
            entry.annotations.extend(name);
            state.listed.push(entry);
        }
        Ok(Kept::There)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn unwritable(source: io::Error) -> TransferError {
    TransferError::Io {
        action: "write",
        path: "archive".into(),
        source,
    }
}
