//! `--report FILE` holds this command's document, whatever the command came to: wrong arguments and signals included.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use crate::common::wait::eventually;
use crate::common::{done, function, tree, Gantry};

fn document(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn only_a_run_is_refused_as_one() {
    let gantry = Gantry::new();
    let report = gantry.home.join("report.json");
    let place = report.to_str().unwrap();
    for (args, code, reason) in [
        (&["build", "run", "--oops", "--report", place][..], 2, "'--oops'"),
        (
            &["build", "--tag", "run", "--bad-flag", "--report", place],
            2,
            "'--bad-flag'",
        ),
        (
            &["--config", "run", "build", "--report", place, "one", "two"],
            2,
            "'two'",
        ),
        (
            &["base", "build", &format!("--report={place}"), "run", "extra"],
            2,
            "'extra'",
        ),
        (&["run", "--report", place, "--oops", "build"], 125, "'--oops'"),
        (&["run", "x:1", "--report", place, "--cpus", "many"], 125, "'many'"),
    ] {
        fs::write(&report, "of an earlier command").unwrap();
        let done = gantry.gantry(args);
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (code, ""),
            "{args:?}: {}",
            done.stderr
        );
        let found = document(&report);
        assert_eq!(found["exit_code"], code, "{args:?}");
        let status = if code == 125 { "error" } else { "failed" };
        assert_eq!(found["status"], status, "{args:?}");
        assert_eq!(found.get("phases_ms").is_some(), code == 125, "{args:?}");
        let error = found["error"].as_str().unwrap();
        assert!(error.contains(reason) && !error.contains('\n'), "{args:?}: {error}");
    }
    for args in [
        &["help", "run", "--report", place][..],
        &["help", "runn", "--report", place],
        &["images", "run", "--report", place],
        &["--", "run", "--report", place],
    ] {
        fs::write(&report, "of an earlier command").unwrap();
        assert_eq!(gantry.gantry(args).code, 2, "{args:?}");
        assert_eq!(
            fs::read_to_string(&report).unwrap(),
            "of an earlier command",
            "{args:?}"
        );
    }
    assert_eq!(tree(&gantry.home), [report]);
}

