//! The process that called us: who it is, whether it is still the one that started us, and a descriptor that says when it
//! ends.
//!
//! A pidfd of the parent, and not `PR_SET_PDEATHSIG`: that one strikes when the *thread* that started us ends, so whoever
//! calls from a pool of threads would lose its runs. Nor a pipe whose other end the caller holds: a fork of the caller
//! holds it as well.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{getpid, getppid, pidfd_open, Pid, PidfdFlags};

use crate::sys::process::session_of;

/// Programs whose work it is to be the parent of processes whose own has ended. Other programs can be, too
/// (`PR_SET_CHILD_SUBREAPER`); these also where our session says nothing.
const REAPERS: [&str; 7] = [
    "systemd",
    "init",
    "tini",
    "docker-init",
    "catatonit",
    "dumb-init",
    "s6-svscan",
];

/// The process that started this one.
#[derive(Debug)]
pub struct Caller {
    pid: Pid,
    pidfd: OwnedFd,
    adopted: bool,
}

/// Why the end of the caller cannot be waited for.
#[derive(Debug, thiserror::Error)]
pub enum NoCaller {
    /// The process that started us is gone, and another one is our parent now.
    #[error("the caller ended before the run began: process {parent} ({name}) has taken over, which did not call")]
    Ended {
        /// Our parent now.
        parent: i32,
        /// The name of its program.
        name: String,
    },
    /// Our parent is in another pid namespace, or not to be seen.
    #[error("the caller cannot be watched: it is outside of this container")]
    Outside,
    /// A system call failed.
    #[error("watch the caller")]
    Io {
        /// The kernel's answer.
        #[from]
        source: io::Error,
    },
}

impl Caller {
    /// Looks at our parent; to be called before anything else, so that a parent that ends from now on is missed. A first
    /// process of a pid namespace has none to wait for: with it the kernel ends everything.
    ///
    /// `started_by_manager` says that a service manager started this very process, so that its parent is no adoptive one.
    pub fn find(started_by_manager: impl FnOnce() -> bool) -> Result<Option<Self>, NoCaller> {
        let own = getpid();
        if own == Pid::INIT {
            return Ok(None);
        }
        let pid = getppid().ok_or(NoCaller::Outside)?;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // It has just ended, and was nobody's to wait for any more.
            Err(rustix::io::Errno::SRCH) => return Err(ended(pid)),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        // A number is used again once its process is gone; as long as it is our parent's it is not.
        if getppid() != Some(pid) {
            return Err(ended(getppid().unwrap_or(Pid::INIT)));
        }
        let adopted = is_adopted(own, pid)? && !started_by_manager();
        Ok(Some(Self { pid, pidfd, adopted }))
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Itself, when it is the process that started us.
    ///
    /// # Errors
    ///
    /// [`NoCaller::Ended`] when that one was gone before we could look.
    pub fn own(self) -> Result<Self, NoCaller> {
        if self.adopted {
            return Err(ended(self.pid));
        }
        Ok(self)
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Whether `parent` is not who started us. The kernel does not tell, so this is what can be seen of it: the first process
/// of a namespace takes over the others', as do known programs. A child is of its parent's session, or has one of its own.
fn is_adopted(own: Pid, parent: Pid) -> io::Result<bool> {
    if parent == Pid::INIT || REAPERS.contains(&name_of(parent).as_str()) {
        return Ok(true);
    }
    let ours = session_of(own)?;
    // Without an answer it has ended meanwhile, which is seen by its descriptor.
    let theirs = session_of(parent).unwrap_or(ours);
    Ok(ours != Some(own) && ours != theirs)
}

/// The name of a process's program; empty when it is gone.
fn name_of(process: Pid) -> String {
    let path = format!("/proc/{}/comm", process.as_raw_nonzero());
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn ended(parent: Pid) -> NoCaller {
    NoCaller::Ended {
        parent: parent.as_raw_nonzero().get(),
        name: name_of(parent),
    }
}
