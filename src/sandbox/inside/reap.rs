//! The init's work while the workload runs: it reaps whatever becomes an orphan, and ends when the workload ends, when
//! its deadline passes, or when gantry is gone (the control socket ends).
//!
//! Asked to, or when its deadline passes before gantry has said anything, it sends SIGTERM first.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{wait, WaitOptions};

use super::super::orders::{Report, TERMINATE};
use crate::sys::process;

/// Children reaped before the clock is looked at.
const MOST_REAPED: usize = 256;

/// The time that the workload has left.
#[derive(Debug)]
pub(super) struct Time {
    /// When it is over.
    pub deadline: Instant,
    /// Granted once, between SIGTERM and the end; then zero.
    pub grace: Duration,
}

impl Time {
    /// Sends everything but ourselves SIGTERM; what is not gone when the grace is over goes with us.
    fn terminate(&mut self) {
        process::terminate_all();
        self.deadline = Instant::now() + std::mem::take(&mut self.grace);
    }
}

/// Reaps until the workload ends, time is up or gantry is gone; returns the last word.
///
/// `woken` becomes readable when a child has ended.
pub(super) fn until_the_end(
    control: &mut UnixStream,
    woken: &mut UnixStream,
    workload: i32,
    mut time: Time,
) -> io::Result<Report> {
    woken.set_nonblocking(true)?;
    // Whether the deadline passed before gantry said anything; then it does not matter what the workload made of SIGTERM.
    let mut is_over = false;
    loop {
        // A bounded number each time: whoever keeps dying, or signalling us, must not keep us from the clock.
        let mut idle = false;
        for _ in 0..MOST_REAPED {
            let Some((pid, status)) = reap()? else {
                idle = true;
                break;
            };
            if pid != workload {
                continue;
            }
            if is_over {
                return Ok(Report::TimedOut);
            }
            return Ok(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Report::Exited(code),
                (None, Some(signal)) => Report::Signaled(signal),
                (None, None) => continue,
            });
        }
        let left = time.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            if time.grace.is_zero() {
                return Ok(Report::TimedOut);
            }
            is_over = true;
            time.terminate();
            continue;
        }
        let mut events = [
            PollFd::new(&*control, PollFlags::IN),
            PollFd::new(&*woken, PollFlags::IN),
        ];
        let wait = if idle { left } else { Duration::ZERO };
        match poll(&mut events, Some(&Timespec::try_from(wait).map_err(io::Error::other)?)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [spoke, child] = events.map(|event| !event.revents().is_empty());
        if spoke {
            let mut word = [0u8];
            // One word is all there is to hear; anything else is gantry's end.
            if control.read(&mut word).ok() != Some(1) || word != [TERMINATE] {
                process::exit_now(1)
            }
            if !time.grace.is_zero() {
                time.terminate();
            }
        }
        if child {
            let _ = woken.read(&mut [0u8; 4096]);
        }
    }
}

fn reap() -> io::Result<Option<(i32, rustix::process::WaitStatus)>> {
    match wait(WaitOptions::NOHANG) {
        Ok(reaped) => Ok(reaped.map(|(pid, status)| (pid.as_raw_nonzero().get(), status))),
        Err(rustix::io::Errno::CHILD) => Ok(None),
        Err(rustix::io::Errno::INTR) => reap(),
        Err(errno) => Err(errno.into()),
    }
}
