//! The shortest way into a sandbox: one clone into all namespaces, and our own binary in it as the init.

use std::fs::File;
use std::os::fd::AsFd;

use super::super::error::SandboxError;
use super::super::orders::INIT_NAME;
use super::{Launcher, Start};
use crate::sys::process::{self, Child, Init};

/// The id of the workload inside; the caller's outside.
const ID: u32 = 1000;

/// Starts a gantry binary in new user, mount, pid, ipc, uts, network and cgroup namespaces.
#[derive(Debug)]
pub struct Native {
    executable: File,
}

impl Native {
    /// With the binary that runs now, whatever has become of its file.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] without `/proc`.
    pub fn new() -> Result<Self, SandboxError> {
        let executable = File::open("/proc/self/exe").map_err(|source| SandboxError::Io {
            action: "open our own binary",
            source,
        })?;
        Ok(Self::with(executable))
    }

    /// With another gantry binary: for programs that use this library.
    pub fn with(executable: File) -> Self {
        Self { executable }
    }
}

impl Launcher for Native {
    fn launch(&self, start: &Start<'_>) -> Result<Child, SandboxError> {
        let map = |id: u32| format!("{ID} {id} 1").into_bytes();
        let child = process::spawn_init(&Init {
            executable: self.executable.as_fd(),
            name: INIT_NAME,
            stdio: start.stdio,
            control: start.control,
            uid_map: &map(rustix::process::geteuid().as_raw()),
            gid_map: &map(rustix::process::getegid().as_raw()),
            cgroup: start.cgroup,
        });
        child.map_err(|source| SandboxError::UserNamespace {
            step: "clone into new namespaces",
            source,
        })
    }
}
