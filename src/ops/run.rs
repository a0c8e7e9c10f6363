//! `gantry run`: reference -> snapshot -> bundle -> sandbox -> outcome.
//!
//! The path of a cached run opens a ref, a snapshot and a lease, and starts no thread. Whatever happens, an outcome
//! comes back: a refusal, or a failure of gantry, is a status and not only an error text. A signal, the end of the caller
//! or the deadline ends the run at any point.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::command::Command;
use super::image_fetch::{is_nowhere, Fetch};
use super::interrupt::{unless_signalled, Worked};
use super::outcome::{milliseconds, ImageRan, LimitsInForce, Outcome, OutputReport, Phases, Start};
use super::output_place::{OnDisk, OutputPlace};
use super::prefetch::{can_tell, prefetch, Readiness};
use super::run_ending::{limits_met, Ending};
use super::run_error::RunError;
use super::secret::{self, SecretWanted};
use super::slots::{Admission, Slot};
use super::status::Status;
use super::take_output::{self, TakeError, Taken};
use super::threads;
use super::ticket::Ticket;
use crate::build::image::is_of_function;
use crate::net::{Forwarder, Internet};
use crate::oci::{Digest, ImageConfigBody, Reference};
use crate::policy::{one_line, Code, Confinement, Network, Scope, OWN_NAME};
use crate::sandbox::{self, Bundle, End, Finished, Place, Purpose, SandboxError, Secret, Signals, Sink, Stdin, Stdout};
use crate::store::{Lease, Snapshot, Store};
use crate::transfer::{Asked, Attempt};

/// Times that an image is fetched which an eviction takes before the run has it.
const FETCHES: usize = 8;

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
    /// Where `/output` is until then.
    pub output_place: OutputPlace,
    /// For which ends.
    pub take: Take,
    /// What the function's standard input is.
    pub stdin: Stdin,
    /// Variables on top of the image's.
    pub env: Vec<(String, String)>,
    /// Secrets that the workload gets.
    pub secrets: Vec<SecretWanted>,
    /// Limits.
    pub confinement: Confinement,
    /// What is done where no cgroup is delegated to us.
    pub scope: Scope,
    /// Replaces the image's entry point and command.
    pub entrypoint: Option<String>,
    /// Replaces the arguments of the image's command.
    pub args: Vec<String>,
    /// What the caller calls the job.
    pub ticket: Ticket,
    /// How it gets a run slot.
    pub admission: Admission,
    /// Whether the image is fetched from a registry first.
    pub fetch: Fetch,
    /// Where its standard output goes.
    pub stdout: Stdout,
}

/// After which ends the files of `/output` are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Take {
    /// After those in the function's own time, `ok` and `failed`: files of a function that was cut off may be half
    /// written, and would replace whole ones.
    #[default]
    Whole,
    /// After every end.
    Partial,
}

impl Take {
    fn wants(self, end: End, status: Status) -> bool {
        match self {
            // More than is ever taken.
            _ if matches!(end, End::TooMuchOutput(_)) => false,
            Self::Whole => matches!(status, Status::Ok | Status::Failed),
            Self::Partial => true,
        }
    }
}

/// Runs `request` and returns its outcome; the error is there when the outcome's `error` is. One of `signals` ends the run.
pub fn run(store: &Store, request: &RunRequest, signals: &Signals) -> (Outcome, Option<RunError>) {
    let mut account = Account {
        digest: None,
        is_of_function: false,
        readiness: Readiness::default(),
        cache: "miss",
        attempts: Vec::new(),
        phases: Phases::default(),
        command: Command::default(),
        finished: None,
        taken: None,
        notes: Vec::new(),
    };
    let result = account.run(store, request, signals);
    signals.enter("finish");
    let (outcome, error) = account.conclude(request, result);
    if outcome.code == Some(Code::Deadline) {
        account.let_output_go();
    }
    (outcome.concluded(), error)
}

