//! `gantry doctor`: what holds on this machine, found out by trying.
//!
//! gantry runs its own binary in its own sandbox and attacks every promise from there; nothing is concluded from a
//! version. One finding per promise (level, evidence, fix) and one observation per setting of the host.

mod host;
mod look;
mod meaning;
mod probe;
mod remedy;
mod runtimes;
mod surroundings;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::{Config, Environment};
use crate::policy::{one_line, Bytes, Confinement, Kind, Level, Network, Promise, Runtime, Scope};
use crate::sandbox::{
    self, Bundle, CgroupError, End, Finished, Purpose, SandboxError, Signals, Sink, Stdin, Stdout, Subtree,
};
use crate::store::{Store, StoreError};
use crate::sys::signal;

use probe::Answer;
use runtimes::Levels;

pub use host::Observation;
pub use meaning::Meaning;
pub use probe::{is_probe, main as probe_main};
pub use remedy::find as find_remedy;
pub use runtimes::RuntimeFinding;
pub use surroundings::{Surroundings, Tool};

/// The memory limit of the attack on it.
const MEMORY: Bytes = Bytes(48 << 20);
/// Bytes that the attack on memory takes: three times the limit.
const ALLOCATED: u64 = 144 << 20;
/// The share of a core that two busy threads get.
const CPUS: f64 = 0.5;
const SPIN: Duration = Duration::from_millis(1000);
/// 15 % above the share, and a period of 100 ms that may have begun before the threads did.
const MOST_CPU: Duration = Duration::from_millis(575 + 50);
const CPU_TRIES: u32 = 3;
const OUTPUT_LIMIT: Bytes = Bytes(64 << 10);
/// Time limit of an attack; on a machine that works none takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How surely one promise is kept here.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The level a run would report, if the attack agrees.
    pub level: Level,
    /// What was tried and what came of it.
    pub evidence: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// What it means that it is not enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub means: Option<Meaning>,
}

/// What the findings together mean for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every promise is enforced.
    Ok,
    /// Runs need `--allow-degraded`.
    Degraded,
    /// Nothing can run.
    Unusable,
}

/// The document of `gantry doctor --json`.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Always 1.
    pub schema: u32,
    /// What the findings mean.
    pub verdict: Verdict,
    /// Every promise; empty when nothing can run.
    pub promises: BTreeMap<Promise, Finding>,
    /// Why nothing can run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The promises that a run has to accept the loss of here, as `--allow-degraded` takes them.
    pub allow_degraded: Vec<Promise>,
    /// What can make the container of a run.
    pub runtimes: BTreeMap<Runtime, RuntimeFinding>,
    /// What gantry works with.
    pub surroundings: Surroundings,
    /// What was seen of the host.
    pub host: Vec<Observation>,
}

/// Why the examination itself failed.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The probe cannot be put in its place.
    #[error("copy gantry to {path}")]
    Copy {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl DoctorError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Copy { .. } => Kind::Failed,
        }
    }
}

/// Examines this machine, with scratch space in `store`.
///
/// # Errors
///
/// [`DoctorError`] when the machine could not be examined. A promise that does not hold is no error but part of the result.
pub fn examine(store: &Store, config: &Config, environment: &Environment) -> Result<Diagnosis, DoctorError> {
    let scratch = store.scratch()?;
    let layer = scratch.path().join("fs");
    let target = layer.join(probe::PATH.trim_start_matches('/'));
    let copied = std::fs::create_dir(&layer).and_then(|()| std::fs::copy("/proc/self/exe", &target).map(drop));
    copied.map_err(|source| DoctorError::Copy { path: target, source })?;
    let doctor = Doctor {
        scaffold: store.trees().scaffold()?,
        layer,
        subtree: Subtree::open_or_ask(config.run.scope()),
        runtime: config.run.confinement().runtime,
    };
    let host = host::observe(store.root());
    let (promises, error) = match doctor.promises() {
        Ok(promises) => (promises, None),
        Err(error) => (BTreeMap::new(), Some(one_line(&error))),
    };
    let verdict = match &error {
        Some(_) => Verdict::Unusable,
        None if promises.values().all(|finding| finding.level == Level::Enforced) => Verdict::Ok,
        None => Verdict::Degraded,
    };
    Ok(Diagnosis {
        schema: 1,
        verdict,
        allow_degraded: promises
            .iter()
            .filter(|(_, finding)| finding.level != Level::Enforced)
            .map(|(promise, _)| *promise)
            .collect(),
        runtimes: doctor.runtimes(),
        surroundings: surroundings::look(store, config, environment),
        promises,
        error,
        host,
    })
}

