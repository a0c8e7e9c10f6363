//! Where an image can be fetched again: `origins/<hex of the manifest digest>`, a line `HOST/REPOSITORY` for each registry that
//! it was pulled from or pushed to. What has no such file is known to be here alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use crate::oci::Digest;
use crate::store::disk::Disk;
use crate::store::StoreError;
use crate::sys::fault::{self, Step};

/// A store of an older gantry has no such folder.
const FOLDER: &str = "origins";
/// Places of one image that are kept; any of them is enough.
const MOST: usize = 16;
/// More than sixteen such lines have.
const MOST_READ: u64 = 16 << 10;

/// Notes that the image is at `place`, which is host and repository.
pub(super) fn note(disk: &Disk, digest: &Digest, place: &str) -> Result<(), StoreError> {
    let mut places = of(disk, digest);
    if places.contains(place) || places.len() >= MOST {
        return Ok(());
    }
    places.insert(place.to_owned());
    disk.make_folder(FOLDER)?;
    let lines: String = places.iter().map(|place| format!("{place}\n")).collect();
    disk.write_atomically(&name(digest), lines.as_bytes())
}

/// Takes back that the image is at `place`: the registry says that it has it no more, or it was deleted there.
pub(super) fn forget(disk: &Disk, digest: &Digest, place: &str) -> Result<(), StoreError> {
    let mut places = of(disk, digest);
    if !places.remove(place) {
        return Ok(());
    }
    let lines: String = places.iter().map(|place| format!("{place}\n")).collect();
    disk.write_atomically(&name(digest), lines.as_bytes())
}

/// The places of the image; none when no file says so, or it is damaged.
pub(super) fn of(disk: &Disk, digest: &Digest) -> BTreeSet<String> {
    let mut text = String::new();
    let read = File::open(disk.path(name(digest))).and_then(|file| file.take(MOST_READ).read_to_string(&mut text));
    match read {
        Ok(_) => text
            .lines()
            .filter(|line| line.contains('/'))
            .map(str::to_owned)
            .collect(),
        Err(_) => BTreeSet::new(),
    }
}

/// Forgets the places of images that are gone.
pub(super) fn sweep(disk: &Disk) {
    for entry in fs::read_dir(disk.path(FOLDER)).into_iter().flatten().flatten() {
        let found = disk.path("blobs/sha256").join(entry.file_name()).try_exists();
        if found.is_ok_and(|is_there| !is_there) {
            let _ = fault::point(Step::ImageOriginRemoved).and_then(|()| fs::remove_file(entry.path()));
        }
    }
}

/// The file of an image's places.
pub(super) fn name(digest: &Digest) -> PathBuf {
    PathBuf::from(FOLDER).join(digest.hex())
}
