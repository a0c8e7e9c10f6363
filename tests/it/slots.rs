//! The run slots of a machine: never more functions at once, or more memory promised, than it carries; and nothing holds a
//! slot but a run that lives.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{json, Value};

use crate::common::wait::send;
use crate::common::{done, function, shared, Done, Gantry, DEGRADED};

const ROUNDS: usize = 20;

/// Prints when it began and when it ended, by a clock that all processes share.
const CLOCKED: &str = "import time\nbegan = time.monotonic_ns()\ntime.sleep(0.05)\nprint(began, time.monotonic_ns())\n";
const SLEEPER: &str = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";

/// A machine of its own: its slots are in a directory of their own, as the store is shared with other tests.
struct Machine {
    gantry: &'static Gantry,
    scratch: tempfile::TempDir,
}

impl Machine {
    fn new(run: &str) -> Self {
        let (gantry, scratch) = (shared(), tempfile::tempdir().unwrap());
        let text = format!("[run]\nslots_dir = {:?}\n{run}\n", scratch.path().join("slots"));
        fs::write(scratch.path().join("config.toml"), text).unwrap();
        Self { gantry, scratch }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.gantry.command();
        command.arg("--config").arg(self.scratch.path().join("config.toml"));
        command
            .args(["run", "--allow-degraded", DEGRADED, "--timeout", "300s"])
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> (Done, Value) {
        let report = self.scratch.path().join("outcome.json");
        let done = done(self.command(args).arg("--report").arg(&report).output().unwrap());
        (done, serde_json::from_slice(&fs::read(report).unwrap()).unwrap())
    }

    /// A run of a function that says "up"; it is up.
    fn holder(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        child
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.scratch.path().join("slots")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !path.ends_with("gate")).collect()
    }
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The most intervals that have a moment in common.
fn most_at_once(intervals: &[(u64, u64)]) -> usize {
    let at = |moment: u64| {
        intervals
            .iter()
            .filter(|(from, to)| (*from..*to).contains(&moment))
            .count()
    };
    intervals.iter().map(|(from, _)| at(*from)).max().unwrap_or_default()
}

#[test]
fn never_more_functions_run_at_once_than_there_are_slots() {
    shared().build(function(CLOCKED, None).path(), "slots:clocked");
    let (slots, memory) = (
        Machine::new("slots = 2"),
        Machine::new("memory_total = \"450M\"\nmemory = \"200M\""),
    );
    let mut most = 0;
    for round in 0..ROUNDS {
        let machine = [&slots, &memory][round % 2];
        let mut runs = Vec::new();
        for _ in 0..6 {
            let mut command = machine.command(&["--wait", "100s", "slots:clocked"]);
            runs.push(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        }
        let mut intervals = Vec::new();
        for run in runs {
            let done = done(run.wait_with_output().unwrap());
            assert_eq!(done.code, 0, "{}", done.stderr);
            let (from, to) = done.stdout.trim().split_once(' ').unwrap();
            intervals.push((from.parse().unwrap(), to.parse().unwrap()));
        }
        most = most.max(most_at_once(&intervals));
        assert!(most <= 2, "{intervals:?}");
        assert_eq!(machine.files(), Vec::<PathBuf>::new());
    }
    assert_eq!(most, 2, "both slots were in use at once");
}

#[test]
fn a_killed_run_frees_its_slot() {
    shared().build(function(SLEEPER, None).path(), "slots:sleeper");
    shared().build(function("print('next')\n", None).path(), "slots:next");
    let machine = Machine::new("slots = 1");
    for _ in 0..ROUNDS {
        let mut holder = machine.holder(&["slots:sleeper"]);
        let mut command = machine.command(&["--wait", "100s", "slots:next"]);
        let mut next = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(next.stderr.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert_eq!(said, "Waiting for a run slot for at most 100s: 1 of 1 are taken\n");
        send(&holder, Signal::KILL);
        holder.wait().unwrap();
        let next = done(next.wait_with_output().unwrap());
        assert_eq!((next.code, next.stdout.as_str()), (0, "next\n"));
        assert_eq!(
            machine.files(),
            Vec::<PathBuf>::new(),
            "the file of the killed one is gone, too"
        );
    }
}

#[test]
fn a_run_without_a_slot_is_worth_another_try() {
    shared().build(function(SLEEPER, None).path(), "slots:sleeper");
    let machine = Machine::new("slots = 1\nwait = \"10ms\"");
    let holder = machine.holder(&["slots:sleeper"]);
    for (args, waited) in [
        (&["slots:sleeper"][..], "within 10ms"),
        (&["--wait", "0s", "--exit-by-status", "slots:sleeper"], "is free"),
    ] {
        let (done, outcome) = machine.run(args);
        assert_eq!((done.code, done.stdout.as_str()), (4, ""), "{}", done.stderr);
        let error = format!("no run slot {waited}: 1 of 1 are taken");
        assert!(done.stderr.contains(&error), "{}", done.stderr);
        assert_eq!(
            (
                &outcome["status"],
                &outcome["exit_code"],
                &outcome["error"],
                &outcome["action"]
            ),
            (&json!("unavailable"), &json!(4), &json!(error), &json!("retry"))
        );
        assert!(outcome["retry_after"].as_u64().unwrap() > 0);
    }
    // The deadline ends this wait as it ends all others.
    let (done, outcome) = machine.run(&["--wait", "100s", "--deadline", "200ms", "slots:sleeper"]);
    assert_eq!((done.code, &outcome["status"]), (4, &json!("unavailable")));
    assert!(
        outcome["error"].as_str().unwrap().starts_with("the deadline, 200ms "),
        "{outcome}"
    );
    // What can never run does not wait.
    let (done, outcome) = machine.run(&["--wait", "100s", "slots:no-such"]);
    assert_eq!((done.code, &outcome["status"]), (125, &json!("error")));
    end(holder);
}

#[test]
fn memory_that_others_were_promised_is_waited_for_and_more_than_there_is_never() {
    shared().build(function(SLEEPER, None).path(), "slots:sleeper");
    let machine = Machine::new("memory_total = \"300M\"");
    let holder = machine.holder(&["--memory", "200M", "slots:sleeper"]);
    let (done, outcome) = machine.run(&["--memory", "101M", "--wait", "0s", "slots:sleeper"]);
    assert_eq!((done.code, &outcome["status"]), (4, &json!("unavailable")));
    let error = outcome["error"].as_str().unwrap();
    assert!(
        error.contains("of memory are promised, and this run asks for"),
        "{error}"
    );
    end(machine.holder(&["--memory", "100M", "--wait", "0s", "slots:sleeper"]));
    let (done, outcome) = machine.run(&["--memory", "301M", "--wait", "100s", "slots:sleeper"]);
    assert_eq!((done.code, &outcome["status"]), (125, &json!("error")));
    let error = outcome["error"].as_str().unwrap();
    assert!(error.contains("over memory_total"), "{error}");
    end(holder);
}
