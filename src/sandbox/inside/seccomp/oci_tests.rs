//! The filter of a bundle says what the program says that gantry installs itself.

use std::collections::BTreeMap;

use super::compiler::{self, Profile, Verdict};
use super::oci::{self, OciRule};
use super::tests::{combinations, emulate_filter, BUILD_OVERLAY, LOOPBACK_OVERLAY, PROFILE};
use super::Filter;

/// What a runtime does that is given `rules`; panics where two of them disagree.
fn emulate_rules(rules: &[&OciRule], default: u32, args: [u64; 6]) -> u32 {
    let mut verdicts: Vec<u32> = rules
        .iter()
        .filter(|rule| {
            let mut matches = rule.matches.iter();
            matches.all(|found| args[usize::from(found.index)] & u64::from(found.mask) == u64::from(found.value))
        })
        .map(|rule| rule.verdict)
        .collect();
    verdicts.dedup();
    assert!(verdicts.len() < 2, "{args:x?}: {verdicts:x?}");
    verdicts.first().copied().unwrap_or(default)
}

fn assert_says(filter: Filter, (profile, verdicts): (Profile, BTreeMap<u32, Verdict>)) {
    let default = compiler::action(&profile.default).unwrap();
    let rules = oci::rules(&profile, &verdicts).unwrap();
    let mut checked = 0;
    for number in 0..profile.unknown_from {
        let of_number: Vec<&OciRule> = rules.iter().filter(|rule| rule.number == number).collect();
        let arguments = match verdicts.get(&number) {
            Some(Verdict::If { conditions, .. }) => combinations(std::slice::from_ref(conditions)),
            Some(Verdict::IfAny { alternatives, .. }) => combinations(alternatives),
            Some(Verdict::Always(_)) | None => vec![[0; 6], [u64::MAX; 6]],
        };
        for args in arguments {
            let expected = emulate_filter(filter, number, compiler::ARCHITECTURE_X86_64, args);
            assert_eq!(
                emulate_rules(&of_number, default, args),
                expected,
                "{} {args:x?}",
                compiler::name(number)
            );
            checked += 1;
        }
    }
    assert!(checked > 2500, "{checked}");
}

#[test]
fn another_runtime_is_given_the_same_filter() {
    assert_says(Filter::Default, compiler::verdicts(PROFILE).unwrap());
}

#[test]
fn with_loopback_another_runtime_is_given_the_same_filter() {
    let verdicts = compiler::overlaid_verdicts(PROFILE, LOOPBACK_OVERLAY).unwrap();
    assert_says(Filter::Loopback, verdicts);
}

#[test]
fn for_builds_another_runtime_is_given_the_same_filter() {
    let verdicts = compiler::overlaid_verdicts(PROFILE, BUILD_OVERLAY).unwrap();
    assert_says(Filter::Build, verdicts);
}

/// An argument stands in a rule once: libseccomp takes no second condition on it.
#[test]
fn a_rule_looks_at_an_argument_once() {
    for (profile, verdicts) in [
        compiler::verdicts(PROFILE).unwrap(),
        compiler::overlaid_verdicts(PROFILE, LOOPBACK_OVERLAY).unwrap(),
    ] {
        for rule in oci::rules(&profile, &verdicts).unwrap() {
            let mut indexes: Vec<u8> = rule.matches.iter().map(|found| found.index).collect();
            indexes.sort_unstable();
            indexes.dedup();
            assert_eq!(indexes.len(), rule.matches.len(), "{rule:?}");
        }
    }
}
