//! `gantry run`: the outcome is written however the run ends. The exit code is the function's own, or one from 124 up, which
//! functions rarely use.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::args::{Globals, RunArgs};
use crate::cli::birth::Birth;
use crate::cli::error::{code_of_run, no_signals, CommandError};
use crate::cli::escape::escape;
use crate::cli::heartbeat::{self, Heartbeat};
use crate::cli::movement::{note_failover, registry_of, type_by_name};
use crate::cli::output::{narrate, print_error};
use crate::cli::progress::tell_wait;
use crate::cli::report::{self, Report};
use crate::cli::session::Session;
use crate::journal::{Event, EventKind, ImageType, Phases};
use crate::ops::{
    self, CallerMode, ExitCodes, Failover, JobError, Outcome, Pull, RunError, RunRequest, SecretWanted, Status, Ticket,
    Wanted, Worked,
};
use crate::policy::{as_limit, one_line, Bytes, Code, Kind, Time, Verbosity};
use crate::sandbox::{self, Signals, Stdin, Stdout};
use crate::sys::clock;

/// Runs what `args` ask for and returns the exit code.
pub(crate) fn execute(globals: &Globals, args: &RunArgs, signals: io::Result<Signals>, birth: Birth) -> u8 {
    match begin(args, signals) {
        Ok(Worked::Done((report, signals))) => finish(globals, args, report.as_ref(), signals, birth),
        Ok(Worked::Stopped { stop, .. }) => Outcome::stopped(String::new(), stop).code(exit_codes(args)),
        Err(error) => {
            print_error(&error);
            refused(one_line(&error)).code(exit_codes(args))
        }
    }
}

/// The outcome of a run whose arguments are refused because of `reason`.
pub(crate) fn refused(reason: String) -> Outcome {
    Outcome::not_started(String::new(), Status::Error, Code::BadArguments, reason)
}

/// Prepares what must work before anything else: the place of the outcome, and signals.
fn begin(args: &RunArgs, signals: io::Result<Signals>) -> Result<Worked<(Option<Report>, Signals)>, CommandError> {
    let signals = signals.map_err(no_signals)?;
    let Some(path) = &args.report else {
        return Ok(Worked::Done((None, signals)));
    };
    let report = match report::begin(path, &signals)? {
        Worked::Done(report) => report,
        Worked::Stopped { stop, .. } => return Ok(Worked::Stopped { stop, result: None }),
    };
    // The outcome of an earlier run must not stand for this one if this one is killed.
    report.clear()?;
    Ok(Worked::Done((Some(report), signals)))
}

fn finish(globals: &Globals, args: &RunArgs, report: Option<&Report>, mut signals: Signals, birth: Birth) -> u8 {
    let started = birth.at;
    // The clock of the day, at that instant.
    let started_at = clock::now() - started.elapsed();
    let mut ticket = Ticket::default();
    let mut ran = None;
    let prepared = prepare(globals, args, report, &mut signals, birth, &mut ticket);
    let name = || args.reference.as_ref().map(ToString::to_string).unwrap_or_default();
    let (outcome, error) = match prepared {
        Ok((session, request)) => {
            let (outcome, error) = ops::run(&session.store, &request, &signals);
            tell(&outcome, &request);
            if session.verbosity == Verbosity::Verbose {
                tell_everything(&outcome);
            }
            note(&session, &outcome, started);
            ran = Some(session);
            (outcome, error.map(CommandError::Run))
        }
        Err(CommandError::Run(RunError::Stopped { stop })) => (Outcome::stopped(name(), stop).of(ticket), None),
        Err(error) => {
            let status = match error.kind() {
                Kind::Refused => Status::Refused,
                Kind::Failed | Kind::Usage | Kind::Unavailable | Kind::Busy => Status::Error,
            };
            let outcome = Outcome::not_started(name(), status, code_of_run(&error), one_line(&error));
            (outcome.of(ticket), Some(error))
        }
    };
    match (&error, &outcome.error) {
        (Some(error), _) => print_error(error),
        // How the run ended is no error of gantry's.
        (None, Some(why)) => say(&escape(why)),
        (None, None) => {}
    }
    let outcome = outcome.timed(started_at, started.elapsed());
    let code = match report.map_or(Ok(()), |report| report.write(&outcome)) {
        Ok(()) => outcome.code(exit_codes(args)),
        Err(error) => {
            print_error(&error);
            refused(one_line(&error)).code(exit_codes(args))
        }
    };
    // What a killed run left is nothing; what a killed build left goes here, too. Last: nobody waits for it.
    if let Some(session) = ran {
        if let Some((read_bytes, image)) = outcome.telling_read.zip(outcome.image.digest) {
            let _ = ops::record_start_files(&session.store, &image, read_bytes);
        }
        let _ = session.store.sweep();
    }
    code
}