/// What is known of a run so far.
struct Account {
    digest: Option<Digest>,
    is_of_function: bool,
    readiness: Readiness,
    cache: &'static str,
    attempts: Vec<Attempt>,
    phases: Phases,
    command: Command,
    finished: Option<Finished>,
    taken: Option<Taken>,
    notes: Vec<String>,
}

impl Account {
    /// Frees what the function left in memory, in the background: that takes half a second for a gigabyte, and the outcome of a
    /// run whose time is over cannot wait for it.
    fn let_output_go(&mut self) {
        if let Some(output) = self.finished.as_mut().and_then(|finished| finished.output.take()) {
            // Without a thread it is freed here.
            drop(std::thread::Builder::new().spawn(move || drop(output)));
        }
    }

    fn run(&mut self, store: &Store, request: &RunRequest, signals: &Signals) -> Result<(), RunError> {
        self.fetch(store, request, signals)?;
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
        let mut found = self.snapshot(store, &request.reference, signals);
        for _ in 0..FETCHES {
            // An eviction took it between its fetch and here.
            let is_lost = matches!(found, Err(RunError::UnknownImage { .. }));
            if !is_lost || !request.fetch.is_wanted(store, &request.reference) {
                break;
            }
            self.fetch(store, request, signals)?;
            signals.enter("resolve");
            found = self.snapshot(store, &request.reference, signals);
        }
        let (snapshot, _lease) = found?;
        drop(collector);
        self.is_of_function = is_of_function(&snapshot.config);
        self.readiness = prefetch(store, &snapshot.manifest);
        let on_disk = match request.output_place {
            OutputPlace::Memory => None,
            OutputPlace::Disk => Some(OnDisk::make(store)?),
        };
        let output = on_disk.as_ref().map(|place| place.path().to_owned());
        let bundle = Bundle {
            output,
            ..bundle(store, &snapshot, request, read_secrets(&request.secrets, signals)?)?
        };
        if let Some(directory) = &request.output {
            take_output::prepare(store, directory)?;
        }
        self.command = Command::of(&bundle);
        self.phases.resolve = milliseconds(started.elapsed()) - self.phases.unpack;

        signals.enter("prepare");
        let sink = Sink::Inherit(signals, request.stdout);
        let finished = match &request.confinement.network {
            Network::None | Network::Loopback => sandbox::run(&bundle, sink)?,
            Network::Egress(_) => self.run_with_egress(&bundle, sink)?,
        };
        self.phases.prepare = milliseconds(finished.times.prepare);
        self.phases.start = milliseconds(finished.times.start);
        self.phases.run = milliseconds(finished.times.run);
        self.phases.teardown = milliseconds(finished.times.teardown);
        let taking = Instant::now();
        let ending = Ending::of(&finished, &self.command, &request.confinement);
        if let Some(error) = &finished.unreadable {
            self.notes.push(format!(
                "read standard input: {error}; the function got what came before"
            ));
        }
        // Of a bus error the line names the places itself.
        if ending.status != Status::Ok && ending.code != Some(Code::BusError) {
            let met = limits_met(&finished, &request.confinement, request.output_place);
            self.notes.extend(met);
        }
        let finished = self.finished.insert(finished);
        let in_memory = finished.output.as_ref().map(AsFd::as_fd);
        let output = on_disk.as_ref().map(OnDisk::root).or(in_memory);
        let directory = request
            .output
            .as_deref()
            .filter(|_| request.take.wants(finished.end, ending.status));
        if let Some((directory, output)) = directory.zip(output) {
            let size = request.confinement.output_size;
            let taken = take_output::take(store, output, directory, size, &mut || signals.take_while_taking());
            self.phases.teardown += milliseconds(taking.elapsed());
            if let Err(TakeError::Stopped { .. }) = &taken {
                let note = "nothing of /output is taken: the run was to end before all of it was copied";
                self.notes.push(note.to_owned());
            }
            self.taken = Some(taken?);
        }
        match finished.unwritable.take() {
            // How the function ended is more to know than that its words are lost.
            Some((stream, source)) if ending.status != Status::Ok => {
                self.notes
                    .push(format!("write {stream}: {source}; what the function printed is lost"));
                Ok(())
            }
            Some((stream, source)) => Err(RunError::Stream { stream, source }),
            None => Ok(()),
        }
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
            let was_fetched = !self.attempts.is_empty();
            self.cache = if was_fetched { "miss" } else { "hit" };
            return Ok((snapshot, lease));
        }
        // Whoever evicts it has its lease alone meanwhile.
        if store.names().find(reference)? != Some(digest) {
            return Err(unknown());
        }
        let unpacking = Instant::now();
        let own = store.clone();
        signals.enter("unpack");
        let unpacked = wait_for(signals, move || own.images().restore(&digest));
        self.phases.unpack = milliseconds(unpacking.elapsed());
        Ok((unpacked??, lease))
    }

    /// Brings the image from a registry, when that is asked for. Before there is a slot, which others can use meanwhile.
    fn fetch(&mut self, store: &Store, request: &RunRequest, signals: &Signals) -> Result<(), RunError> {
        if !request.fetch.is_wanted(store, &request.reference) {
            return Ok(());
        }
        signals.enter("pull");
        let pulling = Instant::now();
        let (own, fetch, reference) = (store.clone(), request.fetch.clone(), request.reference.clone());
        let asked = Asked::default();
        let noted = asked.clone();
        let fetched = wait_for(signals, move || fetch.fetch(&own, &reference, &noted));
        self.phases.pull = milliseconds(pulling.elapsed());
        // Of a pull that is left behind as well.
        self.attempts = asked.attempts();
        self.digest = match fetched? {
            Ok(copied) => Some(copied.digest),
            Err(error) if is_nowhere(store, &request.fetch.registries, &request.reference, &error) => {
                let reference = request.reference.to_string();
                return Err(RunError::UnknownImage { reference });
            }
            Err(error) => return Err(RunError::Pull(error)),
        };
        Ok(())
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
        self.phases.wait = milliseconds(waiting.elapsed());
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
                (outcome.code, outcome.error) = (Some(error.code()), Some(one_line(&error)));
                (outcome, Some(error.into()))
            }
            Err(error) => {
                let mut outcome = self.outcome(request);
                outcome.status = error.status();
                outcome.exit_code = error.exit_code();
                (outcome.code, outcome.error) = (Some(error.code()), Some(one_line(&error)));
                if let RunError::Sandbox(sandbox) = &error {
                    outcome.enforced = sandbox.levels();
                    outcome.started = sandbox.has_started();
                }
                (outcome, Some(error))
            }
        }
    }

    /// Whether the workload has begun.
    fn start(&self) -> Start {
        match &self.finished {
            Some(finished) if finished.has_started => Start::Made,
            _ => Start::None,
        }
    }

    fn outcome(&self, request: &RunRequest) -> Outcome {
        let reference = request.reference.to_string();
        let mut outcome = Outcome::not_started(reference, Status::Error, Code::SandboxFailed, String::new());
        outcome.image = ImageRan {
            reference: request.reference.to_string(),
            digest: self.digest,
            is_of_function: self.is_of_function,
        };
        outcome.cache = self.cache;
        outcome.attempts.clone_from(&self.attempts);
        outcome.phases_ms = self.phases.clone();
        outcome.runtime = Some(request.confinement.runtime);
        outcome.limits = Some(LimitsInForce::of(&request.confinement, request.output_place));
        (outcome.code, outcome.error) = (None, None);
        outcome.ticket = request.ticket.clone();
        outcome.notes = self.notes.clone();
        let Some(finished) = &self.finished else { return outcome };
        Ending::of(finished, &self.command, &request.confinement).tell(&mut outcome);
        outcome.started = finished.has_started;
        outcome.usage = finished.usage;
        let read_bytes = finished.usage.read_bytes;
        let tells = outcome.status == Status::Ok && can_tell(self.readiness, read_bytes);
        outcome.telling_read = tells.then_some(read_bytes);
        outcome.output = OutputReport {
            stdout_bytes: finished.stdout_bytes,
            stderr_bytes: finished.stderr_bytes,
            truncated: finished.truncated,
            unread: finished.unread,
            files: self.taken.map(|taken| taken.files),
            bytes: self.taken.map(|taken| taken.bytes),
        };
        outcome.enforced = finished.enforced.clone();
        if let End::Stopped(stop) = finished.end {
            outcome.stop(stop, self.start());
        }
        outcome
    }
}

