//! What is known of a run that is over: how it ended, what it used, and what it left.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::orders::{exit_code_of, Obstacle};
use super::cgroup::Spent;
use super::output_watch::Excess;
use super::rooms::Full;
use super::stop::Stop;
use super::watch::Seen;
use crate::policy::{Level, Promise};
use crate::sys::process::{self, Ended};

/// How a workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// Before its first instruction: its command was not executed.
    NotExecuted {
        /// What was in the way.
        obstacle: Obstacle,
        /// The kernel's answer.
        errno: i32,
    },
    /// By this signal, not ours.
    Signaled(i32),
    /// At the time limit.
    TimedOut,
    /// At the memory limit.
    Oom,
    /// Because there was more on standard input than may be passed on.
    TooMuchInput,
    /// Because `/output`, which is on disk and watched, was over its limit.
    TooMuchOutput(Excess),
    /// Because of this.
    Stopped(Stop),
    /// Because someone else killed the sandbox.
    KilledFromOutside,
}

impl End {
    /// The number of the signal that ended the workload, if one did.
    pub fn signal(self) -> Option<i32> {
        const KILL: i32 = rustix::process::Signal::KILL.as_raw();
        match self {
            Self::Exited(_) | Self::NotExecuted { .. } | Self::TimedOut => None,
            Self::Signaled(signal) => Some(signal),
            Self::Stopped(stop) => stop.signal(),
            Self::Oom | Self::TooMuchInput | Self::TooMuchOutput(_) | Self::KilledFromOutside => Some(KILL),
        }
    }

    /// The exit code of a workload that ended in its own time: its own, or the one a shell would give (POSIX, "Shell
    /// Command Language", 2.8.2).
    pub fn exit_code(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(code),
            Self::NotExecuted { errno, .. } => Some(exit_code_of(errno)),
            Self::Signaled(_)
            | Self::TimedOut
            | Self::Oom
            | Self::TooMuchInput
            | Self::TooMuchOutput(_)
            | Self::Stopped(_)
            | Self::KilledFromOutside => None,
        }
    }
}

/// A run that is over; no process of it exists any more.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// Whether the first instruction of the workload was executed.
    pub has_started: bool,
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
    /// Whether whoever read our standard output has gone, and our standard error.
    pub unread: [bool; 2],
    /// Which of our own streams could not be written, and why.
    pub unwritable: Option<(&'static str, io::Error)>,
    /// Why our own standard input could not be read to its end, if it could not.
    pub unreadable: Option<io::Error>,
    /// Every promise and how surely it was kept.
    pub enforced: BTreeMap<Promise, Level>,
    /// Which of its writable places were full at its end.
    pub full: Vec<Full>,
    /// Whether it was refused another process, as far as that is known.
    pub lacked_processes: bool,
    /// The root of `/output`; the descriptor keeps it after its mount namespace is gone.
    pub output: Option<OwnedFd>,
    /// How long each phase took.
    pub times: Times,
}

/// What a run used; part of the outcome document (`docs/formats.md`).
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Usage {
    /// User and system time of all its processes, and of making the sandbox.
    pub cpu_ms: u64,
    /// Highest charge of the cgroup; without one, the largest resident set of one process.
    pub memory_peak_bytes: Option<u64>,
    /// Processes and threads of the workload; unknown without a cgroup.
    pub pids_peak: Option<u32>,
    /// Bytes that were read from disks for its processes that ended by themselves; what was in memory is none of them.
    pub read_bytes: u64,
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

impl Finished {
    /// A run that was stopped before its workload began.
    pub(super) fn nothing(end: End) -> Self {
        Self {
            end,
            has_started: false,
            usage: Usage::default(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: false,
            unread: [false; 2],
            unwritable: None,
            unreadable: None,
            enforced: BTreeMap::new(),
            full: Vec::new(),
            lacked_processes: false,
            output: None,
            times: Times::default(),
        }
    }
}

impl Usage {
    /// A cgroup counts everything; without one there is what the kernel tells about a child, and what was seen.
    pub(super) fn new(ended: &Ended, spent: Option<Spent>, seen: Seen) -> Self {
        let cpu = spent.and_then(|spent| spent.cpu).unwrap_or(ended.cpu.max(seen.cpu));
        let memory = spent.and_then(|spent| spent.memory_peak);
        // The peak of the init begins with ours, whose memory it had until its exec: up to there nothing is known of it.
        let largest = Some(ended.largest_resident).filter(|peak| *peak > process::own_peak());
        Self {
            cpu_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
            memory_peak_bytes: memory.or(Some(largest.unwrap_or_default().max(seen.memory))),
            // The init is not the workload's.
            pids_peak: spent
                .and_then(|spent| spent.pids_peak)
                .map(|peak| peak.saturating_sub(1)),
            read_bytes: ended.read_bytes,
        }
    }
}

/// When the phases of a run began and ended.
#[derive(Debug)]
pub(super) struct Clock {
    begun: Instant,
    /// When the init had made its mounts.
    pub mounted: Option<Instant>,
    /// When the workload's exec was over.
    pub started: Option<Instant>,
    /// When the end of the workload was known.
    pub ended: Option<Instant>,
}

impl Clock {
    /// Begins now.
    pub(super) fn start() -> Self {
        Self {
            begun: Instant::now(),
            mounted: None,
            started: None,
            ended: None,
        }
    }

    /// How long the phases took; none when the workload did not start. The teardown ends now.
    pub(super) fn times(&self) -> Option<Times> {
        let (mounted, started) = (self.mounted?, self.started?);
        let ended = self.ended.unwrap_or_else(Instant::now);
        Some(Times {
            prepare: mounted - self.begun,
            start: started - mounted,
            run: ended - started,
            teardown: ended.elapsed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_peak_is_none_of_the_run() {
        let ended = |largest_resident| Ended {
            code: Some(0),
            cpu: Duration::ZERO,
            largest_resident,
            read_bytes: 0,
        };
        let seen = Seen {
            memory: 5,
            ..Seen::default()
        };
        let peak = |largest| Usage::new(&ended(largest), None, seen).memory_peak_bytes;
        assert!(process::own_peak() > 1 << 20);
        assert_eq!(peak(process::own_peak()), Some(5));
        assert_eq!(peak(1 << 50), Some(1 << 50));
    }
}
