//! Images without a name that are kept for a while: `unnamed/<hex>`, an empty file whose time says since when.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::oci::Digest;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;

const FOLDER: &str = "unnamed";

/// How long such an image is kept: who built it without a name can run it, and name it, until the next day.
pub(in crate::store) const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// An image without a name.
pub(super) struct Kept {
    /// Its manifest.
    pub digest: Digest,
    /// Where that is noted.
    pub path: PathBuf,
    /// When it was noted; none when that cannot be told.
    pub since: Option<SystemTime>,
}

impl Kept {
    /// Whether its day is over.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        let age = self.since.and_then(|since| now.duration_since(since).ok());
        age.is_some_and(|age| age >= KEPT_FOR)
    }
}

/// Keeps the image from now on.
pub(super) fn keep(disk: &Disk, digest: &Digest) -> Result<(), StoreError> {
    // A store of an older gantry has no such folder.
    disk.make_folder(FOLDER)?;
    let path = disk.path(FOLDER).join(digest.hex());
    let made = fault::point(fault::Step::Unnamed).and_then(|()| File::create(&path));
    let touched = made.and_then(|file| file.set_modified(crate::sys::clock::now()));
    touched.map_err(io_error("write", &path))
}

/// Keeps the image no longer; whether it was kept.
pub(super) fn forget(disk: &Disk, digest: &Digest) -> Result<bool, StoreError> {
    let path = disk.path(FOLDER).join(digest.hex());
    let gone = match path.exists() {
        true => fault::point(fault::Step::UnnamedRemoved).and_then(|()| fs::remove_file(&path)),
        false => return Ok(false),
    };
    match gone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true).map_err(io_error("remove", &path)),
    }
}

/// Every image that is kept so, also those whose day is over.
pub(super) fn list(disk: &Disk) -> Result<Vec<Kept>, StoreError> {
    let folder = disk.path(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("list", &folder))?,
    };
    let mut kept = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", &folder))?;
        let name = entry.file_name();
        let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
        let since = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        kept.extend(digest.map(|digest| Kept {
            digest,
            path: entry.path(),
            since,
        }));
    }
    kept.sort_by_key(|kept| kept.digest);
    Ok(kept)
}
