//! A deadline covers everything: what is waited for before the function, the function, and what comes after it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{json, Value};

use crate::common::wait::{eventually, is_so, send};
use crate::common::{done, function, shared, tiny, Done, Gantry, DEGRADED};

const SLEEPER: &str = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";

/// Runs `command` of gantry with a report, and returns the outcome as well.
fn with_outcome(command: &mut Command) -> (Done, Value) {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let done = done(command.arg("--report").arg(&report).output().unwrap());
    let outcome = fs::read(&report).unwrap_or_else(|error| panic!("no outcome: {error}; {}", done.stderr));
    (done, serde_json::from_slice(&outcome).unwrap())
}

fn run(gantry: &Gantry, options: &[&str]) -> Command {
    let mut command = gantry.command();
    command.args([
        "run",
        "--allow-degraded",
        DEGRADED,
        "--timeout",
        "500s",
        "--grace",
        "500s",
    ]);
    command.args(options);
    command
}

#[test]
fn a_function_that_is_at_work_at_the_deadline_has_timed_out() {
    let gantry = shared();
    gantry.build(function(SLEEPER, None).path(), "deadline:sleeper");
    // As long as it takes to start here, and no longer.
    for deadline in ["1s", "5s", "120s"] {
        let (done, outcome) = with_outcome(&mut run(gantry, &["--deadline", deadline, "deadline:sleeper"]));
        if done.stdout.is_empty() && deadline != "120s" {
            continue;
        }
        assert_eq!((done.code, done.stdout.as_str()), (124, "up\n"), "{}", done.stderr);
        assert_eq!(
            (&outcome["status"], &outcome["exit_code"], &outcome["signal"]),
            (&json!("timeout"), &json!(124), &json!(null))
        );
        let error = format!("the deadline, {deadline} after the start of gantry, passed (--deadline)");
        assert_eq!(outcome["error"], error);
        let phases = outcome["phases_ms"].as_object().unwrap().values();
        let spent = Duration::from_secs_f64(phases.map(|phase| phase.as_f64().unwrap()).sum::<f64>() / 1e3);
        assert!(
            spent < Duration::from_secs(300),
            "neither the limit nor the grace counts: {spent:?}"
        );
        return;
    }
}

#[test]
fn results_that_are_not_there_by_the_deadline_are_not_taken() {
    let gantry = shared();
    let code = "import time\nopen('/output/result', 'w').write('half')\nprint('up', flush=True)\ntime.sleep(600)\n";
    gantry.build(function(code, None).path(), "deadline:results");
    let scratch = tempfile::tempdir().unwrap();
    let (directory, report) = (scratch.path().join("results"), scratch.path().join("outcome.json"));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("result"), "whole").unwrap();
    // As long as it takes to start here.
    for deadline in [2, 10, 60] {
        let mut command = run(
            gantry,
            &["--output-partial", "--deadline", &format!("{deadline}s"), "--output"],
        );
        command
            .arg(&directory)
            .arg("--report")
            .arg(&report)
            .arg("deadline:results");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let spawned = Instant::now();
        let mut up = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut up)
            .unwrap();
        if up.is_empty() {
            child.wait().unwrap();
            continue;
        }
        // gantry is held up until its time is over: what comes then is too late, however fast it is.
        send(&child, Signal::STOP);
        let over = Duration::from_secs(deadline);
        eventually("the deadline passes", || {
            is_so(spawned.elapsed() > over, spawned.elapsed())
        });
        send(&child, Signal::CONT);
        let done = done(child.wait_with_output().unwrap());
        let outcome: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(done.code, 124, "{}", done.stderr);
        assert_eq!(
            (&outcome["status"], &outcome["code"]),
            (&json!("timeout"), &json!("deadline"))
        );
        assert_eq!(
            (&outcome["output"]["files"], &outcome["started"]),
            (&json!(null), &json!(true))
        );
        let note = "nothing of /output is taken: the run was to end before all of it was copied";
        assert!(done.stderr.contains(note), "{}", done.stderr);
        assert_eq!(outcome["notes"], json!([note]));
        assert_eq!(fs::read_to_string(directory.join("result")).unwrap(), "whole");
        assert_eq!(
            fs::read_dir(&directory).unwrap().count(),
            1,
            "nothing half-copied stays"
        );
        return;
    }
    panic!("it is not up within a minute");
}

#[test]
fn a_deadline_before_the_start_is_worth_another_try() {
    let gantry = shared();
    gantry.build(function(SLEEPER, None).path(), "deadline:sleeper");
    let (done, outcome) = with_outcome(&mut run(gantry, &["--deadline", "1ms", "deadline:sleeper"]));
    assert_eq!((done.code, done.stdout.as_str()), (4, ""), "{}", done.stderr);
    assert_eq!(
        (&outcome["status"], &outcome["exit_code"], &outcome["phases_ms"]["run"]),
        (&json!("unavailable"), &json!(4), &json!(0.0))
    );
}

#[test]
fn a_store_that_somebody_holds_is_not_waited_for_longer() {
    let gantry = Gantry::new();
    tiny(&gantry, &["deadline:tiny"]);
    let collector = fs::File::create(gantry.root.join("locks/collector")).unwrap();
    rustix::fs::flock(&collector, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (done, outcome) = with_outcome(&mut run(&gantry, &["--deadline", "300ms", "deadline:tiny"]));
    assert_eq!(
        (done.code, &outcome["status"]),
        (4, &json!("unavailable")),
        "{}",
        done.stderr
    );
    assert_eq!(
        outcome["error"],
        "the deadline, 300ms after the start of gantry, passed (--deadline)"
    );
    // Nor does it keep gantry from its end by a signal.
    let mut command = run(&gantry, &["deadline:tiny"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("gantry does not wait", || {
        let threads = fs::read_dir(format!("/proc/{}/task", child.id())).map_or(0, Iterator::count);
        is_so(threads > 1, threads)
    });
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_job_that_never_comes_is_not_waited_for_longer() {
    let gantry = shared();
    let mut command = gantry.command();
    command.args(["run", "--deadline", "300ms", "--job", "-"]);
    // Our end stays open until gantry is done.
    let mut sender = Command::new("sleep").arg("600").stdout(Stdio::piped()).spawn().unwrap();
    command.stdin(sender.stdout.take().unwrap());
    let (done, outcome) = with_outcome(&mut command);
    sender.kill().unwrap();
    sender.wait().unwrap();
    assert_eq!(
        (done.code, &outcome["status"]),
        (4, &json!("unavailable")),
        "{}",
        done.stderr
    );
}

#[test]
fn the_deadline_of_the_command_line_counts_over_that_of_the_job() {
    let gantry = shared();
    gantry.build(function("print('hello')\n", None).path(), "deadline:hello");
    let scratch = tempfile::tempdir().unwrap();
    let job = scratch.path().join("job.json");
    let document = json!({"image": "deadline:hello", "allow_degraded": ["memory", "cpu"], "deadline": "1ms"});
    fs::write(&job, document.to_string()).unwrap();
    for (options, code, status) in [(&[][..], 4, "unavailable"), (&["--deadline", "10m"], 0, "ok")] {
        let mut command = gantry.command();
        command.args(["run", "--job"]).arg(&job).args(options);
        let (done, outcome) = with_outcome(&mut command);
        assert_eq!(
            (done.code, &outcome["status"]),
            (code, &json!(status)),
            "{}",
            done.stderr
        );
    }
}