/// Runs a sandbox that waits, until it is killed: the other half of the attack on [`Promise::Death`].
pub fn hold(scaffold: &Path, layer: &Path, marker: &str, runtime: Runtime) -> Result<(), SandboxError> {
    let doctor = Doctor {
        scaffold: scaffold.to_owned(),
        layer: layer.to_owned(),
        subtree: Err(CgroupError::NotUnified),
        runtime,
    };
    let mut bundle = doctor.bundle(&["wait", "600000"], Confinement::default());
    bundle.argv.push(marker.to_owned());
    let signals = Signals::watch().map_err(|source| SandboxError::Io {
        action: "watch for signals",
        source,
    })?;
    sandbox::run(&bundle, Sink::Inherit(&signals, Stdout::Own)).map(drop)
}

/// The limits under which the probe looks around.
fn limits_of_a_look() -> Confinement {
    Confinement {
        pids: look::PIDS,
        tmp_size: look::PLACE,
        output_size: look::PLACE,
        timeout: PATIENCE,
        ..Confinement::default()
    }
}

struct Doctor {
    scaffold: PathBuf,
    layer: PathBuf,
    subtree: Result<Subtree, CgroupError>,
    runtime: Runtime,
}

impl Doctor {
    fn promises(&self) -> Result<BTreeMap<Promise, Finding>, SandboxError> {
        let (looked, found) = self.look(self.bundle(&["look"], limits_of_a_look()))?;
        let from_inside = look::CHECKS.map(|(promise, check)| (promise, check(&found)));
        let network = self.loopback();
        let attacks = [
            (Promise::Memory, self.memory()?),
            (Promise::Cpu, self.cpu()?),
            (Promise::Time, self.time()?),
            (Promise::OutputSize, self.output()?),
            (Promise::Death, self.death()),
        ];
        let tried = from_inside.into_iter().chain(attacks);
        let tried = tried.map(|(promise, (holds, evidence))| match promise {
            Promise::Network => (promise, (holds && network.0, format!("{evidence}; {}", network.1))),
            _ => (promise, (holds, evidence)),
        });
        let findings = tried.map(|(promise, (holds, evidence))| {
            let reported = looked.enforced.get(&promise).copied().unwrap_or(Level::Absent);
            let level = if holds { reported } else { Level::Absent };
            let finding = Finding {
                level,
                evidence,
                fix: (level != Level::Enforced).then(|| self.fix(promise)).flatten(),
                means: meaning::of(promise, level),
            };
            (promise, finding)
        });
        Ok(findings.collect())
    }

    /// Runs the look of `bundle` and reads what it saw.
    fn look(&self, bundle: Bundle) -> Result<(Finished, probe::Found), SandboxError> {
        let looked = sandbox::run(&bundle, Sink::Capture)?;
        let found = serde_json::from_slice(&looked.stdout).map_err(|error| SandboxError::Io {
            action: "understand the probe",
            source: error.into(),
        })?;
        Ok((looked, found))
    }

    /// Tries everything that can make the container of a run.
    fn runtimes(&self) -> BTreeMap<Runtime, RuntimeFinding> {
        let levels = |runtime: Runtime| -> Result<Levels, SandboxError> {
            let mut bundle = self.bundle(&["look"], limits_of_a_look());
            bundle.confinement.runtime = runtime;
            let (looked, found) = self.look(bundle)?;
            let mut levels = looked.enforced;
            for (promise, check) in look::CHECKS {
                if !check(&found).0 {
                    levels.insert(promise, Level::Absent);
                }
            }
            Ok(levels)
        };
        let tried = Runtime::BUILT_IN.iter().map(|runtime| (*runtime, levels(*runtime)));
        runtimes::compare(tried.collect(), self.runtime)
    }

