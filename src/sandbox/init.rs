//! pid 1 of the sandbox: our own binary again, with an empty environment and nothing of us in its memory.
//!
//! It builds the file system, gives everything up, reads back that it did, starts the workload as its child, reaps
//! whatever becomes an orphan, and ends when the workload ends, when its deadline passes, or when gantry is gone (the
//! control socket ends). Asked to, or when its deadline passes before gantry has said anything, it sends SIGTERM first. Its end is the end of every process in its pid namespace.

use std::ffi::{CStr, OsStr};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{wait, Signal, WaitOptions};
use signal_hook::consts::SIGCHLD;

use super::mounts::{self, Failure};
use super::wire::{self, Frame, Orders, Report};
use super::workload::{self, Begun};
use super::{egress, restrict, verify};
use crate::sys::process;

/// `argv[0]` of the init. Anyone may start gantry under this name; only a pid 1 takes it.
pub const NAME: &CStr = c"gantry-init";
/// How much later than gantry's own deadline ours is: gantry is the one that reports.
const DEADLINE_SLACK: Duration = Duration::from_millis(200);

/// Children reaped before the clock is looked at.
const MOST_REAPED: usize = 256;
/// How much sooner than others (0) the kernel ends a sandbox when the machine runs out of memory; up to 1000.
const OOM_SCORE: i32 = 500;

/// Whether this process is meant to be an init.
pub fn is_init(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| name.as_encoded_bytes() == NAME.to_bytes()) && rustix::process::getpid().is_init()
}

/// Runs the init; the process ends with it.
pub fn main() -> ! {
    let Some(control) = process::take_control() else {
        process::exit_now(125)
    };
    let mut control = UnixStream::from(control);
    let reported = match serve(&mut control) {
        Ok(report) => wire::send(&mut control, &report),
        Err((what, error)) => wire::send(&mut control, &Report::Failed(format!("{what}: {error}"))),
    };
    process::exit_now(i32::from(reported.is_err()))
}

/// Does everything; returns the last word.
fn serve(control: &mut UnixStream) -> Result<Report, Failure> {
    // Both are set again here: the exec kept the first, but the second is a property of the new memory.
    step(
        "set the death signal",
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
    )?;
    be_first_to_go()?;
    process::forbid_dumps().map_err(|error| ("forbid dumps".to_owned(), error))?;
    process::default_fault_signals();
    step("start a session", rustix::process::setsid())?;
    restrict::raise_open_files().map_err(|error| ("raise the limit on open files".to_owned(), error))?;
    let (orders, secrets) = receive_orders(control).map_err(|error| ("receive orders".to_owned(), error))?;
    step(
        "set the host name",
        rustix::system::sethostname(orders.hostname.as_bytes()),
    )?;

    let output = mounts::enter_root(&orders, &secrets)?;
    let listeners = egress::listen(&orders.egress)?;
    let descriptors: Vec<_> = std::iter::once(&output).chain(&listeners).map(AsFd::as_fd).collect();
    let sent = wire::send_with(control.as_fd(), &Report::Mounted, &descriptors);
    sent.map_err(|error| ("report the mounts".to_owned(), error))?;
    drop(output);

    let landlocked = restrict::restrict_self(orders.purpose, &orders.egress)?;
    let findings = verify::find(&orders, &landlocked, &listeners);
    drop(listeners);
    let lost = findings.lost(&orders.allow_degraded);
    if !lost.is_empty() {
        return Ok(Report::Refused(findings.levels, lost));
    }
    tell(control, &Report::Restricted(findings.levels))?;

    // Before the fork, so that no end of a child is missed.
    let (mut woken, waker) = UnixStream::pair().map_err(|error| ("make a signal pipe".to_owned(), error))?;
    let registered = signal_hook::low_level::pipe::register(SIGCHLD, waker);
    registered.map_err(|error| ("watch for children".to_owned(), error))?;
    let begun = workload::begin(&orders, &secrets);
    drop(secrets);
    let workload = match begun.map_err(|error| ("start the workload".to_owned(), error))? {
        Begun::Running(pid) => pid,
        Begun::NotExecuted(errno) => return Ok(Report::NotStarted(errno)),
    };
    tell(control, &Report::Started)?;
    close_streams();
    let time = Time {
        deadline: Instant::now() + Duration::from_millis(orders.timeout_ms) + DEADLINE_SLACK,
        grace: Duration::from_millis(orders.grace_ms),
    };
    watch(control, &mut woken, workload, time).map_err(|error| ("watch the workload".to_owned(), error))
}

/// A worker that the kernel spares (OOMScoreAdjust=-1000) must not pass that on to a stranger's code: the memory limit
/// would not strike, and a machine out of memory would end everyone else. Landlock keeps it from being undone.
fn be_first_to_go() -> Result<(), Failure> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let failed = |error: io::Error| (format!("raise {FILE}"), error);
    let found = std::fs::read_to_string(FILE).map_err(failed)?;
    if found.trim().parse::<i32>().is_ok_and(|found| found >= OOM_SCORE) {
        return Ok(());
    }
    std::fs::write(FILE, OOM_SCORE.to_string()).map_err(failed)
}

fn receive_orders(control: &mut UnixStream) -> io::Result<(Orders, Vec<Vec<u8>>)> {
    let unexpected = || io::Error::from(io::ErrorKind::InvalidData);
    let Frame::Json(json) = wire::receive(control)? else {
        return Err(unexpected());
    };
    let orders: Orders = serde_json::from_slice(&json)?;
    let secrets = orders.secrets.iter().map(|_| match wire::receive(control)? {
        Frame::Secret(value) => Ok(value),
        _ => Err(unexpected()),
    });
    let secrets = secrets.collect::<io::Result<Vec<_>>>()?;
    Ok((orders, secrets))
}

fn tell(control: &mut UnixStream, report: &Report) -> Result<(), Failure> {
    wire::send(control, report).map_err(|error| ("report to gantry".to_owned(), error))
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

/// What is left of the time.
struct Time {
    deadline: Instant,
    /// Granted once, between SIGTERM and the end; then zero.
    grace: Duration,
}

impl Time {
    /// Sends everything but ourselves SIGTERM; what is not gone when the grace is over goes with us.
    fn terminate(&mut self) {
        process::terminate_all();
        self.deadline = Instant::now() + std::mem::take(&mut self.grace);
    }
}

/// Reaps until the workload ends, time is up or gantry is gone.
fn watch(control: &mut UnixStream, woken: &mut UnixStream, workload: i32, mut time: Time) -> io::Result<Report> {
    woken.set_nonblocking(true)?;
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
            if control.read(&mut word).ok() != Some(1) || word != [wire::TERMINATE] {
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

fn step<T>(what: &str, result: rustix::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|errno| (what.to_owned(), errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_first_process_of_that_name_is_an_init() {
        assert!(!is_init(Some(OsStr::new("gantry-init"))), "this test is not pid 1");
        assert!(!is_init(Some(OsStr::new("gantry"))));
        assert!(!is_init(None));
    }
}
