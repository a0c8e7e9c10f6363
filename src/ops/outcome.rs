//! The outcome of a run: everything that is known about it, as one JSON document (version 1).
//!
//! gantry writes it even when the run failed. A field that is not known on this machine is `null`, never absent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::action::{advise, exit_code, Advice};
use super::output_place::OutputPlace;
use super::status::Status;
use super::ticket::Ticket;
use crate::oci::Digest;
use crate::policy::{with_limits, Bytes, Code, Confinement, Kind, Level, NetworkMode, Promise, Runtime};
use crate::sandbox::{Stop, Usage};
use crate::sys::clock;
use crate::sys::signal;
use crate::transfer::Attempt;

/// Exit code when gantry could not run the workload, as that of `docker run` and `env`.
pub const CANNOT_RUN: u8 = 125;
/// Exit code when the time limit struck, as that of `timeout`.
pub(super) const TIMED_OUT: u8 = 124;

/// The outcome of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Always 1.
    pub schema: u32,
    /// How it ended.
    pub status: Status,
    /// The exit code of gantry.
    pub exit_code: u8,
    /// The signal that ended the function or the run.
    pub signal: Option<i32>,
    /// Why it did not end well, in a word that stays; none when it did.
    pub code: Option<Code>,
    /// Whether the first instruction of the function was executed.
    pub started: bool,
    /// Which image.
    pub image: ImageRan,
    /// `hit` when the image was ready, `miss` when it was not there, or had to be fetched or unpacked.
    pub cache: &'static str,
    /// Registries tried.
    pub attempts: Vec<Attempt>,
    /// When gantry began: UTC, RFC 3339.
    pub started_at: String,
    /// Wall-clock milliseconds from there to this document.
    pub wall_ms: f64,
    /// Wall-clock milliseconds of each phase.
    pub phases_ms: Phases,
    /// What made, or was to make, its container; none when that was not settled.
    pub runtime: Option<Runtime>,
    /// What the run was held to; none when that was not settled.
    pub limits: Option<LimitsInForce>,
    /// What it used.
    pub usage: Usage,
    /// What it printed.
    pub output: OutputReport,
    /// Every promise and how surely it was kept; empty when nothing was started.
    pub enforced: BTreeMap<Promise, Level>,
    /// Why it did not end well, on one line.
    pub error: Option<String>,
    /// The version of gantry.
    pub gantry_version: &'static str,
    /// The caller's own words for the job.
    #[serde(flatten)]
    pub ticket: Ticket,
    /// What its queue is to do with it.
    #[serde(flatten)]
    pub advice: Advice,
    /// What it read from the disk, where that can tell which files runs of its image read at first.
    #[serde(skip)]
    pub telling_read: Option<u64>,
    /// What else a person should know, a line each: limits that the function ran into, hosts that were not reached.
    pub notes: Vec<String>,
}

/// The image of a run.
#[derive(Debug, Clone, Serialize)]
pub struct ImageRan {
    /// As typed.
    pub reference: String,
    /// The manifest that the reference names; none when it names nothing.
    pub digest: Option<Digest>,
    /// Whether it is known to be made of a function.
    #[serde(skip)]
    pub is_of_function: bool,
}

/// The milliseconds that each phase of a run took; together they are the run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Phases {
    /// Waiting for a run slot.
    pub wait: f64,
    /// Reference to snapshot.
    pub resolve: f64,
    /// Fetching blobs.
    pub pull: f64,
    /// Unpacking layers.
    pub unpack: f64,
    /// Namespaces and mounts.
    pub prepare: f64,
    /// Restrictions, up to the workload's first instruction.
    pub start: f64,
    /// The workload itself.
    pub run: f64,
    /// Until nothing of it is left, and its output is collected.
    pub teardown: f64,
}

/// How much a run printed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OutputReport {
    /// Bytes written to standard output, passed on or not.
    pub stdout_bytes: u64,
    /// Bytes written to standard error, passed on or not.
    pub stderr_bytes: u64,
    /// Whether something was dropped.
    pub truncated: bool,
    /// Whether whoever read standard output has gone, and standard error.
    #[serde(skip)]
    pub unread: [bool; 2],
    /// Files of `/output` that were taken; none when nothing was to be taken.
    pub files: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
}

impl Outcome {
    /// The outcome of a run of `reference` that gantry could not start.
    pub fn not_started(reference: String, status: Status, code: Code, error: String) -> Self {
        Self {
            schema: 1,
            status,
            exit_code: CANNOT_RUN,
            signal: None,
            code: Some(code),
            started: false,
            image: ImageRan {
                reference,
                digest: None,
                is_of_function: false,
            },
            cache: "miss",
            attempts: Vec::new(),
            started_at: rfc3339(clock::now()),
            wall_ms: 0.0,
            phases_ms: Phases::default(),
            runtime: None,
            limits: None,
            usage: Usage::default(),
            output: OutputReport::default(),
            enforced: BTreeMap::new(),
            error: Some(error),
            gantry_version: env!("CARGO_PKG_VERSION"),
            ticket: Ticket::default(),
            advice: advise(status, None),
            telling_read: None,
            notes: Vec::new(),
        }
    }

