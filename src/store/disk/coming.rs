//! What processes are bringing into the store: no name leads to it yet, and it is no garbage all the same.
//!
//! ```text
//! tmp/<random>/coming    the hexadecimal digests of blobs and layers, a line each
//! ```
//!
//! The note is in a scratch directory, whose lock its process holds: that of a dead one counts for nothing. What this process
//! alone spares is written nowhere: others may evict it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{flock, FlockOperation};

use super::scratch::Scratch;
use super::Disk;
use crate::store::{io_error, StoreError};

const FILE: &str = "coming";
/// Two lines for each of ten thousand layers, many times what an image may have.
const MOST: u64 = 2 << 20;

/// Notes that the process of `scratch` brings what is called by these digests.
pub(in crate::store) fn note(scratch: &Scratch, digests: &BTreeSet<String>) -> Result<(), StoreError> {
    let path = scratch.path().join(FILE);
    let lines: String = digests.iter().map(|digest| format!("{digest}\n")).collect();
    fs::write(&path, lines).map_err(io_error("write", &path))
}

/// What no eviction of this process takes, by the root of its store.
static SPARED: Mutex<BTreeSet<(PathBuf, String)>> = Mutex::new(BTreeSet::new());

/// A poisoned list is still a list.
fn spared() -> MutexGuard<'static, BTreeSet<(PathBuf, String)>> {
    SPARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on what is called by this digest counts as coming, for this process.
pub(in crate::store) fn spare(disk: &Disk, digest: String) {
    spared().insert((disk.root().to_owned(), digest));
}

/// Ends [`spare`].
pub(in crate::store) fn spare_no_longer(disk: &Disk, digest: String) {
    spared().remove(&(disk.root().to_owned(), digest));
}

/// The digests of all that processes are bringing now, and of what this one spares.
///
/// # Errors
/// [`StoreError`] when a note is there and cannot be read.
pub(in crate::store) fn list(disk: &Disk) -> Result<BTreeSet<String>, StoreError> {
    let (tmp, mut all) = (disk.path("tmp"), BTreeSet::new());
    for entry in fs::read_dir(&tmp).map_err(io_error("list", &tmp))? {
        let path = entry.map_err(io_error("list", &tmp))?.path();
        let note = path.join(FILE);
        match read(&note) {
            Ok(digests) if !is_abandoned(&path) => all.extend(digests),
            Ok(_) => {}
            // It went, or there is none.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(io_error("read", &note)(error)),
        }
    }
    let spared = spared();
    let ours = spared.iter().filter(|(root, _)| root == disk.root());
    all.extend(ours.map(|(_, digest)| digest.clone()));
    Ok(all)
}

fn read(note: &Path) -> io::Result<Vec<String>> {
    let mut text = String::new();
    // Written by this user, so no pipe: whoever can put one there can remove images as well.
    File::open(note)?.take(MOST).read_to_string(&mut text)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Whether the process of a scratch directory has ended.
fn is_abandoned(path: &Path) -> bool {
    File::open(path).is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
}
