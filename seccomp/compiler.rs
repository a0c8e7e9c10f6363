// Compiles a profile of this folder into a classic BPF program for seccomp. Included by build.rs, which embeds the
// result, and by the tests of `sandbox::seccomp`, which hold the program against the profile.
//
// The kernel runs the program once per system call number when it is installed (to fill its cache of always-allowed
// numbers), so a linear chain of comparisons costs 0.7 ms at every start. This one is a binary search over ranges of
// numbers with the same action: 0.04 ms.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One instruction: code, jump if true, jump if false, constant.
pub(super) type Instruction = (u16, u8, u8, u32);

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

pub(super) const ARCHITECTURE_X86_64: u32 = 0xC000_003E;
/// Numbers from here on are the x32 interface.
pub(super) const X32: u32 = 0x4000_0000;

pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const ERRNO: u32 = 0x0005_0000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    /// For numbers no rule names.
    pub default: String,
    /// The first number that no rule can name because it is younger than the profile.
    pub unknown_from: u32,
    /// For those.
    pub unknown: String,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub why: String,
    pub action: String,
    /// When the arguments do not match; only with `args`.
    #[serde(rename = "else")]
    pub otherwise: Option<String>,
    #[serde(default)]
    pub args: Vec<Condition>,
    /// Alternatives to `args`: enough when all conditions of one of them hold.
    #[serde(default)]
    pub any: Vec<Vec<Condition>>,
    pub syscalls: Vec<String>,
}

/// A condition on the low 32 bits of an argument: every argument named here is an `int` for the kernel.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, tag = "op", rename_all = "snake_case")]
pub(super) enum Condition {
    MaskedEq { index: u8, mask: u32, value: u32 },
    MaskedIn { index: u8, mask: u32, values: Vec<u32> },
    In { index: u8, values: Vec<u32> },
    NotIn { index: u8, values: Vec<u32> },
}

impl Condition {
    /// Which argument it looks at.
    pub(super) fn index(&self) -> u8 {
        match self {
            Self::MaskedEq { index, .. }
            | Self::MaskedIn { index, .. }
            | Self::In { index, .. }
            | Self::NotIn { index, .. } => *index,
        }
    }
}

/// A profile as what it changes in another one: its rules replace the verdicts of the numbers they name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Overlay {
    rules: Vec<Rule>,
}

/// What is done with one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Always(u32),
    If {
        conditions: Vec<Condition>,
        then: u32,
        otherwise: u32,
    },
    /// `then` when all conditions of one of the alternatives hold.
    IfAny {
        alternatives: Vec<Vec<Condition>>,
        then: u32,
        otherwise: u32,
    },
}

/// Parses and validates a profile; returns the verdict per named number, for numbers no rule names, and for unknown ones.
pub(super) fn verdicts(json: &str) -> Result<(Profile, BTreeMap<u32, Verdict>), String> {
    let profile: Profile = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let verdicts = of_rules(&profile.rules, profile.unknown_from)?;
    Ok((profile, verdicts))
}

/// The same of a profile with an overlay on top.
pub(super) fn overlaid_verdicts(json: &str, overlay: &str) -> Result<(Profile, BTreeMap<u32, Verdict>), String> {
    let (profile, mut verdicts) = verdicts(json)?;
    let overlay: Overlay = serde_json::from_str(overlay).map_err(|error| error.to_string())?;
    verdicts.extend(of_rules(&overlay.rules, profile.unknown_from)?);
    Ok((profile, verdicts))
}

fn of_rules(rules: &[Rule], unknown_from: u32) -> Result<BTreeMap<u32, Verdict>, String> {
    let mut verdicts = BTreeMap::new();
    for rule in rules {
        if rule.why.len() < 10 {
            return Err(format!("the rule for {:?} has no reason in `why`", rule.syscalls));
        }
        let then = action(&rule.action)?;
        let otherwise = rule.otherwise.as_deref().map(action).transpose()?;
        if rule.any.iter().any(Vec::is_empty) {
            return Err(format!("an alternative for {:?} has no condition", rule.syscalls));
        }
        let verdict = match (otherwise, rule.args.is_empty(), rule.any.is_empty()) {
            (None, true, true) => Verdict::Always(then),
            (Some(otherwise), false, true) => Verdict::If {
                conditions: rule.args.clone(),
                then,
                otherwise,
            },
            (Some(otherwise), true, false) => Verdict::IfAny {
                alternatives: rule.any.clone(),
                then,
                otherwise,
            },
            _ => {
                return Err(format!(
                    "the rule for {:?} needs both `args` (or `any`) and `else`, or neither",
                    rule.syscalls
                ))
            }
        };
        for name in &rule.syscalls {
            let number = number(name)?;
            if number >= unknown_from {
                return Err(format!("{name} is {number}, not below unknown_from"));
            }
            if verdicts.insert(number, verdict.clone()).is_some() {
                return Err(format!("{name} is named twice"));
            }
        }
    }
    Ok(verdicts)
}

