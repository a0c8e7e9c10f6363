//! `gantry cache check`: what is wrong in the store, a line each, and what became of it.

use std::io::{self, Write};
use std::time::Duration;

use crate::cli::cache_args::CheckArgs;
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::progress::Narrator;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::ops::{self, CheckReport, CheckWanted, Transport};
use crate::policy::{Bytes, Kind};
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
    let mut waiting = || {
        let _ = writeln!(io::stderr(), "Waiting for builds and other commands that use the store");
    };
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
    for finding in &checked.findings {
        let which = match finding.what {
            Part::Name | Part::Image => format!("{} {}", word(finding), finding.which),
            _ => finding.which.clone(),
        };
        let expected = format!("{which}: expected {}, got {}", finding.expected, finding.got);
        let needed = match finding.images.as_slice() {
            [] => String::new(),
            [one] if *one == finding.which => String::new(),
            images => format!("; needed by {}", images.join(", ")),
        };
        print_line(&escape(&format!("{expected}{needed}{}", state(finding))))?;
    }
    let looked = &checked.looked;
    let count = looked.blobs + looked.downloads + looked.layers;
    let share = match &checked.sample {
        Some(_) => format!("{count} of {}", checked.contents),
        None => count.to_string(),
    };
    let repaired = checked.findings.iter().filter(|finding| finding.is_repaired()).count();
    let end = match (checked.findings.len(), repaired) {
        (0, _) => "nothing is wrong".to_owned(),
        (all, 0) => format!("{all} wrong"),
        (all, some) => format!("{all} wrong, {some} repaired"),
    };
    print_line(&format!(
        "Checked {share} blobs, downloads and layers ({}), {} names, {} images: {end}",
        Bytes(checked.bytes),
        looked.names,
        looked.images
    ))?;
    Ok(())
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
