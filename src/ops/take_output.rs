//! Moves the files of `/output` into the caller's directory.
//!
//! They are copied into `.gantry-XXXX` inside that directory first and renamed into place once all of them are there:
//! a failure leaves the directory as it was. Existing files of the same name are replaced.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use crate::policy::Bytes;
use crate::sandbox::{collect, CollectError, CollectLimits, Collected};

/// As many files as the inode limit of `/output` allows, and some.
const ENTRIES: u64 = 100_000;
/// A descriptor is held per level.
const DEPTH: usize = 64;

/// Copies everything below `output` to `directory`; at most `size` bytes.
pub fn take(output: BorrowedFd<'_>, directory: &Path, size: Bytes) -> Result<(), CollectError> {
    let staging = Staging::make(directory).map_err(|source| visit_error(".", source))?;
    let mut top = Vec::new();
    let limits = CollectLimits {
        entries: ENTRIES,
        bytes: size.0,
        depth: DEPTH,
    };
    collect(output, limits, &mut |path, collected| {
        if !path.contains('/') {
            top.push(path.to_owned());
        }
        let target = staging.0.join(path);
        match collected {
            Collected::Directory => fs::create_dir(target),
            Collected::File { mut file, size } => {
                let mut copy = File::create_new(target)?;
                let copied = io::copy(&mut file, &mut copy)?;
                (copied == size)
                    .then_some(())
                    .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
            }
        }
    })?;
    for name in top {
        let (from, to) = (staging.0.join(&name), directory.join(&name));
        replace(&from, &to).map_err(|source| visit_error(&name, source))?;
    }
    Ok(())
}

fn replace(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        // A directory is already there: put the new files into it, one by one.
        Err(error) if from.is_dir() && to.is_dir() && error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            for entry in fs::read_dir(from)? {
                let name = entry?.file_name();
                replace(&from.join(&name), &to.join(&name))?;
            }
            Ok(())
        }
        other => other,
    }
}

fn visit_error(path: &str, source: io::Error) -> CollectError {
    CollectError::Visit {
        path: path.to_owned(),
        source,
    }
}

/// A directory that goes away with us.
struct Staging(PathBuf);

impl Staging {
    fn make(directory: &Path) -> io::Result<Self> {
        for attempt in 0..100 {
            let path = directory.join(format!(".gantry-{}-{attempt}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| Self(path)),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed is in the caller's own directory, under a name that tells whose it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}