/// Compiles a profile.
pub(super) fn compile(json: &str) -> Result<Vec<Instruction>, String> {
    let (profile, verdicts) = verdicts(json)?;
    program(&profile, &verdicts)
}

/// Compiles a profile with an overlay on top.
pub(super) fn compile_overlaid(json: &str, overlay: &str) -> Result<Vec<Instruction>, String> {
    let (profile, verdicts) = overlaid_verdicts(json, overlay)?;
    program(&profile, &verdicts)
}

fn program(profile: &Profile, verdicts: &BTreeMap<u32, Verdict>) -> Result<Vec<Instruction>, String> {
    let default = Verdict::Always(action(&profile.default)?);
    let unknown = Verdict::Always(action(&profile.unknown)?);
    // Ranges that start at a number and reach to the next one's start.
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for number in 0..=profile.unknown_from {
        let verdict = if number == profile.unknown_from {
            &unknown
        } else {
            verdicts.get(&number).unwrap_or(&default)
        };
        if ranges.last().is_none_or(|(_, last)| last != verdict) {
            ranges.push((number, verdict.clone()));
        }
    }
    ranges.push((X32, Verdict::Always(KILL_PROCESS)));

    let mut program = vec![
        (LOAD, 0, 0, OFFSET_ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, ARCHITECTURE_X86_64),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, OFFSET_NUMBER),
    ];
    program.extend(search(&ranges)?);
    let program = share(program)?;
    if program.len() > 4096 {
        return Err(format!(
            "the program has {} instructions, the kernel takes 4096",
            program.len()
        ));
    }
    Ok(program)
}

/// The same program with fewer instructions: what does the same is there once, where the jumps to it reach. The kernel
/// checks, translates and assembles each instruction at every start: 0.4 µs.
fn share(mut program: Vec<Instruction>) -> Result<Vec<Instruction>, String> {
    // Each round brings what is left closer together, so that more is in reach.
    loop {
        let shorter = share_once(&program)?;
        if shorter.len() == program.len() {
            return Ok(program);
        }
        program = shorter;
    }
}

fn share_once(program: &[Instruction]) -> Result<Vec<Instruction>, String> {
    let beyond = || "a jump leads out of the program".to_owned();
    let successors = |at: usize, (code, hit, miss, constant): Instruction| match code {
        RETURN => Vec::new(),
        JUMP => vec![at + 1 + constant as usize],
        JUMP_EQUAL | JUMP_GREATER_OR_EQUAL => vec![at + 1 + usize::from(hit), at + 1 + usize::from(miss)],
        _ => vec![at + 1],
    };
    // Instructions that do the same have the same class. Jumps lead forward only, so from the end.
    let mut known = BTreeMap::new();
    let mut classes: Vec<usize> = vec![0; program.len()];
    for (at, instruction) in program.iter().enumerate().rev() {
        let next = successors(at, *instruction)
            .into_iter()
            .map(|to| classes.get(to).copied());
        let next = next.collect::<Option<Vec<usize>>>().ok_or_else(beyond)?;
        classes[at] = match (instruction.0, next.as_slice()) {
            (JUMP, [target]) => *target,
            _ => *known.entry((instruction.0, instruction.3, next)).or_insert(at),
        };
    }
    // A jump goes to the last one of its class that it reaches: the one that most others reach as well.
    let far = |from: usize, target: usize| {
        let reached = (from + 1..program.len()).take(256);
        let found = reached
            .rev()
            .find(|at| classes.get(*at) == classes.get(target) && program[*at].0 != JUMP);
        found.unwrap_or(target)
    };
    let leads = |at: usize, instruction: Instruction| match instruction.0 {
        JUMP_EQUAL | JUMP_GREATER_OR_EQUAL => successors(at, instruction).into_iter().map(|to| far(at, to)).collect(),
        _ => successors(at, instruction),
    };
    let mut needed = vec![false; program.len()];
    let mut pending = vec![0];
    while let Some(at) = pending.pop() {
        if !std::mem::replace(needed.get_mut(at).ok_or_else(beyond)?, true) {
            pending.extend(leads(at, program[at]));
        }
    }
    let distance = |from: usize, to: usize| needed[from + 1..to].iter().filter(|needed| **needed).count();
    let short = |from: usize, to: usize| u8::try_from(distance(from, to)).map_err(|error| error.to_string());
    let mut shared = Vec::new();
    for (at, &(code, hit, miss, constant)) in program.iter().enumerate().filter(|(at, _)| needed[*at]) {
        shared.push(match leads(at, program[at]).as_slice() {
            [hit, miss] => (code, short(at, *hit)?, short(at, *miss)?, constant),
            [target] if code == JUMP => {
                let far = u32::try_from(distance(at, *target)).map_err(|error| error.to_string())?;
                (code, hit, miss, far)
            }
            _ => (code, hit, miss, constant),
        });
    }
    Ok(shared)
}

