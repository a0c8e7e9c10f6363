//! The seccomp profile against the real kernel: the golden table is what it answers, and no rule is there in vain.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::attacks::harness::{answers, image, Side};
use crate::attacks::rows::GROUPS;
use crate::common::shared;

#[allow(dead_code, reason = "build.rs uses the rest")]
#[path = "../../../seccomp/compiler.rs"]
mod compiler;

use compiler::{Verdict, ALLOW, ERRNO, KILL_PROCESS};

/// Numbers that Linux answers before any filter is asked (since 6.11 and 6.18): uretprobe and uprobe, which the kernel's own
/// trampolines call. From anywhere else they are SIGILL and ENXIO, and older kernels do not know them.
const UNFILTERED: [(&str, [&str; 3]); 2] = [
    ("335", ["EPERM", "ENOSYS", "SIGILL"]),
    ("336", ["EPERM", "ENOSYS", "ENXIO"]),
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every refusal of the golden table as a call: the expected answer, then number and arguments.
///
/// `src/sandbox/inside/seccomp.rs` writes the table and describes it. Arguments that are not named are 0.
fn refused_calls() -> Vec<(String, String)> {
    let mut calls = Vec::new();
    for line in read("tests/golden/seccomp-default.txt").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (number, verdict) = match words.as_slice() {
            [number, _, verdict, ..] if *verdict != "allow" && !line.starts_with('#') => (*number, *verdict),
            _ => continue,
        };
        let verdict = match verdict {
            "kill" => "SIGSYS",
            "success" => "ok",
            errno => errno,
        };
        let mut add =
            |arguments: [&str; 6]| calls.push((verdict.to_owned(), format!("{number} {}", arguments.join(" "))));
        match words.get(3) {
            None => add(["0"; 6]),
            Some(index) => {
                let index: usize = index.trim_start_matches("arg").parse().unwrap();
                for value in words.iter().copied().skip(4) {
                    let mut arguments = ["0"; 6];
                    arguments[index] = value;
                    add(arguments);
                }
            }
        }
    }
    calls
}

/// The calls alone, one a line: a file of the attack image.
pub fn refusals() -> String {
    refused_calls().into_iter().map(|(_, call)| call + "\n").collect()
}

#[test]
fn the_kernel_refuses_what_the_golden_table_refuses() {
    let expected: Vec<String> = refused_calls()
        .into_iter()
        .map(|(verdict, call)| format!("{call} {verdict}"))
        .collect();
    assert!(expected.len() > 400, "{}", expected.len());
    let done = shared().run(&[image(), "--", "scene", "refusals"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let wrong: Vec<_> = done
        .stdout
        .lines()
        .zip(&expected)
        .filter(|(got, expected)| got != expected && !is_unfiltered(got))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(done.stdout.lines().count(), expected.len());
}

/// Whether `answer` is one of the kernel's own to a number that it does not filter.
fn is_unfiltered(answer: &str) -> bool {
    let words: Vec<&str> = answer.split(' ').collect();
    let known = UNFILTERED.iter().find(|(number, _)| words.first() == Some(number));
    known.is_some_and(|(_, answers)| words.last().is_some_and(|word| answers.contains(word)))
}

#[test]
fn everything_the_profile_allows_works_inside_as_outside() {
    for side in [Side::Sandbox, Side::Host] {
        let answers = answers("allowed", side);
        let wrong: Vec<_> = answers.iter().filter(|(_, answer)| answer.got != "ok").collect();
        assert!(wrong.is_empty(), "{side:?}: {wrong:?}");
    }
}

/// Every system call of every rule was met: by an honest use if the rule lets it through, by an attack that was answered
/// with the rule's own errno if it refuses it, by both if it depends on the arguments. Taking a name out of a rule
/// therefore fails a test, and a name that can be taken out is found here.
#[test]
fn every_rule_of_the_profile_is_needed_by_a_test() {
    let used: BTreeSet<String> = answers("allowed", Side::Sandbox).keys().cloned().collect();
    let mut refused = BTreeSet::new();
    let mut killed = BTreeSet::new();
    for (group, rows) in GROUPS {
        let answers = answers(group, Side::Sandbox);
        refused.extend(answers.values().flat_map(|answer| answer.calls.clone()));
        killed.extend(rows.iter().filter(|row| row.inside == "SIGSYS").map(|row| row.name));
    }
    let (_, verdicts) = compiler::verdicts(&read("seccomp/default.json")).unwrap();
    let met = |number: u32, action: u32| match action {
        // ERRNO alone is success.
        ALLOW | ERRNO => used.contains(&number.to_string()),
        // Who is killed cannot tell; the attack bears the name of its call.
        KILL_PROCESS => killed.iter().any(|name| compiler::number(name) == Ok(number)),
        errno => refused.contains(&(number, -i64::from(errno & !ERRNO))),
    };
    let idle: Vec<u32> = verdicts
        .iter()
        .filter(|(number, verdict)| match verdict {
            Verdict::Always(action) => !met(**number, *action),
            Verdict::If { then, otherwise, .. } | Verdict::IfAny { then, otherwise, .. } => {
                !met(**number, *then) || !met(**number, *otherwise)
            }
        })
        .map(|(number, _)| *number)
        .collect();
    let names: Vec<_> = idle.iter().map(|number| compiler::name(*number)).collect();
    assert!(idle.is_empty(), "no test needs the rules for {idle:?}: {names:?}");
    let named: BTreeSet<String> = verdicts.keys().map(u32::to_string).collect();
    assert!(
        used.is_subset(&named),
        "uses of calls that no rule names: {:?}",
        used.difference(&named)
    );
}
