//! The embedded system call filters; `seccomp/*.json` are their sources and say why each rule is there.

use seccompiler::sock_filter;

use super::bundle::Purpose;

/// `seccomp/default.json`, compiled by build.rs: code, jump if true, jump if false, constant.
const DEFAULT: &[(u16, u8, u8, u32)] = &include!(concat!(env!("OUT_DIR"), "/seccomp_default.in"));

/// `seccomp/build.json`, likewise.
const BUILD: &[(u16, u8, u8, u32)] = &include!(concat!(env!("OUT_DIR"), "/seccomp_build.in"));

/// Loads the filter of `purpose` for this process and everything it starts. Sets `no_new_privs`.
pub fn install(purpose: Purpose) -> Result<(), seccompiler::Error> {
    let instructions = match purpose {
        Purpose::Function => DEFAULT,
        Purpose::Compilation | Purpose::PackageBuild => BUILD,
    };
    let program: Vec<sock_filter> = instructions
        .iter()
        .map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k })
        .collect();
    seccompiler::apply_filter(&program)
}

#[cfg(test)]
#[allow(dead_code, reason = "build.rs uses the rest")]
#[path = "../../seccomp/compiler.rs"]
mod compiler;

#[cfg(test)]
mod tests {
    use super::compiler::{self, Condition, Verdict};
    use super::{BUILD, DEFAULT};

    const PROFILE: &str = include_str!("../../seccomp/default.json");

