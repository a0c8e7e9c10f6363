//! Nobody makes gantry wait for ever: secrets that do not come, and output that nobody reads.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::wait::{eventually, is_so};
use crate::common::{done, function, shared, DEGRADED};

fn outcome(path: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_secret_that_does_not_come_ends_with_the_deadline() {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "patience:secret");
    let scratch = tempfile::tempdir().unwrap();
    let (fifo, report) = (scratch.path().join("fifo"), scratch.path().join("report.json"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (kept_open, write_end) = std::io::pipe().unwrap();
    let inherited = format!("exec {} run", env!("CARGO_BIN_EXE_gantry"));
    for (secret, prelude) in [
        (format!("K={}", fifo.display()), ""),
        ("K=fd:9".to_owned(), "exec 9<&0; "),
    ] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{prelude}{inherited} \"$@\""), "sh"]);
        shell.args([
            "--allow-degraded",
            DEGRADED,
            "--deadline",
            "2s",
            "--secret",
            &secret,
            "--report",
        ]);
        shell
            .arg(&report)
            .arg("patience:secret")
            .stdin(kept_open.try_clone().unwrap());
        shell.env("HOME", &gantry.home).env("GANTRY_ROOT", &gantry.root);
        let ended = done(shell.output().unwrap());
        assert_eq!(ended.code, 4, "{secret}: {}", ended.stderr);
        assert_eq!(outcome(&report)["status"], "unavailable");
    }
    drop(write_end);
}

#[test]
fn standard_error_that_nobody_reads_keeps_nobody_waiting() {
    let gantry = shared();
    let code = "import sys\nsys.stderr.write('x' * 1000000)\n";
    gantry.build(function(code, None).path(), "patience:stderr");
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    let mut command = gantry.command();
    command.args([
        "run",
        "--allow-degraded",
        DEGRADED,
        "--timeout",
        "3s",
        "--deadline",
        "6s",
        "--report",
    ]);
    command.arg(&report).arg("patience:stderr").stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    eventually("gantry waits for a reader", || {
        is_so(child.try_wait().unwrap().is_some(), "it is alive")
    });
    let outcome = outcome(&report);
    assert!(
        ["timeout", "error", "failed"].contains(&outcome["status"].as_str().unwrap()),
        "{outcome}"
    );
}

#[test]
fn a_deadline_cuts_the_grace_that_a_time_limit_has_just_granted() {
    let code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n";
    let (done, outcome) = shared().try_python(
        "patience:grace",
        code,
        &["--timeout", "3s", "--grace", "500s", "--deadline", "3200ms"],
    );
    assert_eq!(done.code, 124, "{}", done.stderr);
    assert!(outcome["wall_ms"].as_f64().unwrap() < 300_000.0, "{outcome}");
}

#[test]
fn a_descriptor_that_is_gantrys_own_takes_no_report() {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "patience:own");
    for number in 3..9 {
        let mut command = gantry.command();
        command.args([
            "run",
            "--allow-degraded",
            DEGRADED,
            "--report",
            &format!("fd:{number}"),
            "patience:own",
        ]);
        let ended = done(command.output().unwrap());
        assert_eq!(ended.code, 125, "fd:{number}: {}", ended.stderr);
        assert!(ended.stderr.contains("Bad file descriptor"), "{}", ended.stderr);
    }
}

#[test]
fn a_refused_job_keeps_its_name_and_is_dead_when_it_comes_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (job, report) = (scratch.path().join("job.json"), scratch.path().join("report.json"));
    for (attempt, action) in [(1, "retry"), (7, "dead")] {
        let text =
            format!(r#"{{"image": "x:1", "bogus": 1, "id": "mine", "attempt": {attempt}, "labels": {{"a": "b"}}}}"#);
        fs::write(&job, text).unwrap();
        let mut command = shared().command();
        command.args(["run", "--job"]).arg(&job).arg("--report").arg(&report);
        assert_eq!(done(command.output().unwrap()).code, 125);
        let outcome = outcome(&report);
        assert_eq!(
            (
                &outcome["id"],
                &outcome["attempt"],
                &outcome["labels"]["a"],
                &outcome["action"]
            ),
            (&"mine".into(), &attempt.into(), &"b".into(), &action.into()),
            "{outcome}"
        );
    }
}
