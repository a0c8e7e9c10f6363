//! `gantry run`: reference -> snapshot -> bundle -> sandbox -> outcome.
//!
//! The path of a cached run opens a ref, a snapshot and a lease, and starts no thread. Whatever happens, an outcome
//! comes back: a refusal, or a failure of gantry, is a status and not only an error text. A signal, the end of the caller
//! or the deadline ends the run at any point.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::interrupt::{unless_signalled, Worked};
use super::outcome::{ImageRan, Outcome, OutputReport, Phases, Start, TIMED_OUT};
use super::secret::{self, SecretError, SecretWanted};
use super::slots::{Admission, Slot, SlotError};
use super::status::Status;
use super::take_output::{self, TakeError};
use super::ticket::Ticket;
use crate::build::image::is_of_function;
use crate::net::{Forwarder, Internet};
use crate::oci::{Digest, ImageConfigBody, Reference};
use crate::policy::{one_line, Confinement, Kind, Network};
use crate::sandbox::{
    self, Bundle, CollectError, End, Finished, Place, Purpose, SandboxError, Signals, Sink, Stdout, Stop,
};
use crate::store::{Lease, Snapshot, Store, StoreError};

/// Exit code when gantry could not run the workload, as that of `docker run` and `env`.
pub const CANNOT_RUN: u8 = 125;
/// `PATH` when neither the image nor the caller sets it.
const DEFAULT_PATH: &str = "/opt/py/bin:/usr/local/bin:/usr/bin:/bin";

/// What to run, with what and under which limits.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The image.
    pub reference: Reference,
    /// Directory shown as `/input`.
    pub input: Option<PathBuf>,
    /// Directory that receives `/output`.
    pub output: Option<PathBuf>,
    /// Variables on top of the image's.
    pub env: Vec<(String, String)>,
    /// Secrets that the workload gets.
    pub secrets: Vec<SecretWanted>,
    /// Limits.
    pub confinement: Confinement,
    /// Replaces the arguments of the image's command.
    pub args: Vec<String>,
    /// What the caller calls the job.
    pub ticket: Ticket,
    /// How it gets a run slot.
    pub admission: Admission,
    /// Where its standard output goes.
    pub stdout: Stdout,
}

/// Why a run did not happen, or why its results were not taken.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The reference names nothing in the store.
    #[error("run {reference}: no such image in the store")]
    UnknownImage {
        /// As typed.
        reference: String,
    },
    /// Neither the image nor the caller names a command.
    #[error("run {reference}: the image has no command")]
    NoCommand {
        /// As typed.
        reference: String,
    },
    /// A secret cannot be read.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// `/input` or `/output` of the caller cannot be used.
    #[error("use {path} for the run")]
    Directory {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A variable cannot be passed on.
    #[error("set environment variable {name:?}: a name is not empty and holds neither = nor NUL, a value no NUL")]
    Environment {
        /// Its name.
        name: String,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The sandbox failed or refused.
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    /// The workload ended, but its files could not be taken.
    #[error("{0}")]
    Collect(#[from] CollectError),
    /// The machine carries as many runs as it may.
    #[error("{0}")]
    Slot(#[source] SlotError),
    /// A system call of ours failed.
    #[error("wait for the image to be unpacked")]
    Wait {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The run was to end before or after the workload's own time.
    #[error("{stop}")]
    Stopped {
        /// Why.
        stop: Stop,
    },
}

impl RunError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::UnknownImage { .. }
            | Self::NoCommand { .. }
            | Self::Directory { .. }
            | Self::Wait { .. }
            | Self::Stopped { .. } => Kind::Failed,
            Self::Environment { .. } => Kind::Usage,
            Self::Secret(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Sandbox(error) => error.kind(),
            Self::Collect(error) => error.kind(),
            Self::Slot(error) => error.kind(),
        }
    }

    /// The exit code of a run that ended in this error.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Slot(SlotError::Full { .. }) => Kind::Busy.exit_code(),
            _ => CANNOT_RUN,
        }
    }

    /// The status of a run that ended in this error. `refused` is said of promises alone (`docs/formats.md`).
    pub fn status(&self) -> Status {
        match (self, self.kind()) {
            (Self::Sandbox(_), Kind::Refused) => Status::Refused,
            (_, Kind::Unavailable | Kind::Busy) => Status::Unavailable,
            (_, Kind::Failed | Kind::Usage | Kind::Refused) => Status::Error,
        }
    }
}

