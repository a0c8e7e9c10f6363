//! `gantry run`: whatever it comes to, the outcome is written, and the exit code is the workload's own or one of ours that
//! no workload of a sane mind uses.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use super::args::RunArgs;
use super::error::{self, CommandError};
use super::escape::escape;
use super::report::Report;
use super::run::{self, Job};
use super::{no_signals, Session};
use crate::ops::{self, Outcome, RunError, RunRequest, Status, Worked, CANNOT_RUN};
use crate::sandbox::Signals;

/// Runs what `args` ask for and returns the exit code.
pub fn execute(config: Option<&Path>, args: &RunArgs, signals: io::Result<Signals>) -> u8 {
    match begin(args, signals) {
        Ok((report, signals)) => finish(config, args, report.as_ref(), &signals),
        Err(error) => {
            error::print(&error);
            CANNOT_RUN
        }
    }
}

/// The outcome of a run whose arguments are refused because of `reason`.
pub fn refused(reason: String) -> Outcome {
    Outcome::not_started(String::new(), Status::Error, CANNOT_RUN, reason)
}

/// What has to be there before anything else: a place for the outcome, and word of signals.
fn begin(args: &RunArgs, signals: io::Result<Signals>) -> Result<(Option<Report>, Signals), CommandError> {
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
    let signals = signals.map_err(no_signals)?;
    Ok((report, signals))
}

fn finish(config: Option<&Path>, args: &RunArgs, report: Option<&Report>, signals: &Signals) -> u8 {
    let started = Instant::now();
    let prepared = Session::open(config).and_then(|session| {
        let job = args.job.as_deref().map(|path| read_job(path, signals)).transpose()?;
        let request = run::request(args, job, &session.config)?;
        Ok((session, request))
    });
    let name = || args.reference.as_ref().map(ToString::to_string).unwrap_or_default();
    let (outcome, error) = match prepared {
        Ok((session, request)) => {
            // What a killed run left is nothing; what a killed build left goes here, too.
            let _ = session.store.sweep();
            let (outcome, error) = ops::run(&session.store, &request, signals);
            tell(&outcome, &request);
            note(&session, &outcome, started);
            (outcome, error.map(CommandError::Run))
        }
        Err(CommandError::Run(RunError::Signalled { signal })) => (Outcome::stopped(name(), signal), None),
        Err(error) => {
            let outcome = Outcome::not_started(name(), Status::Error, CANNOT_RUN, ops::chain(&error));
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

/// The job document at `path`, whose writer may take its time: a signal ends the wait.
fn read_job(path: &Path, signals: &Signals) -> Result<Job, CommandError> {
    let own = path.to_owned();
    match ops::unless_signalled(signals, move || run::read_job(&own)).map_err(no_signals)? {
        Worked::Done(job) => job,
        Worked::Signalled { signal, .. } => Err(RunError::Signalled { signal }.into()),
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

#[cfg(test)]
mod tests {
    use super::*;

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