    /// Runs the program as the kernel would; panics on an instruction it does not know.
    fn emulate(number: u32, architecture: u32, args: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            0 => number,
            4 => architecture,
            _ => {
                let (index, high) = (((offset - 16) / 8) as usize, (offset - 16) % 8 == 4);
                (args[index] >> if high { 32 } else { 0 }) as u32
            }
        };
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let (code, hit, miss, constant) = DEFAULT[at];
            at += 1;
            match code {
                0x20 => accumulator = load(constant),
                0x54 => accumulator &= constant,
                0x05 => at += constant as usize,
                0x15 => at += usize::from(if accumulator == constant { hit } else { miss }),
                0x35 => at += usize::from(if accumulator >= constant { hit } else { miss }),
                0x06 => return constant,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn holds(condition: &Condition, args: [u64; 6]) -> bool {
        let low = |index: &u8| args[usize::from(*index)] as u32;
        match condition {
            Condition::MaskedEq { index, mask, value } => low(index) & mask == *value,
            Condition::MaskedIn { index, mask, values } => values.contains(&(low(index) & mask)),
            Condition::In { index, values } => values.contains(&low(index)),
            Condition::NotIn { index, values } => !values.contains(&low(index)),
        }
    }

    /// Numbers around everything a condition mentions, with and without high bits.
    fn corners(conditions: &[Condition]) -> Vec<[u64; 6]> {
        let mut interesting = vec![0, 1, 2, 0x7fff_ffff, 0xffff_ffff];
        let mut indexes = Vec::new();
        for condition in conditions {
            let (index, values) = match condition {
                Condition::MaskedEq { index, mask, value } => (index, vec![*value, *mask, mask & mask.wrapping_neg()]),
                Condition::MaskedIn { index, values, .. }
                | Condition::In { index, values }
                | Condition::NotIn { index, values } => (index, values.clone()),
            };
            indexes.push(usize::from(*index));
            interesting.extend(values.iter().flat_map(|value| [*value, value ^ 1, value | 0o777]));
        }
        let wide = interesting.iter().flat_map(|value| {
            [
                u64::from(*value),
                u64::from(*value) | 1 << 32,
                u64::from(*value) | u64::MAX << 32,
            ]
        });
        let wide: Vec<u64> = wide.collect();
        indexes
            .iter()
            .flat_map(|index| {
                wide.iter()
                    .map(move |value| std::array::from_fn(|at| if at == *index { *value } else { 0 }))
            })
            .collect()
    }

    #[test]
    fn the_program_says_what_the_profile_says() {
        let (profile, verdicts) = compiler::verdicts(PROFILE).unwrap();
        let default = compiler::action(&profile.default).unwrap();
        let unknown = compiler::action(&profile.unknown).unwrap();
        let mut checked = 0;
        for number in 0..2000 {
            let expected = match verdicts.get(&number) {
                Some(Verdict::If {
                    conditions,
                    then,
                    otherwise,
                }) => {
                    for args in corners(conditions) {
                        let all = conditions.iter().all(|condition| holds(condition, args));
                        let expected = if all { *then } else { *otherwise };
                        assert_eq!(
                            emulate(number, compiler::ARCHITECTURE_X86_64, args),
                            expected,
                            "{number} {args:x?}"
                        );
                        checked += 1;
                    }
                    continue;
                }
                Some(Verdict::Always(action)) => *action,
                None if number >= profile.unknown_from => unknown,
                None => default,
            };
            assert_eq!(
                emulate(number, compiler::ARCHITECTURE_X86_64, [u64::MAX; 6]),
                expected,
                "{number}"
            );
            checked += 1;
        }
        assert!(checked > 2500, "{checked}");
    }

    #[test]
    fn foreign_architectures_and_x32_are_killed() {
        for number in [0, 1, 59, 400] {
            assert_eq!(emulate(number, 0x4000_0003, [0; 6]), compiler::KILL_PROCESS, "i386");
            assert_eq!(
                emulate(number | compiler::X32, compiler::ARCHITECTURE_X86_64, [0; 6]),
                compiler::KILL_PROCESS,
                "x32"
            );
        }
    }

    #[test]
    fn what_attacks_need_is_refused() {
        let refused = |name: &str, args: [u64; 6]| {
            emulate(compiler::number(name).unwrap(), compiler::ARCHITECTURE_X86_64, args) != compiler::ALLOW
        };
        for name in [
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "setns",
            "unshare",
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "keyctl",
            "add_key",
            "request_key",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "kcmp",
            "splice",
            "tee",
            "vmsplice",
            "io_uring_setup",
            "open_by_handle_at",
            "name_to_handle_at",
            "fanotify_init",
            "memfd_create",
            "memfd_secret",
            "seccomp",
            "setuid",
            "setgid",
            "setresuid",
            "setgroups",
            "capset",
            "clone3",
            "quotactl",
            "swapon",
            "syslog",
            "settimeofday",
            "iopl",
            "ioperm",
            "modify_ldt",
            "mbind",
            "move_pages",
            "setxattr",
            "sethostname",
            "acct",
            "vhangup",
            "lookup_dcookie",
        ] {
            assert!(refused(name, [0; 6]), "{name}");
        }
        for flag in [
            0x1000_0000u64,
            0x2_0000,
            0x2000_0000,
            0x4000_0000,
            0x800_0000,
            0x400_0000,
            0x200_0000,
            0x80,
        ] {
            assert!(refused("clone", [flag, 0, 0, 0, 0, 0]), "clone {flag:#x}");
        }
        for family in [2, 10, 16, 17, 38, 40, u64::MAX] {
            assert!(refused("socket", [family, 1, 0, 0, 0, 0]), "socket {family}");
        }
        assert!(
            refused("ioctl", [0, 0x5412 | 1 << 32, 0, 0, 0, 0]),
            "TIOCSTI with a high bit"
        );
        assert!(refused("chmod", [0, 0o4755, 0, 0, 0, 0]));
        assert!(!refused("chmod", [0, 0o755, 0, 0, 0, 0]));
    }

    #[test]
    fn a_build_has_the_calls_of_a_function_but_no_socket() {
        let (function_profile, function) = compiler::verdicts(PROFILE).unwrap();
        let (build_profile, build) = compiler::verdicts(include_str!("../../seccomp/build.json")).unwrap();
        assert_eq!(
            (build_profile.default, build_profile.unknown, build_profile.unknown_from),
            (
                function_profile.default,
                function_profile.unknown,
                function_profile.unknown_from
            )
        );
        let differ = |number: &u32| function.get(number) != build.get(number);
        let differing: Vec<u32> = (0..1000).filter(differ).collect();
        let closed = ["socket", "connect", "accept", "bind", "listen", "accept4"];
        assert_eq!(differing, closed.map(|name| compiler::number(name).unwrap()));
        for name in closed {
            let allowed = match build.get(&compiler::number(name).unwrap()) {
                Some(Verdict::Always(action)) => *action == compiler::ALLOW,
                Some(Verdict::If { .. }) => true,
                None => false,
            };
            assert!(!allowed, "{name}");
        }
        assert_ne!(BUILD, DEFAULT);
    }

    #[test]
    fn a_profile_with_a_mistake_does_not_compile() {
        let profile = |rule: &str| {
            format!(r#"{{"default":"errno:EPERM","unknown_from":463,"unknown":"errno:ENOSYS","rules":[{rule}]}}"#)
        };
        for rule in [
            r#"{"why":"", "action":"allow", "syscalls":["read"]}"#,
            r#"{"why":"long enough", "action":"allow", "syscalls":["no_such_call"]}"#,
            r#"{"why":"long enough", "action":"allow", "syscalls":["read", "read"]}"#,
            r#"{"why":"long enough", "action":"allows", "syscalls":["read"]}"#,
            r#"{"why":"long enough", "action":"allow", "else":"kill", "syscalls":["read"]}"#,
        ] {
            assert!(compiler::compile(&profile(rule)).is_err(), "{rule}");
        }
    }
}
