//! `run --progress`: a JSON line whenever a run enters a phase, and one every five seconds while it stays in it.
//!
//! A queue whose claim on a job can be extended extends it at each line. Lines are written while gantry waits anyway, by
//! the timer among its [`Signals`]: no thread. A reader that is slow misses lines, and never delays the run.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use serde::Serialize;

use super::error::CommandError;
use super::outlet::{open_descriptor, Outlet};
use crate::ops::Ticket;
use crate::sandbox::{Beat, Signals};
use crate::sys;

/// Brokers take a claim to be lost after half a minute and more.
const EVERY: Duration = Duration::from_secs(5);

/// The lines of one run.
#[derive(Debug)]
pub(super) struct Heartbeat {
    to: File,
    begun: Instant,
    phase: Cell<&'static str>,
    ticket: RefCell<Ticket>,
}

/// One of them.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    at: f64,
    /// Milliseconds since gantry was started.
    ms: u64,
    phase: &'static str,
    id: Option<&'a str>,
    attempt: Option<u32>,
}

impl Heartbeat {
    /// Writes the first line to `path`, and the others as `signals` are waited for.
    pub(super) fn begin(path: &Path, begun: Instant, signals: &mut Signals) -> Result<Rc<Self>, CommandError> {
        let mut begin = || {
            let heartbeat = Rc::new(Self {
                to: open(path)?,
                begun,
                phase: Cell::new("start"),
                ticket: RefCell::default(),
            });
            // The only one whose loss is an error: nobody reads there.
            heartbeat.write()?;
            let own = Rc::clone(&heartbeat);
            signals.beat(EVERY, Box::new(move |beat| own.hear(beat)))?;
            Ok(heartbeat)
        };
        begin().map_err(|source: io::Error| CommandError::File {
            action: "write progress to",
            path: path.display().to_string(),
            source,
        })
    }

    /// From now on the lines name this job.
    pub(super) fn name(&self, ticket: &Ticket) {
        ticket.clone_into(&mut self.ticket.borrow_mut());
    }

    fn hear(&self, beat: Beat) {
        if let Beat::Phase(phase) = beat {
            self.phase.set(phase);
        }
        let _ = self.write();
    }

    fn write(&self) -> io::Result<()> {
        let since = sys::clock::now().duration_since(SystemTime::UNIX_EPOCH);
        let ticket = self.ticket.borrow();
        let line = Line {
            at: (since.unwrap_or_default().as_secs_f64() * 1e3).round() / 1e3,
            ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            phase: self.phase.get(),
            id: ticket.id.as_deref(),
            attempt: ticket.attempt,
        };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A pipe that has room has it for a line (PIPE_BUF, pipe(7)), so this never waits.
        if poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], Some(&now))? == 0 {
            return Ok(());
        }
        (&self.to).write_all(&line)
    }
}

/// Opens what `path` names. A pipe that nobody reads is an error, and not a wait.
fn open(path: &Path) -> io::Result<File> {
    match outlet(path) {
        Outlet::Descriptor(number) => open_descriptor(number),
        Outlet::Path(path) => OpenOptions::new()
            .append(true)
            .create(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path),
    }
}

/// What the option names: here a bare number is a descriptor, too.
pub(super) fn outlet(path: &Path) -> Outlet<'_> {
    match path.to_str().and_then(|word| word.parse().ok()) {
        Some(number) => Outlet::Descriptor(number),
        None => Outlet::of(path),
    }
}
