//! Files from elsewhere: one process fetches, the others wait for it; a cut download goes on where it stopped.

use std::fs::{self, File};
use std::io::{self, BufReader, Seek, Write};
use std::path::PathBuf;

use super::whole::Content;
use crate::oci::{Digest, Hasher};
use crate::store::disk::locks::{Locks, Rank, Task};
use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::lock::{self, Lock, Mode};

/// A download under way, locked by us until it is dropped or committed.
#[derive(Debug)]
pub struct Partial {
    disk: Disk,
    /// What it will be.
    content: Content,
    /// Of the file that is written.
    lock: Lock,
    path: PathBuf,
    target: PathBuf,
    digest: Digest,
    hasher: Hasher,
    /// Whether `path` is still the name of our file.
    has_name: bool,
}

/// What there is of a download.
#[derive(Debug)]
pub enum Download {
    /// All of it.
    Whole(File),
    /// What an earlier process left, and the task to bring the rest.
    Partial(Box<Partial>),
}

impl Partial {
    /// What there is of `digest`, ours alone, to become `content`. What an earlier process left is hashed and kept.
    pub(in crate::store) fn take(
        disk: &Disk,
        content: Content,
        digest: &Digest,
        task: Task<'_>,
    ) -> Result<Self, StoreError> {
        let path = disk.path("partial").join(digest.hex());
        let (lock, _) = Locks::of(disk).wait_for(Rank::Download, Mode::Alone, &path, task)?;
        let mut hasher = Hasher::new();
        io::copy(&mut BufReader::with_capacity(1 << 20, lock.file()), &mut hasher).map_err(io_error("read", &path))?;
        let target = content.path(disk, digest);
        Ok(Self {
            disk: disk.clone(),
            content,
            lock,
            path,
            target,
            digest: *digest,
            hasher,
            has_name: true,
        })
    }

    /// Bytes that are there already.
    pub fn len(&self) -> u64 {
        self.hasher.bytes()
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what is there has the digest that it should have.
    pub fn is_right(&self) -> bool {
        self.hasher.clone().digest() == self.digest
    }

    /// Whether the disk has room for what is missing of `size` bytes. Whoever says how large something is that comes from
    /// elsewhere may say anything: a disk is not filled to find out.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] when it has not.
    pub fn check_room(&self, size: u64) -> Result<(), StoreError> {
        let missing = size.saturating_sub(self.len());
        // A file system that does not say how full it is refuses when it is.
        let Ok(found) = rustix::fs::fstatvfs(self.lock.file()) else {
            return Ok(());
        };
        let room = found.f_bavail.saturating_mul(found.f_frsize);
        if missing <= room {
            return Ok(());
        }
        let reason = format!("{missing} bytes are to come, and the disk has room for {room}");
        Err(io_error("write", &self.path)(io::Error::new(
            io::ErrorKind::StorageFull,
            reason,
        )))
    }

    /// Moves the file's time without adding a byte.
    #[cfg(test)]
    pub(in crate::store) fn touch(&self) {
        self.lock.touch();
    }

    /// What is there, to be read from its beginning.
    pub fn reopen(&self) -> Result<File, StoreError> {
        File::open(&self.path).map_err(io_error("read", &self.path))
    }

    /// Adds bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        fault::point(fault::Step::Bytes).map_err(io_error("write", &self.path))?;
        let mut file = self.lock.file();
        file.write_all(bytes).map_err(io_error("write", &self.path))?;
        self.hasher.update(bytes);
        lock::beat();
        Ok(())
    }

    /// Forgets what is there: the other side started anew, or it was wrong.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let mut file = self.lock.file();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(io_error("empty", &self.path))?;
        self.hasher = Hasher::new();
        Ok(())
    }

    /// Gives the download its name when it is the expected one, and lets go of its lock; removes it otherwise.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when size or digest differ; nothing of the download stays.
    pub fn commit(mut self, size: u64) -> Result<File, StoreError> {
        let (got, digest) = (self.len(), self.hasher.clone().digest());
        if got != size || digest != self.digest {
            // Wrong bytes are never resumed.
            self.restart()?;
            self.remove();
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
        self.lock.unsign();
        let whole = File::open(&self.path).map_err(io_error("read", &self.path))?;
        let scratch = Scratch::new(&self.disk)?;
        self.content.stamp(&self.disk, &self.digest, scratch.path())?;
        fault::point(fault::Step::Download).map_err(io_error("write", &self.target))?;
        fs::rename(&self.path, &self.target).map_err(io_error("write", &self.target))?;
        self.has_name = false;
        Ok(whole)
    }
}

/// The downloads of a store, finished and under way.
#[derive(Debug, Clone, Copy)]
pub struct Downloads<'a> {
    disk: &'a Disk,
}

impl<'a> Downloads<'a> {
    pub(in crate::store) fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    /// A finished download that is whole.
    pub fn find(self, digest: &Digest, size: u64) -> Option<File> {
        let file = self.find_whole(digest)?;
        let fits = file.metadata().is_ok_and(|metadata| metadata.len() == size);
        fits.then_some(file)
    }

    /// [`find`](Self::find) for a file whose size nobody said.
    pub fn find_whole(self, digest: &Digest) -> Option<File> {
        let path = Content::Download.path(self.disk, digest);
        let file = File::open(&path).ok()?;
        Disk::note_use(&path);
        // What cannot be told is downloaded again.
        Content::Download
            .is_whole(self.disk, digest)
            .unwrap_or(false)
            .then_some(file)
    }

    /// Keeps bytes that were made here as if they had been downloaded; idempotent.
    pub fn put(self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        let does = format!("keeps {digest}");
        if let Download::Partial(mut partial) = self.claim(&digest, size, Task::silent(&does))? {
            partial.restart()?;
            partial.append(bytes)?;
            partial.commit(size)?;
        }
        Ok(digest)
    }

    /// The download of `digest` if it is whole, else the task to bring it. Waits for another process that is at it.
    ///
    /// # Errors
    /// [`StoreError::Stalled`] when the one that is at it gets no byte for ten minutes.
    pub fn claim(self, digest: &Digest, size: u64, task: Task<'_>) -> Result<Download, StoreError> {
        if let Some(file) = self.find(digest, size) {
            return Ok(Download::Whole(file));
        }
        let partial = self.partial(digest, task)?;
        // The one that we waited for may have finished it.
        Ok(match self.find(digest, size) {
            Some(file) => Download::Whole(file),
            None => Download::Partial(Box::new(partial)),
        })
    }

    /// The download of `digest`, ours alone. What an earlier process left is hashed and kept.
    pub(in crate::store) fn partial(self, digest: &Digest, task: Task<'_>) -> Result<Partial, StoreError> {
        Partial::take(self.disk, Content::Download, digest, task)
    }
}

impl Partial {
    /// Removes the file while the lock is ours, so that its name is that of our file. Once only: then it is another's.
    fn remove(&mut self) {
        if std::mem::take(&mut self.has_name) {
            let _ = fault::point(fault::Step::PartialRemoved).and_then(|()| fs::remove_file(&self.path));
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // An empty one holds nothing to resume.
        if self.is_empty() {
            self.remove();
        }
    }
}
