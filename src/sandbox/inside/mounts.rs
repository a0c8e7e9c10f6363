//! Builds the file system of a sandbox in the init's own mount namespace.
//!
//! Order matters: the namespace is made private first, so that nothing propagates to the host; what comes from the
//! host (device nodes, `/input`) is taken while the host's root is still ours; that root is left by `pivot_root` and
//! detached, so that no path leads back. The root is an overlay of the layers alone: without an upper directory there
//! is nothing a write could reach, even through a bug in the read-only flag.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{symlink, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, CWD};
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_bind, mount_change,
    mount_remount, move_mount, open_tree, unmount, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags,
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::super::bundle::Place;
use super::super::mount_plan::{self, Content, PlannedMount, DEV, DEVICES, LOCKED, SYS_AT};
use super::super::orders::{RoomOrders, WorkOrders};
use super::failure::{at, step, Failure};
use super::hosts;
use super::machine_files;

/// Where the layers are mounted, in the memory of the ground.
pub(super) const LAYERS: &str = "root";
/// Where what will be sealed is in it.
const SEALED: &str = "sealed";
/// Links of `/dev`.
pub(super) const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// What this namespace may have of what the kernel also counts for its user on the whole machine, whose default is 128
/// instances: one run must not take the share of others. No user namespace can be made below ours, whatever seccomp lets
/// through; a watcher needs one instance.
const COUNTS: [(&str, &str); 5] = [
    ("max_user_namespaces", "0"),
    ("max_inotify_instances", "4"),
    ("max_inotify_watches", "1024"),
    ("max_fanotify_groups", "0"),
    ("max_fanotify_marks", "0"),
];

/// The root of a sandbox as long as it lacks what comes with the job; this process stands in it, and the host's file
/// system is still there.
#[derive(Debug)]
pub(super) struct UnfinishedRoot(());

/// Makes the root of `room` and everything in it that is known before there is a job.
pub(super) fn make_root(room: &RoomOrders) -> Result<UnfinishedRoot, Failure> {
    let ground = Ground::prepare(room)?;
    ground.enter_layers()?;
    ground.mount_all(mount_plan::of_room(room))?;
    fill_dev()?;
    finish_room(room, None)?;
    Ok(UnfinishedRoot(()))
}

impl UnfinishedRoot {
    /// Adds the input and the secrets, makes this root `/`, and returns the root of `/output`.
    pub(super) fn enter(self, work: &WorkOrders, secrets: &[Vec<u8>]) -> Result<OwnedFd, Failure> {
        if let Some(path) = &work.input {
            mount_planned(&mount_plan::of_input(path))?;
        }
        write_secrets(&work.secrets, secrets)?;

        step("change root", rustix::process::pivot_root(".", "."))?;
        step("detach old root", unmount(".", UnmountFlags::DETACH))?;
        step("enter new root", rustix::process::chdir("/"))?;
        open_output()
    }
}

/// What the root of a sandbox is mounted on: memory, in a mount namespace that is private. It is not part of that root, but for
/// what is sealed, and gone when that root is `/`.
#[derive(Debug)]
pub(super) struct Ground {
    memory: PathBuf,
    lowers: Vec<String>,
}

impl Ground {
    /// Prepares it for `room`, whose files of the machine are in it already; on top of its layers is one of `/etc/hosts` unless
    /// the scaffold has the same.
    pub(super) fn prepare(room: &RoomOrders) -> Result<Self, Failure> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        step("make mounts private", mount_change("/", private))?;
        limit_namespace()?;
        let scaffold = room.lowers.first();
        let scaffold = scaffold.ok_or_else(|| ("find scaffold".to_owned(), io::ErrorKind::NotFound.into()))?;
        let memory = Path::new(scaffold).join("tmp");
        let plan = mount_plan::of_room(room);
        mount_new(&mount_plan::ground(&plan), &memory, LOCKED).map_err(at("mount the memory of the root"))?;
        step("enter the memory of the root", rustix::process::chdir(&memory))?;
        let mut sealed = plan.iter().filter(|planned| planned.is_sealed);
        let mut places = || {
            fs::create_dir(LAYERS)?;
            fs::create_dir(SEALED)?;
            sealed.try_for_each(|planned| fs::create_dir(Path::new(SEALED).join(planned.at)))
        };
        places().map_err(at("fill the memory of the root"))?;
        machine_files::make(&Path::new(SEALED).join(SYS_AT), &room.machine)?;
        let mut lowers = room.lowers.clone();
        let hosts = hosts::hosts_file(&room.hostname, room.network, &room.egress);
        let of_scaffold = fs::read(Path::new(scaffold).join("etc/hosts"));
        if of_scaffold.is_ok_and(|found| found == hosts.as_bytes()) {
            return Ok(Self { memory, lowers });
        }
        lowers.insert(0, hosts_layer(&memory, &hosts)?);
        Ok(Self { memory, lowers })
    }

    /// Where the memory is mounted.
    #[cfg(feature = "libcontainer")]
    pub(super) fn memory(&self) -> &Path {
        &self.memory
    }

    /// Mounts the layers as one read-only file system, and enters it.
    pub(super) fn enter_layers(&self) -> Result<(), Failure> {
        let target = self.memory.join(LAYERS);
        let root = match overlay(&self.lowers, &target) {
            Err((_, error)) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                overlay_of_old(&self.lowers, &target)?
            }
            answer => answer?,
        };
        step("enter root", rustix::process::fchdir(&root))
    }

    /// Mounts pieces of the plan in the new root, in which this process stands.
    pub(super) fn mount_all(&self, plan: impl IntoIterator<Item = PlannedMount>) -> Result<(), Failure> {
        plan.into_iter().try_for_each(|planned| {
            if !planned.is_sealed {
                return mount_planned(&planned);
            }
            let sealed = self.memory.join(SEALED).join(planned.at);
            step(&format!("mount /{}", planned.at), mount_bind(&sealed, planned.at))
        })
    }
}