impl From<SlotError> for RunError {
    fn from(error: SlotError) -> Self {
        match error {
            SlotError::Stopped { stop } => Self::Stopped { stop },
            other => Self::Slot(other),
        }
    }
}

impl From<TakeError> for RunError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Collect(error) => Self::Collect(error),
            TakeError::Store(error) => Self::Store(error),
            TakeError::Stopped { stop } => Self::Stopped { stop },
        }
    }
}

/// Runs `request` and returns its outcome; the error is there when the outcome's `error` is. One of `signals` ends the run.
pub fn run(store: &Store, request: &RunRequest, signals: &Signals) -> (Outcome, Option<RunError>) {
    let mut account = Account {
        digest: None,
        cache: "miss",
        phases: Phases::default(),
        finished: None,
        notes: Vec::new(),
    };
    let result = account.run(store, request, signals);
    signals.enter("finish");
    let (outcome, error) = account.conclude(request, result);
    (outcome.concluded(), error)
}

/// What is known of a run so far.
struct Account {
    digest: Option<Digest>,
    cache: &'static str,
    phases: Phases,
    finished: Option<Finished>,
    notes: Vec<String>,
}

impl Account {
    fn run(&mut self, store: &Store, request: &RunRequest, signals: &Signals) -> Result<(), RunError> {
        let _slot = self.slot(store, request, signals)?;
        signals.enter("resolve");
        let started = Instant::now();
        // Until the lease is there, a collector could take the image away between two looks.
        let collector = match store.locks().try_keep_collector_out()? {
            Some(lock) => lock,
            None => {
                let own = store.clone();
                wait_for(signals, move || own.locks().keep_collector_out())??
            }
        };
        let (snapshot, _lease) = self.snapshot(store, &request.reference, signals)?;
        drop(collector);
        let bundle = bundle(store, &snapshot, request)?;
        self.phases.resolve = ms(started.elapsed()) - self.phases.unpack;

        signals.enter("prepare");
        let sink = Sink::Inherit(signals, request.stdout);
        let finished = match &request.confinement.network {
            Network::None => sandbox::run(&bundle, sink)?,
            Network::Egress(_) => self.run_with_egress(&bundle, sink)?,
        };
        self.phases.prepare = ms(finished.times.prepare);
        self.phases.start = ms(finished.times.start);
        self.phases.run = ms(finished.times.run);
        self.phases.teardown = ms(finished.times.teardown);
        let taking = Instant::now();
        let taken = match (&request.output, &finished.output) {
            (Some(directory), Some(output)) => take_output::take(
                store,
                output.as_fd(),
                directory,
                request.confinement.output_size,
                &mut || signals.take(),
            ),
            _ => Ok(()),
        };
        self.phases.teardown += ms(taking.elapsed());
        self.finished = Some(finished);
        Ok(taken?)
    }

    /// Runs `bundle` with a forwarder behind the sandbox's listeners, which ends with the run.
    fn run_with_egress(&mut self, bundle: &Bundle, sink: Sink<'_>) -> Result<Finished, SandboxError> {
        let mut forwarder = None;
        let finished = sandbox::run_with_doors(bundle, sink, &mut |doors| {
            let doors = doors.into_iter().map(|door| (door.to, door.listener)).collect();
            forwarder = Some(Forwarder::start(doors, Arc::new(Internet::new()))?);
            Ok(())
        });
        self.notes = forwarder.map(Forwarder::stop).unwrap_or_default();
        finished
    }

    fn snapshot(
        &mut self,
        store: &Store,
        reference: &Reference,
        signals: &Signals,
    ) -> Result<(Snapshot, Lease), RunError> {
        let unknown = || RunError::UnknownImage {
            reference: reference.to_string(),
        };
        let digest = store.names().find(reference)?.ok_or_else(unknown)?;
        self.digest = Some(digest);
        let lease = store.locks().lease(&digest)?;
        if let Some(snapshot) = store.images().snapshot(&digest)? {
            self.cache = "hit";
            return Ok((snapshot, lease));
        }
        let unpacking = Instant::now();
        let own = store.clone();
        signals.enter("unpack");
        let unpacked = wait_for(signals, move || own.images().restore(&digest));
        self.phases.unpack = ms(unpacking.elapsed());
        Ok((unpacked??, lease))
    }

