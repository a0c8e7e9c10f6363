//! Content-addressed blobs: hashed while written, renamed when complete, verified while read.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::downloads::{Download, Partial};
use super::whole::Content;
use crate::oci::{Descriptor, Digest, Hashed, Hasher};
use crate::store::disk::locks::Task;
use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::{check_descriptor, io_error, StoreError};
use crate::sys::fault;

/// Bytes gathered before a `write`: headers of small entries come in pieces of 512.
const BUFFER: usize = 1 << 20;

/// A blob on its way in. Dropped without commit it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    disk: Disk,
    scratch: Scratch,
    file: Hashed<io::BufWriter<File>>,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        crate::sys::lock::beat();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher({} bytes)", self.bytes())
    }
}

impl BlobWriter {
    /// Gives the blob its name; returns digest and size.
    pub fn commit(mut self) -> Result<(Digest, u64), StoreError> {
        let temporary = self.temporary();
        self.file.flush().map_err(io_error("write", &temporary))?;
        let (size, digest) = (self.file.hasher.bytes(), self.file.hasher.digest());
        let target = Blobs::of(&self.disk).path(&digest);
        Content::Blob.stamp(&self.disk, &digest, self.scratch.path())?;
        fault::point(fault::Step::Blob).map_err(io_error("write", &target))?;
        fs::rename(&temporary, &target).map_err(io_error("write", &target))?;
        Ok((digest, size))
    }

    /// Gives the blob its name when it is the `expected` one; another one is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when digest or size differ; no blob stays.
    pub fn commit_expecting(mut self, expected: &Descriptor) -> Result<(), StoreError> {
        let temporary = self.temporary();
        self.file.flush().map_err(io_error("write", &temporary))?;
        check_descriptor(expected, self.file.hasher.clone().digest(), self.file.hasher.bytes())?;
        self.commit().map(|_| ())
    }

    fn temporary(&self) -> PathBuf {
        self.scratch.path().join("blob")
    }
}

/// The blobs of a store.
#[derive(Debug, Clone, Copy)]
pub struct Blobs<'a> {
    disk: &'a Disk,
}

impl<'a> Blobs<'a> {
    pub(in crate::store) fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    /// Where a blob is, when it is there.
    pub(crate) fn path(self, digest: &Digest) -> PathBuf {
        Content::Blob.path(self.disk, digest)
    }

    /// Starts a blob.
    pub fn writer(self) -> Result<BlobWriter, StoreError> {
        let scratch = Scratch::new(self.disk)?;
        let path = scratch.path().join("blob");
        let file = File::create_new(&path).map_err(io_error("create", &path))?;
        Ok(BlobWriter {
            disk: self.disk.clone(),
            scratch,
            file: Hashed::new(io::BufWriter::with_capacity(BUFFER, file)),
        })
    }

    /// Stores a document, which is verified whenever it is read; idempotent.
    pub fn put(self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if fs::read(self.path(&digest)).is_ok_and(|there| there == bytes) {
            return Ok(digest);
        }
        let name = PathBuf::from("blobs/sha256").join(digest.hex());
        self.disk.write_atomically(&name, bytes)?;
        Ok(digest)
    }

    /// The blob of `digest` if it is there and whole, else the task to bring it from elsewhere. Waits for another process that
    /// is at it. `size` is what it has to have, where that is known.
    ///
    /// # Errors
    /// [`StoreError::Stalled`] when the one that is at it gets no byte for ten minutes.
    pub fn claim(self, digest: &Digest, size: Option<u64>, task: Task<'_>) -> Result<Download, StoreError> {
        if let Some(file) = self.whole(digest, size)? {
            return Ok(Download::Whole(file));
        }
        let partial = Partial::take(self.disk, Content::Blob, digest, task)?;
        // The one that we waited for may have finished it.
        Ok(match self.whole(digest, size)? {
            Some(file) => Download::Whole(file),
            None => Download::Partial(Box::new(partial)),
        })
    }

    fn whole(self, digest: &Digest, size: Option<u64>) -> Result<Option<File>, StoreError> {
        let there = self.size(digest);
        let fits = there.is_some() && (size.is_none() || size == there);
        if !fits || !Content::Blob.is_whole(self.disk, digest)? {
            return Ok(None);
        }
        self.open(digest).map(Some)
    }

    /// Whether the blob is there, of that size, and whole. One of another boot of the machine is read for that, once.
    pub fn has(self, descriptor: &Descriptor) -> Result<bool, StoreError> {
        Ok(self.size(&descriptor.digest) == Some(descriptor.size)
            && Content::Blob.is_whole(self.disk, &descriptor.digest)?)
    }

    /// The size of a blob that is there.
    pub fn size(self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest))
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|metadata| metadata.len())
    }

    /// A blob's bytes, unverified: whoever reads them hashes them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when there is no such blob.
    pub fn open(self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::NoBlob { digest: *digest },
            _ => io_error("open", &path)(source),
        })
    }

    /// A small blob, verified: size and digest are those of the descriptor.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the blob is not there, or damaged; a damaged one is removed.
    pub fn read(self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        let bytes = self.read_document(&descriptor.digest, descriptor.size)?;
        check_descriptor(descriptor, Digest::of(&bytes), bytes.len() as u64)?;
        Ok(bytes)
    }

    /// A blob of at most `most` bytes, verified by its digest.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the blob is not there, larger than `most`, or damaged.
    pub fn read_document(self, digest: &Digest, most: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.open(digest)?;
        let mut bytes = Vec::new();
        let read = file.take(most.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(io_error("read", &self.path(digest)))?;
        if bytes.len() as u64 > most {
            return Err(StoreError::Size {
                digest: *digest,
                expected: most,
                got: bytes.len() as u64,
            });
        }
        let got = Digest::of(&bytes);
        if got != *digest {
            return Err(StoreError::Digest { expected: *digest, got });
        }
        Ok(bytes)
    }
}

/// Hashes a blob while it is read, unless it is known.
pub(in crate::store) struct Verified {
    file: io::Take<File>,
    /// None when nothing has to be told by it.
    hasher: Option<Hasher>,
}

impl Verified {
    pub(in crate::store) fn new(file: File, size: u64) -> Self {
        Self {
            file: file.take(size),
            hasher: Some(Hasher::new()),
        }
    }

    /// Of a blob that is known to be what it is called.
    pub(in crate::store) fn known(file: File) -> Self {
        Self {
            file: file.take(u64::MAX),
            hasher: None,
        }
    }

    /// What was read against what it is called.
    pub(in crate::store) fn check(&self, blob: &Descriptor) -> Result<(), StoreError> {
        match &self.hasher {
            Some(hasher) => check_descriptor(blob, hasher.clone().digest(), hasher.bytes()),
            None => Ok(()),
        }
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
        crate::sys::lock::beat();
        Ok(count)
    }
}
