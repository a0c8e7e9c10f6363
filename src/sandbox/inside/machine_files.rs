//! Mounts `/proc`, and in it and in `/sys` the files that say what machine the run has.
//!
//! A procfs of `subset=pid` shows processes and nothing else, so there is no name in it to mount a file on. It is therefore
//! mounted whole and covered at the names of our files, and then told to be `subset=pid`: from then on it looks up no name
//! but those of processes, whatever the kernel or a module has below `/proc`; the covered names stay known because they are
//! mount points. Nothing of the workload runs before, and it can neither unmount nor mount.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::mount::{mount, mount_bind, mount_remount, MountFlags};

use super::super::orders::MachineFile;
use super::failure::{step, Failure};

const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// Where the files are made, those of `/proc` in a directory `proc` of it: a file system of their own would have to be left
/// afterwards, and to unmount one waits for the kernel (RCU), 3 to 17 ms.
const SYS: &str = "sys";
/// Directories above the files, and some.
const DIRECTORIES: usize = 16;

/// Mounts `/proc` and `/sys` with `files` in the new root, in which this process stands.
pub(super) fn mount_machine(files: &[MachineFile]) -> Result<(), Failure> {
    make(files)?;
    step(
        "mount /proc",
        mount("proc", "proc", "proc", FLAGS, c"hidepid=invisible"),
    )?;
    for file in files.iter().filter(|file| file.path.starts_with("proc/")) {
        // A bind mount has the flags of what it is of, so it is read-only.
        let source = Path::new(SYS).join(place(&file.path));
        step(&format!("mount /{}", file.path), mount_bind(source, file.path.as_str()))?;
    }
    let options = c"subset=pid,hidepid=invisible";
    step("restrict /proc to processes", mount_remount("proc", FLAGS, options))
}

/// The place of a file below `/sys`, of which the orders know it by its path from the root on.
fn place(path: &str) -> &str {
    path.strip_prefix("sys/").unwrap_or(path)
}

/// Makes the files on a tmpfs at `/sys`, which is read-only afterwards.
fn make(files: &[MachineFile]) -> Result<(), Failure> {
    let bytes: usize = files.iter().map(|file| file.text.len().next_multiple_of(4096)).sum();
    let inodes = files.len() + DIRECTORIES;
    let options = format!("size={},nr_inodes={inodes},mode=0755\0", bytes + 4096);
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes())
        .map_err(|error| ("make the files of the machine".to_owned(), io::Error::other(error)))?;
    step("mount /sys", mount("tmpfs", SYS, "tmpfs", FLAGS, options))?;
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
        mount_remount(SYS, MountFlags::BIND | MountFlags::RDONLY | FLAGS, c""),
    )
}
