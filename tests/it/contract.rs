//! What a queue gets from a run besides its files: an outcome on a descriptor, an exit code, what to do, signs of life.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{json, Value};

use crate::common::wait::send;
use crate::common::{done, function, shared, Gantry, DEGRADED};

const TALKER: &str = "import sys\nsys.stdout.write('result\\n')\nsys.stderr.write('words\\n')\n";

/// The command line of a shell that opens `redirections` for `gantry run ARGS`.
fn redirected(gantry: &Gantry, redirections: &str, args: &[&str]) -> Command {
    let run = gantry.command();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec \"$@\" {redirections}"), "sh"])
        .arg(run.get_program());
    command
        .args(["run", "--allow-degraded", DEGRADED])
        .args(args)
        .env_clear();
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.stdin(Stdio::null());
    command
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn talker() -> &'static Gantry {
    shared().build(function(TALKER, None).path(), "contract:talker");
    shared()
}

#[test]
fn a_report_on_standard_output_is_all_that_is_there() {
    let gantry = talker();
    for place in ["-", "fd:1"] {
        let done = gantry.run(&["--report", place, "contract:talker"]);
        assert_eq!(document(&done.stdout)["status"], "ok");
        assert_eq!(done.stdout.lines().count(), 1);
        let mut words: Vec<&str> = done.stderr.lines().collect();
        words.sort_unstable();
        assert_eq!(words, ["result", "words"], "what the function prints is not lost");
    }
    let refused = gantry.run(&["--report", "-", "contract:no-such"]);
    assert_eq!(
        (refused.code, &document(&refused.stdout)["status"]),
        (125, &json!("error"))
    );
    let mistake = gantry.run(&["--report", "-", "--oops"]);
    assert_eq!(
        (mistake.code, &document(&mistake.stdout)["status"]),
        (125, &json!("error"))
    );
    assert!(!Path::new("-").exists());
}

#[test]
fn a_report_on_a_descriptor_leaves_standard_output_to_the_function() {
    let gantry = talker();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("outcome");
    let redirection = format!("9>{}", file.display());
    let done = done(
        redirected(gantry, &redirection, &["--report", "fd:9", "contract:talker"])
            .output()
            .unwrap(),
    );
    assert_eq!(
        (done.code, done.stdout.as_str(), done.stderr.as_str()),
        (0, "result\n", "words\n")
    );
    assert_eq!(document(&fs::read_to_string(file).unwrap())["status"], "ok");
}

#[test]
fn a_descriptor_that_cannot_take_the_report_is_found_before_the_run() {
    let gantry = talker();
    for (redirection, reason) in [("", "Bad file descriptor"), ("9</dev/null", "open for reading only")] {
        for option in ["--report", "--progress"] {
            let mut command = redirected(gantry, redirection, &[option, "fd:9", "contract:talker"]);
            let done = done(command.output().unwrap());
            assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{option}");
            assert!(
                done.stderr.contains("fd:9") && done.stderr.contains(reason),
                "{}",
                done.stderr
            );
        }
    }
}

#[test]
fn a_build_reports_to_standard_output_alone() {
    let gantry = shared();
    let function = function("print(1)\n", None);
    let dir = function.path().to_str().unwrap();
    let printed = gantry.ok(["build", dir, "--tag", "contract:built", "--report", "-"]);
    assert_eq!(document(&printed)["status"], "ok");
    assert_eq!(printed.lines().count(), 1);
}

#[test]
fn each_end_says_what_to_do_and_has_an_exit_code_of_its_own() {
    let gantry = shared();
    let cases = [
        ("ok", "print(1)\n", &[][..], 0, "done"),
        ("failed", "raise SystemExit(4)\n", &[], 10, "done"),
        (
            "timeout",
            "import time\ntime.sleep(600)\n",
            &["--timeout", "300ms"],
            11,
            "done",
        ),
        (
            "oom",
            "import time\nx = bytearray(1 << 30)\ntime.sleep(600)\n",
            &["--memory", "64M", "--timeout", "600s"],
            12,
            "done",
        ),
        ("unavailable", "print(1)\n", &["--deadline", "1ms"], 4, "retry"),
        ("error", "print(1)\n", &["--input", "/nonexistent"], 6, "retry"),
    ];
    for (status, code, args, exit_code, action) in cases {
        let name = format!("contract:{status}");
        let (done, outcome) = gantry.try_python(&name, code, &[args, &["--exit-by-status"]].concat());
        assert_eq!(outcome["status"], status, "{outcome}");
        assert_eq!(done.code, exit_code, "{status}");
        assert_eq!(
            (&outcome["action"], &outcome["alert"]),
            (&json!(action), &json!(false)),
            "{status}"
        );
        assert_eq!(outcome["retry_after"].is_null(), action != "retry", "{status}");
    }
    // Without cgroups a promise is lost, which nobody accepts here; with them all are kept.
    let mut command = gantry.command();
    command.args(["run", "--exit-by-status", "--report", "-", "contract:ok"]);
    let refused = done(command.output().unwrap());
    let outcome = document(&refused.stdout);
    match outcome["status"].as_str().unwrap() {
        "refused" => {
            assert_eq!(
                (refused.code, &outcome["action"], &outcome["alert"]),
                (3, &json!("done"), &json!(true))
            );
        }
        other => assert_eq!((refused.code, other), (0, "ok")),
    }
    let mistake = gantry.run(&["--exit-by-status", "--oops"]);
    assert_eq!(mistake.code, 6, "{}", mistake.stderr);
}