fn exit_codes(args: &RunArgs) -> ExitCodes {
    if args.exit_by_status {
        ExitCodes::ByStatus
    } else {
        ExitCodes::OfTheFunction
    }
}

/// Makes the run that is asked for; until it is, its `ticket` is put there as soon as it is known. What ends the run is
/// among `signals` from as early on as it is known.
fn prepare(
    globals: &Globals,
    args: &RunArgs,
    report: Option<&Report>,
    signals: &mut Signals,
    birth: Birth,
    ticket: &mut Ticket,
) -> Result<(Session, RunRequest), CommandError> {
    let begun = birth.at;
    let end_by = |deadline: Option<Time>, signals: &mut Signals| {
        let Some(deadline) = deadline.map(Duration::from) else {
            return Ok(());
        };
        signals.end_by(ops::ends(begun, deadline)).map_err(no_signals)
    };
    end_by(args.deadline, signals)?;
    let birth = if args.job.is_some() { birth } else { birth.without_job() };
    let mut watched = birth.watch(signals)?;
    let progress = args.progress.as_deref();
    let heartbeat = progress
        .map(|path| Heartbeat::begin(path, begun, signals))
        .transpose()?;
    if args.interactive && args.job.as_deref() == Some(Path::new("-")) {
        let reason = "-i passes on standard input, which --job - reads: give the job as a file";
        return Err(CommandError::Usage(reason.to_owned()));
    }
    let session = Session::open(globals, say_escaped)?;
    // A job that comes through a pipe may never come when who would write it is gone: it cannot say that it is detached.
    let comes = |path: &Path| path == Path::new("-") || std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    if !args.detached && args.job.as_deref().is_some_and(comes) {
        watched.expect_caller()?;
    }
    let job = args.job.as_deref().map(|path| read_job(path, signals)).transpose();
    if let Err(CommandError::Job(JobError::Document { ticket: found, .. })) = &job {
        ticket.clone_from(found);
    }
    let job = job?;
    let wanted = wanted(args).over(job.unwrap_or_default());
    *ticket = wanted.ticket.clone().unwrap_or_default();
    if let Some(heartbeat) = heartbeat {
        heartbeat.name(ticket);
    }
    watched.go_on(wanted.caller, signals)?;
    end_by(wanted.deadline, signals)?;
    let mut request = wanted.request(&session.config.run, &session.config.limits)?;
    request.admission.tell = tell_wait;
    let failover = if args.no_failover {
        Failover::Forbidden
    } else {
        Failover::Allowed
    };
    request.fetch.registries = session.registries().with_failover(failover);
    if session.verbosity > Verbosity::Quiet {
        request.fetch.tell = say_escaped;
    }
    let is_taken = |path| heartbeat::outlet(path).is_standard_output();
    if report.is_some_and(Report::takes_standard_output) || args.progress.as_deref().is_some_and(is_taken) {
        request.stdout = Stdout::Error;
    }
    Ok((session, request))
}

/// Collects what the command line asks for.
fn wanted(args: &RunArgs) -> Wanted {
    let places = [
        (sandbox::Place::File, &args.secrets),
        (sandbox::Place::Variable, &args.secret_variables),
    ];
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
        stdin: args.interactive.then_some(Stdin::Ours),
        // What is not said does not count over the job.
        output_partial: args.output_partial.then_some(true),
        output_on_disk: args.output_on_disk.then_some(true),
        env: args.env.clone(),
        secrets: secrets.collect(),
        limits: args.limits.given(),
        network: args.network,
        egress: args.egress.clone(),
        allow_degraded: args.allow_degraded.clone(),
        only_degraded: None,
        runtime: args.runtime,
        pull: match args.pull.as_str() {
            "always" => Some(Pull::Always),
            "never" => Some(Pull::Never),
            // What is not said does not count over the job.
            _ => None,
        },
        entrypoint: args.entrypoint.clone(),
        args: args.args.clone(),
        caller: args.detached.then_some(CallerMode::Detached),
        deadline: args.deadline,
        wait: args.wait,
        ticket: None,
    }
}

