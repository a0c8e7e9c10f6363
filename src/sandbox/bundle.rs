//! What a run is made of and what comes of it: plain data.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::signals::{Signals, StopSignal};
use crate::policy::{Confinement, Kind, Level, Promise};

/// What is run: it decides which system calls there are, and whether files that the workload wrote may be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A function: `seccomp/default.json`.
    Function,
    /// Reading a stranger's sources with the image's own programs: `seccomp/build.json`.
    Compilation,
    /// Building a stranger's package: the same, and `/tmp` may hold programs, for builds run scripts and helpers that
    /// they have made there.
    PackageBuild,
}

impl Purpose {
    /// Whether what is written to `/tmp` may be executed.
    pub(super) fn may_execute_tmp(self) -> bool {
        self == Self::PackageBuild
    }
}

/// Everything the sandbox needs to know.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Unpacked layers, top first. The first is the store's scaffold: its directories are the mount points, whatever
    /// the image holds at their names.
    pub lowers: Vec<PathBuf>,
    /// The command; the first is a path, or a name looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment of the workload.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: String,
    /// Its host name.
    pub hostname: String,
    /// Directory shown read-only as `/input`; absolute.
    pub input: Option<PathBuf>,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// What kind of workload it is.
    pub purpose: Purpose,
    /// Limits.
    pub confinement: Confinement,
}

/// A value that is nowhere but in the workload: its bytes go over the control socket, past every document.
#[derive(Clone)]
pub struct Secret {
    /// Of the file or the variable.
    pub name: String,
    /// How it is handed over.
    pub place: Place,
    /// The secret.
    pub value: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} in {:?})", self.name, self.place)
    }
}

/// How a secret is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// `/run/secrets/NAME`, mode 0400, in memory.
    File,
    /// A variable of the environment: readable by everything the workload starts.
    Variable,
}

/// Where the workload's output goes, up to the limit.
#[derive(Debug, Clone, Copy)]
pub enum Sink<'a> {
    /// To our own standard output and error; the signals end the run.
    Inherit(&'a Signals),
    /// Into [`Finished`]; signals are the caller's business.
    Capture,
}

/// How a workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal, not ours.
    Signaled(i32),
    /// At the time limit.
    TimedOut,
    /// At the memory limit.
    Oom,
    /// Because we were told to stop by this signal.
    Stopped(StopSignal),
    /// Because someone else killed the sandbox.
    KilledFromOutside,
}

impl End {
    /// The number of the signal that ended the workload, if one did.
    pub fn signal(self) -> Option<i32> {
        const KILL: i32 = rustix::process::Signal::KILL.as_raw();
        match self {
            Self::Exited(_) | Self::TimedOut => None,
            Self::Signaled(signal) => Some(signal),
            Self::Stopped(signal) => Some(signal.number()),
            Self::Oom | Self::KilledFromOutside => Some(KILL),
        }
    }
}

/// A run that is over; no process of it exists any more.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// What it used.
    pub usage: Usage,
    /// Captured standard output.
    pub stdout: Vec<u8>,
    /// Captured standard error.
    pub stderr: Vec<u8>,
    /// Bytes written to standard output, passed on or not.
    pub stdout_bytes: u64,
    /// Bytes written to standard error, passed on or not.
    pub stderr_bytes: u64,
    /// Whether something was dropped.
    pub truncated: bool,
    /// Every promise and how surely it was kept.
    pub enforced: BTreeMap<Promise, Level>,
    /// The root of `/output`; the descriptor keeps it after its mount namespace is gone.
    pub output: Option<OwnedFd>,
    /// How long each phase took.
    pub times: Times,
}

/// What a run used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time of all its processes, and of making the sandbox.
    pub cpu_ms: u64,
    /// Highest charge of the cgroup; without one, the largest resident set of one process.
    pub memory_peak_bytes: Option<u64>,
    /// Processes and threads of the workload; unknown without a cgroup.
    pub pids_peak: Option<u32>,
}

/// How long the phases took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// Namespaces and mounts.
    pub prepare: Duration,
    /// Restrictions, read-back and exec.
    pub start: Duration,
    /// The workload.
    pub run: Duration,
    /// Until its last process was gone.
    pub teardown: Duration,
}

/// Why nothing ran.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel or its configuration does not let us make a user namespace.
    #[error("make user namespace: {step}")]
    UserNamespace {
        /// What was attempted.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A promise would not be kept and is not excepted.
    #[error("refuse to run: {}", lost.iter().map(|(promise, reason)| format!("{promise} cannot be enforced ({reason})")).collect::<Vec<_>>().join(", "))]
    Refused {
        /// Every promise and its level.
        levels: BTreeMap<Promise, Level>,
        /// Those that are lost, and why.
        lost: Vec<(Promise, String)>,
    },
    /// The init failed before it started the workload.
    #[error("set up sandbox: {reason}")]
    Setup {
        /// What it says, with the kernel's answer.
        reason: String,
    },
    /// The init ended without a word.
    #[error("set up sandbox: its init ended with {code:?} before it started the workload")]
    InitDied {
        /// Its exit code; none when it was killed.
        code: Option<i32>,
    },
    /// A bundle that no sandbox can run.
    #[error("run bundle: {reason}")]
    Bundle {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A system call of ours failed.
    #[error("{action}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl SandboxError {
    /// What sort of failure it is: a lost promise is a refusal, everything else a failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } => Kind::Refused,
            Self::UserNamespace { .. }
            | Self::Setup { .. }
            | Self::InitDied { .. }
            | Self::Bundle { .. }
            | Self::Io { .. } => Kind::Failed,
        }
    }

    /// The levels that are known.
    pub fn levels(&self) -> BTreeMap<Promise, Level> {
        match self {
            Self::Refused { levels, .. } => levels.clone(),
            Self::UserNamespace { .. }
            | Self::Setup { .. }
            | Self::InitDied { .. }
            | Self::Bundle { .. }
            | Self::Io { .. } => BTreeMap::new(),
        }
    }
}
