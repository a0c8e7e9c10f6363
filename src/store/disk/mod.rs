//! What the rest of the store writes with: small files that are whole or not there, scratch directories, locks, stamps, and
//! copies that say which side failed.
//!
//! Nothing here knows what is stored.

pub(super) mod coming;
pub(super) mod copy;
pub(super) mod locks;
pub(super) mod looks;
mod rank;
pub(super) mod regular;
pub(super) mod scratch;
pub(super) mod stamp;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{io_error, StoreError};
use locks::Waits;
use scratch::Scratch;
use stamp::Stamp;

use crate::sys::clock;
use crate::sys::fault::{self, Step};
use crate::sys::replace::Replacement;

/// Between two notes of a file's use.
const USE_NOTED_EVERY: Duration = Duration::from_secs(3600);

/// The directory of a store, the boot that writes there now, and how it waits for other processes.
#[derive(Debug, Clone)]
pub(in crate::store) struct Disk {
    root: PathBuf,
    boot: Stamp,
    waits: Waits,
}

impl Disk {
    /// The store in the directory `root`, as this boot of the machine sees it. Touches nothing.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            boot: Stamp::of_this_boot(),
            waits: Waits::default(),
        }
    }

    /// The directory of the store.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The path of `name`, a path below the root.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The stamp of this boot; what is written now carries it.
    pub(super) fn boot(&self) -> &Stamp {
        &self.boot
    }

    /// How to wait for other processes.
    pub(super) fn waits(&self) -> Waits {
        self.waits
    }

    /// This directory with other rules for waiting.
    pub(super) fn waiting(self, waits: Waits) -> Self {
        Self { waits, ..self }
    }

    /// This directory after the machine was started again, as `boot`.
    #[cfg(test)]
    pub(super) fn after_boot(&self, boot: &str) -> Self {
        Self {
            boot: Stamp::of_text(boot.to_owned()).unwrap(),
            ..self.clone()
        }
    }

    /// Whether what has this stamp need not be read before it is used.
    pub(super) fn is_trusted(&self, stamp: &Stamp) -> bool {
        *stamp == self.boot || *stamp == Stamp::durable()
    }

    /// Writes a small file below the root: all of it or nothing.
    pub(super) fn write_atomically(&self, name: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let target = self.path(name);
        let scratch = Scratch::new(self)?;
        let place = || {
            let mut file = Replacement::create(scratch.path().join("file"))?;
            file.write_all(bytes)?;
            fault::point(step_of(name))?;
            file.place(&target)
        };
        place().map_err(io_error("write", &target))
    }

    /// Makes the root, unless it is there, for its owner alone, whatever the umask: it holds people's code and data.
    pub(super) fn make_root(&self) -> Result<(), StoreError> {
        let make = || {
            self.root.parent().map_or(Ok(()), fs::create_dir_all)?;
            match fs::DirBuilder::new().mode(0o700).create(&self.root) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.root.is_dir() => Ok(()),
                other => other,
            }
        };
        make().map_err(io_error("make directory", &self.root))
    }

    /// Notes that a file is of use now, by its time. To the hour, so that it is rarely written; a failure only makes the file
    /// look older.
    pub(super) fn note_use(path: &Path) {
        let now = clock::now();
        let noted = fs::metadata(path).and_then(|metadata| metadata.modified());
        let is_old = |noted: SystemTime| now.duration_since(noted).is_ok_and(|age| age >= USE_NOTED_EVERY);
        if noted.is_ok_and(is_old) {
            let _ = fs::File::open(path).and_then(|file| file.set_modified(now));
        }
    }

    /// Makes a directory below the root with all above it; one that is there is kept.
    pub(super) fn make_folder(&self, name: impl AsRef<Path>) -> Result<(), StoreError> {
        let path = self.path(name);
        fs::create_dir_all(&path).map_err(io_error("make directory", &path))
    }
}

/// The step of writing the small file `name`, a path below the root.
fn step_of(name: &Path) -> Step {
    let first = name.iter().next().and_then(|name| name.to_str());
    match first.unwrap_or_default() {
        "version" | "oci-layout" => Step::Version,
        "index.json" => Step::Index,
        "refs" => Step::Name,
        "snapshots" => Step::Snapshot,
        "memo" => Step::Memo,
        "blobs" => Step::Document,
        "stamps" => Step::ContentStamp,
        "layers" if name.ends_with("size") => Step::RoomTaken,
        "layers" => Step::LayerStamp,
        "origins" => Step::ImageOrigin,
        _ => Step::Note,
    }
}
