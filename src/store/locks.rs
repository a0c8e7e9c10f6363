//! Locks between processes: all are `flock`, so the kernel frees them with their holder, however it dies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{flock, FlockOperation};

use super::{io_error, Patience, Store, StoreError};
use crate::oci::Digest;

/// A promise that garbage collection leaves an image alone; ends when dropped, and with the process.
#[derive(Debug)]
pub struct Lease {
    _file: File,
}

/// A lock between garbage collection and everyone else; ends when dropped, and with the process.
#[derive(Debug)]
pub struct CollectorLock {
    _file: File,
}

/// A lock that one process holds at a time; ends when dropped, and with the process.
#[derive(Debug)]
pub struct ExclusiveLock {
    _file: File,
}

impl Store {
    /// Keeps the image `digest`, and with it its layers, until the lease is dropped; notes the time of use.
    pub fn lease(&self, digest: &Digest) -> Result<Lease, StoreError> {
        let path = self.root.join("leases").join(digest.hex());
        loop {
            let file = open_lock(&path)?;
            let locked = flock(&file, FlockOperation::LockShared);
            locked.map_err(|errno| io_error("lock", &path)(errno.into()))?;
            if is_still(&file, &path) {
                // The mtime is the image's last use; a failure only makes it look older.
                let now = rustix::fs::Timestamps {
                    last_access: rustix::fs::Timespec {
                        tv_sec: 0,
                        tv_nsec: rustix::fs::UTIME_OMIT,
                    },
                    last_modification: rustix::fs::Timespec {
                        tv_sec: 0,
                        tv_nsec: rustix::fs::UTIME_NOW,
                    },
                };
                let _ = rustix::fs::futimens(&file, &now);
                return Ok(Lease { _file: file });
            }
        }
    }

    /// The exclusive lock called `name`; `waiting` is called once when another process holds it.
    pub fn exclusive(&self, name: &str, waiting: &mut dyn FnMut()) -> Result<ExclusiveLock, StoreError> {
        let path = self.root.join("locks").join(name);
        loop {
            let file = open_lock(&path)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                waiting();
                let locked = flock(&file, FlockOperation::LockExclusive);
                locked.map_err(|errno| io_error("lock", &path)(errno.into()))?;
            }
            if is_still(&file, &path) {
                return Ok(ExclusiveLock { _file: file });
            }
        }
    }

    /// Keeps garbage collection out until the returned lock is dropped; any number of processes may hold one. Whoever makes
    /// or looks up something that no name leads to yet needs it.
    pub fn keep_collector_out(&self) -> Result<CollectorLock, StoreError> {
        self.collector_lock(FlockOperation::LockShared)
    }

    /// Keeps everybody else out, once nobody keeps us out. Never waits in the lock's queue, where others would wait for us.
    pub(super) fn collect_alone(
        &self,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<CollectorLock, StoreError> {
        let until = Instant::now() + patience.most;
        let mut announced = false;
        loop {
            match self.collector_lock(FlockOperation::NonBlockingLockExclusive) {
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if Instant::now() >= until {
                return Err(StoreError::Busy {
                    path: self.root.clone(),
                });
            }
            if !announced {
                waiting();
                announced = true;
            }
            std::thread::sleep(patience.between);
        }
    }

    fn collector_lock(&self, operation: FlockOperation) -> Result<CollectorLock, StoreError> {
        // Never removed, so the file with the name is always the one that is locked.
        let path = self.root.join("locks/collector");
        let file = open_lock(&path)?;
        flock(&file, operation).map_err(|errno| io_error("lock", &path)(errno.into()))?;
        Ok(CollectorLock { _file: file })
    }

    /// Whether a lease on `digest` is held; when not, it is removed and stays so while `act` runs.
    pub(super) fn unless_leased<T>(&self, digest: &Digest, act: impl FnOnce() -> T) -> Result<Option<T>, StoreError> {
        let path = self.root.join("leases").join(digest.hex());
        let file = open_lock(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let acted = act();
        let _ = fs::remove_file(&path);
        Ok(Some(acted))
    }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    opened.map_err(io_error("open lock", path))
}

/// Whether the locked file is the one that has the name: a collector may have removed it in between.
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => ours.ino() == named.ino() && ours.dev() == named.dev(),
        _ => false,
    }
}