/// What `request` runs of `snapshot`, with `secrets` in the place of those that it names.
pub(super) fn bundle(
    store: &Store,
    snapshot: &Snapshot,
    request: &RunRequest,
    secrets: Vec<Secret>,
) -> Result<Bundle, RunError> {
    let mut lowers = vec![store.trees().scaffold()?];
    lowers.extend(store.images().trees(snapshot));
    let input = request.input.as_deref().map(input).transpose()?;
    let is_secret = |name: &str| {
        let mut secrets = request.secrets.iter();
        secrets.any(|secret| secret.place == Place::Variable && secret.name == name)
    };
    Ok(Bundle {
        lowers,
        argv: argv(&snapshot.config, request)?,
        env: environment(&snapshot.config, &request.env, request.confinement.processors())?
            .into_iter()
            .filter(|(name, _)| !is_secret(name))
            .collect(),
        cwd: snapshot
            .config
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "/".to_owned()),
        hostname: OWN_NAME.to_owned(),
        input,
        output: None,
        secrets,
        stdin: request.stdin,
        purpose: Purpose::Function,
        confinement: request.confinement.clone(),
        scope: request.scope,
    })
}

/// Entry point and command; arguments of the caller follow the entry point, else the image's command.
///
/// A function image has the command `python user_function.py` and no entry point: there the arguments are the
/// function's, so they follow the command.
fn argv(config: &ImageConfigBody, request: &RunRequest) -> Result<Vec<String>, RunError> {
    if let Some(program) = &request.entrypoint {
        return Ok([program].into_iter().chain(&request.args).cloned().collect());
    }
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

/// What every run has, then the image's environment, then the caller's; later entries win.
fn environment(
    config: &ImageConfigBody,
    own: &[(String, String)],
    processors: u32,
) -> Result<Vec<(String, String)>, RunError> {
    let mut env = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), "/tmp".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        // Python keeps what goes into a pipe until it ends by itself: a limit or a signal would take it away.
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
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
    env.extend(threads::defaults(&env, processors));
    Ok(env)
}

