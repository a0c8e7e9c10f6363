//! The root in which libcontainer works: the layers and what it mounts from, and nothing else of the host.
//!
//! libcontainer reads the whole mount table as lines of UTF-8. The host's is as long as others make it, and who may mount
//! anything (FUSE, removable media) chooses names in it: one that is not UTF-8 would end every run of the machine.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{mount, mount_bind, move_mount, unmount, MoveMountFlags, UnmountFlags};

use super::super::mount_plan::{DEVICES, LOCKED};
use super::failure::{at, step, Failure};
use super::mounts::open_directory;

/// Where the layers are mounted, from this root on.
pub(super) const LAYERS: &str = "root";
/// A node that libcontainer binds, and that no sandbox has: a file is enough.
const UNWANTED: &str = "dev/tty";

/// This root, made, while the host's is still `/`.
pub(super) struct Staging(PathBuf);

impl Staging {
    /// Makes it in the memory that is mounted at `place`.
    pub(super) fn make(place: &Path) -> Result<Self, Failure> {
        let make = || {
            let mut directories = ["proc", "dev", LAYERS].iter();
            directories.try_for_each(|name| fs::create_dir(place.join(name)))?;
            fs::write(place.join(UNWANTED), "")
        };
        make().map_err(at("fill the staging root"))?;
        // The kernel lets a user mount /proc only where one is that hides nothing; libcontainer reads it, too.
        let proc = mount("proc", place.join("proc"), "proc", LOCKED, c"");
        step("mount /proc of the staging root", proc)?;
        for device in DEVICES {
            let (source, target) = (Path::new("/dev").join(device), place.join("dev").join(device));
            fs::write(&target, "").map_err(at("fill the staging root"))?;
            step(&format!("mount /dev/{device}"), mount_bind(&source, &target))?;
        }
        Ok(Self(place.to_owned()))
    }

    /// Where the layers are to be mounted.
    pub(super) fn layers(&self) -> PathBuf {
        self.0.join(LAYERS)
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
