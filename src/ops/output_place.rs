//! Where `/output` of a run is while it runs.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::store::{io_error, Scratch, Store, StoreError};

/// Where `/output` of a run is while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputPlace {
    /// In memory, which counts against the memory limit; the kernel refuses what is over its size.
    #[default]
    Memory,
    /// In a directory on the disk of the store, for results larger than memory; gantry watches its size.
    Disk,
}

/// The directory of one run: empty, on the disk of the store, gone when this is dropped or, once this process is dead, with
/// the next sweep.
#[derive(Debug)]
pub(super) struct OnDisk {
    path: PathBuf,
    root: File,
    _scratch: Scratch,
}

impl OnDisk {
    /// Makes one.
    pub(super) fn make(store: &Store) -> Result<Self, StoreError> {
        let scratch = store.scratch()?;
        let path = scratch.path().join("output");
        let error = io_error("make directory", &path);
        fs::create_dir(&path).map_err(&error)?;
        let root = File::open(&path).map_err(&error)?;
        drop(error);
        Ok(Self {
            path,
            root,
            _scratch: scratch,
        })
    }

    /// Its path, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its root.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}
