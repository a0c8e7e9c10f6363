//! The tree on top of every image: directories for the sandbox to mount on.

use std::fs;
use std::path::PathBuf;

use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;

/// Makes the tree unless it is there; returns its path.
pub(super) fn ensure(disk: &Disk) -> Result<PathBuf, StoreError> {
    let path = disk.path("scaffold");
    if path.exists() {
        return Ok(path);
    }
    let scratch = Scratch::new(disk)?;
    let made = scratch.path().join("scaffold");
    for directory in ["proc", "sys", "dev", "tmp", "output", "input", "run/secrets"] {
        let directory = made.join(directory);
        fs::create_dir_all(&directory).map_err(io_error("make directory", &directory))?;
    }
    let placed = fault::point(fault::Step::Scaffold).and_then(|()| fs::rename(&made, &path));
    match placed {
        Err(_) if path.exists() => Ok(path),
        other => other.map(|()| path.clone()).map_err(io_error("make", &path)),
    }
}