fn search(ranges: &[(u32, Verdict)]) -> Result<Vec<Instruction>, String> {
    match ranges {
        [] => Err("no ranges".to_owned()),
        [(_, verdict)] => leaf(verdict),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let pivot = high.first().map(|(start, _)| *start).ok_or("no upper half")?;
            let (low, high) = (search(low)?, search(high)?);
            let mut program = Vec::new();
            match u8::try_from(low.len()) {
                Ok(distance) => program.push((JUMP_GREATER_OR_EQUAL, distance, 0, pivot)),
                Err(_) => {
                    program.push((JUMP_GREATER_OR_EQUAL, 0, 1, pivot));
                    let distance = u32::try_from(low.len()).map_err(|_| "the program is too long")?;
                    program.push((JUMP, 0, 0, distance));
                }
            }
            program.extend(low);
            program.extend(high);
            Ok(program)
        }
    }
}

fn leaf(verdict: &Verdict) -> Result<Vec<Instruction>, String> {
    match verdict {
        Verdict::Always(action) => Ok(vec![(RETURN, 0, 0, *action)]),
        Verdict::If {
            conditions,
            then,
            otherwise,
        } => all_of(conditions, *then, &[(RETURN, 0, 0, *otherwise)]),
        Verdict::IfAny {
            alternatives,
            then,
            otherwise,
        } => {
            // From the last one: each alternative is followed by what happens when it does not hold.
            let mut rest = vec![(RETURN, 0, 0, *otherwise)];
            for conditions in alternatives.iter().rev() {
                rest = all_of(conditions, *then, &rest)?;
            }
            Ok(rest)
        }
    }
}

/// Returns `then` when all `conditions` hold, else goes on with `otherwise`.
fn all_of(conditions: &[Condition], then: u32, otherwise: &[Instruction]) -> Result<Vec<Instruction>, String> {
    let mut program = Vec::new();
    let mut misses = Vec::new();
    for condition in conditions {
        let (index, mask, values, wanted) = match condition {
            Condition::MaskedEq { index, mask, value } => (index, Some(*mask), vec![*value], true),
            Condition::MaskedIn { index, mask, values } => (index, Some(*mask), values.clone(), true),
            Condition::In { index, values } => (index, None, values.clone(), true),
            Condition::NotIn { index, values } => (index, None, values.clone(), false),
        };
        if *index > 5 {
            return Err(format!("there is no argument {index}"));
        }
        program.push((LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * u32::from(*index)));
        program.extend(mask.map(|mask| (AND, 0, 0, mask)));
        // Each comparison that hits jumps over the remaining ones and over the jump of a miss.
        let count = u8::try_from(values.len()).map_err(|_| "too many values")?;
        for (position, value) in (0u8..).zip(&values) {
            let to_end = count - position - 1;
            program.push((JUMP_EQUAL, to_end + 1, 0, *value));
        }
        if !wanted {
            program.push((JUMP, 0, 0, 1)); // no value hit: go on behind the refusal
        }
        misses.push(program.len());
        program.push((JUMP, 0, 0, 0)); // its distance is known at the end
    }
    program.push((RETURN, 0, 0, then));
    for miss in misses {
        let distance = u32::try_from(program.len() - miss - 1).map_err(|_| "the program is too long")?;
        if let Some(jump) = program.get_mut(miss) {
            *jump = match otherwise {
                [only] => *only,
                _ => (JUMP, 0, 0, distance),
            };
        }
    }
    if otherwise.len() > 1 {
        program.extend(otherwise);
    }
    Ok(program)
}

/// `allow`, `kill`, `success` (without effect) or `errno:NAME` as the kernel's return value.
pub(super) fn action(text: &str) -> Result<u32, String> {
    match text {
        "allow" => Ok(ALLOW),
        "kill" => Ok(KILL_PROCESS),
        "success" => Ok(ERRNO),
        "errno:EPERM" => Ok(ERRNO | 1),
        "errno:EINVAL" => Ok(ERRNO | 22),
        "errno:ENOTTY" => Ok(ERRNO | 25),
        "errno:ENOSYS" => Ok(ERRNO | 38),
        "errno:EOPNOTSUPP" => Ok(ERRNO | 95),
        "errno:EAFNOSUPPORT" => Ok(ERRNO | 97),
        _ => Err(format!("no action is called {text:?}")),
    }
}

/// Younger than the table of the `syscalls` crate.
const YOUNG: [(&str, u32); 11] = [
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
];

/// The x86-64 number of a system call.
pub(super) fn number(name: &str) -> Result<u32, String> {
    if let Some((_, number)) = YOUNG.into_iter().find(|(known, _)| *known == name) {
        return Ok(number);
    }
    name.parse::<syscalls::Sysno>()
        .map_err(|_| format!("no system call is called {name:?}"))
        .and_then(|sysno| u32::try_from(sysno.id()).map_err(|error| error.to_string()))
}

/// The name of a system call, or `-`.
pub(super) fn name(number: u32) -> &'static str {
    let young = YOUNG.into_iter().find(|(_, known)| *known == number);
    young
        .map(|(name, _)| name)
        .or_else(|| syscalls::Sysno::new(number as usize).map(|sysno| sysno.name()))
        .unwrap_or("-")
}