#[test]
fn an_error_of_gantrys_own_is_given_up_at_the_second_try() {
    let gantry = shared();
    let scratch = tempfile::tempdir().unwrap();
    for (attempt, action, alert) in [(1, "retry", false), (2, "dead", true)] {
        let job = scratch.path().join("job.json");
        fs::write(
            &job,
            json!({"image": "contract:no-such", "attempt": attempt}).to_string(),
        )
        .unwrap();
        let done = gantry.gantry(["run", "--job", job.to_str().unwrap(), "--report", "-"]);
        let outcome = document(&done.stdout);
        assert_eq!(
            (&outcome["status"], &outcome["action"], &outcome["alert"]),
            (&json!("error"), &json!(action), &json!(alert))
        );
    }
}

#[test]
fn a_run_that_is_told_to_stop_says_so_to_the_queue() {
    let gantry = shared();
    gantry.build(
        function("import time\nprint('up', flush=True)\ntime.sleep(600)\n", None).path(),
        "contract:sleeper",
    );
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let mut command = gantry.command();
    command.args([
        "run",
        "--allow-degraded",
        DEGRADED,
        "--timeout",
        "300s",
        "--exit-by-status",
        "--progress",
        "-",
    ]);
    command.arg("--report").arg(&report).arg("contract:sleeper");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| document(&line.unwrap()));
    let mut phases = Vec::new();
    // The second line of the phase is the first sign of life in it.
    while phases.iter().filter(|phase| *phase == "run").count() < 2 {
        let line = lines.next().unwrap();
        assert!(line["at"].as_f64().unwrap() > 1e9 && line["ms"].is_u64(), "{line}");
        phases.push(line["phase"].as_str().unwrap().to_owned());
    }
    send(&child, Signal::TERM);
    phases.extend(lines.map(|line| line["phase"].as_str().unwrap().to_owned()));
    assert_eq!(phases.first().unwrap(), "start");
    assert_eq!(phases.last().unwrap(), "finish");
    phases.dedup();
    assert_eq!(phases, ["start", "resolve", "prepare", "run", "finish"]);
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let outcome = document(&fs::read_to_string(&report).unwrap());
    assert_eq!(
        (&outcome["status"], &outcome["action"], &outcome["retry_after"]),
        (&json!("killed"), &json!("retry"), &json!(0))
    );
}

#[test]
fn progress_names_the_job_and_never_holds_up_a_run() {
    let gantry = talker();
    let scratch = tempfile::tempdir().unwrap();
    let (job, progress) = (scratch.path().join("job.json"), scratch.path().join("progress"));
    let keys = json!({"image": "contract:talker", "id": "a1", "attempt": 3, "allow_degraded": ["memory", "cpu"]});
    fs::write(&job, keys.to_string()).unwrap();
    let (job, file) = (job.to_str().unwrap(), progress.to_str().unwrap());
    let done = gantry.gantry(["run", "--job", job, "--progress", file]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "result\n"), "{}", done.stderr);
    let text = fs::read_to_string(&progress).unwrap();
    assert!(!text.contains("result") && !text.contains("words"));
    let last = document(text.lines().last().unwrap());
    assert_eq!(
        (&last["id"], &last["attempt"], &last["phase"]),
        (&json!("a1"), &json!(3), &json!("finish"))
    );
    // A pipe that is full and that nobody reads: lines are lost, the run is not.
    let script = "import fcntl, os, subprocess, sys\nread, write = os.pipe()\nfcntl.fcntl(write, 1031, 4096)\n\
        os.write(write, b'x' * 4096)\nsys.exit(subprocess.run([*sys.argv[1:], '--progress', str(write)], pass_fds=[write]).returncode)\n";
    let run = gantry.command();
    let mut command = Command::new("python3");
    command
        .args(["-c", script])
        .arg(run.get_program())
        .args(["run", "--job", job]);
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    assert!(command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success());
}
