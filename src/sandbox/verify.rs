//! Reads back what was promised, from inside and after every restriction: a promise that is not seen is not kept.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{statvfs, StatVfsMountFlags};
use rustix::process::{dumpable_behavior, DumpableBehavior};
use rustix::thread::capabilities_secure_bits;

use super::egress;
use super::restrict::{Landlocked, SECUREBITS};
use super::wire::Orders;
use crate::policy::{Level, Promise};

/// What was found, and why what is missing is missing.
#[derive(Debug, Default)]
pub struct Findings {
    /// Every promise.
    pub levels: BTreeMap<Promise, Level>,
    /// The reason of each that is not enforced.
    pub reasons: BTreeMap<Promise, String>,
}

impl Findings {
    fn hold(&mut self, promise: Promise, holds: bool, reason: impl FnOnce() -> String) {
        self.levels
            .insert(promise, if holds { Level::Enforced } else { Level::Absent });
        if !holds {
            self.reasons.insert(promise, reason());
        }
    }

    /// Lost promises that `allowed` does not except.
    pub fn lost(&self, allowed: &[Promise]) -> Vec<(Promise, String)> {
        let not_enforced = self
            .levels
            .iter()
            .filter(|(promise, level)| **level != Level::Enforced && !allowed.contains(promise));
        not_enforced
            .map(|(promise, _)| (*promise, self.reasons.get(promise).cloned().unwrap_or_default()))
            .collect()
    }
}

/// Looks at every promise.
pub fn find(orders: &Orders, landlocked: &Landlocked, listeners: &[OwnedFd]) -> Findings {
    let mut findings = Findings::default();
    for (promise, (level, reason)) in &orders.given {
        findings.levels.insert(*promise, *level);
        findings.reasons.insert(*promise, reason.clone());
    }
    let status = Status::read();
    let map = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let one_id = |text: &str| {
        let fields: Vec<&str> = text.split_whitespace().collect();
        matches!(fields.as_slice(), ["1000", _, "1"])
    };
    let (uids, gids) = (map("uid_map"), map("gid_map"));
    let ids = status.get("Uid") == "1000\t1000\t1000\t1000" && status.get("Gid") == "1000\t1000\t1000\t1000";
    findings.hold(Promise::User, ids && one_id(&uids) && one_id(&gids), || {
        format!(
            "ids are {} and {}, maps {uids:?} and {gids:?}",
            status.get("Uid"),
            status.get("Gid")
        )
    });
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let no_capability = sets
        .iter()
        .all(|set| status.get(set).bytes().all(|digit| digit == b'0') && !status.get(set).is_empty());
    let secured = capabilities_secure_bits().is_ok_and(|bits| bits.contains(SECUREBITS));
    findings.hold(Promise::Capabilities, no_capability && secured, || {
        let bits = capabilities_secure_bits();
        format!("sets are {:?}, securebits {bits:?}", sets.map(|set| status.get(set)))
    });
    findings.hold(Promise::NoNewPrivs, status.get("NoNewPrivs") == "1", || {
        "the kernel says no".to_owned()
    });
    findings.hold(Promise::Seccomp, status.get("Seccomp") == "2", || {
        format!("mode is {:?}", status.get("Seccomp"))
    });
    findings.hold(Promise::Landlock, landlocked.is_ok() && landlock_holds(), || {
        landlocked
            .as_ref()
            .err()
            .cloned()
            .unwrap_or_else(|| "a write it forbids went through".to_owned())
    });
    findings.hold(
        Promise::ReadOnlyRoot,
        has_flags("/", StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID),
        || "the root is not mounted read-only".to_owned(),
    );
    let locked = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
    let tmp_flags = if orders.purpose.may_execute_tmp() {
        StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV
    } else {
        locked
    };
    for (promise, path, flags, bytes) in [
        (Promise::Tmp, "/tmp", tmp_flags, orders.tmp_bytes),
        (Promise::Output, "/output", locked, orders.output_bytes),
    ] {
        let holds = has_flags(path, flags) && is_limited(path, bytes);
        findings.hold(promise, holds, || format!("{path} has other flags or another size"));
    }
    if orders.input.is_some() && !has_flags("/input", locked | StatVfsMountFlags::RDONLY) {
        findings.hold(Promise::ReadOnlyRoot, false, || {
            "/input is not mounted read-only".to_owned()
        });
    }
    let interfaces = interfaces();
    findings.hold(Promise::Network, interfaces == ["lo"], || {
        format!("interfaces are {interfaces:?}")
    });
    if !orders.egress.is_empty() {
        if let Err(reason) = egress::verify(&orders.egress, listeners) {
            findings.hold(Promise::Network, false, || reason);
        }
    }
    let descriptors = fs::read_dir("/proc/self/fd").map_or(usize::MAX, Iterator::count);
    // Standard streams, the control socket, /output and the descriptor that lists; and the listeners of the egress.
    let variables = std::env::vars_os().count();
    // The workload has our uid: only this keeps our memory and descriptors from it.
    let closed = dumpable_behavior().is_ok_and(|dumpable| dumpable == DumpableBehavior::NotDumpable);
    findings.hold(
        Promise::Leaks,
        descriptors <= 6 + listeners.len() && variables == 0 && closed,
        || {
            format!(
            "{descriptors} descriptors are open, {variables} variables of the environment are left, closed is {closed}"
        )
        },
    );
    findings
}

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