    /// Talks to itself, and to others, in a run with loopback: whether nobody else was reached, and what came of both.
    fn loopback(&self) -> (bool, String) {
        let confinement = Confinement {
            network: Network::Loopback,
            timeout: PATIENCE,
            ..Confinement::default()
        };
        let answers = |finished: Finished| serde_json::from_slice::<(Answer, Answer)>(&finished.stdout);
        match self.run(&["talk"], confinement).map(answers) {
            Ok(Ok((near, far))) => {
                let evidence = format!("with loopback, a connection to 127.0.0.1: {near}; to another address: {far}");
                (far != Answer::WentThrough, evidence)
            }
            Ok(Err(error)) => (true, format!("with loopback, no answer: {error}")),
            Err(error) => (true, format!("with loopback, no run: {}", one_line(&error))),
        }
    }

    /// Takes three times as much memory as the limit allows.
    fn memory(&self) -> Result<(bool, String), SandboxError> {
        let confinement = Confinement {
            memory: MEMORY,
            timeout: PATIENCE,
            ..Confinement::default()
        };
        let finished = self.run(&["allocate", &ALLOCATED.to_string()], confinement)?;
        let evidence = format!(
            "took {} under a limit of {MEMORY}: {}",
            Bytes(ALLOCATED),
            ended(finished.end)
        );
        Ok((finished.end == End::Oom, evidence))
    }

    /// Takes more than its share of the processor, a few times: a virtual machine that has to wait for its host books that time as used.
    fn cpu(&self) -> Result<(bool, String), SandboxError> {
        let mut tried = self.cpu_once()?;
        for _ in 1..CPU_TRIES {
            if tried.0 || self.subtree.is_err() {
                break;
            }
            tried = self.cpu_once()?;
        }
        Ok(tried)
    }

    fn cpu_once(&self) -> Result<(bool, String), SandboxError> {
        let confinement = Confinement {
            cpus: CPUS,
            timeout: PATIENCE,
            ..Confinement::default()
        };
        let finished = self.run(&["spin", &SPIN.as_millis().to_string()], confinement)?;
        let said = String::from_utf8_lossy(&finished.stdout).trim().parse().ok();
        let used = said.map(Duration::from_millis);
        let got = used.map_or("nobody knows how much".to_owned(), |used| format!("{used:?}"));
        let evidence = format!("two busy threads got {got} of cpu in {SPIN:?} under a share of {CPUS}");
        Ok((used.is_some_and(|used| used <= MOST_CPU), evidence))
    }

    fn time(&self) -> Result<(bool, String), SandboxError> {
        let confinement = Confinement {
            timeout: Duration::from_millis(200),
            ..Confinement::default()
        };
        let started = Instant::now();
        let finished = self.run(&["wait", "60000"], confinement)?;
        let evidence = format!(
            "{} after {} ms of 200",
            ended(finished.end),
            started.elapsed().as_millis()
        );
        Ok((finished.end == End::TimedOut, evidence))
    }

    fn output(&self) -> Result<(bool, String), SandboxError> {
        let confinement = Confinement {
            output_limit: OUTPUT_LIMIT,
            timeout: PATIENCE,
            ..Confinement::default()
        };
        let finished = self.run(&["flood", "1048576"], confinement)?;
        let holds = finished.stdout.len() as u64 == OUTPUT_LIMIT.0 && finished.truncated;
        let evidence = format!(
            "{} of {} were passed on under a limit of {OUTPUT_LIMIT}",
            Bytes(finished.stdout.len() as u64),
            Bytes(finished.stdout_bytes)
        );
        Ok((holds, evidence))
    }

