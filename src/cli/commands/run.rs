//! `gantry run`: the outcome is written however the run ends. The exit code is the function's own, or one from 124 up, which
//! functions rarely use.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use crate::cli::args::RunArgs;
use crate::cli::error::{no_signals, CommandError};
use crate::cli::escape::escape;
use crate::cli::output::print_error;
use crate::cli::report::{self, Report};
use crate::cli::session::Session;
use crate::ops::{self, Outcome, Pull, RunError, RunRequest, SecretWanted, Status, Wanted, Worked, CANNOT_RUN};
use crate::policy::one_line;
use crate::sandbox::{Place, Signals};

/// Runs what `args` ask for and returns the exit code.
pub fn execute(config: Option<&Path>, args: &RunArgs, signals: io::Result<Signals>) -> u8 {
    match begin(args, signals) {
        Ok(Worked::Done((report, signals))) => finish(config, args, report.as_ref(), &signals),
        Ok(Worked::Signalled { signal, .. }) => Outcome::stopped(String::new(), signal).exit_code,
        Err(error) => {
            print_error(&error);
            CANNOT_RUN
        }
    }
}

/// The outcome of a run whose arguments are refused because of `reason`.
pub fn refused(reason: String) -> Outcome {
    Outcome::not_started(String::new(), Status::Error, CANNOT_RUN, reason)
}

/// Prepares what must work before anything else: the place of the outcome, and signals.
fn begin(args: &RunArgs, signals: io::Result<Signals>) -> Result<Worked<(Option<Report>, Signals)>, CommandError> {
    let signals = signals.map_err(no_signals)?;
    let Some(path) = &args.report else {
        return Ok(Worked::Done((None, signals)));
    };
    let report = match report::begin(path, &signals)? {
        Worked::Done(report) => report,
        Worked::Signalled { signal, .. } => return Ok(Worked::Signalled { signal, result: None }),
    };
    // The outcome of an earlier run must not stand for this one if this one is killed.
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        fs::remove_file(path).map_err(|source| CommandError::File {
            action: "remove",
            path: path.display().to_string(),
            source,
        })?;
    }
    Ok(Worked::Done((Some(report), signals)))
}

fn finish(config: Option<&Path>, args: &RunArgs, report: Option<&Report>, signals: &Signals) -> u8 {
    let started = Instant::now();
    let prepared = Session::open(config).and_then(|session| {
        let job = args.job.as_deref().map(|path| read_job(path, signals)).transpose()?;
        let wanted = wanted(args).over(job.unwrap_or_default());
        let request = wanted.request(&session.config.run)?;
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
            let outcome = Outcome::not_started(name(), Status::Error, CANNOT_RUN, one_line(&error));
            (outcome, Some(error))
        }
    };
    if let Some(error) = &error {
        print_error(error);
    }
    match report.map_or(Ok(()), |report| report.write(&outcome)) {
        Ok(()) => outcome.exit_code,
        Err(error) => {
            print_error(&error);
            CANNOT_RUN
        }
    }
}

/// Collects what the command line asks for.
fn wanted(args: &RunArgs) -> Wanted {
    let places = [(Place::File, &args.secrets), (Place::Variable, &args.secret_variables)];
    let secrets = places.into_iter().flat_map(|(place, secrets)| {
        secrets.iter().map(move |(name, source)| SecretWanted {
            name: name.clone(),
            place,
            source: source.clone(),
        })
    });
    Wanted {
        reference: args.reference.clone(),
        input: args.input.clone(),
        output: args.output.clone(),
        env: args.env.clone(),
        secrets: secrets.collect(),
        limits: args.limits.given(),
        network: args.network,
        egress: args.egress.clone(),
        allow_degraded: args.allow_degraded.clone(),
        pull: match args.pull.as_str() {
            "always" => Some(Pull::Always),
            "never" => Some(Pull::Never),
            // What is not said does not count over the job.
            _ => None,
        },
        args: args.args.clone(),
    }
}

/// Reads the job document at `path`. A signal ends the wait for whoever writes it.
fn read_job(path: &Path, signals: &Signals) -> Result<Wanted, CommandError> {
    let own = path.to_owned();
    match ops::unless_signalled(signals, move || ops::read_job(&own)).map_err(no_signals)? {
        Worked::Done(job) => Ok(job?),
        Worked::Signalled { signal, .. } => Err(RunError::Signalled { signal }.into()),
    }
}

/// Prints what a person should know beside the function's own output.
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
        let document = include_str!("../../../docs/formats.md");
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
