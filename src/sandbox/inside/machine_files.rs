//! Mounts `/proc`, and in it and in `/sys` the files that say what machine the run has.
//!
//! A procfs of `subset=pid` shows processes and nothing else, so there is no name in it to mount a file on. It is therefore
//! mounted whole and covered at the names of our files, and then told to be `subset=pid`: from then on it looks up no name
//! but those of processes, whatever the kernel or a module has below `/proc`; the covered names stay known because they are
//! mount points. Nothing of the workload runs before, and it can neither unmount nor mount.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    mount, mount_remount, move_mount, open_tree, unmount, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::super::orders::MachineFile;
use super::failure::{step, Failure};

const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// Where the files are made, in the new root: it is empty until procfs is mounted there.
const WORKSHOP: &str = "proc";
/// Directories above the files, and some.
const DIRECTORIES: usize = 16;

/// Mounts `/proc` and `/sys` with `files` in the new root, in which this process stands.
pub(super) fn mount_machine(files: &[MachineFile]) -> Result<(), Failure> {
    make(files)?;
    let covers = files
        .iter()
        .map(|file| file.path.as_str())
        .filter(|path| path.starts_with("proc/"));
    let covers = covers
        .map(|path| Ok((path, take(path)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let sys = take("sys")?;
    step("leave the made files", unmount(WORKSHOP, UnmountFlags::empty()))?;
    step(
        "mount /proc",
        mount("proc", "proc", "proc", FLAGS, c"hidepid=invisible"),
    )?;
    for (path, cover) in covers {
        put(&cover, path)?;
    }
    let options = c"subset=pid,hidepid=invisible";
    step("restrict /proc to processes", mount_remount("proc", FLAGS, options))?;
    put(&sys, "sys")
}

/// Makes the files on a tmpfs of their own, which is read-only afterwards.
fn make(files: &[MachineFile]) -> Result<(), Failure> {
    let bytes: usize = files.iter().map(|file| file.text.len().next_multiple_of(4096)).sum();
    let inodes = files.len() + DIRECTORIES;
    let options = format!("size={},nr_inodes={inodes},mode=0755\0", bytes + 4096);
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes())
        .map_err(|error| ("make the files of the machine".to_owned(), io::Error::other(error)))?;
    step(
        "mount a place for the files of the machine",
        mount("tmpfs", WORKSHOP, "tmpfs", FLAGS, options),
    )?;
    let mut last = None;
    for file in files {
        let path = Path::new(WORKSHOP).join(&file.path);
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
        "make the files of the machine read-only",
        mount_remount(WORKSHOP, MountFlags::BIND | MountFlags::RDONLY | FLAGS, c""),
    )
}

/// A mount of what was made at `path`, with the flags of the place it was made in.
fn take(path: &str) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    step(
        &format!("take /{path}"),
        open_tree(CWD, Path::new(WORKSHOP).join(path), flags),
    )
}

fn put(tree: &OwnedFd, path: &str) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    step(&format!("mount /{path}"), move_mount(tree, "", CWD, path, flags))
}
