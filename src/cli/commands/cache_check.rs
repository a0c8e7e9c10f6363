//! `gantry cache check`: what is wrong in the store, a line each, and what became of it.

use std::time::Duration;

use crate::cli::cache_args::CheckArgs;
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::progress::{tell_others, Narrator};
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::ops::{self, CheckReport, CheckWanted, Transport};
use crate::policy::{counted, Bytes, Kind};
use crate::store::{Finding, Part, State};

/// Checks the store and prints what is wrong.
pub(super) fn check(session: &Session, args: &CheckArgs, report: Option<&Report>) -> Result<u8, CommandError> {
    let narrator = Narrator::new(session.verbosity);
    let registries = session.registries();
    let transport = Transport::new(&session.store, &registries, &narrator);
    let wanted = CheckWanted {
        sample: args.sample,
        repair: args.repair,
        wait: args.wait.map(Duration::from),
    };
    let mut waiting = || tell_others(session.verbosity);
    let checked = ops::check_cache(&transport, wanted, &mut waiting);
    narrator.finish();
    let checked = checked?;
    if let Some(report) = report {
        report.write(&checked)?;
    }
    match args.format.wanted() {
        Format::Json if !report.is_some_and(Report::takes_standard_output) => {
            print_json(&checked)?;
        }
        Format::Table if !report.is_some_and(Report::takes_standard_output) => print(&checked)?,
        Format::Json | Format::Table => {}
    }
    Ok(match checked.findings.iter().all(Finding::is_repaired) {
        true => 0,
        false => Kind::Failed.exit_code(),
    })
}

fn print(checked: &CheckReport) -> Result<(), CommandError> {
    let faults = faults(&checked.findings);
    for (part, findings) in &faults {
        for line in lines(part, findings) {
            print_line(&escape(&line))?;
        }
    }
    let looked = &checked.looked;
    let count = looked.blobs + looked.downloads + looked.layers + looked.merged;
    let things = match &checked.sample {
        Some(_) => format!("{count} of {}", contents(checked.contents as u64)),
        None => contents(count as u64),
    };
    let wrong = match checked.findings.len() {
        all if all == faults.len() => format!("{all} wrong"),
        all => format!("{all} wrong of {}", counted(faults.len() as u64, "cause", "causes")),
    };
    let end = match (checked.findings.len(), became(&checked.findings)) {
        (0, _) => "nothing is wrong".to_owned(),
        (_, became) if became.is_empty() => wrong,
        (_, became) => format!("{wrong}: {}", became.join(", ")),
    };
    print_line(&format!(
        "Checked {things} ({}), {}, {}: {end}",
        Bytes(checked.bytes),
        counted(looked.names, "name", "names"),
        counted(looked.images as u64, "image", "images"),
    ))?;
    Ok(())
}

/// What became of all that was wrong, with how much of it; nothing when nothing was to be done.
fn became(findings: &[Finding]) -> Vec<String> {
    let states = [
        (State::Remade, "made again of what the store has"),
        (State::Fetched, "fetched again"),
        (State::Removed, "removed"),
        (State::Kept, "not repaired"),
    ];
    let of = |state| findings.iter().filter(|finding| finding.state == state).count();
    let counted = states.map(|(state, word)| (of(state), word));
    let some = counted.iter().filter(|(count, _)| *count > 0);
    some.map(|(count, word)| format!("{count} {word}")).collect()
}

fn contents(count: u64) -> String {
    counted(count, "blob, download or layer", "blobs, downloads and layers")
}

/// What is wrong by the part of the store that it comes of: what that part is found to be first, then what needs it.
fn faults(findings: &[Finding]) -> Vec<(String, Vec<&Finding>)> {
    let mut faults: Vec<(String, Vec<&Finding>)> = Vec::new();
    for finding in findings {
        let part = missing_part(finding).unwrap_or_else(|| finding.which.clone());
        match faults.iter_mut().find(|(known, _)| *known == part) {
            Some((_, of_it)) => of_it.push(finding),
            None => faults.push((part, vec![finding])),
        }
    }
    for (part, of_it) in &mut faults {
        of_it.sort_by_key(|finding| finding.which != *part);
    }
    faults
}

/// The blob, download or layer that is wrong or missing by what is said of something that leads to it.
fn missing_part(finding: &Finding) -> Option<String> {
    match finding.what {
        Part::Image | Part::Snapshot | Part::Memo => {}
        Part::Blob
        | Part::Download
        | Part::Layer
        | Part::Merged
        | Part::Name
        | Part::Unnamed
        | Part::Index
        | Part::File
        | Part::Leftover => return None,
    }
    let words = [&finding.expected, &finding.got].map(|text| text.split([' ', ',']));
    words
        .into_iter()
        .flatten()
        .find_map(|word| match word.strip_prefix("sha256:") {
            // The digest of an unpacked layer.
            Some(hex) if finding.what == Part::Snapshot => Some(format!("layers/{hex}")),
            _ => ["blobs/sha256/", "downloads/", "layers/"]
                .iter()
                .any(|folder| word.starts_with(folder))
                .then(|| word.to_owned()),
        })
}

/// A line for each finding of one fault. Of several the first is about the part itself, and the others are below it.
fn lines(part: &str, findings: &[&Finding]) -> Vec<String> {
    if let [one] = findings {
        return vec![format!("{}{}{}", line(one), needed_by(part, one), state(one))];
    }
    let (head, led) = match findings.split_first() {
        Some((first, others)) if first.which == *part => (
            format!("{}{}{}", line(first), needed_by(part, first), state(first)),
            others,
        ),
        _ => (
            format!("{part} is missing, which is why all of this is wrong:"),
            findings,
        ),
    };
    let mut lines = vec![head];
    // A remedy that all have is said once.
    let first = led.first().map(|one| state(one)).unwrap_or_default();
    let is_of_all = led.iter().all(|one| state(one) == first);
    for (at, one) in led.iter().enumerate() {
        let state = match is_of_all && at > 0 {
            true => String::new(),
            false => state(one),
        };
        lines.push(format!("  {}{}{state}", line(one), needed_by(part, one)));
    }
    lines
}

fn line(finding: &Finding) -> String {
    let which = match finding.what {
        Part::Name | Part::Image => format!("{} {}", word(finding), finding.which),
        _ => finding.which.clone(),
    };
    format!("{which}: expected {}, got {}", finding.expected, finding.got)
}

fn needed_by(part: &str, finding: &Finding) -> String {
    match finding.images.as_slice() {
        [] => String::new(),
        [one] if *one == finding.which => String::new(),
        images if finding.what == Part::Image && finding.which != *part => format!("; it is {}", images.join(", ")),
        images => format!("; needed by {}", images.join(", ")),
    }
}

/// What kind of thing it is, as in the report.
fn word(finding: &Finding) -> String {
    let word = serde_json::to_value(finding.what).ok();
    word.and_then(|word| word.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn state(finding: &Finding) -> String {
    let state = match finding.state {
        State::Found | State::Kept => "",
        State::Removed => "; removed",
        State::Remade => "; made again",
        State::Fetched => "; fetched again",
    };
    let remedy = finding
        .remedy
        .as_deref()
        .map(|text| format!("; {text}"))
        .unwrap_or_default();
    format!("{state}{remedy}")
}
