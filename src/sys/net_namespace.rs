//! A network namespace for a process that has a user namespace of its own, made while that process does other things: it
//! takes the kernel longer than everything else that a clone into new namespaces does.
#![allow(
    unsafe_code,
    reason = "the child that makes it has our memory, and may make system calls only"
)]

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{fstat, stat};
use rustix::process::{getpid, getppid, Pid};

use super::process::{die_with_parent, exit_now, wait};
use super::vfork::vfork_with_our_descriptors;

/// The network namespace of whoever opens it.
const OURS: &CStr = c"/proc/self/ns/net";

/// Makes a network namespace that belongs to the user namespace of `owner`, a pidfd, with nothing in it but a loopback
/// interface that is down; none when that user namespace cannot be entered, because its process is gone or this machine
/// does not let us.
///
/// A child of ours makes it, because who has entered a user namespace cannot come back; it dies with this thread, hears no
/// signal, and is gone afterwards.
///
/// # Errors
///
/// The kernel's answer, such as `ENOSPC` at `max_net_namespaces`.
pub(crate) fn make_net_namespace(owner: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let made = Cell::new(Made::Nothing(libc::EINTR));
    let us = getpid();
    let pid = vfork_with_our_descriptors(&|| {
        made.set(make(owner.as_raw_fd(), us));
        exit_now(0)
    })?;
    // Before it is waited for, so that it is never lost.
    let namespace = match made.get() {
        // SAFETY: the child opened it in the table of descriptors that it shared with us, and nobody else knows it.
        Made::Namespace(descriptor) => Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) })),
        Made::NotEntered => Ok(None),
        Made::Nothing(errno) => Err(io::Error::from_raw_os_error(errno)),
    };
    wait(pid)?;
    match &namespace {
        Ok(Some(found)) if fstat(found)?.st_ino == stat(OURS)?.st_ino => Err(io::Error::other("it is our own")),
        _ => namespace,
    }
}

/// Gives this process, which has one thread, a network namespace of its own.
pub(crate) fn unshare_net() -> io::Result<()> {
    // SAFETY: a number.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What became of it; what there is of an error is its number.
#[derive(Clone, Copy)]
enum Made {
    Namespace(i32),
    NotEntered,
    Nothing(i32),
}

/// The child's way. System calls only.
fn make(owner: i32, parent: Pid) -> Made {
    let failed = || Made::Nothing(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    if die_with_parent().is_err() || getppid() != Some(parent) {
        return failed();
    }
    // SAFETY: numbers, and a constant string.
    unsafe {
        if libc::setns(owner, libc::CLONE_NEWUSER) != 0 {
            return Made::NotEntered;
        }
        if die_with_parent().is_err() || libc::unshare(libc::CLONE_NEWNET) != 0 {
            return failed();
        }
        match libc::open(OURS.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) {
            -1 => failed(),
            descriptor => Made::Namespace(descriptor),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use rustix::process::{pidfd_open, DumpableBehavior, PidfdFlags};

    use super::*;

    /// A process in a user namespace of its own, until it is dropped.
    struct Owner(std::process::Child);

    impl Owner {
        fn start() -> Self {
            let mut unshare = std::process::Command::new("unshare");
            unshare.args(["--user", "--map-current-user", "sh", "-c", "echo; exec sleep 60"]);
            let mut child = unshare.stdout(std::process::Stdio::piped()).spawn().unwrap();
            let mut line = [0];
            io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
            Self(child)
        }

        fn pidfd(&self) -> OwnedFd {
            let pid = rustix::process::Pid::from_child(&self.0);
            pidfd_open(pid, PidfdFlags::empty()).unwrap()
        }
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn it_is_another_than_ours_and_what_we_may_is_as_before() {
        let owner = Owner::start();
        let before = rustix::process::dumpable_behavior().unwrap();
        let made = make_net_namespace(owner.pidfd().as_fd()).unwrap().unwrap();
        let ours = std::fs::metadata("/proc/self/ns/net").unwrap();
        assert_ne!(std::fs::File::from(made).metadata().unwrap().ino(), ours.ino());
        let user = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/user")).unwrap().ino();
        assert_ne!(
            user(&owner.0.id().to_string()),
            user("self"),
            "we are in its user namespace"
        );
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), before);
        assert_eq!(before, DumpableBehavior::Dumpable);
    }

    #[test]
    fn there_is_none_for_a_process_that_is_gone() {
        let owner = Owner::start();
        let pidfd = owner.pidfd();
        drop(owner);
        assert!(make_net_namespace(pidfd.as_fd()).unwrap().is_none());
    }
}
