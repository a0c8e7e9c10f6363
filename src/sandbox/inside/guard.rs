//! Everything behind the wall but the making of the file system: whoever made that, this is the way to the workload.
//!
//! The order is the argument: the listeners need capabilities that are given up next; what was given up is read back
//! from behind the last restriction; and nothing of the workload runs before gantry has been told what holds.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGCHLD;

use super::super::orders::{Report, RoomOrders, WorkOrders};
use super::super::wire;
use super::failure::{at, Failure};
use super::reap::{self, Time};
use super::workload::{self, Begun};
use super::{listeners, restrict, verify};

/// How much later than gantry's own deadline ours is: gantry is the one that reports.
const DEADLINE_SLACK: Duration = Duration::from_millis(200);

/// The job, with the values of its secrets.
#[derive(Debug)]
pub(super) struct Work {
    /// What was ordered.
    pub orders: WorkOrders,
    /// In the order of the names.
    pub secrets: Vec<Vec<u8>>,
}

/// Takes a process that stands in the file system of `room` to the end of its workload; returns the last word.
///
/// `output` is the root of `/output`. The caller is pid 1, dies with gantry, and has all capabilities of its user
/// namespace.
pub(super) fn guard(
    control: &mut UnixStream,
    room: &RoomOrders,
    work: Work,
    output: OwnedFd,
) -> Result<Report, Failure> {
    let listeners = listeners::listen(room)?;
    let descriptors: Vec<_> = std::iter::once(&output).chain(&listeners).map(AsFd::as_fd).collect();
    let sent = wire::send_with(control.as_fd(), &Report::Mounted, &descriptors);
    sent.map_err(at("report the mounts"))?;
    drop(output);

    let landlocked = restrict::restrict_self(room)?;
    let findings = verify::Place {
        room,
        has_input: work.orders.input.is_some(),
        landlocked: &landlocked,
        listeners: &listeners,
    };
    let findings = findings.find();
    drop(listeners);
    let lost = findings.lost(&room.allow_degraded);
    if !lost.is_empty() {
        return Ok(Report::Refused(findings.levels, lost));
    }
    tell(control, &Report::Restricted(findings.levels))?;

    // Before the clone, so that no end of a child is missed.
    let (mut woken, waker) = UnixStream::pair().map_err(at("make a signal pipe"))?;
    signal_hook::low_level::pipe::register(SIGCHLD, waker).map_err(at("watch for children"))?;
    let begun = workload::begin(room, &work.orders, &work.secrets);
    drop(work);
    let workload = match begun.map_err(at("start the workload"))? {
        Begun::Running(pid) => pid,
        Begun::NotExecuted(obstacle, errno) => return Ok(Report::NotExecuted(obstacle, errno)),
    };
    tell(control, &Report::Started)?;
    close_streams();
    let time = Time {
        deadline: Instant::now() + Duration::from_millis(room.timeout_ms) + DEADLINE_SLACK,
        grace: Duration::from_millis(room.grace_ms),
    };
    reap::until_the_end(control, &mut woken, workload, time).map_err(at("watch the workload"))
}

fn tell(control: &mut UnixStream, report: &Report) -> Result<(), Failure> {
    wire::send(control, report).map_err(at("report to gantry"))
}

/// The init holds the workload's streams open no longer than it needs them.
fn close_streams() {
    if let Ok(null) = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    ) {
        // Should one fail, that stream ends with us instead of with the workload.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