    /// The outcome of a run of `reference` that `stop` ended before anything was started.
    pub fn stopped(reference: String, stop: Stop) -> Self {
        let mut outcome = Self::not_started(reference, Status::Error, Code::Stopped, String::new());
        outcome.stop(stop, Start::None);
        outcome.concluded()
    }

    /// Makes it that of the job that `ticket` names.
    #[must_use]
    pub fn of(mut self, ticket: Ticket) -> Self {
        self.ticket = ticket;
        self.concluded()
    }

    /// The outcome, with what follows from its status: nothing changes that any more.
    #[must_use]
    pub fn concluded(mut self) -> Self {
        self.advice = advise(self.status, self.ticket.attempt);
        self
    }

    /// The exit code of gantry.
    pub fn code(&self, codes: ExitCodes) -> u8 {
        match codes {
            ExitCodes::OfTheFunction => self.exit_code,
            ExitCodes::ByStatus => exit_code(self.status),
        }
    }

    /// Makes it that of a run that `stop` ended.
    pub fn stop(&mut self, stop: Stop, start: Start) {
        self.signal = stop.signal();
        let (code, why) = match stop {
            Stop::Signal(signal) => (
                Code::Stopped,
                format!("stopped by {}", signal::describe(signal.number())),
            ),
            Stop::CallerEnded { .. } => (Code::CallerEnded, stop.to_string()),
            Stop::Deadline { .. } => (Code::Deadline, format!("{stop} (--deadline)")),
        };
        (self.code, self.error) = (Some(code), Some(why));
        (self.status, self.exit_code) = match (stop, start) {
            (Stop::Signal(_), _) | (Stop::CallerEnded { .. }, _) => {
                let signal = self.signal.unwrap_or_default();
                (Status::Killed, by_signal(signal))
            }
            // Nothing of the function was executed, so a later try does nothing twice.
            (Stop::Deadline { .. }, Start::None) => (Status::Unavailable, Kind::Unavailable.exit_code()),
            (Stop::Deadline { .. }, Start::Made) => (Status::Timeout, TIMED_OUT),
        };
    }

    /// Makes it that of a run that gantry began at `started_at` and that has taken `wall` since.
    pub fn timed(self, started_at: SystemTime, wall: Duration) -> Self {
        Self {
            started_at: rfc3339(started_at),
            wall_ms: milliseconds(wall),
            ..self
        }
    }
}

/// What the exit code of a run says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCodes {
    /// How the function ended: its own code where it has one.
    OfTheFunction,
    /// How the run ended.
    ByStatus,
}

/// Whether the function had begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing of it was executed.
    None,
    /// It had.
    Made,
}

/// What a shell makes of a signal.
pub(super) fn by_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Milliseconds, to the microsecond: that is what the clock is good for.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// `2026-11-24T08:06:00.123Z`.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    clock::rfc3339(since.as_secs(), &format!(".{:03}", since.subsec_millis()))
}

macro_rules! limits_in_force {
    ($($(#[$doc:meta])* $name:ident: $given:ty => $value:ty = $default:expr, $word:literal;)*) => {
        /// What a run was held to, each as a job says it: sizes are bytes, times texts, and a time of nothing is null.
        #[derive(Debug, Clone, Serialize)]
        pub struct LimitsInForce {
            $($(#[$doc])* pub $name: Option<serde_json::Value>,)*
            /// Whether `/output` was on disk.
            pub output_on_disk: bool,
            /// What could be reached.
            pub network: NetworkMode,
            /// The hosts.
            pub egress: Vec<String>,
            /// Promises whose loss was accepted.
            pub allow_degraded: Vec<Promise>,
        }

        impl LimitsInForce {
            /// Those of `confinement`, with `/output` in `place`.
            pub fn of(confinement: &Confinement, place: OutputPlace) -> Self {
                Self {
                    $($name: confinement.$name.said(),)*
                    output_on_disk: place == OutputPlace::Disk,
                    network: confinement.network.mode(),
                    egress: confinement.network.egress().iter().map(ToString::to_string).collect(),
                    allow_degraded: confinement.allow_degraded.iter().copied().collect(),
                }
            }
        }
    };
}
with_limits!(limits_in_force);

/// A limit as a job says it.
trait Said {
    fn said(&self) -> Option<serde_json::Value>;
}

impl Said for Bytes {
    fn said(&self) -> Option<serde_json::Value> {
        Some(self.0.into())
    }
}

impl Said for f64 {
    fn said(&self) -> Option<serde_json::Value> {
        Some((*self).into())
    }
}

impl Said for u32 {
    fn said(&self) -> Option<serde_json::Value> {
        Some((*self).into())
    }
}

impl Said for Duration {
    fn said(&self) -> Option<serde_json::Value> {
        let milliseconds = self.as_millis();
        let text = if milliseconds.is_multiple_of(1000) {
            format!("{}s", milliseconds / 1000)
        } else {
            format!("{milliseconds}ms")
        };
        (!self.is_zero()).then(|| text.into())
    }
}
