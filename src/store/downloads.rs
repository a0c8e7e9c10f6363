//! Files from elsewhere: one process fetches, the others wait for it; a cut download goes on where it stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use rustix::fs::{flock, FlockOperation};

use super::durability::Content;
use super::{fault, io_error, Store, StoreError};
use crate::oci::{Digest, Hasher};

/// A download under way, locked by us.
#[derive(Debug)]
pub struct Partial {
    store: Store,
    file: File,
    path: PathBuf,
    target: PathBuf,
    digest: Digest,
    hasher: Hasher,
}

impl Partial {
    /// Bytes that are there already.
    pub fn len(&self) -> u64 {
        self.hasher.bytes()
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(io_error("write", &self.path))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Forgets what is there: the other side started anew, or it was wrong.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(io_error("empty", &self.path))?;
        self.hasher = Hasher::new();
        Ok(())
    }

    /// Gives the download its name when it is the expected one; removes it otherwise.
    pub fn commit(mut self, size: u64) -> Result<File, StoreError> {
        let (got, digest) = (self.len(), self.hasher.clone().digest());
        if got != size || digest != self.digest {
            // Wrong bytes are never resumed.
            self.restart()?;
            let _ = fs::remove_file(&self.path);
            return Err(if got == size {
                StoreError::Digest {
                    expected: self.digest,
                    got: digest,
                }
            } else {
                StoreError::Size {
                    digest: self.digest,
                    expected: size,
                    got,
                }
            });
        }
        // A copy of our own descriptor would keep the lock, and others waiting, for as long as it is open.
        let whole = File::open(&self.path).map_err(io_error("read", &self.path))?;
        let scratch = self.store.scratch()?;
        self.store
            .stamp_content(Content::Download, &self.digest, scratch.path())?;
        fault::point(fault::Step::Download).map_err(io_error("write", &self.target))?;
        fs::rename(&self.path, &self.target).map_err(io_error("write", &self.target))?;
        Ok(whole)
    }
}

impl Store {
    /// A finished download that is whole.
    pub fn find_download(&self, digest: &Digest, size: u64) -> Option<File> {
        let file = File::open(self.root.join("downloads").join(digest.hex())).ok()?;
        let fits = file.metadata().is_ok_and(|metadata| metadata.len() == size);
        // What cannot be told is downloaded again.
        (fits && self.content_is_whole(Content::Download, digest).unwrap_or(false)).then_some(file)
    }

    /// Keeps bytes that were made here as if they had been downloaded; idempotent.
    pub fn put_download(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        let mut partial = self.partial(&digest, &mut || ())?;
        if self.find_download(&digest, size).is_none() {
            partial.restart()?;
            partial.append(bytes)?;
            partial.commit(size)?;
        }
        Ok(digest)
    }

    /// The download of `digest`, ours alone until it is dropped; waits for another process that is at it, calling
    /// `waiting` once. What an earlier process left is hashed and kept. Look again with [`Store::find_download`] after
    /// it: the other one may have finished.
    pub fn partial(&self, digest: &Digest, waiting: &mut dyn FnMut()) -> Result<Partial, StoreError> {
        let path = self.root.join("partial").join(digest.hex());
        loop {
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let mut file = opened.map_err(io_error("open", &path))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                waiting();
                flock(&file, FlockOperation::LockExclusive).map_err(|errno| io_error("lock", &path)(errno.into()))?;
            }
            // Renamed or removed while we waited: the name is somebody else's, or nobody's.
            use std::os::unix::fs::MetadataExt;
            let same = fs::metadata(&path)
                .ok()
                .zip(file.metadata().ok())
                .is_some_and(|(named, ours)| named.ino() == ours.ino());
            if !same {
                continue;
            }
            let mut hasher = Hasher::new();
            let mut chunk = vec![0; 1 << 20];
            loop {
                match file.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) => hasher.update(chunk.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(io_error("read", &path)(source)),
                }
            }
            let target = self.root.join("downloads").join(digest.hex());
            return Ok(Partial {
                store: self.clone(),
                file,
                path,
                target,
                digest: *digest,
                hasher,
            });
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // An empty one holds nothing to resume; the lock is still ours, so nobody is at it.
        if self.hasher.bytes() == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}
