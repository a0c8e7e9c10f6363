//! How a run that is over counts, and why: status, exit code, code, and the one line that a person reads.

use super::command::Command;
use super::outcome::{by_signal, Outcome, CANNOT_RUN, TIMED_OUT};
use super::output_place::OutputPlace;
use super::status::Status;
use crate::policy::{as_given, as_limit, Bytes, Code, Confinement, Level, Promise};
use crate::sandbox::{End, Excess, Finished, Full, Lack};
use crate::sys::signal;

const BUS: i32 = rustix::process::Signal::BUS.as_raw();
const KILL: i32 = rustix::process::Signal::KILL.as_raw();
const ILL: i32 = rustix::process::Signal::ILL.as_raw();
const SEGV: i32 = rustix::process::Signal::SEGV.as_raw();
const SYS: i32 = rustix::process::Signal::SYS.as_raw();

/// How a run that is over counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    /// The status.
    pub status: Status,
    /// The exit code of gantry.
    pub exit_code: u8,
    /// The signal that ended the function or the run.
    pub signal: Option<i32>,
    /// Why it did not end well.
    pub code: Option<Code>,
    /// Why, for a person; none where the function's own exit code says it.
    pub why: Option<String>,
}

impl Ending {
    /// The ending of a run of `command` that was held to `confinement`.
    pub(super) fn of(finished: &Finished, command: &Command, confinement: &Confinement) -> Self {
        let end = finished.end;
        let code = end.exit_code().unwrap_or_default();
        let code = u8::try_from(code & 0xff).unwrap_or(u8::MAX);
        let signal = end.signal();
        let by_its_signal = signal.map_or(CANNOT_RUN, by_signal);
        let (status, exit_code, code, why) = match end {
            End::Exited(0) => (Status::Ok, 0, None, None),
            End::Exited(_) => (Status::Failed, code, Some(Code::NonzeroExit), None),
            End::NotExecuted { obstacle, errno } => {
                let (what, why) = command.not_executed(obstacle, errno);
                (Status::Failed, code, Some(what), Some(why))
            }
            End::TimedOut => {
                let why = format!("stopped after {:?}, the time limit (--timeout)", confinement.timeout);
                (Status::Timeout, TIMED_OUT, Some(Code::Timeout), Some(why))
            }
            End::Signaled(signal) => {
                let (what, why) = signalled(signal, confinement);
                (Status::Failed, by_its_signal, Some(what), Some(why))
            }
            // By what, the outcome says itself.
            End::Stopped(_) => (Status::Killed, by_its_signal, Some(Code::Stopped), None),
            End::Oom => {
                let why = out_of_memory(finished, confinement.memory);
                (Status::Oom, by_its_signal, Some(Code::Oom), Some(why))
            }
            End::TooMuchInput => {
                let limit = confinement.input_limit;
                let why = format!("standard input is over {}, the limit (--input-limit)", as_given(limit));
                (Status::Error, CANNOT_RUN, Some(Code::InputTooLarge), Some(why))
            }
            End::TooMuchOutput(excess) => {
                let why = too_much_output(excess, confinement.output_size);
                (Status::Failed, by_its_signal, Some(Code::OutputTooLarge), Some(why))
            }
            End::KilledFromOutside => {
                let why = "the sandbox was killed, and not by gantry: by its user, or by the machine when it is out of memory";
                let why = Some(why.to_owned());
                (Status::Killed, by_its_signal, Some(Code::KilledFromOutside), why)
            }
        };
        Self {
            status,
            exit_code,
            signal,
            code,
            why,
        }
    }

    /// Says so in `outcome`.
    pub(super) fn tell(self, outcome: &mut Outcome) {
        (outcome.status, outcome.exit_code, outcome.signal) = (self.status, self.exit_code, self.signal);
        (outcome.code, outcome.error) = (self.code, self.why);
    }
}

