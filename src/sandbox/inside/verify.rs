//! Reads back what was promised, from inside and after every restriction: a promise that is not seen is not kept.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{statvfs, StatVfsMountFlags};
use rustix::process::{dumpable_behavior, DumpableBehavior};
use rustix::thread::capabilities_secure_bits;

use super::super::mount_plan::DEVICES;
use super::super::orders::RoomOrders;
use super::listeners;
use super::mounts::LINKS;
use super::restrict::{Landlocked, SECUREBITS};
use crate::policy::{Level, NetworkMode, Promise};

/// What was found, and why what is missing is missing.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Every promise.
    pub levels: BTreeMap<Promise, Level>,
    /// The reason of each that is not enforced.
    pub reasons: BTreeMap<Promise, String>,
}

impl Findings {
    fn hold(&mut self, promise: Promise, found: Result<(), String>) {
        let level = match found {
            Ok(()) => Level::Enforced,
            Err(reason) => {
                self.reasons.insert(promise, reason);
                Level::Absent
            }
        };
        self.levels.insert(promise, level);
    }

    /// Says that what was found is there, and its limit only watched.
    fn lower_to_watched(&mut self, promise: Promise, reason: &str) {
        if let Some(level) = self.levels.get_mut(&promise).filter(|level| **level == Level::Enforced) {
            *level = Level::Watched;
            self.reasons.insert(promise, reason.to_owned());
        }
    }

    /// Lost promises that `allowed` does not except. An `/output` that is watched was asked for.
    pub(super) fn lost(&self, allowed: &[Promise]) -> Vec<(Promise, String)> {
        let is_asked_for = |promise: Promise, level: Level| promise == Promise::Output && level == Level::Watched;
        let not_enforced = self.levels.iter().filter(|(promise, level)| {
            **level != Level::Enforced && !allowed.contains(promise) && !is_asked_for(**promise, **level)
        });
        not_enforced
            .map(|(promise, _)| (*promise, self.reasons.get(promise).cloned().unwrap_or_default()))
            .collect()
    }
}

/// The place that is looked at, from behind every restriction.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// What was ordered.
    pub room: &'a RoomOrders,
    /// Whether there is an `/input`.
    pub has_input: bool,
    /// What Landlock came to.
    pub landlocked: &'a Landlocked,
    /// Those of the egress.
    pub listeners: &'a [OwnedFd],
}

/// Finds a promise kept, or says what it found instead.
type Check = fn(&Place<'_>, &Status) -> Result<(), String>;

/// How each promise is read back that can be seen from inside; the others are [given](RoomOrders::given).
const CHECKS: [(Promise, Check); 10] = [
    (Promise::User, |_, status| user(status)),
    (Promise::Capabilities, |_, status| capabilities(status)),
    (Promise::NoNewPrivs, |_, status| {
        is_so(status.get("NoNewPrivs") == "1", || "the kernel says no".to_owned())
    }),
    (Promise::Seccomp, |_, status| {
        let mode = status.get("Seccomp");
        is_so(mode == "2", || format!("mode is {mode:?}"))
    }),
    (Promise::Landlock, |place, _| {
        place.landlocked.clone()?;
        is_so(landlock_holds(), || "a write it forbids went through".to_owned())
    }),
    (Promise::ReadOnlyRoot, |place, _| read_only_root(place)),
    (Promise::Tmp, |place, _| {
        writable("/tmp", tmp_flags(place.room), place.room.tmp_bytes)?;
        writable("/dev/shm", LOCKED, place.room.shm_bytes)
    }),
    (Promise::Output, |place, _| output(place)),
    (Promise::Network, |place, _| network(place)),
    (Promise::Leaks, |place, _| leaks(place)),
];

/// What every writable mount has, but `/tmp` of a package that is built.
const LOCKED: StatVfsMountFlags = StatVfsMountFlags::NOSUID
    .union(StatVfsMountFlags::NODEV)
    .union(StatVfsMountFlags::NOEXEC);

impl Place<'_> {
    /// Looks at every promise.
    pub(super) fn find(&self) -> Findings {
        let mut findings = Findings::default();
        for (promise, (level, reason)) in &self.room.given {
            findings.levels.insert(*promise, *level);
            findings.reasons.insert(*promise, reason.clone());
        }
        let status = Status::read();
        for (promise, check) in CHECKS {
            findings.hold(promise, check(self, &status));
        }
        if self.room.output_directory.is_some() {
            findings.lower_to_watched(
                Promise::Output,
                "it is on disk, where gantry looks at it from time to time",
            );
        }
        findings
    }
}

