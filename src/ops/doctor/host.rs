//! What the host itself brings: settings that make the sandbox possible, and known-bad ones that it has to make up for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::net::{socket, AddressFamily, SocketType};
use serde::Serialize;

use crate::sys::kernel;

/// The lowest Landlock that a run accepts; see `sandbox::restrict`.
const LANDLOCK_FLOOR: u32 = 6;

/// One thing about the host.
#[derive(Debug, Clone, Serialize)]
pub struct Observation {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub fine: bool,
    /// What was seen.
    pub evidence: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<&'static str>,
}

/// Everything about the host; `store` is the store's root.
pub(super) fn observe(store: &Path) -> Vec<Observation> {
    let mut all = vec![landlock(), root(), owner(store)];
    all.extend(
        settings()
            .into_iter()
            .filter_map(|setting| setting.observe(Path::new("/proc/sys"))),
    );
    all.extend(alg());
    all
}

fn landlock() -> Observation {
    let version = kernel::landlock_abi();
    let fine = version.is_some_and(|version| version >= LANDLOCK_FLOOR);
    Observation {
        name: "landlock",
        fine,
        evidence: match version {
            Some(version) => format!("the kernel offers ABI {version}, a run wants {LANDLOCK_FLOOR} or more"),
            None => "the kernel has no Landlock, or it is not enabled".to_owned(),
        },
        fix: (!fine).then_some("boot Linux 6.12 or newer with lsm=landlock,..."),
    }
}

fn root() -> Observation {
    let uid = rustix::process::geteuid();
    Observation {
        name: "user",
        fine: !uid.is_root(),
        evidence: format!("gantry runs as uid {}", uid.as_raw()),
        fix: uid
            .is_root()
            .then_some("run gantry as a user of its own: it needs no privilege"),
    }
}

fn owner(store: &Path) -> Observation {
    let found = fs::metadata(store);
    let mine = |found: &fs::Metadata| found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    let fine = found.as_ref().is_ok_and(mine);
    Observation {
        name: "store",
        fine,
        evidence: match found {
            Ok(found) => format!("owner {}, mode {:04o}", found.uid(), found.mode() & 0o7777),
            Err(error) => error.to_string(),
        },
        fix: (!fine)
            .then_some("whoever can write the store decides what runs: make it the user's own, mode 0755 or less"),
    }
}

/// A file below `/proc/sys` and what it should not say.
struct Setting {
    file: &'static str,
    is_bad: fn(&str) -> bool,
    /// Whether it is also a fault when the file is not there.
    wanted: bool,
    fix: &'static str,
}

fn settings() -> Vec<Setting> {
    vec![
        Setting {
            file: "user/max_user_namespaces",
            is_bad: |value| value == "0",
            wanted: true,
            fix: "sysctl user.max_user_namespaces=10000",
        },
        Setting {
            file: "kernel/unprivileged_userns_clone",
            is_bad: |value| value == "0",
            wanted: false,
            fix: "sysctl kernel.unprivileged_userns_clone=1",
        },
        Setting {
            file: "kernel/apparmor_restrict_unprivileged_userns",
            is_bad: |value| value != "0",
            wanted: false,
            fix: "load an AppArmor profile that lets gantry make user namespaces: examples/apparmor/gantry",
        },
        Setting {
            file: "dev/tty/legacy_tiocsti",
            is_bad: |value| value != "0",
            wanted: false,
            fix: "sysctl dev.tty.legacy_tiocsti=0 (inside, seccomp refuses terminal injection in any case)",
        },
        Setting {
            file: "kernel/io_uring_disabled",
            is_bad: |value| value == "0",
            wanted: false,
            fix: "sysctl kernel.io_uring_disabled=2 (inside, seccomp refuses io_uring in any case)",
        },
        Setting {
            file: "kernel/core_pattern",
            is_bad: |value| value.starts_with('|'),
            wanted: false,
            fix: "a program of the host reads crashes of strangers (inside, a core limit of 1 keeps it from being started): sysctl kernel.core_pattern=core",
        },
        Setting {
            file: "kernel/yama/ptrace_scope",
            is_bad: |value| value == "0",
            wanted: true,
            fix: "sysctl kernel.yama.ptrace_scope=1, where the kernel has Yama (inside, seccomp refuses ptrace in any case)",
        },
        Setting {
            file: "kernel/unprivileged_bpf_disabled",
            is_bad: |value| value == "0",
            wanted: false,
            fix: "sysctl kernel.unprivileged_bpf_disabled=2 (inside, seccomp refuses bpf in any case)",
        },
    ]
}

impl Setting {
    fn observe(&self, sysctls: &Path) -> Option<Observation> {
        let value = fs::read_to_string(sysctls.join(self.file));
        let (fine, evidence) = match value {
            Ok(value) => (!(self.is_bad)(value.trim()), value.trim().chars().take(80).collect()),
            Err(_) if self.wanted => (false, "not there".to_owned()),
            Err(_) => return None,
        };
        Some(Observation {
            name: self.file,
            fine,
            evidence,
            fix: (!fine).then_some(self.fix),
        })
    }
}

/// The family of Copy Fail (CVE-2026-31431): one sandbox could write the page cache of all.
fn alg() -> Option<Observation> {
    let family = AddressFamily::from_raw(38);
    socket(family, SocketType::SEQPACKET, None)
        .is_ok()
        .then_some(Observation {
            name: "AF_ALG",
            fine: false,
            evidence: "the kernel opens sockets of this family for everyone".to_owned(),
            fix: Some("blacklist the module af_alg (inside, seccomp refuses the family in any case)"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_settings_come_with_a_fix() {
        let sysctls = tempfile::tempdir().unwrap();
        for (file, value) in [
            ("user/max_user_namespaces", "0\n"),
            ("kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P\n"),
            ("dev/tty/legacy_tiocsti", "0\n"),
        ] {
            let path = sysctls.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        let seen: Vec<_> = settings()
            .iter()
            .filter_map(|setting| setting.observe(sysctls.path()))
            .collect();
        let fine = |name: &str| {
            seen.iter()
                .find(|seen| seen.name == name)
                .map(|seen| (seen.fine, seen.fix.is_some()))
        };
        assert_eq!(fine("user/max_user_namespaces"), Some((false, true)));
        assert_eq!(fine("kernel/core_pattern"), Some((false, true)));
        assert_eq!(fine("dev/tty/legacy_tiocsti"), Some((true, false)));
        assert_eq!(
            fine("kernel/yama/ptrace_scope"),
            Some((false, true)),
            "missing, and missed"
        );
        assert_eq!(fine("kernel/io_uring_disabled"), None, "missing, and not missed");
    }
}
