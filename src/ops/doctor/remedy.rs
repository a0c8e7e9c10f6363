//! What to do where memory and processors cannot be limited: only what works on this machine.

use std::path::Path;

use crate::sandbox::{CgroupError, Subtree};

/// How services are started on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// systemd, and one of this user's own.
    UsersToo,
    /// systemd, for the machine alone.
    Machine,
    /// Another one, or none, as in most containers.
    None,
}

impl Manager {
    fn find() -> Self {
        // sd_booted(3).
        if !Path::new("/run/systemd/system").is_dir() {
            return Self::None;
        }
        let uid = rustix::process::geteuid().as_raw();
        if Path::new(&format!("/run/user/{uid}/systemd/private")).exists() {
            Self::UsersToo
        } else {
            Self::Machine
        }
    }
}

/// What to do about the cgroup that a run does not get here; none when it gets one.
pub fn find() -> Option<&'static str> {
    Subtree::open().err().map(|error| of(&error))
}

/// What to do about `error` on this machine.
pub(super) fn of(error: &CgroupError) -> &'static str {
    for_manager(error, Manager::find())
}

fn for_manager(error: &CgroupError, manager: Manager) -> &'static str {
    match (error, manager) {
        (CgroupError::NotUnified, Manager::UsersToo | Manager::Machine) => {
            "boot with the unified cgroup hierarchy (systemd.unified_cgroup_hierarchy=1)"
        }
        (CgroupError::NotUnified, Manager::None) => {
            "an administrator has to mount the cgroup v2 hierarchy at /sys/fs/cgroup and to give this user a cgroup of it"
        }
        (CgroupError::NoController { .. }, Manager::UsersToo | Manager::Machine) => {
            "delegate it: a drop-in for user@.service with Delegate=cpu memory pids, or a unit like examples/systemd/gantry-worker.service"
        }
        (CgroupError::NotDelegated { .. } | CgroupError::NoScope { .. }, Manager::UsersToo) => {
            "run gantry in a cgroup that is delegated to you: `systemd-run --user --scope -p Delegate=yes gantry ...`, or a unit like examples/systemd/gantry-worker.service"
        }
        (CgroupError::NotDelegated { .. } | CgroupError::NoScope { .. }, Manager::Machine) => {
            "run gantry from a unit with Delegate=yes like examples/systemd/gantry-worker.service, or have a manager of this user's own started by `loginctl enable-linger`"
        }
        (CgroupError::NotDelegated { .. } | CgroupError::NoScope { .. } | CgroupError::NoController { .. }, Manager::None) => {
            "an administrator has to give this user a cgroup with the controllers memory, pids and cpu that it may write"
        }
        (CgroupError::Io { .. } | CgroupError::NotInForce { .. }, _) => {
            "the cgroup that gantry was given does not work: run gantry in another one"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_works_on_a_machine_is_said_there() {
        let not_delegated = CgroupError::NotDelegated { path: "/".to_owned() };
        let no_controller = CgroupError::NoController {
            path: "/".to_owned(),
            controller: "cpu",
        };
        for error in [&CgroupError::NotUnified, &not_delegated, &no_controller] {
            let said = for_manager(error, Manager::None);
            assert!(!said.contains("systemd"), "{said}");
            for manager in [Manager::None, Manager::Machine, Manager::UsersToo] {
                let said = for_manager(error, manager);
                let can_start_a_scope =
                    matches!((error, manager), (CgroupError::NotDelegated { .. }, Manager::UsersToo));
                assert_eq!(said.contains("systemd-run --user"), can_start_a_scope, "{said}");
            }
        }
    }
}
