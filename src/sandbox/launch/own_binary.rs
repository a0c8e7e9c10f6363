//! Our own binary in new namespaces: how every first process of ours is started.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::thread::CapabilitySet;

use super::super::error::SandboxError;
use super::super::orders::INIT_NAME;
use super::Start;
use crate::sys::process::{self, Child, Init};

/// The id of the workload inside; the caller's outside.
const ID: u32 = 1000;

/// What a first process does with its user namespace until it gives all of it up: it mounts (also layers whose owner keeps
/// them from itself) and changes its root, limits what its user may have, brings up the loopback interface, listens below
/// port 1024, and locks its securebits. Each is a system call more.
const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SETPCAP);

/// A gantry binary, open: whatever becomes of its file.
#[derive(Debug)]
pub(super) struct OwnBinary(File);

impl OwnBinary {
    /// The one that runs now.
    pub(super) fn open() -> Result<Self, SandboxError> {
        let executable = File::open("/proc/self/exe").map_err(|source| SandboxError::Io {
            action: "open our own binary",
            source,
        })?;
        Ok(Self(executable))
    }

    /// Another one.
    pub(super) fn with(executable: File) -> Self {
        Self(executable)
    }

    /// Starts it in new user, mount, pid, ipc, uts and cgroup namespaces, by one clone into all of them.
    pub(super) fn start(&self, start: &Start<'_>) -> Result<Child, SandboxError> {
        let map = |id: u32| format!("{ID} {id} 1").into_bytes();
        let child = process::spawn_init(&Init {
            executable: self.0.as_fd(),
            name: INIT_NAME,
            stdio: start.stdio,
            control: start.control,
            uid_map: &map(rustix::process::geteuid().as_raw()),
            gid_map: &map(rustix::process::getegid().as_raw()),
            cgroup: start.cgroup,
            capabilities: CAPABILITIES.bits(),
        });
        child.map_err(|source| SandboxError::UserNamespace {
            step: "clone into new namespaces",
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::KEPT;
    use super::*;

    /// libcontainer cannot keep what the init has not got.
    #[test]
    fn the_init_has_all_that_is_kept_of_it() {
        let has: Vec<&str> = CAPABILITIES.iter_names().map(|(name, _)| name).collect();
        for kept in KEPT {
            let name = kept.to_string();
            let name = name.trim_start_matches("CAP_");
            assert!(has.contains(&name), "{name} is none of {has:?}");
        }
    }
}