#[test]
fn a_place_for_the_report_that_cannot_be_written_is_said_beside_the_mistake() {
    let gantry = Gantry::new();
    let done = gantry.gantry(["build", "--bad-flag", "--report", "/proc/none/report.json"]);
    assert_eq!(done.code, 2);
    for part in ["--bad-flag", "/proc/none/report.json"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Ends `child` by `signal`, and expects that it says so.
fn ends(mut child: Child, signal: Signal, number: i32, report: &Path, gantry: &Gantry) {
    send(&child, signal);
    let code = child.wait().unwrap().code();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(code, Some(128 + number), "{stderr}");
    let found = document(report);
    assert_eq!(
        (&found["status"], &found["signal"], &found["exit_code"]),
        (&"killed".into(), &number.into(), &(128 + number).into()),
        "{found}"
    );
    let beside: Vec<_> = tree(report.parent().unwrap());
    assert!(
        !beside.iter().any(|path| path.to_string_lossy().contains(".gantry-")),
        "{beside:?}"
    );
    let left = tree(&gantry.root.join("tmp"));
    assert!(left.is_empty(), "{left:?}");
}

/// A server that takes connections and never answers, in a configuration that asks it for Debian's packages.
fn deaf_archive(gantry: &Gantry) -> (TcpListener, String) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let config = gantry.home.join("config.toml");
    fs::write(
        &config,
        format!("[base]\nmirror = \"{url}\"\nsecurity_mirror = \"{url}\"\n"),
    )
    .unwrap();
    (server, config.to_str().unwrap().to_owned())
}

#[test]
fn a_build_that_a_signal_ends_says_so_in_its_report() {
    let function = function("print(1)\n", None);
    let dir = function.path().to_str().unwrap();
    for (command, signal, number) in [
        (&["build", dir][..], Signal::TERM, 15),
        (&["build", dir], Signal::INT, 2),
        (&["base", "build"], Signal::HUP, 1),
    ] {
        let gantry = Gantry::new();
        let report = gantry.home.join("report.json");
        fs::write(&report, "of an earlier build").unwrap();
        let (server, config) = deaf_archive(&gantry);
        let mut child = gantry.command();
        child
            .args(["--config", &config])
            .args(command)
            .arg("--report")
            .arg(&report);
        let child = child.stderr(Stdio::piped()).spawn().unwrap();
        // It waits for an answer.
        let _asked = server.accept().unwrap();
        ends(child, signal, number, &report, &gantry);
    }
}

/// A pipe with a name; [`writer`] returns once somebody reads it.
fn pipe(directory: &Path) -> String {
    let path = directory.join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path.to_str().unwrap().to_owned()
}

fn writer(pipe: &str) -> fs::File {
    fs::OpenOptions::new().write(true).open(pipe).unwrap()
}

#[test]
fn a_signal_before_the_store_is_open_is_reported_too() {
    let function = function("print(1)\n", None);
    let dir = function.path().to_str().unwrap();
    for command in [&["build", dir][..], &["base", "build"]] {
        let gantry = Gantry::new();
        let report = gantry.home.join("report.json");
        let config = pipe(&gantry.home);
        let mut child = gantry.command();
        child
            .args(["--config", &config])
            .args(command)
            .arg("--report")
            .arg(&report);
        let child = child.stderr(Stdio::piped()).spawn().unwrap();
        let _half_read = writer(&config);
        ends(child, Signal::TERM, 15, &report, &gantry);
    }
}

#[test]
fn a_signal_ends_a_run_that_waits_for_its_job() {
    let gantry = Gantry::new();
    let report = gantry.home.join("report.json");
    let job = pipe(&gantry.home);
    let mut child = gantry.command();
    child.args(["run", "--job", &job, "--report"]).arg(&report);
    let child = child.stderr(Stdio::piped()).spawn().unwrap();
    let _half_written = writer(&job);
    ends(child, Signal::TERM, 15, &report, &gantry);
}

#[test]
fn a_signal_ends_the_wait_for_a_reader_of_the_report() {
    let function = function("print(1)\n", None);
    let dir = function.path().to_str().unwrap();
    for command in [&["build", dir][..], &["run", "x:1"]] {
        let gantry = Gantry::new();
        let report = pipe(&gantry.home);
        let mut child = gantry.command();
        let child = child.args(command).args(["--report", &report]).spawn().unwrap();
        // One of its threads is in the system call that opens the pipe.
        let opens = |task: std::io::Result<fs::DirEntry>| {
            let call = fs::read_to_string(task.unwrap().path().join("syscall")).unwrap_or_default();
            call.starts_with("257 ")
        };
        eventually("it does not open the pipe", || {
            let mut tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
            tasks.any(opens).then_some(()).ok_or_else(String::new)
        });
        send(&child, Signal::TERM);
        assert_eq!(done(child.wait_with_output().unwrap()).code, 128 + 15);
    }
}

#[test]
fn a_signal_that_the_caller_ignores_ends_nothing() {
    let gantry = Gantry::new();
    let (server, config) = deaf_archive(&gantry);
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap '' HUP; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_gantry"),
        "--config",
        &config,
    ]);
    command
        .args(["base", "build"])
        .env_clear()
        .env("HOME", &gantry.home)
        .env("GANTRY_ROOT", &gantry.root);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (asked, _) = server.accept().unwrap();
    send(&child, Signal::HUP);
    // A signal that is not ignored comes after it, and is the one that counts.
    send(&child, Signal::TERM);
    drop(asked);
    assert_eq!(done(child.wait_with_output().unwrap()).code, 128 + 15);
}