    /// Waits for a run slot, where this machine has a limited number of them.
    fn slot(&mut self, store: &Store, request: &RunRequest, signals: &Signals) -> Result<Option<Slot>, RunError> {
        let Admission { slots, patience, tell } = &request.admission;
        if slots.are_unlimited() {
            return Ok(None);
        }
        // Nobody waits in order to hear that there is no such image.
        if store.names().find(&request.reference)?.is_none() {
            let reference = request.reference.to_string();
            return Err(RunError::UnknownImage { reference });
        }
        signals.enter("wait");
        let waiting = Instant::now();
        let memory = request.confinement.memory;
        let slot = slots.take(store.root(), memory, *patience, signals, tell);
        self.phases.wait = ms(waiting.elapsed());
        Ok(Some(slot?))
    }

    /// What a run that came to `result` ends as.
    fn conclude(&self, request: &RunRequest, result: Result<(), RunError>) -> (Outcome, Option<RunError>) {
        match result {
            Ok(()) => (self.outcome(request), None),
            Err(RunError::Stopped { stop }) => {
                let mut outcome = self.outcome(request);
                outcome.stop(stop, self.start());
                (outcome, None)
            }
            // The workload is done, and how it went is known. What it left is its own doing: a later try finds the same.
            Err(RunError::Collect(error)) if error.is_workloads() => {
                let mut outcome = self.outcome(request);
                if outcome.status == Status::Ok {
                    (outcome.status, outcome.exit_code) = (Status::Failed, 1);
                }
                outcome.error = Some(one_line(&error));
                (outcome, Some(error.into()))
            }
            Err(error) => {
                let mut outcome = self.outcome(request);
                outcome.status = error.status();
                outcome.exit_code = error.exit_code();
                outcome.error = Some(one_line(&error));
                if let RunError::Sandbox(sandbox) = &error {
                    outcome.enforced = sandbox.levels();
                }
                (outcome, Some(error))
            }
        }
    }

    /// Whether the workload has begun.
    fn start(&self) -> Start {
        match &self.finished {
            Some(finished) if !finished.times.start.is_zero() => Start::Made,
            _ => Start::None,
        }
    }

    fn outcome(&self, request: &RunRequest) -> Outcome {
        let mut outcome = Outcome::not_started(request.reference.to_string(), Status::Error, CANNOT_RUN, String::new());
        outcome.image = ImageRan {
            reference: request.reference.to_string(),
            digest: self.digest,
        };
        outcome.cache = self.cache;
        outcome.phases_ms = self.phases.clone();
        outcome.error = None;
        outcome.ticket = request.ticket.clone();
        outcome.notes = self.notes.clone();
        let Some(finished) = &self.finished else { return outcome };
        (outcome.status, outcome.exit_code, outcome.signal) = verdict(finished);
        outcome.usage = finished.usage;
        outcome.output = OutputReport {
            stdout_bytes: finished.stdout_bytes,
            stderr_bytes: finished.stderr_bytes,
            truncated: finished.truncated,
        };
        outcome.enforced = finished.enforced.clone();
        if let End::Stopped(stop) = finished.end {
            outcome.stop(stop, self.start());
        }
        outcome
    }
}