fn is_so(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(otherwise())
    }
}

fn user(status: &Status) -> Result<(), String> {
    let map = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let one_id = |text: &str| {
        let fields: Vec<&str> = text.split_whitespace().collect();
        matches!(fields.as_slice(), ["1000", _, "1"])
    };
    let (uids, gids) = (map("uid_map"), map("gid_map"));
    let (uid, gid) = (status.get("Uid"), status.get("Gid"));
    let ids = uid == "1000\t1000\t1000\t1000" && gid == "1000\t1000\t1000\t1000";
    is_so(ids && one_id(&uids) && one_id(&gids), || {
        format!("ids are {uid} and {gid}, maps {uids:?} and {gids:?}")
    })
}

fn capabilities(status: &Status) -> Result<(), String> {
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| status.get(set));
    let is_empty = |set: &&str| !set.is_empty() && set.bytes().all(|digit| digit == b'0');
    let bits = capabilities_secure_bits();
    let secured = bits.is_ok_and(|bits| bits.contains(SECUREBITS));
    is_so(sets.iter().all(is_empty) && secured, || {
        format!("sets are {sets:?}, securebits {bits:?}")
    })
}

fn read_only_root(place: &Place<'_>) -> Result<(), String> {
    let flags = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID;
    is_so(has_flags("/", flags), || "the root is not mounted read-only".to_owned())?;
    let input = !place.has_input || has_flags("/input", LOCKED | StatVfsMountFlags::RDONLY);
    is_so(input, || "/input is not mounted read-only".to_owned())?;
    // The names that are shown below /proc are ours, and there are no others.
    let mut files = place.room.machine.iter().map(|file| format!("/{}", file.path));
    let foreign = files.find(|path| !has_flags(path, LOCKED | StatVfsMountFlags::RDONLY));
    is_so(foreign.is_none(), || {
        format!("{foreign:?} is not a file of the run's own")
    })?;
    dev()?;
    let hidden = rustix::fs::access("/proc/sys", rustix::fs::Access::EXISTS) == Err(rustix::io::Errno::NOENT);
    is_so(hidden, || "/proc shows more than processes".to_owned())
}

/// What is in `/dev`, and that none of it can be changed: its nodes are the host's.
fn dev() -> Result<(), String> {
    let read_only = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC | StatVfsMountFlags::RDONLY;
    let nodes = DEVICES.iter().map(|device| format!("/dev/{device}"));
    let open = std::iter::once("/dev".to_owned())
        .chain(nodes)
        .find(|path| !has_flags(path, read_only));
    is_so(open.is_none(), || format!("{open:?} is not mounted read-only"))?;
    let entries = fs::read_dir("/dev").map_err(|error| format!("list /dev: {error}"))?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort_unstable();
    let mut known: Vec<&str> = DEVICES
        .into_iter()
        .chain(LINKS.map(|(name, _)| name))
        .chain(["shm"])
        .collect();
    known.sort_unstable();
    is_so(names == known, || format!("/dev has {names:?}"))
}

fn tmp_flags(room: &RoomOrders) -> StatVfsMountFlags {
    if room.purpose.may_execute_tmp() {
        StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV
    } else {
        LOCKED
    }
}