fn signalled(number: i32, confinement: &Confinement) -> (Code, String) {
    let ended = format!("ended by {}", signal::describe(number));
    match number {
        SYS => {
            let why = format!("{ended}: it made a system call of another processor or of x32, for which the sandbox's filter (seccomp) ends a process; or a filter of its own refused a call");
            (Code::BadSystemCall, why)
        }
        BUS => {
            let [shm_size, tmp_size, output_size] =
                [confinement.shm_size, confinement.tmp_size, confinement.output_size].map(as_given);
            let why = format!(
                "{ended}: most likely shared memory is full, /dev/shm has {shm_size} (--shm-size); or /tmp is, {tmp_size} (--tmp-size), or /output, {output_size} (--output-size); or a file was cut short while it was mapped"
            );
            (Code::BusError, why)
        }
        SEGV => {
            let why = format!(
                "{ended}: native code read or wrote where it has no memory, most likely a fault of a package, or a recursion deeper than the stack; with --env PYTHONFAULTHANDLER=1 Python says where"
            );
            (Code::Signal, why)
        }
        ILL => {
            let why = format!(
                "{ended}: native code has an instruction that this processor does not know, most likely a package or a library built for a newer or another processor"
            );
            (Code::Signal, why)
        }
        KILL => {
            let why = format!(
                "{ended}, which gantry did not send: by a process of its own, or by the machine when it is out of memory"
            );
            (Code::Signal, why)
        }
        _ => (Code::Signal, ended),
    }
}

fn too_much_output(excess: Excess, limit: Bytes) -> String {
    match excess {
        Excess::Bytes(bytes) => {
            format!("/output is over its limit: {bytes} seen, --output-size is {}; nothing of it is taken", as_limit(limit))
        }
        Excess::Files(most) => {
            format!("/output is over its limit: more than {most} files and directories; nothing of it is taken")
        }
        Excess::Depth(most) => {
            format!("/output is over its limit: directories more than {most} deep; nothing of it is taken")
        }
        Excess::Unwatchable => {
            "/output cannot be watched: a directory of it is closed to its owner, or files without a name are open in too many places; nothing of it is taken".to_owned()
        }
    }
}

/// Which limits the function ran into that it may not say itself, one line each.
pub(super) fn limits_met(finished: &Finished, confinement: &Confinement, place: OutputPlace) -> Vec<String> {
    let mut lines = Vec::new();
    let size = |size, option: &str| format!("{} ({option})", as_given(size));
    for full in &finished.full {
        let (place, lack, limit) = match full {
            Full::Tmp(lack) => ("/tmp", lack, size(confinement.tmp_size, "--tmp-size")),
            Full::Shm(lack) => ("/dev/shm", lack, size(confinement.shm_size, "--shm-size")),
            Full::Output(lack) if place == OutputPlace::Memory => {
                ("/output", lack, size(confinement.output_size, "--output-size"))
            }
            Full::Output(_) => {
                lines.push("the disk of the store, where /output is, was full at the end".to_owned());
                continue;
            }
        };
        lines.push(match lack {
            Lack::Bytes => format!("{place} was full at the end: its size is {limit}"),
            Lack::Files => format!("{place} had as many files at the end as it may have"),
        });
    }
    if finished.lacked_processes {
        let most = confinement.pids;
        lines.push(format!(
            "it had {most} processes and threads at once, as many as it may have (--pids)"
        ));
    }
    lines
}

fn out_of_memory(finished: &Finished, limit: Bytes) -> String {
    let limit_said = format!("--memory is {}", as_limit(limit));
    let is_counted = finished.enforced.get(&Promise::Memory) == Some(&Level::Enforced);
    match finished.usage.memory_peak_bytes.map(Bytes) {
        Some(peak) if is_counted => format!("out of memory: {peak} used, {limit_said}"),
        Some(peak) if peak > limit => format!("out of memory: {peak} seen, {limit_said}"),
        // Nothing limits it here, so what cannot be watched counts as over the limit.
        Some(peak) if finished.has_started => {
            format!("out of memory: its processes and mappings are too many to watch ({peak} seen), {limit_said}")
        }
        Some(_) | None => format!("out of memory before the function began: {limit_said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_has_its_code_and_its_name() {
        for (number, code, says) in [
            (
                11,
                Code::Signal,
                "ended by signal 11 (segmentation fault): native code read or wrote",
            ),
            (
                4,
                Code::Signal,
                "ended by signal 4 (illegal instruction): native code has an instruction",
            ),
            (9, Code::Signal, "ended by signal 9 (kill), which gantry did not send"),
            (
                7,
                Code::BusError,
                "ended by signal 7 (bus error): most likely shared memory is full, /dev/shm has 64M (--shm-size)",
            ),
            (31, Code::BadSystemCall, "ended by signal 31 (bad system call): it made"),
            (40, Code::Signal, "ended by signal 40"),
        ] {
            let (found, why) = signalled(number, &Confinement::default());
            assert!(found == code && why.starts_with(says), "{found:?} {why}");
        }
    }
}
