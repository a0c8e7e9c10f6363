use std::collections::BTreeMap;

use super::compiler::{self, Condition, Verdict};
use super::{program_of, Filter};

pub(super) const PROFILE: &str = include_str!("../../../../seccomp/default.json");
const OVERLAY: &str = include_str!("../../../../seccomp/egress.json");
pub(super) const LOOPBACK_OVERLAY: &str = include_str!("../../../../seccomp/loopback.json");
pub(super) const BUILD_OVERLAY: &str = include_str!("../../../../seccomp/build.json");

fn emulate(number: u32, architecture: u32, args: [u64; 6]) -> u32 {
    emulate_filter(Filter::Default, number, architecture, args)
}

/// Runs the program as the kernel would; panics on an instruction it does not know.
pub(super) fn emulate_filter(filter: Filter, number: u32, architecture: u32, args: [u64; 6]) -> u32 {
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
        let (code, hit, miss, constant) = program_of(filter)[at];
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
        let bits = |mask: u32| (0..32).map(|bit| 1u32 << bit).filter(move |bit| mask & bit != 0);
        let (index, values) = match condition {
            Condition::MaskedEq { index, mask, value } => {
                (index, [*value, *mask].into_iter().chain(bits(*mask)).collect())
            }
            Condition::MaskedIn { index, mask, values } => (index, values.iter().copied().chain(bits(*mask)).collect()),
            Condition::In { index, values } | Condition::NotIn { index, values } => (index, values.clone()),
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
    assert_says(Filter::Default, compiler::verdicts(PROFILE).unwrap());
}

#[test]
fn the_program_for_loopback_says_what_the_profile_and_its_overlay_say() {
    let verdicts = compiler::overlaid_verdicts(PROFILE, LOOPBACK_OVERLAY).unwrap();
    assert_says(Filter::Loopback, verdicts);
}

#[test]
fn the_program_for_egress_says_what_the_profile_and_its_overlay_say() {
    assert_says(Filter::Egress, compiler::overlaid_verdicts(PROFILE, OVERLAY).unwrap());
}

/// Arguments that differ from one another in one condition at a time, for every combination of alternatives.
pub(super) fn combinations(alternatives: &[Vec<Condition>]) -> Vec<[u64; 6]> {
    let all: Vec<Condition> = alternatives.concat();
    let mut found = corners(&all);
    for base in corners(&all) {
        found.extend(
            corners(&all)
                .into_iter()
                .map(|other| std::array::from_fn(|at| if other[at] == 0 { base[at] } else { other[at] })),
        );
    }
    found
}

fn assert_says(filter: Filter, (profile, verdicts): (compiler::Profile, BTreeMap<u32, Verdict>)) {
    let emulate = |number, architecture, args| emulate_filter(filter, number, architecture, args);
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
            Some(Verdict::IfAny {
                alternatives,
                then,
                otherwise,
            }) => {
                for args in combinations(alternatives) {
                    let all = |conditions: &Vec<Condition>| conditions.iter().all(|condition| holds(condition, args));
                    let expected = if alternatives.iter().any(all) {
                        *then
                    } else {
                        *otherwise
                    };
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

/// Numbers of the golden table: some way past the youngest there is.
const GOLDEN_NUMBERS: std::ops::RangeInclusive<u32> = 0..=600;

/// The verdict for every number: `NUMBER NAME VERDICT` whatever the arguments, or one line per verdict with the
/// values of the one argument that decides, `NUMBER NAME VERDICT argN VALUE...`, the other arguments being 0; where
/// several decide together, one line per verdict with the values of the first three, `NUMBER NAME VERDICT args A,B,C...`.
fn golden(filter: Filter, verdicts: &BTreeMap<u32, Verdict>) -> String {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    let mut table = String::from(
        "# Generated by `GANTRY_WRITE_GOLDEN=1 cargo test --lib golden`; see src/sandbox/inside/seccomp.rs. Review every change.\n",
    );
    for number in GOLDEN_NUMBERS {
        if let Some(Verdict::IfAny { alternatives, .. }) = verdicts.get(&number) {
            let mut lines: BTreeMap<&str, BTreeSet<[u64; 3]>> = BTreeMap::new();
            for [a, b, c] in tuples(alternatives) {
                let args = [a, b, c, 0, 0, 0];
                let answer = emulate_filter(filter, number, compiler::ARCHITECTURE_X86_64, args);
                lines.entry(name_of(answer)).or_default().insert([a, b, c]);
            }
            for (answer, tuples) in lines {
                write!(table, "{number} {} {answer} args", compiler::name(number)).unwrap();
                for [a, b, c] in tuples {
                    write!(table, " {a:#x},{b:#x},{c:#x}").unwrap();
                }
                table.push('\n');
            }
            continue;
        }
        let conditions = match verdicts.get(&number) {
            Some(Verdict::If { conditions, .. }) => conditions.as_slice(),
            _ => &[],
        };
        let fixed = [[0; 6], [u64::MAX; 6], [0x5555_5555_aaaa_aaaa; 6]];
        let answers = fixed.into_iter().chain(corners(conditions)).map(|args| {
            let index = args.iter().position(|value| *value != 0);
            let answer = name_of(emulate_filter(filter, number, compiler::ARCHITECTURE_X86_64, args));
            (answer, index, args)
        });
        let answers: Vec<_> = answers.collect();
        let kinds: BTreeSet<&str> = answers.iter().map(|(answer, ..)| *answer).collect();
        let name = compiler::name(number);
        if kinds.len() == 1 {
            writeln!(table, "{number} {name} {}", kinds.first().unwrap()).unwrap();
            continue;
        }
        let mut lines: BTreeMap<(&str, usize), BTreeSet<u64>> = BTreeMap::new();
        for (answer, index, args) in answers.into_iter().skip(fixed.len()) {
            let index = index.or(conditions.first().map(|condition| usize::from(condition.index())));
            let index = index.unwrap();
            lines.entry((answer, index)).or_default().insert(args[index]);
        }
        for ((answer, index), values) in lines {
            write!(table, "{number} {name} {answer} arg{index}").unwrap();
            for value in values {
                write!(table, " {value:#x}").unwrap();
            }
            table.push('\n');
        }
    }
    table
}

/// Every combination of the values that the alternatives name, and of some that they do not.
fn tuples(alternatives: &[Vec<Condition>]) -> Vec<[u64; 3]> {
    let of = |index: u8| {
        let mut values = std::collections::BTreeSet::from([0u64]);
        for condition in alternatives
            .concat()
            .iter()
            .filter(|condition| condition.index() == index)
        {
            let (named, mask) = match condition {
                Condition::MaskedEq { mask, value, .. } => (vec![*value], *mask),
                Condition::MaskedIn { mask, values, .. } => (values.clone(), *mask),
                Condition::In { values, .. } | Condition::NotIn { values, .. } => (values.clone(), u32::MAX),
            };
            for value in named {
                values.extend([value, value ^ 1, value ^ 3, value | !mask].map(u64::from));
                values.insert(u64::from(value) | 1 << 32);
            }
        }
        values
    };
    let (first, second, third) = (of(0), of(1), of(2));
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| third.iter().map(move |c| [a, b, *c])).collect()
}

#[test]
fn the_programs_are_short() {
    // Each instruction is 0.4 µs of every start.
    for (filter, most) in [
        (Filter::Default, 230),
        (Filter::Loopback, 260),
        (Filter::Egress, 240),
        (Filter::Build, 240),
    ] {
        let length = program_of(filter).len();
        assert!(length <= most, "{filter:?} has {length} instructions");
    }
}

fn name_of(action: u32) -> &'static str {
    let errnos = [
        "errno:EPERM",
        "errno:EINVAL",
        "errno:ENOTTY",
        "errno:ENOSYS",
        "errno:EOPNOTSUPP",
        "errno:EAFNOSUPPORT",
    ];
    ["allow", "kill", "success"]
        .into_iter()
        .chain(errnos)
        .find(|name| compiler::action(name) == Ok(action))
        .map(|name| name.trim_start_matches("errno:"))
        .unwrap()
}

/// The table is reviewed as text; `attacks::profile` asks the real kernel each of its refusals.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "how to regenerate is asked in the environment, as usual for golden files"
)]
fn the_golden_tables_are_what_the_programs_say() {
    let (_, default) = compiler::verdicts(PROFILE).unwrap();
    let (_, egress) = compiler::overlaid_verdicts(PROFILE, OVERLAY).unwrap();
    let (_, loopback) = compiler::overlaid_verdicts(PROFILE, LOOPBACK_OVERLAY).unwrap();
    let (_, build) = compiler::overlaid_verdicts(PROFILE, BUILD_OVERLAY).unwrap();
    for (name, filter, verdicts) in [
        ("default", Filter::Default, default),
        ("loopback", Filter::Loopback, loopback),
        ("egress", Filter::Egress, egress),
        ("build", Filter::Build, build),
    ] {
        let path = format!("{}/tests/golden/seccomp-{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let now = golden(filter, &verdicts);
        if std::env::var_os("GANTRY_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let before = std::fs::read_to_string(path).unwrap();
        for (now, before) in now.lines().zip(before.lines()) {
            assert_eq!(now, before, "{name}");
        }
        assert_eq!(now.len(), before.len(), "{name}");
    }
}

#[test]
fn foreign_architectures_and_x32_are_killed() {
    for filter in [Filter::Default, Filter::Loopback, Filter::Egress, Filter::Build] {
        let emulate = |number, architecture| emulate_filter(filter, number, architecture, [0; 6]);
        for number in [0, 1, 59, 400] {
            assert_eq!(emulate(number, 0x4000_0003), compiler::KILL_PROCESS, "i386");
            let x32 = emulate(number | compiler::X32, compiler::ARCHITECTURE_X86_64);
            assert_eq!(x32, compiler::KILL_PROCESS, "x32");
        }
    }
}

#[test]
fn what_attacks_need_is_refused() {
    let refused = |name: &str, args: [u64; 6]| {
        emulate(compiler::number(name).unwrap(), compiler::ARCHITECTURE_X86_64, args) != compiler::ALLOW
    };
    let names = "mount umount2 pivot_root chroot setns unshare bpf perf_event_open userfaultfd keyctl add_key \
        request_key ptrace process_vm_readv process_vm_writev kcmp splice tee vmsplice io_uring_setup \
        open_by_handle_at name_to_handle_at fanotify_init memfd_create memfd_secret seccomp setuid setgid \
        setresuid setgroups shmget semget msgget mq_open clone3 quotactl swapon syslog settimeofday iopl ioperm modify_ldt mbind \
        move_pages setxattr sethostname acct vhangup lookup_dcookie init_module finit_module delete_module \
        kexec_load kexec_file_load reboot sendfile";
    for name in names.split(' ') {
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
    for (policy, is_refused) in [
        (0, false),
        (3, false),
        (5, false),
        (0x4000_0003, false),
        (1, true),
        (2, true),
    ] {
        assert_eq!(
            refused("sched_setscheduler", [0, policy, 0, 0, 0, 0]),
            is_refused,
            "{policy:#x}"
        );
    }
    for policy in [4, 6, 7, 0x4000_0001, 0x8000_0000, u64::MAX] {
        assert!(refused("sched_setscheduler", [0, policy, 0, 0, 0, 0]), "{policy:#x}");
    }
    for name in ["sched_setscheduler", "sched_setparam", "prlimit64"] {
        assert!(
            refused(name, [1, 0, 0, 0, 0, 0]) && refused(name, [1 | 1 << 32, 0, 0, 0, 0, 0]),
            "{name}"
        );
        assert!(!refused(name, [2, 0, 0, 0, 0, 0]), "{name}");
    }
    const NOBODY: u64 = u32::MAX as u64;
    for (name, ids) in [("setuid", 1), ("setregid", 2), ("setresuid", 3)] {
        let with = |id: u64, at: usize| std::array::from_fn(|index| if index == at { id } else { 1000 });
        assert!(!refused(name, [1000, 1000, 1000, 0, 0, 0]), "{name}");
        for at in 0..ids {
            assert!(!refused(name, with(NOBODY, at)), "{name}");
            assert!(refused(name, with(0, at)) && refused(name, with(1001, at)), "{name}");
        }
    }
}

#[test]
fn loopback_allows_tcp_and_changes_nothing_else() {
    let loopback = |name: &str, args: [u64; 3]| {
        let number = compiler::number(name).unwrap();
        let args = [args[0], args[1], args[2], 0, 0, 0];
        emulate_filter(Filter::Loopback, number, compiler::ARCHITECTURE_X86_64, args) == compiler::ALLOW
    };
    let nonblocking_cloexec = 0o2_004_000;
    for (family, kind, protocol, is_allowed) in [
        (1, 1, 0, true),
        (1, 5, 0, true),
        (2, 1, 0, true),
        (2, 1 | nonblocking_cloexec, 6, true),
        (10, 1, 0, true),
        (10, 1 | nonblocking_cloexec, 6, true),
        (2, 2, 0, false),
        (2, 3, 1, false),
        (2, 1, 132, false),
        (2, 1, 262, false),
        (10, 2, 0, false),
        (10, 3, 58, false),
        (10, 1, 262, false),
        (16, 3, 0, false),
        (17, 3, 0, false),
        (38, 5, 0, false),
        (40, 1, 0, false),
        (u64::MAX, 1, 0, false),
    ] {
        let answer = loopback("socket", [family, kind, protocol]);
        assert_eq!(answer, is_allowed, "{family} {kind:o} {protocol}");
    }
    for (level, name, is_allowed) in [
        (1, 2, true),
        (1, 15, true),
        (6, 1, true),
        (41, 26, true),
        (0, 1, true),
        (1, 26, false),
        (1, 50, false),
        (1, 51, false),
        (1, 52, false),
        (6, 31, false),
        (41, 20, false),
        (0, 35, false),
        (0, 64, false),
        (17, 1, false),
        (282, 1, false),
    ] {
        assert_eq!(loopback("setsockopt", [3, level, name]), is_allowed, "{level} {name}");
    }
    let (_, function) = compiler::verdicts(PROFILE).unwrap();
    let (_, overlaid) = compiler::overlaid_verdicts(PROFILE, LOOPBACK_OVERLAY).unwrap();
    let differing = (0..1000).filter(|number| function.get(number) != overlaid.get(number));
    let named = ["socket", "setsockopt"].map(|name| compiler::number(name).unwrap());
    assert_eq!(differing.collect::<Vec<u32>>(), named);
}

#[test]
fn egress_allows_tcp_over_ipv4_and_changes_nothing_else() {
    let egress = |name: &str, args: [u64; 6]| {
        let number = compiler::number(name).unwrap();
        emulate_filter(Filter::Egress, number, compiler::ARCHITECTURE_X86_64, args)
    };
    let (nonblocking_cloexec, unsupported) = (0o2_004_000, compiler::ERRNO | 97);
    for (family, kind, protocol) in [
        (2, 1, 0),
        (2, 1 | nonblocking_cloexec, 6),
        (1, 1, 0),
        (1, 2, 0),
        (1, 5 | nonblocking_cloexec, 0),
    ] {
        assert_eq!(
            egress("socket", [family, kind, protocol, 0, 0, 0]),
            compiler::ALLOW,
            "{family} {kind:o} {protocol}"
        );
    }
    for (family, kind, protocol) in [
        (2, 2, 0),
        (2, 2, 17),
        (2, 3, 1),
        (2, 3, 255),
        (2, 2, 1),
        (2, 1, 262),
        (2, 1, 132),
        (2, 5, 132),
        (2, 2 | nonblocking_cloexec, 0),
        (10, 1, 6),
        (10, 2, 0),
        (16, 3, 0),
        (17, 3, 0),
        (38, 5, 0),
        (40, 1, 0),
        (u64::MAX, 1, 0),
    ] {
        assert_eq!(
            egress("socket", [family, kind, protocol, 0, 0, 0]),
            unsupported,
            "{family} {kind:o} {protocol}"
        );
    }
    assert_eq!(egress("socketpair", [2, 1, 0, 0, 0, 0]), unsupported);
    assert_eq!(egress("socketpair", [1, 1, 0, 0, 0, 0]), compiler::ALLOW);
    assert_ne!(egress("setsockopt", [3, 6, 31, 0, 0, 0]), compiler::ALLOW, "TCP_ULP");
    assert_eq!(egress("setsockopt", [3, 6, 1, 0, 0, 0]), compiler::ALLOW, "TCP_NODELAY");
    assert_ne!(
        egress("setsockopt", [3, 1, 26, 0, 0, 0]),
        compiler::ALLOW,
        "SO_ATTACH_FILTER"
    );
    for (name, flags) in [("sendto", 3), ("sendmmsg", 3), ("sendmsg", 2)] {
        let with = |value: u64| std::array::from_fn(|at| if at == flags { value } else { 0 });
        assert_ne!(
            egress(name, with(0x2000_4000)),
            compiler::ALLOW,
            "{name} with MSG_FASTOPEN"
        );
        assert_eq!(egress(name, with(0x4000)), compiler::ALLOW, "{name} with MSG_NOSIGNAL");
    }
    let named: Vec<u32> = [
        "socket",
        "socketpair",
        "setsockopt",
        "sendto",
        "sendmmsg",
        "sendmsg",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
    ]
    .map(|name| compiler::number(name).unwrap())
    .to_vec();
    for number in (0..600).filter(|number| !named.contains(number)) {
        for args in [[0; 6], [u64::MAX; 6], [1, 2, 3, 4, 5, 6]] {
            assert_eq!(
                emulate_filter(Filter::Egress, number, compiler::ARCHITECTURE_X86_64, args),
                emulate(number, compiler::ARCHITECTURE_X86_64, args),
                "{number}"
            );
        }
    }
}

#[test]
fn an_overlay_with_a_mistake_does_not_compile() {
    for rule in [
        r#"{"why":"long enough", "action":"allow", "else":"kill", "any":[], "syscalls":["read"]}"#,
        r#"{"why":"long enough", "action":"allow", "else":"kill", "any":[[]], "syscalls":["read"]}"#,
        r#"{"why":"long enough", "action":"allow", "any":[[{"index":0,"op":"in","values":[1]}]], "syscalls":["read"]}"#,
        r#"{"why":"long enough", "action":"allow", "syscalls":["no_such_call"]}"#,
    ] {
        let overlay = format!(r#"{{"rules":[{rule}]}}"#);
        assert!(compiler::compile_overlaid(PROFILE, &overlay).is_err(), "{rule}");
    }
}

#[test]
fn a_build_has_the_calls_of_a_function_but_no_socket() {
    let closed =
        ["socket", "connect", "accept", "bind", "listen", "accept4"].map(|name| compiler::number(name).unwrap());
    for number in 0..1000 {
        for args in [[0; 6], [u64::MAX; 6], [1, 2, 3, 4, 5, 6], [1, 1, 0, 0, 0, 0]] {
            let of = |filter| emulate_filter(filter, number, compiler::ARCHITECTURE_X86_64, args);
            if closed.contains(&number) {
                assert_ne!(of(Filter::Build), compiler::ALLOW, "{number} {args:?}");
            } else {
                assert_eq!(of(Filter::Build), of(Filter::Default), "{number} {args:?}");
            }
        }
    }
    let (_, function) = compiler::verdicts(PROFILE).unwrap();
    let (_, build) = compiler::overlaid_verdicts(PROFILE, BUILD_OVERLAY).unwrap();
    let differing = (0..1000).filter(|number| function.get(number) != build.get(number));
    assert_eq!(differing.collect::<Vec<u32>>(), closed);
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
