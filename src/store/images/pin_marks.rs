//! Pinned images: `pins/<hex of the manifest digest>`, an empty file. Neither an eviction nor a collection takes one, whether
//! or not it has a name.

use std::fs::{self, File};
use std::io;

use crate::oci::Digest;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault::{self, Step};

/// A store of an older gantry has no such folder.
const FOLDER: &str = "pins";

/// Pins the image; whether it was not pinned before.
pub(super) fn pin(disk: &Disk, digest: &Digest) -> Result<bool, StoreError> {
    disk.make_folder(FOLDER)?;
    let path = disk.path(FOLDER).join(digest.hex());
    match fault::point(Step::Pin).and_then(|()| File::create_new(&path)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|_| true).map_err(io_error("write", &path)),
    }
}

/// Pins the image no longer; whether it was pinned.
pub(super) fn unpin(disk: &Disk, digest: &Digest) -> Result<bool, StoreError> {
    let path = disk.path(FOLDER).join(digest.hex());
    match fault::point(Step::PinRemoved).and_then(|()| fs::remove_file(&path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true).map_err(io_error("remove", &path)),
    }
}

/// Whether the image is pinned.
pub(super) fn is_pinned(disk: &Disk, digest: &Digest) -> Result<bool, StoreError> {
    let path = disk.path(FOLDER).join(digest.hex());
    path.try_exists().map_err(io_error("look at", &path))
}

/// Every pinned image.
pub(in crate::store) fn list(disk: &Disk) -> Result<Vec<Digest>, StoreError> {
    let folder = disk.path(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("list", &folder))?,
    };
    let mut pinned = Vec::new();
    for entry in entries {
        let name = entry.map_err(io_error("list", &folder))?.file_name();
        pinned.extend(
            name.to_str()
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok()),
        );
    }
    pinned.sort_unstable();
    Ok(pinned)
}
