//! The cgroup of a run: memory, cpu and processes of everything in the sandbox together.
//!
//! gantry makes cgroups itself, in a subtree that is delegated to its user (systemd: `Delegate=yes`); where none is, it asks the
//! user's systemd for one ([`transient_scope`]). Processes may not sit in a cgroup that hands controllers down, so on first use everything in the delegated
//! cgroup (the worker that calls us) moves one level down:
//!
//! ```text
//! worker.service/                     delegated: ours, +memory +pids +cpu
//!   gantry-supervisor/                worker, gantry
//!   gantry-run-<pid>-<random>/        one run; its init is born in it (moving a process costs ~10 ms)
//! ```
//!
//! **Limits** are read back after they are written: the kernel rounds some and ignores none.
//!
//! **Crash.** The lock on the directory of a run is its gantry's life. [`Subtree::sweep`] kills and removes every run whose
//! lock is free.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{access, flock, statfs, Access, FlockOperation};
use rustix::rand::{getrandom, GetRandomFlags};

use super::super::resources::{Resources, ALWAYS, SWAP};
use super::transient_scope::{self, ScopeError};
use crate::policy::{Confinement, Kind, Scope};

/// Where systemd mounts the hierarchy.
const MOUNT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` (statfs(2)).
const CGROUP2: i64 = 0x6367_7270;
/// Name of the cgroup that the processes of the delegated cgroup move to.
const SUPERVISOR: &str = "gantry-supervisor";
/// Prefix of the names of cgroups of runs.
const RUN: &str = "gantry-run-";
/// The controllers that a run needs.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Longest wait until a cgroup whose processes were killed is empty; a kernel that needs longer has lost one.
const GONE: Duration = Duration::from_secs(2);
/// Longest wait for what a dead gantry left: it must not hold up the next run, and is found again.
const SWEPT: Duration = Duration::from_millis(100);

/// Held while a scope is asked for.
static ASKING: Mutex<()> = Mutex::new(());

/// Why there is no cgroup to limit a run with.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// This machine does not use the unified hierarchy.
    #[error("{MOUNT} is not a cgroup v2 hierarchy")]
    NotUnified,
    /// This process may not make cgroups below its own.
    #[error("cgroup {path} is not delegated to this user")]
    NotDelegated {
        /// The cgroup of this process, below the mount point.
        path: String,
    },
    /// This process may not make cgroups below its own, and was not given another.
    #[error("cgroup {path} is not delegated to this user, and there is no scope to go to: {source}")]
    NoScope {
        /// The cgroup of this process, below the mount point.
        path: String,
        /// Why there is none.
        source: ScopeError,
    },
    /// The subtree is delegated without a controller that a run needs.
    #[error("cgroup {path} was delegated without the {controller} controller")]
    NoController {
        /// The subtree.
        path: String,
        /// The missing controller.
        controller: &'static str,
    },
    /// A file of the hierarchy cannot be used.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A limit that was written is not the one in force.
    #[error("limit {path}: wrote {wrote:?}, reads {got:?}")]
    NotInForce {
        /// The file.
        path: PathBuf,
        /// The value that was written.
        wrote: String,
        /// The value that the kernel gives back.
        got: String,
    },
}

impl CgroupError {
    /// What sort of failure it is. A run without a cgroup is refused only when it is not allowed to go on without one.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotUnified
            | Self::NotDelegated { .. }
            | Self::NoScope { .. }
            | Self::NoController { .. }
            | Self::Io { .. }
            | Self::NotInForce { .. } => Kind::Failed,
        }
    }
}

/// A cgroup below which this process may make others.
#[derive(Debug)]
pub struct Subtree {
    path: PathBuf,
}

/// A run's cgroup; dropping it kills what is in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Held for its lock; new processes are born in it.
    directory: File,
    removed: bool,
}

/// Kills and removes the cgroups of runs whose gantry is dead.
pub fn sweep() {
    // What cannot be removed now is found again; no command fails for it.
    let _ = Subtree::find().and_then(|subtree| subtree.sweep());
}

/// What the cgroup of a run says that it used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// User and system time; unknown when the kernel does not tell.
    pub cpu: Option<Duration>,
    /// Highest charge; kernels before 5.19 do not keep it.
    pub memory_peak: Option<u64>,
    /// Most processes and threads at once, init included; kernels before 6.1 do not keep it.
    pub pids_peak: Option<u32>,
    /// Whether the memory limit killed.
    pub oom: bool,
    /// Whether a process or thread more was refused.
    pub lacked_processes: bool,
}

impl Subtree {
    /// Finds the subtree that this process may make cgroups in, and hands all controllers down.
    pub fn open() -> Result<Self, CgroupError> {
        let subtree = Self::find()?;
        subtree.enable()?;
        Ok(subtree)
    }

    /// Does as [`open`](Self::open), and where nothing is delegated, asks as `scope` says: this process is then in another cgroup.
    pub fn open_or_ask(scope: Scope) -> Result<Self, CgroupError> {
        match (Self::open(), scope) {
            (Err(CgroupError::NotDelegated { path }), Scope::Auto) => {
                // The whole process moves: of several threads one asks.
                let _asking = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
                Self::open().or_else(|_| match transient_scope::enter() {
                    Ok(()) => Self::open(),
                    Err(source) => Err(CgroupError::NoScope { path, source }),
                })
            }
            (opened, _) => opened,
        }
    }

    /// Finds the subtree that this process may make cgroups in; changes nothing.
    pub fn find() -> Result<Self, CgroupError> {
        if !statfs(MOUNT).is_ok_and(|found| found.f_type == CGROUP2) {
            return Err(CgroupError::NotUnified);
        }
        let own = own_path(&read(Path::new("/proc/self/cgroup"))?).ok_or(CgroupError::NotUnified)?;
        Self::at(Path::new(MOUNT), &own)
    }

    fn at(mount: &Path, own: &str) -> Result<Self, CgroupError> {
        let here = mount.join(own.trim_start_matches('/'));
        let above = here
            .parent()
            .filter(|above| above.starts_with(mount) && is_ours(above))
            .filter(|above| here.ends_with(SUPERVISOR) || is_delegated(above));
        let path = match above {
            Some(above) => above.to_owned(),
            None if is_ours(&here) => here,
            None => return Err(CgroupError::NotDelegated { path: own.to_owned() }),
        };
        Ok(Self { path })
    }

    /// Hands every controller down; idempotent.
    fn enable(&self) -> Result<(), CgroupError> {
        let control = self.path.join("cgroup.subtree_control");
        let enabled = read(&control)?;
        if CONTROLLERS.iter().all(|controller| has_word(&enabled, controller)) {
            return Ok(());
        }
        let available = read(&self.path.join("cgroup.controllers"))?;
        if let Some(controller) = CONTROLLERS.into_iter().find(|name| !has_word(&available, name)) {
            let path = self.path.strip_prefix(MOUNT).unwrap_or(&self.path).display();
            return Err(CgroupError::NoController {
                path: format!("/{path}"),
                controller,
            });
        }
        let all = CONTROLLERS.map(|controller| format!("+{controller}")).join(" ");
        // Whoever is still inside may fork while we move it: try until nobody is left.
        for _ in 0..20 {
            match fs::write(&control, &all) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    self.move_down()?;
                }
                other => return other.map_err(io_error("write", &control)),
            }
        }
        fs::write(&control, &all).map_err(io_error("write", &control))
    }

    fn move_down(&self) -> Result<(), CgroupError> {
        let supervisor = self.path.join(SUPERVISOR);
        match fs::create_dir(&supervisor) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("make", &supervisor)(error));
            }
            _ => {}
        }
        let target = supervisor.join("cgroup.procs");
        for pid in read(&self.path.join("cgroup.procs"))?.lines() {
            match fs::write(&target, pid) {
                // Ended in between.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                other => other.map_err(io_error("move a process to", &target))?,
            }
        }
        Ok(())
    }

    /// Kills and removes every run whose gantry is dead; returns how many were removed.
    pub fn sweep(&self) -> Result<u64, CgroupError> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.path).map_err(io_error("list", &self.path))? {
            let path = entry.map_err(io_error("list", &self.path))?.path();
            let is_run = path
                .file_name()
                .is_some_and(|name| name.as_bytes().starts_with(RUN.as_bytes()));
            if !is_run {
                continue;
            }
            let Ok(directory) = File::open(&path) else { continue };
            if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // The lock is ours: its owner is dead, or has not taken it yet and will find that the name is gone.
                empty(&path, SWEPT);
                removed += u64::from(fs::remove_dir(&path).is_ok());
            }
        }
        Ok(removed)
    }

    /// Makes a cgroup with the limits of `confinement`, in force and read back.
    ///
    /// # Errors
    ///
    /// [`CgroupError`] names the limit that could not be put in force, or read back. No cgroup stays.
    pub fn make(&self, confinement: &Confinement) -> Result<Cgroup, CgroupError> {
        let cgroup = loop {
            let mut random = [0u8; 4];
            let named = getrandom(&mut random, GetRandomFlags::empty());
            named.map_err(|errno| io_error("make a name in", &self.path)(errno.into()))?;
            let name = format!("{RUN}{}-{:08x}", std::process::id(), u32::from_ne_bytes(random));
            let path = self.path.join(name);
            fs::create_dir(&path).map_err(io_error("make", &path))?;
            // A sweep may take it before the lock is ours; then there is simply another one to make.
            let Ok(directory) = File::open(&path) else { continue };
            if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() && path.exists() {
                break Cgroup {
                    path,
                    directory,
                    removed: false,
                };
            }
        };
        cgroup.limit(confinement)?;
        Ok(cgroup)
    }
}

impl Cgroup {
    /// The directory, for a clone into this cgroup.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether the process `pid` is in it.
    pub fn holds(&self, pid: i32) -> Result<bool, CgroupError> {
        let own = own_path(&read(Path::new(&format!("/proc/{pid}/cgroup")))?);
        let name = self.path.file_name().unwrap_or_default();
        Ok(own.is_some_and(|own| Path::new(&own).file_name() == Some(name)))
    }

    fn limit(&self, confinement: &Confinement) -> Result<(), CgroupError> {
        let limits = Resources::of(confinement);
        let memory = limits.memory;
        self.set("memory.max", &memory.to_string(), |got| {
            // In whole pages.
            got.parse::<u64>()
                .is_ok_and(|got| got <= memory && memory - got < 1 << 16)
        })?;
        for (file, value) in ALWAYS {
            // A kernel without swap has no file for it.
            if file == SWAP && !self.path.join(file).exists() {
                if read(Path::new("/proc/swaps"))?.lines().count() > 1 {
                    return Err(CgroupError::Io {
                        action: "find",
                        path: self.path.join(file),
                        source: io::ErrorKind::NotFound.into(),
                    });
                }
                continue;
            }
            self.set(file, value, |got| got == value)?;
        }
        // The init is one of them.
        let pids = (u64::from(limits.pids) + 1).to_string();
        self.set("pids.max", &pids, |got| got == pids)?;
        let cpu = limits.cpu_max();
        self.set("cpu.max", &cpu, |got| got == cpu)
    }

    fn set(&self, file: &str, value: &str, holds: impl FnOnce(&str) -> bool) -> Result<(), CgroupError> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(io_error("write", &path))?;
        let got = read(&path)?;
        if holds(got.trim()) {
            return Ok(());
        }
        Err(CgroupError::NotInForce {
            path,
            wrote: value.to_owned(),
            got: got.trim().to_owned(),
        })
    }

    /// Whether the memory limit has killed.
    pub fn has_oom(&self) -> bool {
        read(&self.path.join("memory.events")).is_ok_and(|events| field(&events, "oom_kill") > Some(0))
    }

    /// Kills what is left, says what was used, and removes the cgroup.
    pub fn finish(mut self) -> Spent {
        empty(&self.path, GONE);
        let number = |file: &str| read(&self.path.join(file)).ok()?.trim().parse::<u64>().ok();
        let used = read(&self.path.join("cpu.stat"))
            .ok()
            .and_then(|stat| field(&stat, "usage_usec"));
        let spent = Spent {
            cpu: used.map(Duration::from_micros),
            memory_peak: number("memory.peak"),
            pids_peak: number("pids.peak").and_then(|peak| u32::try_from(peak).ok()),
            oom: self.has_oom(),
            lacked_processes: read(&self.path.join("pids.events")).is_ok_and(|events| field(&events, "max") > Some(0)),
        };
        self.remove();
        spent
    }

    fn remove(&mut self) {
        // What cannot be removed is found by the next sweep: the lock goes with us.
        self.removed = self.removed || fs::remove_dir(&self.path).is_ok();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.removed {
            empty(&self.path, GONE);
            self.remove();
        }
    }
}

/// Kills everything in the cgroup `path` and waits until nothing of it is left, or for `patience`.
fn empty(path: &Path, patience: Duration) {
    let events = path.join("cgroup.events");
    let populated = || read(&events).is_ok_and(|text| field(&text, "populated") == Some(1));
    let Ok(watched) = File::open(&events) else { return };
    if !populated() {
        return;
    }
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let started = std::time::Instant::now();
    while populated() {
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            return;
        }
        // cgroup.events says by POLLPRI that it changed (kernel, cgroup-v2.rst); looking again soon covers the rest.
        let timeout = Timespec::try_from(left.min(Duration::from_millis(20))).ok();
        let _ = poll(&mut [PollFd::new(&watched, PollFlags::PRI)], timeout.as_ref());
    }
}

/// The path of the unified hierarchy in `/proc/PID/cgroup`; none when there is none or it lies outside our namespace.
fn own_path(table: &str) -> Option<String> {
    let path = table.lines().find_map(|line| line.strip_prefix("0::"))?;
    let inside = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    inside.then(|| path.to_owned())
}

/// Whether we may make cgroups in `path` and hand down controllers.
fn is_ours(path: &Path) -> bool {
    access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
        && ["cgroup.procs", "cgroup.subtree_control"]
            .iter()
            .all(|file| access(path.join(file), Access::WRITE_OK).is_ok())
}

/// Whether systemd says that everything below `path` is somebody else's business (systemd.resource-control(5)).
fn is_delegated(path: &Path) -> bool {
    let mut value = [0u8; 8];
    rustix::fs::getxattr(path, "user.delegate", &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|known| known == word)
}

/// The number after `name` in a flat keyed file.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(io_error("read", path))
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CgroupError + 'a {
    move |source| CgroupError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_path_is_the_one_without_a_controller() {
        let hybrid = "12:pids:/a\n1:name=systemd:/b\n0::/user.slice/x.scope\n";
        assert_eq!(own_path(hybrid).as_deref(), Some("/user.slice/x.scope"));
        assert_eq!(own_path("0::/../../other\n"), None, "outside our cgroup namespace");
        assert_eq!(own_path("12:pids:/a\n"), None);
    }

    #[test]
    fn reads_flat_keyed_files() {
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(
            (field(events, "oom_kill"), field(events, "oom"), field(events, "oomx")),
            (Some(3), Some(1), None)
        );
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_not_delegated() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir_all(mount.path().join("user.slice/x.scope")).unwrap();
        let error = Subtree::at(mount.path(), "/user.slice/x.scope").unwrap_err();
        assert!(
            matches!(&error, CgroupError::NotDelegated { path } if path == "/user.slice/x.scope"),
            "{error}"
        );
    }

    #[test]
    fn a_subtree_without_a_controller_names_it() {
        let mount = tempfile::tempdir().unwrap();
        let unit = mount.path().join("worker.service");
        fs::create_dir_all(&unit).unwrap();
        for (file, text) in [
            ("cgroup.procs", ""),
            ("cgroup.subtree_control", ""),
            ("cgroup.controllers", "memory pids\n"),
        ] {
            fs::write(unit.join(file), text).unwrap();
        }
        let subtree = Subtree::at(mount.path(), "/worker.service").unwrap();
        let error = subtree.enable().unwrap_err();
        assert!(
            matches!(error, CgroupError::NoController { controller: "cpu", .. }),
            "{error}"
        );
    }
}
