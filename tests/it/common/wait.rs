//! Waiting for conditions, never for an amount of time: a busy machine makes a test slower and nothing else.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

/// What fails has failed by then, on a machine that does ten other things as well.
const DEADLINE: Duration = Duration::from_secs(300);

/// Waits for a condition that others bring about; panics with what was found last when they do not.
pub fn eventually(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match holds() {
            Ok(()) => return,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Err(found) => panic!("{what}: {found}"),
        }
    }
}

/// Whether a claim holds, with what contradicts it.
pub fn is_so(holds: bool, otherwise: impl std::fmt::Debug) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("{otherwise:?}"))
    }
}

pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Fields of `/proc/PID/stat` after the name, from the state on (proc_pid_stat(5)).
fn stat(child: &Child) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.map(str::to_owned).collect()
}

/// Processor time that `child` has used itself, without its children's; none once it is dead.
pub fn processor_time(child: &Child) -> Option<Duration> {
    let fields = stat(child);
    let ticks: Option<u64> = fields.get(11..13)?.iter().map(|field| field.parse::<u64>().ok()).sum();
    let is_dead = matches!(fields.first().map(String::as_str), Some("Z" | "X"));
    // USER_HZ is 100 on x86-64.
    (!is_dead).then_some(Duration::from_millis(ticks? * 10))
}

/// Stops every thread of `child` and returns once they stand still; false when it has ended before.
pub fn stop(child: &Child) -> bool {
    send(child, Signal::STOP);
    let mut state = String::new();
    eventually("it neither stops nor ends", || {
        state = stat(child).first().cloned().unwrap_or_default();
        is_so(["T", "Z", "X", ""].contains(&state.as_str()), &state)
    });
    state == "T"
}

/// The most processor time `child` was seen to have used when it has ended; it is not waited for.
pub fn processor_time_at_end(child: &Child) -> Duration {
    let mut most = Duration::ZERO;
    eventually("it does not end", || match processor_time(child) {
        Some(time) => {
            most = time;
            Err(format!("{time:?} used so far"))
        }
        None => Ok(()),
    });
    most
}

/// Opens a named pipe for writing as soon as somebody reads it; `child` is to, and is held there until the file is closed.
pub fn held_at(pipe: &Path, child: &mut Child) -> File {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap();
    let mut held = None;
    eventually("it is not held", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was held");
        held = File::options().write(true).custom_flags(nonblocking).open(pipe).ok();
        is_so(held.is_some(), pipe)
    });
    held.unwrap()
}
