//! The promises that are kept, or not, from outside the sandbox; the init reads back the others.

use std::fs;

use super::super::error::SandboxError;
use super::super::orders::Given;
use super::cgroup::{Cgroup, CgroupError};
use crate::policy::{Level, Promise};

/// The level of each promise that `cgroup` and gantry itself keep for the sandbox whose init is `pid`.
pub(super) fn given(cgroup: Result<&Cgroup, &CgroupError>, pid: i32) -> Result<Given, SandboxError> {
    let enforced = (Level::Enforced, String::new());
    let setup = |reason: String| SandboxError::Setup { reason };
    let uid_map = fs::read_to_string("/proc/self/uid_map").map_err(|source| SandboxError::Io {
        action: "read our own uid_map",
        source,
    })?;
    let (memory, cpu) = match cgroup {
        // The limits were read back; that the init was born under them is read back here.
        Ok(cgroup) => match cgroup.holds(pid) {
            Ok(true) => (enforced.clone(), enforced.clone()),
            Ok(false) => return Err(setup("the init is not in its cgroup".to_owned())),
            Err(error) => return Err(setup(error.to_string())),
        },
        Err(error) => {
            let reason = error.to_string();
            ((Level::Watched, reason.clone()), (Level::Absent, reason))
        }
    };
    let processes = processes_level(cgroup.is_ok(), rustix::process::geteuid().as_raw(), &uid_map);
    Ok(Given::from([
        (Promise::Memory, memory),
        (Promise::Cpu, cpu),
        (Promise::Processes, processes),
        (Promise::Time, enforced.clone()),
        (Promise::OutputSize, enforced.clone()),
        (Promise::Death, enforced),
    ]))
}

/// Whether the number of processes is limited: by `pids.max` of a cgroup; else by RLIMIT_NPROC, set and inherited in the
/// workload and counted per user namespace, from which the kernel excepts its own uid 0: ours, as `uid_map` has it.
fn processes_level(has_cgroup: bool, uid: u32, uid_map: &str) -> (Level, String) {
    let outside = uid_map.lines().find_map(|line| {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers.as_slice() {
            [inside, outside, count] if uid.checked_sub(*inside)? < *count => Some(outside + (uid - inside)),
            _ => None,
        }
    });
    match outside {
        Some(1..) => (Level::Enforced, String::new()),
        _ if has_cgroup => (Level::Enforced, String::new()),
        _ => {
            let reason = "gantry is root, whom the kernel exempts from RLIMIT_NPROC, and there is no cgroup";
            (Level::Absent, reason.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_root_are_limited_by_a_cgroup_alone() {
        const WHOLE: &str = "         0          0 4294967295\n";
        let level = |has_cgroup, uid, uid_map| processes_level(has_cgroup, uid, uid_map).0;
        assert_eq!(level(false, 1000, WHOLE), Level::Enforced);
        assert_eq!(level(false, 0, WHOLE), Level::Absent);
        assert_eq!(level(true, 0, WHOLE), Level::Enforced);
        assert!(processes_level(false, 0, WHOLE).1.contains("RLIMIT_NPROC"));
        // In a container: root there is somebody else to the kernel when its ids are mapped.
        assert_eq!(level(false, 0, "0 1000 1\n1 100000 65536\n"), Level::Enforced);
        assert_eq!(level(false, 0, "0 0 1\n"), Level::Absent);
        assert_eq!(level(false, 1000, "1000 0 1\n"), Level::Absent);
        assert_eq!(level(false, 7, "0 1000 1\n"), Level::Absent, "whom nobody knows");
    }
}
