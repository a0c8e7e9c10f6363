//! Nobody makes gantry wait for ever: secrets that do not come, and output that nobody reads.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::wait::{eventually, is_so, send};
use crate::common::{done, function, holder_of, shared, tiny, Gantry, DEGRADED};

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

/// The function has ended, and what it printed stands in pipes that nobody reads.
#[test]
fn a_run_whose_output_nobody_reads_ends_and_frees_its_slot() {
    let gantry = shared();
    gantry.build(function("print('x' * 100_000)\n", None).path(), "patience:unread");
    let scratch = tempfile::tempdir().unwrap();
    let (report, config) = (scratch.path().join("report.json"), scratch.path().join("config.toml"));
    let slots = scratch.path().join("slots");
    fs::write(&config, format!("[run]\nslots = 1\nslots_dir = {slots:?}\n")).unwrap();
    let run = || {
        let mut command = gantry.command();
        command.arg("--config").arg(&config);
        command.args(["run", "--allow-degraded", DEGRADED]);
        command
    };
    let mut command = run();
    command
        .args(["--timeout", "1s", "--report"])
        .arg(&report)
        .arg("patience:unread")
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    eventually("gantry waits for a reader", || {
        is_so(child.try_wait().unwrap().is_some(), "it is alive")
    });
    let outcome = outcome(&report);
    let status = outcome["status"].as_str().unwrap();
    // A busy machine may need the second for the start of Python.
    match status {
        "timeout" => assert_eq!(child.wait().unwrap().code(), Some(124)),
        _ => assert_eq!(
            (status, &outcome["code"], child.wait().unwrap().code()),
            ("error", &"stream_unwritable".into(), Some(125)),
            "{outcome}"
        ),
    }
    drop(child);
    let mut command = run();
    let next = done(
        command
            .args(["--wait", "0s", "--timeout", "60s", "patience:unread"])
            .output()
            .unwrap(),
    );
    assert_eq!((next.code, next.stdout.len()), (0, 100_001), "{}", next.stderr);
}

#[test]
fn a_run_that_is_told_to_stop_does_not_wait_for_its_reader_until_its_time_limit() {
    let gantry = shared();
    let code = "import sys\nsys.stdout.write('x' * 1_000_000)\n";
    gantry.build(function(code, None).path(), "patience:stop");
    let mut command = gantry.command();
    command.args([
        "run",
        "--allow-degraded",
        DEGRADED,
        "--timeout",
        "3000s",
        "patience:stop",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What it prints is there, and more than the pipe holds.
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    send(&child, Signal::TERM);
    eventually("gantry waits for a reader", || {
        is_so(child.try_wait().unwrap().is_some(), "it is alive")
    });
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{told}");
    assert!(!told.contains("Connection timed out"), "{told}");
}

#[test]
fn what_nobody_can_read_is_an_error_of_whatever_writes_there() {
    let gantry = shared();
    gantry.build(function("", None).path(), "patience:closed");
    let binary = env!("CARGO_BIN_EXE_gantry");
    for (words, code) in [
        ("save patience:closed -", 1),
        ("man build", 1),
        ("completions bash", 1),
        ("images ls", 1),
        ("copy patience:closed closed:1 --report -", 1),
        ("run --allow-degraded memory,cpu --report - patience:closed", 125),
    ] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {binary} {words} >&-")]);
        shell.env("HOME", &gantry.home).env("GANTRY_ROOT", &gantry.root);
        let refused = done(shell.output().unwrap());
        assert_eq!(refused.code, code, "{words}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("Bad file descriptor"),
            "{words}: {}",
            refused.stderr
        );
    }
}

#[test]
fn garbage_collection_waits_for_others_as_long_as_it_is_told_to() {
    let gantry = Gantry::new();
    tiny(&gantry, &["tiny:1"]);
    let mut holder = holder_of(&gantry.root.join("locks/collector"), "LOCK_SH");
    let busy = gantry.gantry(["cache", "gc", "--wait", "0s"]);
    assert_eq!(busy.code, 4, "{}", busy.stderr);
    let told: serde_json::Value =
        serde_json::from_str(&gantry.gantry(["cache", "gc", "--wait", "0s", "--json"]).stdout).unwrap();
    assert_eq!(told["is_complete"], false, "{told}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    gantry.ok(["cache", "gc", "--wait", "100s"]);
}

#[test]
fn an_archive_that_is_slow_to_come_keeps_no_collector_waiting() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let archive = gantry.home.join("a.tar");
    gantry.ok(["save", "a:1", archive.to_str().unwrap()]);
    let bytes = fs::read(archive).unwrap();
    let mut command = gantry.command();
    command.args(["load", "-"]).stdin(Stdio::piped());
    let mut load = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut archive = load.stdin.take().unwrap();
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    archive.write_all(first).unwrap();
    let tmp = gantry.root.join("tmp");
    eventually("it does not begin to read", || {
        let there = fs::read_dir(&tmp).unwrap().count();
        is_so(there > 0, there)
    });
    // Nobody waits for it, not even for as long as the collector would.
    let collected = gantry.gantry(["cache", "gc", "--all", "--wait", "0s"]);
    assert_eq!(collected.code, 0, "{}", collected.stderr);
    archive.write_all(rest).unwrap();
    drop(archive);
    let loaded = done(load.wait_with_output().unwrap());
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    assert_eq!(gantry.ok(["images", "ls", "-q"]), "a:1\n");
}

/// What is in the way has no room in the store: a save of an image is a way out of that.
#[test]
fn a_store_without_room_gives_away_what_it_has() {
    let gantry = Gantry::new();
    tiny(&gantry, &["tiny:1"]);
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("tiny.tar");
    let full = format!(
        "mount -t tmpfs -o nr_inodes=1 tmpfs {}",
        gantry.root.join("tmp").display()
    );
    let script = format!("{full} && exec {} \"$@\"", env!("CARGO_BIN_EXE_gantry"));
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        &script,
        "sh",
        "save",
        "tiny:1",
    ]);
    command
        .arg(&archive)
        .env("HOME", &gantry.home)
        .env("GANTRY_ROOT", &gantry.root);
    let saved = done(command.output().unwrap());
    assert_eq!(saved.code, 0, "{}", saved.stderr);
    let entries: Vec<_> = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(entries, ["tiny.tar"]);
}