/// The path in sealed memory of a file of the machine, from the memory of the root on.
#[cfg(feature = "libcontainer")]
pub(super) fn sealed_file(path: &str) -> PathBuf {
    Path::new(SEALED).join(SYS_AT).join(machine_files::place(path))
}

/// Makes read-only what is full now, and covers with the files of the machine what is in `/proc`, but for the one that is
/// `covered` already. Whoever made the mounts, this process stands in their root.
pub(super) fn finish_room(room: &RoomOrders, covered: Option<&str>) -> Result<(), Failure> {
    let read_only = MountFlags::BIND | MountFlags::RDONLY | DEV;
    for device in DEVICES {
        // The node is the host's. Read-only does not stop writing to the device, it stops changing the node's times.
        step(
            &format!("make /dev/{device} read-only"),
            mount_remount(Path::new("dev").join(device), read_only, c""),
        )?;
    }
    step("make /dev read-only", mount_remount("dev", read_only, c""))?;
    machine_files::cover(&room.machine, covered)
}

/// The root of `/output`, once the new root is ours.
pub(super) fn open_output() -> Result<OwnedFd, Failure> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    step("open /output", rustix::fs::open("/output", directory, Mode::empty()))
}

/// Sets the [`COUNTS`] of our user namespace, and reads them back. The first is there on every kernel with user namespaces.
fn limit_namespace() -> Result<(), Failure> {
    for (name, value) in COUNTS {
        let path = format!("/proc/sys/user/{name}");
        match write_and_read_back(&path, value) {
            Ok(found) if found.trim() == value => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && name != COUNTS[0].0 => {}
            Ok(found) => {
                let error = io::Error::other(format!("it is {} afterwards", found.trim()));
                return Err((format!("write {value} to {path}"), error));
            }
            Err(error) => return Err((format!("write {value} to {path}"), error)),
        }
    }
    Ok(())
}

/// Writes a setting of the kernel, and reads what it is then.
fn write_and_read_back(path: &str, value: &str) -> io::Result<String> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    file.write_all_at(value.as_bytes(), 0)?;
    let mut found = [0; 64];
    let length = file.read_at(&mut found, 0)?;
    Ok(String::from_utf8_lossy(&found[..length]).into_owned())
}

/// A layer of one file, `/etc/hosts`, in `memory`; returns its path.
///
/// A layer and not a mount on the file: an image may have none, or a link that leads out of it.
fn hosts_layer(memory: &Path, hosts: &str) -> Result<String, Failure> {
    let path = format!("{}/layer", memory.display());
    let directory = Path::new(&path).join("etc");
    let file = directory.join("hosts");
    let write = || {
        fs::create_dir_all(&directory)?;
        fs::write(&file, hosts)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
    };
    write().map_err(at("write /etc/hosts"))?;
    Ok(path)
}

/// A read-only overlay of `lowers`, attached at `target`.
fn overlay(lowers: &[String], target: &Path) -> Result<OwnedFd, Failure> {
    let context = step("open overlay", fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC))?;
    // The mount table shows the workload the names of the layers as we give them: relative ones do not tell it where
    // on the host they are.
    let base = common_directory(lowers);
    step("enter the store", rustix::process::chdir(base))?;
    for lower in lowers {
        let lower = Path::new(lower).strip_prefix(base).unwrap_or(Path::new(lower));
        // One at a time: a value of fsconfig has 255 bytes at most, and a list in one string 4096.
        step(
            &format!("add layer {}", lower.display()),
            fsconfig_set_string(context.as_fd(), "lowerdir+", lower),
        )?;
    }
    step("set overlay option", fsconfig_set_flag(context.as_fd(), "userxattr"))?;
    step("make overlay read-only", fsconfig_set_flag(context.as_fd(), "ro"))?;
    step("make overlay", fsconfig_create(context.as_fd()))?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = step(
        "mount overlay",
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes),
    )?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    step("attach root", move_mount(&root, "", CWD, target, flags))?;
    Ok(root)
}

