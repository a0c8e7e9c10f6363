//! How many blobs go to and from one registry at once, over all processes of a store.
//!
//! ```text
//! registries/_connections/<host>/<number>    empty; whoever holds its flock has a connection
//! ```
//!
//! The kernel frees a lock with its process, however that ends. Questions and manifests are short and are not counted.
//!
//! A connection is waited for with other locks held, and while a connection to another registry is: so nobody waits for one
//! without end. After a minute the transfer goes on without: the number keeps a crowd away from a registry, and is not worth
//! that two processes wait for each other.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation, OFlags};
use rustix::io::Errno;

use super::note::path_of;
use super::persist::sleep;
use crate::progress::Progress;
use crate::store::Store;

/// Then it goes on without one.
const PATIENCE: Duration = Duration::from_secs(60);
/// A person hears of longer waits.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// Between two looks.
const BETWEEN: Duration = Duration::from_millis(25);

/// The connections to one registry.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    folder: PathBuf,
    host: String,
    most: usize,
}

/// A connection that may be used; dropped, it is free again.
#[derive(Debug)]
pub(super) struct Connection {
    _lock: Option<File>,
}

impl Connections {
    /// Those to `host`, `most` at once.
    pub(super) fn new(store: &Store, host: &str, most: usize) -> Self {
        Self {
            folder: path_of(store, "_connections").join(host),
            host: host.to_owned(),
            most,
        }
    }

    /// A connection, if one is free.
    pub(super) fn find(&self) -> Option<Connection> {
        match self.look() {
            Ok(found) => found,
            // Where no file can be made there is nothing to count with.
            Err(_) => Some(Connection { _lock: None }),
        }
    }

    /// A connection, once one is free, or after a minute.
    pub(super) fn wait(&self, progress: &dyn Progress) -> Connection {
        self.wait_for(PATIENCE, progress)
    }

    fn wait_for(&self, patience: Duration, progress: &dyn Progress) -> Connection {
        let (began, mut is_told) = (Instant::now(), false);
        loop {
            if let Some(connection) = self.find() {
                return connection;
            }
            if began.elapsed() >= patience {
                return Connection { _lock: None };
            }
            if !is_told && began.elapsed() >= TOLD_AFTER.min(patience) {
                let Self { host, most, .. } = self;
                progress.step(
                    "Waiting",
                    &format!("for a connection to {host}: all {most} of this store are in use"),
                );
                is_told = true;
            }
            sleep(BETWEEN);
        }
    }

    fn look(&self) -> io::Result<Option<Connection>> {
        fs::create_dir_all(&self.folder)?;
        for number in 0..self.most {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
                .open(self.folder.join(number.to_string()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Connection { _lock: Some(file) })),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::store::tests::store;

    #[test]
    fn there_are_as_many_as_may_be_and_a_dropped_one_is_free() {
        let (_scratch, store) = store();
        let two = Connections::new(&store, "a.example:5000", 2);
        let (first, second) = (two.find().unwrap(), two.find().unwrap());
        assert!(first._lock.is_some() && second._lock.is_some());
        assert!(two.find().is_none());
        assert!(Connections::new(&store, "b.example", 2).find().is_some());
        drop(first);
        assert!(two.find().is_some());
    }

    #[test]
    fn nobody_waits_without_end() {
        let (_scratch, store) = store();
        let one = Connections::new(&store, "a.example", 1);
        let held = one.find().unwrap();
        let without = one.wait_for(Duration::from_millis(30), &Silent);
        assert!(without._lock.is_none());
        drop(held);
        assert!(one.wait(&Silent)._lock.is_some());
    }
}