fn writable(path: &str, flags: StatVfsMountFlags, bytes: u64) -> Result<(), String> {
    is_so(has_flags(path, flags) && is_limited(path, bytes), || {
        format!("{path} has other flags or another size")
    })
}

fn output(place: &Place<'_>) -> Result<(), String> {
    if place.room.output_directory.is_none() {
        return writable("/output", LOCKED, place.room.output_bytes);
    }
    is_so(has_flags("/output", LOCKED), || "/output has other flags".to_owned())
}

fn network(place: &Place<'_>) -> Result<(), String> {
    let interfaces = interfaces();
    is_so(interfaces == ["lo"], || format!("interfaces are {interfaces:?}"))?;
    match place.room.network {
        NetworkMode::None => Ok(()),
        NetworkMode::Loopback => listeners::verify_loopback(),
        NetworkMode::Egress => listeners::verify(&place.room.egress, place.listeners),
    }
}

fn leaks(place: &Place<'_>) -> Result<(), String> {
    let descriptors = fs::read_dir("/proc/self/fd").map_or(usize::MAX, Iterator::count);
    // Standard streams, the control socket and the descriptor that lists; and the listeners of the egress.
    let most = 5 + place.listeners.len();
    let variables = std::env::vars_os().count();
    // The workload has our uid: only this keeps our memory and descriptors from it.
    let closed = dumpable_behavior().is_ok_and(|dumpable| dumpable == DumpableBehavior::NotDumpable);
    is_so(descriptors <= most && variables == 0 && closed, || {
        format!(
            "{descriptors} descriptors are open, {variables} variables of the environment are left, closed is {closed}"
        )
    })
}

/// `/proc/self/status`.
struct Status(String);

impl Status {
    fn read() -> Self {
        Self(fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn get(&self, key: &str) -> &str {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    }
}

fn has_flags(path: &str, flags: StatVfsMountFlags) -> bool {
    statvfs(path).is_ok_and(|found| found.f_flag.contains(flags))
}

/// tmpfs rounds up to pages.
fn is_limited(path: &str, bytes: u64) -> bool {
    statvfs(path).is_ok_and(|found| {
        found.f_blocks.saturating_mul(found.f_frsize) <= bytes.next_multiple_of(1 << 16) && found.f_files > 0
    })
}

/// `/proc` is mounted writable, so only Landlock stands between us and this file of our own.
fn landlock_holds() -> bool {
    let opened = fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj");
    opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

fn interfaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_is_looked_at_from_inside_or_given_from_outside() {
        let mut promises: Vec<Promise> = CHECKS.iter().map(|(promise, _)| *promise).collect();
        promises.extend([
            Promise::Memory,
            Promise::Cpu,
            Promise::Processes,
            Promise::Time,
            Promise::OutputSize,
            Promise::Death,
        ]);
        promises.sort_unstable();
        assert_eq!(promises, Promise::ALL);
    }

    #[test]
    fn an_output_on_disk_is_watched_and_lost_without_its_flags() {
        let mut findings = Findings::default();
        findings.hold(Promise::Output, Ok(()));
        findings.lower_to_watched(Promise::Output, "on disk");
        assert_eq!(findings.levels[&Promise::Output], Level::Watched);
        assert_eq!(findings.lost(&[]), []);
        findings.hold(Promise::Output, Err("other flags".to_owned()));
        findings.lower_to_watched(Promise::Output, "on disk");
        assert_eq!(findings.lost(&[]), [(Promise::Output, "other flags".to_owned())]);
    }

    #[test]
    fn a_promise_that_is_not_seen_is_lost_unless_it_is_excepted() {
        let mut findings = Findings::default();
        findings.hold(Promise::User, Ok(()));
        findings.hold(Promise::Tmp, Err("it is not there".to_owned()));
        assert_eq!(findings.lost(&[]), [(Promise::Tmp, "it is not there".to_owned())]);
        assert_eq!(findings.lost(&[Promise::Tmp]), []);
    }
}