fn by_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Status, exit code and signal of an ended run.
fn verdict(finished: &Finished) -> (Status, u8, Option<i32>) {
    let signal = finished.end.signal();
    let (status, code) = match finished.end {
        End::Exited(0) => (Status::Ok, 0),
        End::Exited(code) => (Status::Failed, u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        End::TimedOut => (Status::Timeout, TIMED_OUT),
        End::Signaled(signal) => (Status::Failed, by_signal(signal)),
        // Which of them, the outcome says itself.
        End::Stopped(_) => (Status::Killed, signal.map_or(CANNOT_RUN, by_signal)),
        End::Oom => (Status::Oom, signal.map_or(CANNOT_RUN, by_signal)),
        End::KilledFromOutside => (Status::Killed, signal.map_or(CANNOT_RUN, by_signal)),
    };
    (status, code, signal)
}

fn bundle(store: &Store, snapshot: &Snapshot, request: &RunRequest) -> Result<Bundle, RunError> {
    let mut lowers = vec![store.trees().scaffold()?];
    lowers.extend(snapshot.layers.iter().rev().map(|layer| store.trees().path(layer)));
    let input = request.input.as_deref().map(directory).transpose()?;
    if let Some(output) = &request.output {
        std::fs::create_dir_all(output).map_err(|source| RunError::Directory {
            path: output.clone(),
            source,
        })?;
        directory(output)?;
    }
    let is_secret = |name: &str| {
        let mut secrets = request.secrets.iter();
        secrets.any(|secret| secret.place == Place::Variable && secret.name == name)
    };
    Ok(Bundle {
        lowers,
        argv: argv(&snapshot.config, request)?,
        env: environment(&snapshot.config, &request.env)?
            .into_iter()
            .filter(|(name, _)| !is_secret(name))
            .collect(),
        cwd: snapshot
            .config
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "/".to_owned()),
        hostname: "sandbox".to_owned(),
        input,
        secrets: request.secrets.iter().map(secret::read).collect::<Result<_, _>>()?,
        purpose: Purpose::Function,
        confinement: request.confinement.clone(),
    })
}

/// Entry point and command; arguments of the caller follow the entry point, else the image's command.
///
/// A function image has the command `python user_function.py` and no entry point: there the arguments are the
/// function's, so they follow the command.
fn argv(config: &ImageConfigBody, request: &RunRequest) -> Result<Vec<String>, RunError> {
    let entrypoint = config.entrypoint.clone().unwrap_or_default();
    let command = config.cmd.clone().unwrap_or_default();
    let mut argv = entrypoint;
    if request.args.is_empty() || is_of_function(config) {
        argv.extend(command);
    }
    argv.extend(request.args.iter().cloned());
    if argv.is_empty() {
        return Err(RunError::NoCommand {
            reference: request.reference.to_string(),
        });
    }
    Ok(argv)
}

/// The image's environment, then the caller's; later entries win.
fn environment(config: &ImageConfigBody, own: &[(String, String)]) -> Result<Vec<(String, String)>, RunError> {
    let mut env = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), "/tmp".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ];
    let image = config.env.iter().flatten().filter_map(|entry| entry.split_once('='));
    let image = image.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in image.chain(own.iter().cloned()) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(RunError::Environment { name });
        }
        env.retain(|(known, _)| *known != name);
        env.push((name, value));
    }
    Ok(env)
}

fn directory(path: impl AsRef<Path>) -> Result<PathBuf, RunError> {
    let path = path.as_ref();
    let error = |source| RunError::Directory {
        path: path.to_owned(),
        source,
    };
    let absolute = path.canonicalize().map_err(error)?;
    if absolute.is_dir() {
        return Ok(absolute);
    }
    Err(error(io::Error::from(io::ErrorKind::NotADirectory)))
}

/// Does `work` that may have to wait for others, in a thread, so that a stop among `signals` ends the wait.
fn wait_for<T: Send + 'static>(signals: &Signals, work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    match unless_signalled(signals, work).map_err(|source| RunError::Wait { source })? {
        Worked::Done(result) => Ok(result),
        Worked::Stopped { stop, .. } => Err(RunError::Stopped { stop }),
    }
}

fn ms(duration: Duration) -> f64 {
    // Microseconds are what the clock is good for.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_win() {
        let config = ImageConfigBody {
            env: Some(vec!["A=1".into(), "PATH=/x".into()]),
            ..Default::default()
        };
        let env = environment(&config, &[("A".into(), "2".into())]).unwrap();
        let get = |wanted: &str| {
            env.iter()
                .filter(|(name, _)| name == wanted)
                .map(|(_, value)| value.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (get("A"), get("PATH"), get("HOME")),
            (vec!["2"], vec!["/x"], vec!["/tmp"])
        );
    }
}
