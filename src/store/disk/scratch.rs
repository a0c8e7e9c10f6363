//! Directories of one process under `tmp/`: removed when dropped, and by anyone once their process is dead.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use rustix::fs::{flock, FileType, FlockOperation, CWD};
use rustix::rand::{getrandom, GetRandomFlags};

use super::regular::{self, Unread};
use super::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::replace::Replacement;
use crate::sys::tree;

/// The directories of this process, for [`abandon`].
static LIVE: Mutex<Live> = Mutex::new(Live {
    paths: Vec::new(),
    only: None,
});

struct Live {
    paths: Vec<PathBuf>,
    /// Once this process is about to end: the one thread that may still make directories, for its report.
    only: Option<ThreadId>,
}

/// A poisoned list is still a list.
fn live() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says, in a scratch directory, what of its process is elsewhere.
const ELSEWHERE: &str = "elsewhere";

/// Removes every scratch directory of this process, because it is about to end without running destructors. Returns
/// whether there was one. From now on only the calling thread can make new ones.
///
/// The programs that this process runs are ended first: they would go on to write there.
pub fn abandon() -> bool {
    // First: what fails of the rest asks for it.
    live().only = Some(std::thread::current().id());
    crate::sys::program::end_all();
    let live = live();
    let mut found = false;
    for path in &live.paths {
        found |= path.exists();
        remove_elsewhere(path);
        let _ = tree::remove(CWD, path.as_path());
    }
    found
}

/// Refuses to go on in a process that is about to end.
pub(in crate::store) fn check_not_ending(disk: &Disk) -> Result<(), StoreError> {
    match live().only {
        Some(_) => Err(io_error("go on with", disk.root())(
            std::io::ErrorKind::Interrupted.into(),
        )),
        None => Ok(()),
    }
}

/// Removes the file or directory outside the store that the scratch directory `path` names, if it names one.
fn remove_elsewhere(path: &Path) {
    let Ok(named) = fs::read(path.join(ELSEWHERE)) else {
        return;
    };
    let named = Path::new(OsStr::from_bytes(&named));
    if fs::remove_file(named).is_err() {
        let _ = tree::remove(CWD, named);
    }
}

/// A directory of ours; its lock tells others that we live.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

impl Scratch {
    /// Makes a new empty directory that goes away with the returned value, or with this process.
    pub(in crate::store) fn new(disk: &Disk) -> Result<Self, StoreError> {
        let tmp = disk.path("tmp");
        loop {
            let path = tmp.join(random_name(&tmp)?);
            // Held until it is listed: `abandon` knows of every directory there is.
            let mut live = live();
            if live.only.is_some_and(|thread| thread != std::thread::current().id()) {
                let ending = std::io::Error::from(std::io::ErrorKind::Interrupted);
                return Err(io_error("make directory", &path)(ending));
            }
            let made = fault::point(fault::Step::Scratch).and_then(|()| fs::create_dir(&path));
            made.map_err(io_error("make directory", &path))?;
            // A sweep may take the directory between these two lines; then there is simply another one to make.
            let Ok(lock) = File::open(&path) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && path.exists() {
                live.paths.push(path.clone());
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// Makes a scratch directory that also owns `elsewhere`, a file or directory outside the store: whoever sweeps the
    /// scratch directory removes `elsewhere` too.
    fn owning(disk: &Disk, elsewhere: &Path) -> Result<Self, StoreError> {
        let scratch = Self::new(disk)?;
        let name = scratch.path().join(ELSEWHERE);
        let place = || {
            let mut file = Replacement::create(scratch.path().join("half"))?;
            file.write_all(elsewhere.as_os_str().as_bytes())?;
            file.place(&name)
        };
        place().map_err(io_error("write", &name))?;
        Ok(scratch)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        live().paths.retain(|path| *path != self.path);
        // Left-overs are what `sweep` is for.
        let _ = fault::point(fault::Step::ScratchRemoved).and_then(|()| tree::remove(CWD, self.path.as_path()));
    }
}

/// A file or directory that is being made outside the store: its owner makes it and renames it, and what is still there
/// when this is dropped, or when the process dies, goes.
#[derive(Debug)]
pub struct Beside {
    path: PathBuf,
    _note: Option<Scratch>,
}

impl Beside {
    /// Chooses a name beside `target`, which is outside the store, for what will take its place.
    pub(in crate::store) fn new(disk: &Disk, target: &Path) -> Result<Self, StoreError> {
        let tmp = disk.path("tmp");
        // Whoever removes it when we are killed is elsewhere.
        let target = std::path::absolute(target).map_err(io_error("find", target))?;
        let path = target.with_file_name(format!(".gantry-{}", random_name(&tmp)?));
        let note = match Scratch::owning(disk, &path) {
            Ok(note) => Some(note),
            // The disk outside may have room where the store's has none, and `save` is a way out of that. What a killed
            // process leaves there is then swept by nobody.
            Err(StoreError::NoSpace { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path, _note: note })
    }

    /// Where to make it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if fs::remove_file(&self.path).is_err() {
            let _ = tree::remove(CWD, self.path.as_path());
        }
    }
}

/// Removes what dead processes left in `tmp/`; returns how many things that were. One `readdir` when there is nothing.
/// What cannot be removed now is left to the next sweep.
pub(in crate::store) fn sweep(disk: &Disk) -> Result<u64, StoreError> {
    let tmp = disk.path("tmp");
    let mut removed = 0;
    for entry in fs::read_dir(&tmp).map_err(io_error("list", &tmp))? {
        let Ok(entry) = entry else { continue };
        let path = entry.path();
        // Only a directory is one of a process; anything else makes nobody wait.
        let Ok(directory) = tree::open_directory(CWD, &path) else {
            continue;
        };
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // The lock is ours: its owner is dead, has not taken it yet and will notice that the directory is gone, or has
        // removed the directory since we opened it.
        remove_elsewhere(&path);
        removed += u64::from(tree::remove(CWD, path.as_path()).is_ok());
    }
    Ok(removed)
}

/// Whether `path` in `tmp/` is the directory of a process that has ended.
pub(in crate::store) fn is_abandoned(path: &Path) -> Result<bool, Unread> {
    regular::look(CWD, path, FileType::Directory)?;
    let directory = tree::open_directory(CWD, path).map_err(|errno| Unread::of(&errno.into()))?;
    // One that is ours now was not locked yet, or is gone by now: its owner looks whether it is still called so.
    Ok(flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() && path.exists())
}

fn random_name(directory: &Path) -> Result<String, StoreError> {
    let mut random = [0u8; 8];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|errno| io_error("make a name in", directory)(errno.into()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