/// Makes the overlay before Linux 6.8, which answers EINVAL to `lowerdir+`: one string of 4096 bytes for all layers.
///
/// The layers are named by descriptors, because 64 paths of the store would not fit.
fn overlay_of_old(lowers: &[String], target: &Path) -> Result<OwnedFd, Failure> {
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| {
        let opened = rustix::fs::open(path, place, Mode::empty());
        step(&format!("open {}", path.display()), opened)
    };
    let layers = lowers
        .iter()
        .map(|lower| open(Path::new(lower)))
        .collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = layers
        .iter()
        .map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd()))
        .collect();
    let options = std::ffi::CString::new(format!("userxattr,lowerdir={}", names.join(":")))
        .map_err(|error| ("make overlay".to_owned(), io::Error::other(error)))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    step(
        "make overlay",
        mount("overlay", target, "overlay", flags, options.as_c_str()),
    )?;
    open(target)
}

/// The deepest directory that holds all of `paths`, which are absolute.
fn common_directory(paths: &[String]) -> &Path {
    let ancestors = paths.first().map(|first| Path::new(first).ancestors().skip(1));
    ancestors
        .into_iter()
        .flatten()
        .find(|directory| paths.iter().all(|path| Path::new(path).starts_with(directory)))
        .unwrap_or(Path::new("/"))
}

/// Mounts one piece of the plan that is not sealed in the new root, in which this process stands.
pub(super) fn mount_planned(planned: &PlannedMount) -> Result<(), Failure> {
    let PlannedMount { at, of, flags, .. } = planned;
    if let Some(("dev", _)) = at.split_once('/') {
        fs::create_dir(at).map_err(|error| (format!("make /{at}"), error))?;
    }
    if let Content::Directory(path) = of {
        let directory = open_directory(at, path)?;
        let moved = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        step(&format!("attach /{at}"), move_mount(&directory, "", CWD, *at, moved))?;
        let locked = mount_remount(*at, MountFlags::BIND | *flags, c"");
        return step(&format!("lock /{at}"), locked);
    }
    let what = format!("mount /{at}");
    mount_new(of, Path::new(at), *flags).map_err(|error| (what, error))
}

/// Mounts a new file system.
fn mount_new(of: &Content, at: &Path, flags: MountFlags) -> io::Result<()> {
    let kind = of.file_system().unwrap_or_default();
    let data = std::ffi::CString::new(of.data())?;
    Ok(mount(kind, at, kind, flags, data.as_c_str())?)
}

/// Opens the directory `path` that shall be `/at`, while the host's paths are still there. Not recursive: a mount below it
/// could not be made read-only.
pub(super) fn open_directory(at: &str, path: &str) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags).map_err(|errno| {
        let hint = if errno == rustix::io::Errno::INVAL {
            " (is something mounted below it?)"
        } else {
            ""
        };
        (format!("open {at} {path}{hint}"), errno.into())
    })
}

/// Makes what is in `/dev`.
fn fill_dev() -> Result<(), Failure> {
    for device in DEVICES {
        let (source, target) = (format!("/dev/{device}"), format!("dev/{device}"));
        fs::File::create_new(&target).map_err(|error| (format!("make {target}"), error))?;
        step(&format!("mount {source}"), mount_bind(source.as_str(), target.as_str()))?;
    }
    for (name, target) in LINKS {
        symlink(target, Path::new("dev").join(name)).map_err(|error| (format!("link /dev/{name}"), error))?;
    }
    Ok(())
}

/// Writes the secrets that are files: in memory, readable by the workload alone, and read-only from then on.
pub(super) fn write_secrets(orders: &[(String, Place)], values: &[Vec<u8>]) -> Result<(), Failure> {
    let files = orders
        .iter()
        .zip(values)
        .filter(|((_, place), _)| *place == Place::File);
    let files: Vec<(&String, &Vec<u8>)> = files.map(|((name, _), value)| (name, value)).collect();
    if files.is_empty() {
        return Ok(());
    }
    let bytes: usize = files.iter().map(|(_, value)| value.len().next_multiple_of(4096)).sum();
    let options = std::ffi::CString::new(format!("size={},nr_inodes={},mode=0700", bytes + 4096, files.len() + 2))
        .map_err(|error| ("mount /run/secrets".to_owned(), io::Error::other(error)))?;
    let mounted = mount("tmpfs", "run/secrets", "tmpfs", LOCKED, options.as_c_str());
    step("mount /run/secrets", mounted)?;
    for (name, value) in files {
        let path = Path::new("run/secrets").join(name);
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(path);
        file.and_then(|mut file| file.write_all(value))
            .map_err(|error| (format!("write secret {name}"), error))?;
    }
    step(
        "make secrets read-only",
        mount_remount("run/secrets", MountFlags::BIND | MountFlags::RDONLY | LOCKED, c""),
    )
}
