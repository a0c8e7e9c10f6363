//! The files in `/sys` and `/proc` that say what machine a run has.
//!
//! A procfs of `subset=pid` shows processes and nothing else, so there is no name in it to mount a file on. It is therefore
//! mounted whole, covered here at the names of our files, and then told to be `subset=pid`: from then on it looks up no name
//! but those of processes, whatever the kernel or a module has below `/proc`; the covered names stay known because they are
//! mount points. Nothing of the workload runs before, and it can neither unmount nor mount.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::mount::{mount_bind, mount_remount, MountFlags};

use super::super::mount_plan::{Content, LOCKED};
use super::super::orders::MachineFile;
use super::failure::{step, Failure};

/// Where the files are made, those of `/proc` in a directory `proc` of it: a file system of their own would have to be left
/// afterwards, and to unmount one waits for the kernel (RCU), 3 to 17 ms.
const SYS: &str = "sys";

/// Fills `/sys` with `files`, covers with them what is in `/proc`, and makes `/sys` read-only and `/proc` show processes
/// alone. Both are mounted in the root in which this process stands.
pub(super) fn fill(files: &[MachineFile]) -> Result<(), Failure> {
    make(files)?;
    for file in files.iter().filter(|file| file.path.starts_with("proc/")) {
        // A bind mount has the flags of what it is of, so it is read-only.
        let source = Path::new(SYS).join(place(&file.path));
        step(&format!("mount /{}", file.path), mount_bind(source, file.path.as_str()))?;
    }
    let data = std::ffi::CString::new(Content::Processes.data())
        .map_err(|error| ("restrict /proc".to_owned(), io::Error::other(error)))?;
    step(
        "restrict /proc to processes",
        mount_remount("proc", LOCKED, data.as_c_str()),
    )
}

/// The place of a file below `/sys`, of which the orders know it by its path from the root on.
fn place(path: &str) -> &str {
    path.strip_prefix("sys/").unwrap_or(path)
}

/// Makes the files on the tmpfs at `/sys`, which is read-only afterwards.
fn make(files: &[MachineFile]) -> Result<(), Failure> {
    let mut last = None;
    for file in files {
        let path = Path::new(SYS).join(place(&file.path));
        let mut write = || {
            let directory = path.parent().map(Path::to_owned);
            if let Some(directory) = directory.filter(|directory| last.as_ref() != Some(directory)) {
                fs::create_dir_all(&directory)?;
                last = Some(directory);
            }
            let mut options = fs::OpenOptions::new();
            let made = options.write(true).create_new(true).mode(0o444).open(&path);
            made?.write_all(file.text.as_bytes())
        };
        write().map_err(|error| (format!("make /{}", file.path), error))?;
    }
    step(
        "make /sys read-only",
        mount_remount(SYS, MountFlags::BIND | MountFlags::RDONLY | LOCKED, c""),
    )
}
