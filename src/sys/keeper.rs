//! The process between gantry and a program it runs: it ends the program and everything the program started when
//! gantry dies or closes its end of a pipe, the lifeline.
//!
//! The death signal of a child (`PR_SET_PDEATHSIG`) would not do: it is sent when the *thread* that forked ends, and only
//! to the child itself. The keeper is a copy of gantry made by the fork that precedes every exec. It forks the program,
//! becomes the parent of everything that loses its own (`PR_SET_CHILD_SUBREAPER`), closes every descriptor but the
//! lifeline and waits. Whatever kills gantry also closes gantry's end. Should the keeper itself be killed, the program
//! dies with it by its death signal, for the keeper has one thread.
//!
//! gantry may have other threads while it forks: the keeper makes system calls only, takes no lock and allocates nothing.
#![allow(
    unsafe_code,
    reason = "a process between fork and exec may make nothing but system calls, which no safe wrapper promises"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How often a process that was killed is looked for again, a millisecond apart: five seconds. One that waits in the
/// kernel for a disk dies later, but gantry does not wait for it.
const ROUNDS: u32 = 5000;
/// Exit code of a keeper whose program was ended because the lifeline was closed.
pub(super) const ENDED: i32 = 128 + libc::SIGKILL;

/// Makes `command` start below a keeper that watches the reading end `lifeline` of a pipe.
///
/// The process that the command then starts is the keeper. It ends as the program ends: with its exit code, or by its
/// signal, or with [`ENDED`]; when it has ended, nothing that the program started is left.
pub(super) fn put_between(command: &mut Command, lifeline: OwnedFd) {
    let between = move || {
        // Named here so that the closure owns the descriptor and not only its number.
        let lifeline: &OwnedFd = &lifeline;
        fork_program(lifeline.as_raw_fd())
    };
    // SAFETY: `fork_program` makes system calls only, as pre_exec demands of a process that was forked from one with
    // threads. It returns in the program's process alone.
    unsafe { command.pre_exec(between) };
}

/// Forks once more; returns in the child, which goes on to execute the program.
fn fork_program(lifeline: RawFd) -> io::Result<()> {
    // SAFETY: system calls with numbers, and with signal sets of this frame. The forked child continues with consistent
    // memory of its own: this process has one thread, and no lock of another is taken on the way to the exec.
    unsafe {
        check(libc::setsid())?;
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const all,
            std::ptr::null_mut(),
        ))?;
        let keeper = libc::getpid();
        match check(libc::fork())? {
            0 => become_program(keeper),
            program => keep(lifeline, program),
        }
    }
}

/// What the program inherits: a process group of its own, a death signal, no blocked or ignored signal, no way to gain
/// privileges, no descriptor but the standard streams.
fn become_program(keeper: i32) -> io::Result<()> {
    // SAFETY: system calls with numbers, and with a signal set of this frame.
    unsafe {
        check(libc::setpgid(0, 0))?;
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        if libc::getppid() != keeper {
            // It died before the death signal was set.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut(),
        ))?;
        // Close-on-exec, not closed: the caller of pre_exec reports a failing exec through one of them.
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Waits for the end of `program` or of the lifeline. Never returns.
fn keep(lifeline: RawFd, program: i32) -> ! {
    // SAFETY: system calls with numbers, and with arrays of this frame of the length that is given. Descriptors are
    // closed by number: nothing in this process uses them, for it never returns to code that would.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"gantry-keeper".as_ptr(), 0, 0, 0);
        let program_end = libc::syscall(libc::SYS_pidfd_open, program, 0);
        libc::dup2(lifeline, 0);
        libc::dup2(i32::try_from(program_end).unwrap_or(-1), 1);
        libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0);
        let mut events = [0, 1].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        while libc::poll(events.as_mut_ptr(), 2, -1) < 0 {}
        let mut status = None;
        // Its number is its group's until it is waited for.
        libc::kill(-program, libc::SIGKILL);
        if events[1].revents != 0 {
            let mut found = 0;
            if libc::waitpid(program, &raw mut found, 0) == program {
                status = Some(found);
            }
        }
        end_descendants();
        end_like(status)
    }
}

/// Kills what the program has started, whatever its group or session, until nothing of it is left.
fn end_descendants() {
    // SAFETY: system calls with numbers, NUL-terminated literals and a buffer of this frame with its length.
    unsafe {
        for _ in 0..ROUNDS {
            loop {
                match libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) {
                    0 => break,
                    -1 => return,
                    _ => {}
                }
            }
            let children = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY);
            if children >= 0 {
                kill_listed(children);
                libc::close(children);
            }
            libc::poll(std::ptr::null_mut(), 0, 1);
        }
    }
}

/// Kills the processes whose numbers stand in the file `children`, each followed by a space.
fn kill_listed(children: RawFd) {
    let (mut number, mut buffer) = (0i32, [0u8; 512]);
    loop {
        // SAFETY: reads into a buffer of this frame, at most its length.
        let count = unsafe { libc::read(children, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Ok(count @ 1..) = usize::try_from(count) else {
            return;
        };
        for byte in buffer.iter().take(count) {
            if byte.is_ascii_digit() {
                number = number.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
            } else if number > 0 {
                // SAFETY: kill with numbers; these are children of this process that it has not waited for.
                unsafe { libc::kill(number, libc::SIGKILL) };
                number = 0;
            }
        }
    }
}

/// Ends this process as one with the wait status `status` ended.
fn end_like(status: Option<i32>) -> ! {
    // SAFETY: system calls with numbers, and with a signal set of this frame; `_exit` runs no destructor.
    unsafe {
        let Some(status) = status else { libc::_exit(ENDED) };
        if libc::WIFEXITED(status) {
            libc::_exit(libc::WEXITSTATUS(status));
        }
        let signal = libc::WTERMSIG(status);
        // No second core dump.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::_exit(128 + signal)
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
