//! A network namespace for a process that has a user namespace of its own, made while that process does other things: it
//! takes the kernel longer than everything else that a clone into new namespaces does.
#![allow(
    unsafe_code,
    reason = "the child that makes it has our memory, and may make system calls only"
)]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::process::{exit_now, wait};
use super::vfork::vfork_with_our_descriptors;

/// Makes a network namespace that belongs to the user namespace of `owner`, a pidfd, with nothing in it but a loopback
/// interface that is down.
///
/// A child of ours makes it, because who has entered a user namespace cannot come back; it is gone afterwards.
///
/// # Errors
///
/// The kernel's answer: `ESRCH` when `owner` is gone, `ENOSPC` at `max_net_namespaces`.
pub(crate) fn make_net_namespace(owner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let made = Cell::new(Err(libc::EINTR));
    let pid = vfork_with_our_descriptors(&|| {
        made.set(make(owner.as_raw_fd()));
        exit_now(0)
    })?;
    // Before it is waited for, so that it is never lost.
    // SAFETY: the child opened it in the table of descriptors that it shared with us, and nobody else knows it.
    let namespace = made.get().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) });
    wait(pid)?;
    namespace.map_err(io::Error::from_raw_os_error)
}

fn make(owner: i32) -> Result<i32, i32> {
    let checked = |result: i32| match result {
        -1 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        result => Ok(result),
    };
    // SAFETY: numbers, and a constant string.
    unsafe {
        checked(libc::setns(owner, libc::CLONE_NEWUSER))?;
        checked(libc::unshare(libc::CLONE_NEWNET))?;
        checked(libc::open(
            c"/proc/self/ns/net".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        ))
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
        let made = make_net_namespace(owner.pidfd().as_fd()).unwrap();
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
    fn one_for_a_process_that_is_gone_is_an_error() {
        let owner = Owner::start();
        let pidfd = owner.pidfd();
        drop(owner);
        let refused = make_net_namespace(pidfd.as_fd()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ESRCH));
    }
}
