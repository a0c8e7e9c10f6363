//! Starting the first process of a sandbox, in gantry.
//!
//! A [`Launcher`] decides how its container is made: by youki's libcontainer ([`Libcontainer`]) or by ourselves
//! ([`Native`]). What it starts must be our init with the control socket, and must die with gantry; what happens on the
//! socket afterwards, what is given up and read back, and how the sandbox is supervised, is one code for all launchers.

#[cfg(feature = "libcontainer")]
mod libcontainer;
mod native;
mod own_binary;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{fcntl_setfl, OFlags};
use rustix::io::Errno;
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{pidfd_send_signal, Signal};

use super::error::SandboxError;
use crate::policy::Runtime;
use crate::sys::net_namespace::make_net_namespace;
use crate::sys::process::{self, Child, Ended};

#[cfg(feature = "libcontainer")]
pub use self::libcontainer::Libcontainer;
pub use native::Native;

/// The launcher of `runtime`, with the binary that runs now.
pub(super) fn of(runtime: Runtime) -> Result<Box<dyn Launcher>, SandboxError> {
    match runtime {
        #[cfg(feature = "libcontainer")]
        Runtime::Libcontainer => Ok(Box::new(Libcontainer::new()?)),
        #[cfg(not(feature = "libcontainer"))]
        Runtime::Libcontainer => Err(SandboxError::Bundle {
            reason: "this gantry is built without libcontainer",
        }),
        Runtime::Native => Ok(Box::new(Native::new()?)),
    }
}

/// Starts the first process of a sandbox.
///
/// Called while gantry holds nothing of the sandbox but what is in [`Start`]. The process is a child of this thread: it
/// must be killed when the thread ends, because nobody else knows of it.
pub trait Launcher {
    /// What makes the container, which the process is told first of all.
    fn runtime(&self) -> Runtime;

    /// Starts a process with what `start` holds.
    ///
    /// # Errors
    ///
    /// [`SandboxError::UserNamespace`] when this machine does not allow it. Later failures of the process arrive on its
    /// control socket.
    fn launch(&self, start: &Start<'_>) -> Result<Child, SandboxError>;

    /// The network namespace that the process shall join, made while that makes its root: one that belongs to its user
    /// namespace, and has nothing but a loopback interface that is down. None where the process shall make one itself.
    ///
    /// # Errors
    ///
    /// [`SandboxError::UserNamespace`] when this machine does not allow it, [`SandboxError::Io`] when it cannot be tried.
    fn network(&self, init: &Child) -> Result<Option<OwnedFd>, SandboxError> {
        make_net_namespace(init.pidfd.as_fd()).map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::PERM) => SandboxError::UserNamespace {
                step: "make a network namespace in it",
                source,
            },
            _ => SandboxError::Io {
                action: "make a network namespace",
                source,
            },
        })
    }
}

/// What the first process of a sandbox starts with; everything else it is told over the control socket.
#[derive(Debug)]
pub struct Start<'a> {
    /// Becomes its standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Its end of the control socket.
    pub control: BorrowedFd<'a>,
    /// The cgroup that it must be born in: moving a process costs about 10 ms.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A first process that has been started, and our ends of what it holds.
#[derive(Debug)]
pub(super) struct Launched {
    /// The process.
    pub init: InitProcess,
    /// Our end of the control socket.
    pub control: UnixStream,
    /// What the workload reads; writing never blocks.
    pub stdin: OwnedFd,
    /// What the workload prints; reading never blocks.
    pub stdout: OwnedFd,
    /// What it prints as errors; reading never blocks.
    pub stderr: OwnedFd,
}

/// Makes the pipes and the control socket, and starts the first process of a sandbox with them.
pub(super) fn launch(launcher: &dyn Launcher, cgroup: Option<BorrowedFd<'_>>) -> Result<Launched, SandboxError> {
    // Ignored by whoever started us, it would keep us from waiting for our child.
    process::default_signal(signal_hook::consts::SIGCHLD);
    let io = |action| move |source: io::Error| SandboxError::Io { action, source };
    let (control, init_control) = UnixStream::pair().map_err(io("make the control socket"))?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| io("make a pipe")(errno.into()));
    let ((stdin_end, stdin), (stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?, pipe()?);
    let child = launcher.launch(&Start {
        stdio: [stdin_end.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()],
        control: init_control.as_fd(),
        cgroup,
    })?;
    let init = InitProcess { child, ended: None };
    for pipe in [&stdin, &stdout, &stderr] {
        fcntl_setfl(pipe, OFlags::NONBLOCK).map_err(|errno| io("set up a pipe")(errno.into()))?;
    }
    Ok(Launched {
        init,
        control,
        stdin,
        stdout,
        stderr,
    })
}

/// The first process of a sandbox. Dropping it kills it, and with it everything in its pid namespace, and waits.
#[derive(Debug)]
pub(super) struct InitProcess {
    child: Child,
    ended: Option<Ended>,
}

impl InitProcess {
    /// Its number, as this process sees it; somebody else's once it has been [ended](Self::end).
    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    /// The network namespace that `launcher` has for it.
    pub(super) fn network(&self, launcher: &dyn Launcher) -> Result<Option<OwnedFd>, SandboxError> {
        launcher.network(&self.child)
    }

    /// Kills it, waits until it is gone, and says how it ended; idempotent.
    pub(super) fn end(&mut self) -> io::Result<Ended> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        // An init that has said its last word exits by itself; this is for all others.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        let ended = process::wait(self.child.pid)?;
        self.ended = Some(ended);
        Ok(ended)
    }
}

impl Drop for InitProcess {
    fn drop(&mut self) {
        // It was our child and is dead: there is nothing that could fail but a wait by somebody else.
        let _ = self.end();
    }
}
