//! Everything the init gives up, for itself and for the workload that inherits it, in an order that matters:
//! securebits and the bounding set need a capability, the capabilities go next, `no_new_privs` before Landlock and
//! seccomp (both demand it), and the filter last, because it also takes away the calls used before it.

use std::io;

use landlock::{
    Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, RestrictSelfAttr, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, ABI,
};
use rustix::process::{setrlimit, Resource, Rlimit};
use rustix::thread::{
    capability_is_in_bounding_set, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs, CapabilitiesSecureBits, CapabilitySet, CapabilitySets,
};

use super::super::filter::Filter;
use super::super::orders::RoomOrders;
use super::super::rlimits::{rlimits, OPEN_FILES};
use super::failure::{step, Failure};
use super::seccomp;
use crate::policy::NetworkMode;
use crate::sys::kernel;

/// The lowest ABI of Landlock that a run accepts: 6 is the first that scopes signals and abstract sockets.
const LANDLOCK_FLOOR: ABI = ABI::V6;
/// The highest ABI of Landlock whose rights are used where the kernel offers them.
const LANDLOCK_CEILING: ABI = ABI::V7;
/// Its number, for who asks what this gantry was made for.
pub const LANDLOCK_ABI: i32 = LANDLOCK_CEILING as i32;
/// Refusals are records of the host's audit log from here on: neither our own attempt to write what is forbidden
/// ([`super::verify`]) nor a guest with domains of its own shall fill it. After its exec a workload's make none anyway.
const FIRST_WITH_LOG: u32 = 7;
/// Writable places of the workload.
const WRITABLE: [&str; 3] = ["/tmp", "/output", "/dev/shm"];

/// Descriptors that one message of a local socket carries, SCM_MAX_FD and some.
const IN_ONE_MESSAGE: u64 = 256;

/// Neither uid 0 nor an exec brings a capability back, and none of that can be undone (capabilities(7)).
pub(super) const SECUREBITS: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED)
    .union(CapabilitiesSecureBits::KEEP_CAPS_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// Whether Landlock confines this process, else why not.
pub(super) type Landlocked = Result<(), String>;

/// Drops every privilege. A Landlock that failed is returned, because that promise may be allowed to be lost.
pub(super) fn restrict_self(room: &RoomOrders) -> Result<Landlocked, Failure> {
    drop_capabilities()?;
    step("set no_new_privs", set_no_new_privs(true))?;
    let landlocked = restrict_files(room);
    let filter = Filter::of(room.purpose, room.network);
    seccomp::install(filter).map_err(|error| ("install the seccomp filter".to_owned(), io::Error::other(error)))?;
    Ok(landlocked)
}

fn drop_capabilities() -> Result<(), Failure> {
    step("lock securebits", set_capabilities_secure_bits(SECUREBITS))?;
    step("clear the ambient set", clear_ambient_capability_set())?;
    // The bounding set of a new user namespace is full, and libcontainer empties it: to ask takes a tenth of the time of
    // removing what is not there. The last numbers may be unknown to this kernel (EINVAL).
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        let removed = match capability_is_in_bounding_set(one) {
            Ok(true) => remove_capability_from_bounding_set(one),
            Ok(false) => Ok(()),
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => Err(errno),
        };
        step("clear the bounding set", removed)?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("drop capabilities", set_capabilities(None, none))
}

/// A second wall behind the mounts: read and execute the image, write `/tmp`, `/output`, `/dev/shm` without executing
/// there (but in `/tmp` of a package that is built), no TCP but connections to the ports of the egress, no signal or
/// abstract socket across its border.
///
/// A run with loopback has all of TCP here, for its ports are its own choice: there is nothing beyond the interface.
fn restrict_files(room: &RoomOrders) -> Landlocked {
    let text = |error: &dyn std::error::Error| format!("landlock: {error}");
    let ruleset = || -> Result<RulesetCreated, Box<dyn std::error::Error>> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(LANDLOCK_FLOOR))?;
        let ruleset = match room.network {
            NetworkMode::Loopback => ruleset,
            NetworkMode::None | NetworkMode::Egress => ruleset.handle_access(AccessNet::from_all(LANDLOCK_FLOOR))?,
        };
        Ok(ruleset
            .scope(Scope::from_all(LANDLOCK_FLOOR))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK_CEILING))?
            .create()?)
    };
    let read = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let restricted = || -> Result<RulesetStatus, Box<dyn std::error::Error>> {
        let mut ruleset = ruleset()?
            .add_rule(PathBeneath::new(PathFd::new("/")?, read))?
            .add_rule(PathBeneath::new(
                PathFd::new("/dev")?,
                AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile,
            ))?;
        for path in WRITABLE {
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, write))?;
        }
        if room.purpose.may_execute_tmp() {
            ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new("/tmp")?, write | AccessFs::Execute))?;
        }
        for entry in &room.egress {
            ruleset = ruleset.add_rule(NetPort::new(entry.port, AccessNet::ConnectTcp))?;
        }
        if kernel::landlock_abi() >= Some(FIRST_WITH_LOG) {
            ruleset = ruleset.log_same_exec(false)?.log_subdomains(false)?;
        }
        Ok(ruleset.restrict_self()?.ruleset)
    };
    match restricted() {
        Ok(RulesetStatus::FullyEnforced) => Ok(()),
        Ok(other) => Err(format!("landlock: {other:?}")),
        Err(error) => Err(text(error.as_ref())),
    }
}

fn open_files() -> u64 {
    open_files_below(rustix::process::getrlimit(Resource::Nofile).maximum)
}

/// A workload can have as many descriptors under way as it may open, and one message (253) more: an init with the hard
/// limit `maximum` must still be let through.
fn open_files_below(maximum: Option<u64>) -> u64 {
    maximum.map_or(OPEN_FILES, |maximum| {
        OPEN_FILES.min(maximum.saturating_sub(IN_ONE_MESSAGE))
    })
}

/// Sets the limits of the workload of `room` and all it starts, and reads them back.
pub(super) fn limit(room: &RoomOrders) -> io::Result<()> {
    for (resource, value) in rlimits(room) {
        let value = match resource {
            Resource::Nofile => value.min(open_files()),
            _ => value,
        };
        // A lower limit that we were started with stays: it cannot be raised anyway.
        let ceiling = rustix::process::getrlimit(resource)
            .maximum
            .map_or(value, |maximum| maximum.min(value));
        setrlimit(
            resource,
            Rlimit {
                current: Some(ceiling),
                maximum: Some(ceiling),
            },
        )?;
        let found = rustix::process::getrlimit(resource);
        if (found.current, found.maximum) != (Some(ceiling), Some(ceiling)) {
            return Err(io::Error::other(format!(
                "the limit {resource:?} is {found:?}, not {ceiling}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_a_workload_has_under_way_leave_room_for_those_of_an_init() {
        assert_eq!(open_files_below(None), 1024);
        assert_eq!(open_files_below(Some(1 << 20)), 1024);
        assert_eq!(open_files_below(Some(1280)), 1024);
        for hard in [256, 512, 1024, 1279, 4096] {
            assert!(open_files_below(Some(hard)) + 254 <= hard, "{hard}");
        }
        assert_eq!(open_files_below(Some(1024)), 768);
    }
}
