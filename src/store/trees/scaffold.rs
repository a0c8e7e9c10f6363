//! The layer on top of every image: directories for the sandbox to mount on.

use std::fs;
use std::path::PathBuf;

use crate::store::{io_error, Store, StoreError};

impl Store {
    /// A tree whose directories are the sandbox's mount points; it goes on top of every image.
    pub fn scaffold_tree(&self) -> Result<PathBuf, StoreError> {
        let path = self.root.join("scaffold");
        if path.exists() {
            return Ok(path);
        }
        let scratch = self.scratch()?;
        let made = scratch.path().join("scaffold");
        for directory in ["proc", "sys", "dev", "tmp", "output", "input", "run/secrets"] {
            let directory = made.join(directory);
            fs::create_dir_all(&directory).map_err(io_error("make directory", &directory))?;
        }
        match fs::rename(&made, &path) {
            Err(_) if path.exists() => Ok(path),
            other => other.map(|()| path.clone()).map_err(io_error("make", &path)),
        }
    }
}
