//! The outcome of a run: everything that is known about it, as one JSON document (version 1).
//!
//! gantry writes it even when the run failed. A field that is not known on this machine is `null`, never absent.

use std::collections::BTreeMap;

use serde::Serialize;

use super::action::{advise, exit_code, Advice};
use super::status::Status;
use super::ticket::Ticket;
use crate::oci::Digest;
use crate::policy::{Kind, Level, Promise};
use crate::sandbox::{Stop, Usage};

/// Exit code when the time limit struck, as that of `timeout`.
pub const TIMED_OUT: u8 = 124;

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
    /// Which image.
    pub image: ImageRan,
    /// `hit` when the image was ready, `miss` when it was not there, or had to be fetched or unpacked.
    pub cache: &'static str,
    /// Registries tried.
    pub attempts: Vec<serde_json::Value>,
    /// Wall-clock milliseconds of each phase.
    pub phases_ms: Phases,
    /// What it used.
    pub usage: Usage,
    /// What it printed.
    pub output: OutputReport,
    /// Every promise and how surely it was kept; empty when nothing was started.
    pub enforced: BTreeMap<Promise, Level>,
    /// Why gantry failed.
    pub error: Option<String>,
    /// The caller's own words for the job.
    #[serde(flatten)]
    pub ticket: Ticket,
    /// What its queue is to do with it.
    #[serde(flatten)]
    pub advice: Advice,
    /// Lines for the person at the terminal, not for the document: one per host that was not reached.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// The image of a run.
#[derive(Debug, Clone, Serialize)]
pub struct ImageRan {
    /// As typed.
    pub reference: String,
    /// The manifest that the reference names; none when it names nothing.
    pub digest: Option<Digest>,
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
}

impl Outcome {
    /// The outcome of a run of `reference` that did not start.
    pub fn not_started(reference: String, status: Status, exit_code: u8, error: String) -> Self {
        Self {
            schema: 1,
            status,
            exit_code,
            signal: None,
            image: ImageRan {
                reference,
                digest: None,
            },
            cache: "miss",
            attempts: Vec::new(),
            phases_ms: Phases::default(),
            usage: Usage::default(),
            output: OutputReport::default(),
            enforced: BTreeMap::new(),
            error: Some(error),
            ticket: Ticket::default(),
            advice: advise(status, None),
            notes: Vec::new(),
        }
    }

    /// The outcome of a run of `reference` that `stop` ended before anything was started.
    pub fn stopped(reference: String, stop: Stop) -> Self {
        let mut outcome = Self::not_started(reference, Status::Error, 0, String::new());
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
        self.error = match stop {
            Stop::Signal(_) => None,
            Stop::CallerEnded { .. } | Stop::Deadline { .. } => Some(stop.to_string()),
        };
        (self.status, self.exit_code) = match (stop, start) {
            (Stop::Signal(_), _) | (Stop::CallerEnded { .. }, _) => {
                let signal = self.signal.unwrap_or_default();
                (Status::Killed, u8::try_from(128 + signal).unwrap_or(u8::MAX))
            }
            // Nothing of the function was executed, so a later try does nothing twice.
            (Stop::Deadline { .. }, Start::None) => (Status::Unavailable, Kind::Unavailable.exit_code()),
            (Stop::Deadline { .. }, Start::Made) => (Status::Timeout, TIMED_OUT),
        };
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
