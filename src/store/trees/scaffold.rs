//! The tree on top of every image: directories for the sandbox to mount on, and the `/etc/hosts` of a run that reaches no host.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::policy::OWN_HOSTS;
use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;

/// Where sandboxes mount something.
const PLACES: [&str; 7] = ["proc", "sys", "dev", "tmp", "output", "input", "run/secrets"];
/// Made last, and in no store of a gantry that wrote it at each start.
const HOSTS: &str = "etc/hosts";

/// Makes the tree unless it is there; returns its path.
pub(super) fn ensure(disk: &Disk) -> Result<PathBuf, StoreError> {
    let path = disk.path("scaffold");
    let hosts = path.join(HOSTS);
    if hosts.exists() {
        return Ok(path);
    }
    let scratch = Scratch::new(disk)?;
    let made = scratch.path().join("scaffold");
    let make = || {
        for directory in PLACES {
            fs::create_dir_all(made.join(directory))?;
        }
        write_hosts(&made)
    };
    make().map_err(io_error("make", &made))?;
    let placed = fault::point(fault::Step::Scaffold).and_then(|()| match path.exists() {
        false => fs::rename(&made, &path),
        true => fs::rename(made.join("etc"), path.join("etc")),
    });
    match placed {
        Err(_) if hosts.exists() => Ok(path),
        other => other.map(|()| path.clone()).map_err(io_error("make", &path)),
    }
}

fn write_hosts(scaffold: &Path) -> io::Result<()> {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let (directory, file) = (scaffold.join("etc"), scaffold.join(HOSTS));
    fs::create_dir_all(&directory)?;
    fs::write(&file, OWN_HOSTS)?;
    mode(&file, 0o444)?;
    mode(&directory, 0o755)
}
