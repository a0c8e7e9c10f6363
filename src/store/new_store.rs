//! Makes a store where none is.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::disk::Disk;
use super::{io_error, place, Names, StoreError, VERSION};
use crate::oci::LAYOUT_VERSION;

/// The folders of a new store.
const FOLDERS: [&str; 13] = [
    "blobs/sha256",
    "refs/_local",
    "unnamed",
    "layers",
    "snapshots",
    "downloads",
    "partial",
    "leases",
    "locks",
    "stamps",
    "tmp",
    crate::journal::FOLDER,
    "memo",
];
/// What else is in a store before its version is.
const BESIDE: [&str; 4] = ["oci-layout", "index.json", "scaffold", "tools"];
/// What is in an empty directory that is a disk of its own.
const OF_A_DISK: &str = "lost+found";

/// Makes an empty store. Idempotent: two processes may do it at once, and one may have been killed half-way.
pub(super) fn create(disk: &Disk) -> Result<(), StoreError> {
    let root = disk.root();
    disk.make_root()?;
    if let Some(found) = foreign(root)? {
        // Another process may have finished the store meanwhile, and what is not there before that is in it by now.
        if disk.path("version").exists() {
            return Ok(());
        }
        return Err(StoreError::NotAStore {
            path: root.to_owned(),
            found,
        });
    }
    disk.make_folder("tmp")?;
    if let Err(refused) = place::check_new(root) {
        // Only when they are empty.
        let _ = fs::remove_dir(disk.path("tmp")).and_then(|()| fs::remove_dir(root));
        return Err(refused);
    }
    for folder in FOLDERS {
        disk.make_folder(folder)?;
    }
    disk.write_atomically(Path::new("oci-layout"), LAYOUT_VERSION.as_bytes())?;
    if !disk.path("index.json").exists() {
        Names::of(disk).write_index()?;
    }
    // Last: its presence says that all of the above is there.
    disk.write_atomically(Path::new("version"), VERSION.as_bytes())
}

/// What is in the directory that is not what another process makes of the same store just now, or was making when it was
/// killed. Hidden files are those of file systems and file managers.
fn foreign(root: &Path) -> Result<Option<OsString>, StoreError> {
    let error = || io_error("read", root);
    let of_a_store = |name: &OsStr| {
        let folders = FOLDERS.iter().filter_map(|folder| folder.split('/').next());
        folders
            .chain(BESIDE)
            .chain(["version", OF_A_DISK])
            .any(|known| name == known)
    };
    for entry in fs::read_dir(root).map_err(error())? {
        let name = entry.map_err(error())?.file_name();
        if !of_a_store(&name) && !name.as_bytes().starts_with(b".") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_another_process_finished_and_used_meanwhile_is_one() {
        let scratch = tempfile::tempdir().unwrap();
        let disk = Disk::new(&scratch.path().join("store"));
        create(&disk).unwrap();
        disk.make_folder(super::super::REGISTRIES).unwrap();
        let written = |name: &str| fs::metadata(disk.path(name)).unwrap().modified().unwrap();
        let before = written("version");
        create(&disk).unwrap();
        assert_eq!(written("version"), before);

        fs::remove_file(disk.path("version")).unwrap();
        let refused = create(&disk).unwrap_err();
        assert!(
            matches!(&refused, StoreError::NotAStore { found, .. } if found == super::super::REGISTRIES),
            "{refused}"
        );
    }
}