    /// Kills a gantry of its own while that one's sandbox runs.
    fn death(&self) -> (bool, String) {
        let marker = format!("doctor-{}", std::process::id());
        let failed = |what: &str, error: io::Error| (false, format!("{what}: {error}"));
        let spawned = Command::new("/proc/self/exe")
            .args(["doctor", "--hold"])
            .args([&self.scaffold, &self.layer])
            .arg(&marker)
            .arg(self.runtime.name())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return failed("start gantry", error),
        };
        let mut line = String::new();
        let up = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let seen = has_process(&marker);
        let killed = child.kill().and_then(|()| child.wait());
        if let Err(error) = killed {
            return failed("kill gantry", error);
        }
        if !matches!(up, Some(Ok(3))) || !seen {
            return (false, "the sandbox that was to be killed did not start".to_owned());
        }
        // Its cgroup is what the next command sweeps, and that is this one.
        sandbox::sweep();
        let started = Instant::now();
        while has_process(&marker) {
            if started.elapsed() > PATIENCE {
                return (false, "a function outlived its gantry, which was killed".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let evidence = format!(
            "gantry was killed, its function was gone {} ms later",
            started.elapsed().as_millis()
        );
        (true, evidence)
    }

    fn run(&self, args: &[&str], confinement: Confinement) -> Result<Finished, SandboxError> {
        sandbox::run(&self.bundle(args, confinement), Sink::Capture)
    }

    /// A bundle of the probe in which every promise may be lost: what is lost is what we want to know.
    fn bundle(&self, args: &[&str], confinement: Confinement) -> Bundle {
        let argv = std::iter::once(probe::PATH).chain(args.iter().copied());
        Bundle {
            lowers: vec![self.scaffold.clone(), self.layer.clone()],
            argv: argv.map(str::to_owned).collect(),
            env: vec![("PATH".to_owned(), "/".to_owned())],
            cwd: "/".to_owned(),
            hostname: "doctor".to_owned(),
            input: None,
            output: None,
            stdin: Stdin::Empty,
            secrets: Vec::new(),
            purpose: Purpose::Function,
            confinement: Confinement {
                allow_degraded: Promise::ALL.into(),
                runtime: self.runtime,
                ..confinement
            },
            // Asked for already.
            scope: Scope::Off,
        }
    }

    fn fix(&self, promise: Promise) -> Option<String> {
        let fix = match (promise, &self.subtree) {
            (Promise::Memory | Promise::Cpu, Err(error)) => remedy::of(error),
            (Promise::Memory | Promise::Cpu, Ok(_)) => return None,
            (Promise::Processes, _) => "run gantry as a user of its own, or as root in a delegated cgroup",
            (Promise::Landlock, _) => "boot Linux 6.12 or newer with lsm=landlock,...",
            _ => return None,
        };
        let reason = self.subtree.as_ref().err().filter(|_| promise != Promise::Landlock);
        Some(reason.map_or(fix.to_owned(), |reason| format!("{reason}; {fix}")))
    }
}

fn ended(end: End) -> String {
    match end {
        End::Exited(code) => format!("ended with {code}"),
        End::NotExecuted { errno, .. } => format!("was not executed: {}", io::Error::from_raw_os_error(errno)),
        End::Signaled(signal) => format!("ended by {}", signal::describe(signal)),
        End::Stopped(signal) => format!("ended by signal {signal}"),
        End::KilledFromOutside => "killed from outside".to_owned(),
        End::TimedOut => "timed out".to_owned(),
        End::Oom => "out of memory".to_owned(),
        End::TooMuchInput => "ended by too much input".to_owned(),
        End::TooMuchOutput(_) => "ended by too much output".to_owned(),
    }
}

/// Whether a process other than the one that was started with `--hold` has `marker` as an argument.
fn has_process(marker: &str) -> bool {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut commands = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.any(|command| {
        let mut words = command.split(|byte| *byte == 0);
        words.next() == Some(probe::PATH.as_bytes()) && words.any(|word| word == marker.as_bytes())
    })
}
