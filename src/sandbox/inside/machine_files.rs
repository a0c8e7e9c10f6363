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

use super::super::mount_plan::{Content, LOCKED, SYS_AT};
use super::super::orders::MachineFile;
use super::failure::{step, Failure};

/// How `/sys` and what is of it are mounted.
const READ_ONLY: MountFlags = MountFlags::BIND.union(MountFlags::RDONLY).union(LOCKED);

/// Covers with `files` what is in `/proc`, but for the one that is `covered` already, and makes `/sys` read-only and `/proc`
/// show processes alone. Both are mounted in the root in which this process stands, and the files are in `/sys`, those of
/// `/proc` in a directory `proc` of it.
pub(super) fn cover(files: &[MachineFile], covered: Option<&str>) -> Result<(), Failure> {
    step("make /sys read-only", mount_remount(SYS_AT, READ_ONLY, c""))?;
    for MachineFile { path, .. } in files.iter().filter(|file| file.path.starts_with("proc/")) {
        if covered == Some(path.as_str()) {
            step(
                &format!("make /{path} read-only"),
                mount_remount(path.as_str(), READ_ONLY, c""),
            )?;
            continue;
        }
        // A bind mount has the flags of what it is of, so it is read-only.
        let source = Path::new(SYS_AT).join(place(path));
        step(&format!("mount /{path}"), mount_bind(source, path.as_str()))?;
    }
    let data = std::ffi::CString::new(Content::Processes.data())
        .map_err(|error| ("restrict /proc".to_owned(), io::Error::other(error)))?;
    step(
        "restrict /proc to processes",
        mount_remount("proc", LOCKED, data.as_c_str()),
    )
}

/// The place of a file below `/sys`, of which the orders know it by its path from the root on.
pub(super) fn place(path: &str) -> &str {
    path.strip_prefix("sys/").unwrap_or(path)
}

/// Makes the files in `directory`, which will be `/sys`.
pub(super) fn make(directory: &Path, files: &[MachineFile]) -> Result<(), Failure> {
    let mut last = None;
    for file in files {
        let path = directory.join(place(&file.path));
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
    Ok(())
}