/// Reads the job document at `path`. A signal ends the wait for whoever writes it.
fn read_job(path: &Path, signals: &Signals) -> Result<Wanted, CommandError> {
    let own = path.to_owned();
    match ops::unless_signalled(signals, move || ops::read_job(&own)).map_err(no_signals)? {
        Worked::Done(job) => Ok(job?),
        Worked::Stopped { stop, .. } => Err(RunError::Stopped { stop }.into()),
    }
}

/// Prints what a person should know beside the function's own output.
fn tell(outcome: &Outcome, request: &RunRequest) {
    let mut lines: Vec<String> = outcome.notes.iter().map(|note| escape(note)).collect();
    let limit = request.confinement.output_limit;
    let output = &outcome.output;
    let [is_output_unread, is_error_unread] = output.unread;
    let streams = [
        ("standard output", output.stdout_bytes, is_output_unread),
        ("standard error", output.stderr_bytes, is_error_unread),
    ];
    let over = streams.into_iter().filter(|(_, bytes, _)| *bytes > limit.0);
    let over: Vec<String> = over
        .map(|(stream, bytes, is_unread)| {
            let bytes = Bytes(bytes);
            match (is_unread, as_limit(limit)) {
                // The limit took nothing from anybody.
                (true, _) => format!("{stream} is {bytes}, and nobody reads it any more: the rest was dropped"),
                (false, limit) => format!("{stream} is {bytes}, --output-limit is {limit}: the rest was dropped"),
            }
        })
        .collect();
    if output.truncated && over.is_empty() {
        lines.push(
            "the end of what the function printed was dropped: nobody had read it when the run was to be over"
                .to_owned(),
        );
    }
    lines.extend(over);
    lines.iter().for_each(|line| say(line));
}

/// Says something beside the function's own output.
fn say(line: &str) {
    narrate(&format!("gantry: {line}\n"));
}

/// Prints how the run went, for who asked for it.
fn tell_everything(outcome: &Outcome) {
    // As it stands in the report: what is written down once is not written down twice.
    let value = serde_json::to_value(outcome).unwrap_or_default();
    for (name, unit) in [("phases_ms", "ms"), ("enforced", "")] {
        for (key, value) in value
            .get(name)
            .and_then(serde_json::Value::as_object)
            .into_iter()
            .flatten()
        {
            let value = value.as_str().map_or_else(|| format!("{value} {unit}"), str::to_owned);
            say(&format!("{key}: {}", escape(&value)));
        }
    }
}

/// Says what is done before the function begins, or when it has ended.
fn say_escaped(line: &str) {
    say(&escape(line));
}

/// Writes the run into the journal: one line, which also says whether its image was there. Only a run that had to ask another
/// registry has a line more.
fn note(session: &Session, outcome: &Outcome, started: Instant) {
    let (image, ticket, phases) = (&outcome.image, &outcome.ticket, &outcome.phases_ms);
    let phases = [
        ("wait", phases.wait),
        ("resolve", phases.resolve),
        ("pull", phases.pull),
        ("unpack", phases.unpack),
        ("prepare", phases.prepare),
        ("start", phases.start),
        ("run", phases.run),
        ("teardown", phases.teardown),
    ];
    let bytes: u64 = outcome.attempts.iter().map(|one| one.bytes).sum();
    session.record(&Event {
        digest: image.digest.map(|digest| digest.to_string()),
        registry: registry_of(&outcome.attempts),
        image_type: match image.is_of_function {
            true => Some(ImageType::Function),
            false => type_by_name(&image.reference),
        },
        // What was not found is neither.
        cache: image.digest.map(|_| outcome.cache),
        bytes: (bytes > 0).then_some(bytes),
        error_type: outcome.code.map(Code::name),
        phases: Phases(&phases),
        id: ticket.id.as_deref(),
        attempt: ticket.attempt,
        labels: Some(&ticket.labels).filter(|labels| !labels.is_empty()),
        ..Session::event(EventKind::Run, &image.reference, outcome.status.name(), started)
    });
    note_failover(session, &image.reference, &outcome.attempts, started);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_outcome_is_documented() {
        let document = include_str!("../../../docs/formats.md");
        let outcome = Outcome::not_started("a:1".to_owned(), Status::Error, Code::BadJob, String::new());
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
