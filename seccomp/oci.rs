// Writes a profile of this folder as the `linux.seccomp` of an OCI runtime specification, for runtimes that are given a
// bundle. Included by build.rs, which embeds the result, and by the tests of `sandbox::seccomp`, which hold it against
// the profile.
//
// libseccomp, which those runtimes use, knows `argument & mask == value` (SCMP_CMP_MASKED_EQ), takes the conditions of a rule
// together, allows one for each argument, and takes the rules of a call one for all. Everything else is made of that: a set of
// values is one rule for each, and what is outside a set of 32-bit values is a tree of prefixes, at most 32 for each value. So
// both sides of a condition are exact, high halves of the registers included, which the kernel does not look at either.
//
// What cannot be said: a verdict for numbers that are younger than the profile (they get the default, EPERM instead of
// ENOSYS).

use std::collections::BTreeMap;

use super::compiler::{action, name, Condition, Profile, Verdict, ALLOW, ERRNO};

/// `argument[index] & mask == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match {
    pub index: u8,
    pub mask: u32,
    pub value: u32,
}

/// Calls that get one return value where all matches hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OciRule {
    pub number: u32,
    pub verdict: u32,
    pub matches: Vec<Match>,
}

/// The rules of a profile whose verdicts are `verdicts`, without those that are its default.
pub(super) fn rules(profile: &Profile, verdicts: &BTreeMap<u32, Verdict>) -> Result<Vec<OciRule>, String> {
    let default = action(&profile.default)?;
    let mut rules = Vec::new();
    for (number, verdict) in verdicts {
        let mut add = |verdict: u32, alternatives: Vec<Vec<Match>>| {
            if verdict == default {
                return;
            }
            rules.extend(alternatives.into_iter().map(|matches| OciRule {
                number: *number,
                verdict,
                matches,
            }));
        };
        match verdict {
            Verdict::Always(verdict) => add(*verdict, vec![Vec::new()]),
            Verdict::If {
                conditions,
                then,
                otherwise,
            } => {
                add(*then, all_of(conditions)?);
                add(*otherwise, none_of(std::slice::from_ref(conditions))?);
            }
            Verdict::IfAny {
                alternatives,
                then,
                otherwise,
            } => {
                let matches: Vec<_> = alternatives.iter().map(|all| all_of(all)).collect::<Result<_, _>>()?;
                add(*then, matches.concat());
                if *otherwise != default {
                    add(*otherwise, none_of(alternatives)?);
                }
            }
        }
    }
    Ok(rules)
}

/// The alternatives in which every condition holds.
fn all_of(conditions: &[Condition]) -> Result<Vec<Vec<Match>>, String> {
    let mut alternatives = vec![Vec::new()];
    for condition in conditions {
        alternatives = product(&alternatives, &holding(condition))?;
    }
    Ok(alternatives)
}

/// The alternatives in which none of `groups` holds as a whole.
fn none_of(groups: &[Vec<Condition>]) -> Result<Vec<Vec<Match>>, String> {
    let mut alternatives = vec![Vec::new()];
    for conditions in groups {
        // The first does not hold; or it does, and the second does not; and so on.
        let mut missing = Vec::new();
        let mut before = vec![Vec::new()];
        for condition in conditions {
            missing.extend(product(&before, &missed(condition))?);
            before = product(&before, &holding(condition))?;
        }
        alternatives = product(&alternatives, &missing)?;
    }
    Ok(alternatives)
}

/// What is in one of `some` and in one of `others`.
fn product(some: &[Vec<Match>], others: &[Vec<Match>]) -> Result<Vec<Vec<Match>>, String> {
    let mut both = Vec::new();
    for (one, other) in some.iter().flat_map(|one| others.iter().map(move |other| (one, other))) {
        both.extend(joined(one, other));
    }
    match both.len() {
        0..=4096 => Ok(both),
        many => Err(format!("{many} alternatives are more than a runtime should be given")),
    }
}

