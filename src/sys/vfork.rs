//! A child that has the memory of its parent until it executes something, while its parent waits, as in vfork(2): nothing is
//! copied, neither the tables of pages at the clone nor the pages that either writes to afterwards.
#![allow(
    unsafe_code,
    reason = "a child in our memory needs a stack of its own, which no wrapper of libc gives it"
)]

use std::convert::Infallible;
use std::io;
use std::os::fd::RawFd;

/// Size of a child's stack, in units of the alignment that a stack has: 64 KiB, of which what is not used costs nothing.
const STACK: usize = 4096;

/// Starts `child` in a new process as soon as it may run, and returns its number once it has executed something or is gone.
///
/// What it changes in memory is changed for us, too; that is how it says why it executed nothing. So it may make system calls and
/// write to what it was given, and nothing else: what it allocates stays ours when it executes, a lock that it holds when it is
/// killed is never released, and a descriptor that it opens has its number there alone.
pub(crate) fn vfork<F: Fn() -> Infallible>(child: &F) -> io::Result<i32> {
    vfork_as(libc::SIGCHLD, child)
}

/// [`vfork`] of a child that has our descriptors, too: what it opens stays open here. No signal reaches it but those that
/// cannot be blocked.
pub(crate) fn vfork_with_our_descriptors<F: Fn() -> Infallible>(child: &F) -> io::Result<i32> {
    without_signals(|| vfork_as(libc::SIGCHLD | libc::CLONE_FILES, child))
}

/// Does `work` while no signal reaches this thread, nor a child that it makes: while a child is stopped, by the terminal for
/// example, its parent waits for it and hears nothing.
fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: sets of signals are plain data; zeroes are valid, and both live until the mask is what it was.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let done = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        done
    }
}

fn vfork_as<F: Fn() -> Infallible>(how: i32, child: &F) -> io::Result<i32> {
    let mut stack = Vec::<u128>::with_capacity(STACK);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | how;
    // SAFETY: the address behind the stack's last unit, where it begins.
    let top = unsafe { stack.as_mut_ptr().add(STACK) };
    // SAFETY: the flags of vfork(2), and a stack that outlives what the child does with it.
    unsafe { clone_and_wait(libc::SYS_clone, [u64::from(flags.cast_unsigned()), top as u64], child) }
}

/// [`vfork`] into the namespaces, and into the cgroup, that `args` names; returns a pidfd as well. The child begins with all
/// signals blocked.
pub(crate) fn vfork_into<F: Fn() -> Infallible>(mut args: libc::clone_args, child: &F) -> io::Result<(i32, RawFd)> {
    let mut pidfd: RawFd = -1;
    let mut stack = Vec::<u128>::with_capacity(STACK);
    args.flags |= u64::from((libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD).cast_unsigned());
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = (STACK * size_of::<u128>()) as u64;
    let arguments = [
        std::ptr::from_mut(&mut args) as u64,
        size_of::<libc::clone_args>() as u64,
    ];
    // SAFETY: the flags of vfork(2), a stack and a place for a number that outlive what the kernel and the child do with them.
    let pid = without_signals(|| unsafe { clone_and_wait(libc::SYS_clone3, arguments, child) })?;
    Ok((pid, pidfd))
}

/// clone(2) or clone3(2), by its `number`.
///
/// # Safety
/// The arguments have a stack for the child, which nobody else uses meanwhile, and the flags of vfork(2).
unsafe fn clone_and_wait<F: Fn() -> Infallible>(number: i64, arguments: [u64; 2], child: &F) -> io::Result<i32> {
    extern "C" fn begin<F: Fn() -> Infallible>(child: &F) -> ! {
        match child() {}
    }
    let [first, second] = arguments;
    let result: i64;
    // SAFETY: as the caller promises. The parent goes on behind the label with every register as before but those of a system
    // call; the arguments of clone that are not set are those that its flags do not ask for. The child begins with an empty
    // stack, which is aligned as a call wants it, and never comes back from `begin`: whatever it panics of ends it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("r12") std::ptr::from_ref(child),
            in("r13") begin::<F> as extern "C" fn(&F) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    match i32::try_from(result) {
        Ok(pid) if pid > 0 => Ok(pid),
        Ok(errno) => Err(io::Error::from_raw_os_error(-errno)),
        Err(error) => Err(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::process::{self, exit_now, wait, Execution};
    use super::*;

    #[test]
    fn what_a_child_says_before_it_ends_is_known() {
        let said = Cell::new(0);
        let pid = vfork(&|| {
            said.set(rustix::process::getpid().as_raw_nonzero().get());
            exit_now(7)
        })
        .unwrap();
        assert_eq!(said.get(), pid);
        assert_ne!(pid, rustix::process::getpid().as_raw_nonzero().get());
        assert_eq!(wait(pid).unwrap().code, Some(7));
    }

    #[test]
    fn a_child_that_executes_something_lets_us_go_on() {
        let failed = Cell::new(false);
        let (argv, env) = ([c"sh".into(), c"-c".into(), c"exit 3".into()], []);
        let execution = Execution::new(&argv, &env);
        let pid = vfork(&|| {
            process::default_signals();
            drop(execution.exec(c"/bin/sh"));
            failed.set(true);
            exit_now(1)
        });
        assert_eq!(wait(pid.unwrap()).unwrap().code, Some(3));
        assert!(!failed.get());
    }

    /// A terminal's stop of a whole process group would stop the child, and its parent would wait for it and not stop.
    #[test]
    fn a_child_with_our_descriptors_hears_no_signal_and_its_parent_does_again() {
        let blocked = || {
            // SAFETY: a set of signals is plain data; a null new one only asks.
            unsafe {
                let mut now: libc::sigset_t = std::mem::zeroed();
                libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut now);
                [libc::SIGTSTP, libc::SIGINT, libc::SIGTERM].map(|signal| libc::sigismember(&raw const now, signal))
            }
        };
        let before = blocked();
        let said = Cell::new([0; 3]);
        let pid = vfork_with_our_descriptors(&|| {
            said.set(blocked());
            exit_now(0)
        });
        wait(pid.unwrap()).unwrap();
        assert_eq!(said.get(), [1; 3]);
        assert_eq!(blocked(), before);
    }

    #[test]
    fn a_clone_that_is_refused_is_an_error() {
        // SAFETY: clone_args is plain numbers; all zeroes is its documented default.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = u64::from(libc::CLONE_THREAD.cast_unsigned());
        let refused = vfork_into(args, &|| exit_now(1)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    }
}
