//! `gantry run`: whatever it comes to, the outcome is written, and the exit code is the workload's own or one of ours that
//! no workload of a sane mind uses.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::args::RunArgs;
use super::error::{self, CommandError};
use super::escape::escape;
use super::report::Report;
use super::{run, Session};
use crate::ops::{self, Outcome, RunRequest, Status, CANNOT_RUN};
use crate::sandbox::Signals;

/// Runs what `args` ask for and returns the exit code.
pub fn execute(config: Option<&Path>, args: &RunArgs) -> u8 {
    match begin(args) {
        Ok((report, signals)) => finish(config, args, report.as_ref(), &signals),
        Err(error) => {
            error::print(&error);
            CANNOT_RUN
        }
    }
}

/// Writes the outcome of a run whose arguments are refused, where they say where to.
pub fn refuse_arguments(arguments: &[OsString], reason: &str) {
    let Some(path) = report_of(arguments) else { return };
    let outcome = Outcome::not_started(String::new(), Status::Error, CANNOT_RUN, reason.to_owned());
    let written = Report::begin(&path).and_then(|report| report.write(&outcome));
    if let Err(error) = written {
        error::print(&error);
    }
}

/// What has to be there before anything else: a place for the outcome, and an ear for signals.
fn begin(args: &RunArgs) -> Result<(Option<Report>, Signals), CommandError> {
    let report = args.report.as_deref().map(Report::begin).transpose()?;
    if let Some(path) = &args.report {
        // Of an earlier run. Should this one be killed, it must not stand for it.
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
            fs::remove_file(path).map_err(|source| CommandError::File {
                action: "remove",
                path: path.display().to_string(),
                source,
            })?;
        }
    }
    let signals = Signals::watch().map_err(|source| CommandError::File {
        action: "watch for",
        path: "signals".to_owned(),
        source,
    })?;
    Ok((report, signals))
}

fn finish(config: Option<&Path>, args: &RunArgs, report: Option<&Report>, signals: &Signals) -> u8 {
    let started = Instant::now();
    let prepared = Session::open(config).and_then(|session| {
        let request = run::request(args, &session.config)?;
        Ok((session, request))
    });
    let (outcome, error) = match prepared {
        Ok((session, request)) => {
            // What a killed run left is nothing; what a killed build left goes here, too.
            let _ = session.store.sweep();
            let (outcome, error) = ops::run(&session.store, &request, signals);
            tell(&outcome, &request);
            note(&session, &outcome, started);
            (outcome, error.map(CommandError::Run))
        }
        Err(error) => {
            let name = args.reference.as_ref().map(ToString::to_string).unwrap_or_default();
            let outcome = Outcome::not_started(name, Status::Error, CANNOT_RUN, ops::chain(&error));
            (outcome, Some(error))
        }
    };
    if let Some(error) = &error {
        error::print(error);
    }
    match report.map_or(Ok(()), |report| report.write(&outcome)) {
        Ok(()) => outcome.exit_code,
        Err(error) => {
            error::print(&error);
            CANNOT_RUN
        }
    }
}

/// What a person should hear beside the workload's own output.
fn tell(outcome: &Outcome, request: &RunRequest) {
    let mut lines: Vec<String> = outcome.notes.iter().map(|note| escape(note)).collect();
    if outcome.status == Status::Timeout {
        let limit = request.confinement.timeout;
        lines.push(format!("stopped after {limit:?}, the time limit"));
    }
    if outcome.output.truncated {
        let limit = request.confinement.output_limit;
        lines.push(format!("output over {limit} was dropped"));
    }
    for line in lines {
        let _ = writeln!(io::stderr(), "gantry: {line}");
    }
}

fn note(session: &Session, outcome: &Outcome, started: Instant) {
    let status = serde_json::to_value(outcome.status).ok();
    let status = status.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
    let digest = outcome.image.digest.map(|digest| digest.to_string());
    session.note("run", &outcome.image.reference, digest, status, started);
}

/// The value of `--report` among gantry's own arguments.
fn report_of(arguments: &[OsString]) -> Option<PathBuf> {
    let mut own = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = own.next() {
        if argument == "--report" {
            return own.next().map(PathBuf::from);
        }
        if let Some(path) = argument.as_encoded_bytes().strip_prefix(b"--report=") {
            return std::str::from_utf8(path)
                .ok()
                .map(|path| PathBuf::from(OsStr::new(path)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_report_is_found_among_bad_arguments() {
        let report = |text: &str| report_of(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(report("gantry run --memory lots --report a x:1"), Some("a".into()));
        assert_eq!(report("gantry run --report=b x:1"), Some("b".into()));
        assert_eq!(report("gantry run x:1 -- --report c"), None);
        assert_eq!(report("gantry run x:1 --report"), None);
    }

    #[test]
    fn every_field_of_the_outcome_is_documented() {
        let document = include_str!("../../docs/formats.md");
        let outcome = Outcome::not_started("a:1".to_owned(), Status::Error, CANNOT_RUN, String::new());
        let value = serde_json::to_value(outcome).unwrap();
        let mut objects = vec![value.as_object().unwrap()];
        while let Some(object) = objects.pop() {
            for (name, value) in object {
                assert!(document.contains(&format!("`{name}`")) || name == "schema", "{name}");
                objects.extend(value.as_object());
            }
        }
    }
}