/// Both together, an argument once; nothing where they contradict each other.
fn joined(one: &[Match], other: &[Match]) -> Option<Vec<Match>> {
    let mut all: BTreeMap<u8, Match> = BTreeMap::new();
    for next in one.iter().chain(other) {
        let known = all.entry(next.index).or_insert(*next);
        let common = known.mask & next.mask;
        if known.value & common != next.value & common {
            return None;
        }
        known.mask |= next.mask;
        known.value |= next.value;
    }
    Some(all.into_values().collect())
}

fn holding(condition: &Condition) -> Vec<Vec<Match>> {
    let index = condition.index();
    let each = |mask: u32, values: &[u32]| {
        let matches = values.iter().map(|value| {
            vec![Match {
                index,
                mask,
                value: *value,
            }]
        });
        matches.collect()
    };
    match condition {
        Condition::MaskedEq { mask, value, .. } => each(*mask, &[*value]),
        Condition::MaskedIn { mask, values, .. } => each(*mask, values),
        Condition::In { values, .. } => each(u32::MAX, values),
        Condition::NotIn { values, .. } => outside(index, u32::MAX, values),
    }
}

fn missed(condition: &Condition) -> Vec<Vec<Match>> {
    let index = condition.index();
    match condition {
        Condition::MaskedEq { mask, value, .. } => outside(index, *mask, &[*value]),
        Condition::MaskedIn { mask, values, .. } => outside(index, *mask, values),
        Condition::In { values, .. } => outside(index, u32::MAX, values),
        Condition::NotIn { values, .. } => values
            .iter()
            .map(|value| {
                vec![Match {
                    index,
                    mask: u32::MAX,
                    value: *value,
                }]
            })
            .collect(),
    }
}

/// The values under `mask` that are none of `values`, as prefixes from the highest bit of the mask.
fn outside(index: u8, mask: u32, values: &[u32]) -> Vec<Vec<Match>> {
    let mut found = Vec::new();
    let mut open = vec![(0u32, 0u32, values.to_vec())];
    while let Some((known, prefix, inside)) = open.pop() {
        if inside.is_empty() {
            found.push(vec![Match {
                index,
                mask: known,
                value: prefix,
            }]);
            continue;
        }
        let rest = mask & !known;
        if rest == 0 {
            continue;
        }
        let bit = 1 << (31 - rest.leading_zeros());
        for value in [0, bit] {
            let below = inside.iter().copied().filter(|inside| inside & bit == value).collect();
            open.push((known | bit, prefix | value, below));
        }
    }
    found.sort();
    found
}

/// The document: calls with the same verdict and matches together.
pub(super) fn document(profile: &Profile, verdicts: &BTreeMap<u32, Verdict>) -> Result<serde_json::Value, String> {
    let mut groups: BTreeMap<(u32, Vec<Match>), Vec<&str>> = BTreeMap::new();
    for rule in rules(profile, verdicts)? {
        groups
            .entry((rule.verdict, rule.matches))
            .or_default()
            .push(name(rule.number));
    }
    let mut syscalls = Vec::new();
    for ((verdict, matches), names) in groups {
        let args: Vec<_> = matches
            .iter()
            .map(|found| {
                serde_json::json!({
                    "index": found.index, "op": "SCMP_CMP_MASKED_EQ", "value": found.mask, "valueTwo": found.value,
                })
            })
            .collect();
        let mut rule = serde_json::json!({ "names": names });
        let fields = rule.as_object_mut().ok_or("a rule is an object")?;
        if verdict == ALLOW {
            fields.insert("action".to_owned(), "SCMP_ACT_ALLOW".into());
        } else {
            fields.insert("action".to_owned(), "SCMP_ACT_ERRNO".into());
            fields.insert("errnoRet".to_owned(), (verdict & !ERRNO).into());
        }
        if !args.is_empty() {
            fields.insert("args".to_owned(), args.into());
        }
        syscalls.push(rule);
    }
    Ok(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": action(&profile.default)? & !ERRNO,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": syscalls,
    }))
}
