//! The root in which libcontainer works: the layers and what it mounts from, and nothing else of the host.
//!
//! libcontainer reads the whole mount table as lines of UTF-8. The host's is as long as others make it, and who may mount
//! anything (FUSE, removable media) chooses names in it: one that is not UTF-8 would end every run of the machine.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{mount_bind, move_mount, unmount, MoveMountFlags, UnmountFlags};

use super::super::mount_plan::DEVICES;
use super::failure::{at, step, Failure};
use super::mounts::open_directory;

/// What libcontainer binds in `/dev`, and no sandbox has.
pub(super) const UNWANTED: &str = "dev/tty";

/// This root, made, while the host's is still `/`.
pub(super) struct Staging(PathBuf);

impl Staging {
    /// Makes it in the memory that is mounted at `place`. Where libcontainer binds what nobody wants, it is `file` of that
    /// memory.
    pub(super) fn make(place: &Path, file: &Path) -> Result<Self, Failure> {
        let make = || {
            ["proc", "dev"]
                .iter()
                .try_for_each(|name| fs::create_dir(place.join(name)))?;
            symlink(Path::new("/").join(file), place.join(UNWANTED))
        };
        make().map_err(at("fill the staging root"))?;
        for device in DEVICES {
            let (source, target) = (Path::new("/dev").join(device), place.join("dev").join(device));
            fs::write(&target, "").map_err(at("fill the staging root"))?;
            step(&format!("mount /dev/{device}"), mount_bind(&source, &target))?;
        }
        Ok(Self(place.to_owned()))
    }

    /// Shows libcontainer, which reads it, the `/proc` of the sandbox, in whose root this process stands.
    pub(super) fn show_processes(&self) -> Result<(), Failure> {
        let shown = mount_bind("proc", self.0.join("proc"));
        step("mount /proc of the staging root", shown)
    }

    /// Takes the directory `path` of the host along, as `/name`.
    pub(super) fn take(&self, name: &str, path: &str) -> Result<(), Failure> {
        let directory = open_directory(name, path)?;
        let target = self.0.join(name);
        fs::create_dir(&target).map_err(at("fill the staging root"))?;
        let moved = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        step(
            &format!("take {name} along"),
            move_mount(directory.as_fd(), "", CWD, &target, moved),
        )
    }

    /// Makes it `/`; no path leads to the host any more.
    pub(super) fn enter(self) -> Result<(), Failure> {
        step("enter the staging root", rustix::process::chdir(&self.0))?;
        step("leave the host's root", rustix::process::pivot_root(".", "."))?;
        step("detach the host's root", unmount(".", UnmountFlags::DETACH))?;
        step("enter the staging root", rustix::process::chdir("/"))
    }
}