/// Reads secrets. One that comes from a pipe may keep us waiting, which a stop ends.
fn read_secrets(wanted: &[SecretWanted], signals: &Signals) -> Result<Vec<Secret>, RunError> {
    let read = |wanted: &[SecretWanted]| wanted.iter().map(secret::read).collect::<Result<Vec<_>, _>>();
    if !wanted.iter().any(secret::may_wait) {
        return Ok(read(wanted)?);
    }
    let own = wanted.to_vec();
    Ok(wait_for(signals, move || read(&own))??)
}

/// The caller's directory for `/input`, absolute.
fn input(path: &Path) -> Result<PathBuf, RunError> {
    let error = |source| RunError::Input {
        path: path.to_owned(),
        source,
    };
    let absolute = path.canonicalize().map_err(error)?;
    // Bounds were held against this path, and the run may have waited since.
    if path.is_absolute() && absolute != path {
        return Err(error(io::Error::other(format!(
            "it leads to {}: name that directory",
            absolute.display()
        ))));
    }
    if absolute.is_dir() {
        return Ok(absolute);
    }
    Err(error(io::ErrorKind::NotADirectory.into()))
}

/// Does `work` that may have to wait for others, in a thread, so that a stop among `signals` ends the wait.
fn wait_for<T: Send + 'static>(signals: &Signals, work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    match unless_signalled(signals, work).map_err(|source| RunError::Wait { source })? {
        Worked::Done(result) => Ok(result),
        Worked::Stopped { stop, .. } => Err(RunError::Stopped { stop }),
    }
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
        let env = environment(&config, &[("A".into(), "2".into())], 1).unwrap();
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
