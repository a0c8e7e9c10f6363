//! What it means that a promise is not enforced: for the functions that are run, and for builds.

use serde::Serialize;

use crate::policy::{Level, Promise};

/// What the loss of a promise means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// For runs that accept it; the others are refused.
    pub runs: &'static str,
    /// For builds.
    pub builds: &'static str,
}

/// What it means that `promise` is kept at `level` only; none when it is enforced.
pub(super) fn of(promise: Promise, level: Level) -> Option<Meaning> {
    if level == Level::Enforced {
        return None;
    }
    let runs = match promise {
        Promise::User => "a function may have the rights of another user of this machine",
        Promise::Capabilities => "a function may hold a privilege of its namespaces",
        Promise::NoNewPrivs => "a program with a set-user-id bit could raise a function's privileges",
        Promise::Seccomp => "a function may make any system call",
        Promise::Landlock => "mounts and namespaces are the one wall around files, TCP and signals, without a second one",
        Promise::ReadOnlyRoot => "a function may write to its root file system",
        Promise::Tmp => "/tmp may grow beyond its size",
        Promise::Output => "/output may grow beyond its size",
        Promise::Network => "a function may reach hosts that were not listed",
        Promise::Memory if level == Level::Watched => {
            "gantry looks every 50 ms and ends a function that is over its limit; between two looks it may take any amount"
        }
        Promise::Memory => "a function may take all the memory of this machine",
        Promise::Cpu => "a function may take every processor of this machine",
        Promise::Processes => "a function may start processes until this user can start no more",
        Promise::Time => "a function may run for ever",
        Promise::OutputSize => "a function may print without end",
        Promise::Leaks => "a function may see descriptors or variables of gantry",
        Promise::Death => "a function may outlive gantry",
    };
    let builds = match promise {
        Promise::Memory | Promise::Cpu => "builds go on without this limit, and need no option for that",
        Promise::User
        | Promise::Capabilities
        | Promise::NoNewPrivs
        | Promise::Seccomp
        | Promise::Landlock
        | Promise::ReadOnlyRoot
        | Promise::Tmp
        | Promise::Output
        | Promise::Network
        | Promise::Processes
        | Promise::Time
        | Promise::OutputSize
        | Promise::Leaks
        | Promise::Death => "builds are refused as well, unless they accept it by the same option",
    };
    Some(Meaning { runs, builds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_enforced_means_something_and_what_is_means_nothing() {
        for promise in Promise::ALL {
            assert_eq!(of(promise, Level::Enforced), None);
            assert!(of(promise, Level::Absent).is_some() && of(promise, Level::Watched).is_some());
        }
        let memory = |level| of(Promise::Memory, level).unwrap().runs;
        assert_ne!(memory(Level::Watched), memory(Level::Absent));
    }
}
