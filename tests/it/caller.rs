//! A run of a job ends with the process that asked for it, however that ends, and with nothing less than that.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{json, Value};

use crate::common::wait::{eventually, is_so, send};
use crate::common::{done, function, journal, shared, Gantry, DEGRADED};

const ROUNDS: usize = 20;

/// Says that it is up, then does nothing for longer than any test.
const SLEEPER: &str = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";
/// Goes on after a while.
const BRIEF: &str = "import time\nprint('up', flush=True)\ntime.sleep(0.2)\nprint('done')\n";

/// The process that calls: argument one says how, the others are the command line of gantry. It prints a line once gantry
/// is started, and tells of what gantry prints.
const CALLER: &str = r#"
import os, subprocess, sys, threading, time
how, command = sys.argv[1], sys.argv[2:]
def say(*words): print(*words, flush=True)
if how == "plain":
    # Copies of these pipes would hide the death of whoever holds their other ends.
    gantry = subprocess.Popen(command, stdout=subprocess.PIPE)
    say(gantry.stdout.readline().decode().strip())
    time.sleep(600)
elif how == "thread":
    started = []
    thread = threading.Thread(target=lambda: started.append(subprocess.Popen(command, stdout=subprocess.PIPE)))
    thread.start()
    thread.join()
    while os.listdir("/proc/self/task") != [str(os.getpid())]: time.sleep(0.001)
    say(*started[0].communicate()[0].decode().split(), started[0].returncode)
elif how == "prefork":
    job = open(os.environ["JOB"], "rb").read()
    gantry = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    copy = os.fork()
    if copy == 0:
        time.sleep(600)
        os._exit(0)
    gantry.stdin.write(job)
    gantry.stdin.flush()
    if os.environ["CLOSE"] == "1":
        gantry.stdin.close()
    say(copy)
    time.sleep(600)
elif how == "dead":
    caller = os.getpid()
    if os.fork() == 0:
        while os.getppid() == caller: time.sleep(0.001)
        os.execv(command[0], command)
"#;

/// Every process that has `marker` in its command line, but for the calling one.
fn processes(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(command) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(marker) && !command.starts_with("python3 -c") {
            found.push(format!("{} {command}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// One job: its document, the place of its outcome, and a word that is in the command line of all of its processes.
struct Job {
    _scratch: tempfile::TempDir,
    marker: String,
    document: PathBuf,
    outcome: PathBuf,
}

impl Job {
    fn new(image: &str, keys: Value) -> Self {
        let scratch = tempfile::Builder::new().prefix("gantry-caller-").tempdir().unwrap();
        let marker = scratch.path().file_name().unwrap().to_str().unwrap().to_owned();
        let mut job = json!({"image": image, "args": [marker], "allow_degraded": DEGRADED.split(',').collect::<Vec<_>>(),
            "timeout": "300s"});
        job.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let document = scratch.path().join("job.json");
        fs::write(&document, job.to_string()).unwrap();
        Self {
            outcome: scratch.path().join("outcome.json"),
            document,
            marker,
            _scratch: scratch,
        }
    }

    /// The command line of gantry for it, which a process calls in the way of `how`.
    fn called(&self, gantry: &Gantry, how: &str, document: &str, options: &[&str]) -> Command {
        let run = gantry.command();
        let mut command = Command::new("python3");
        command.args(["-c", CALLER, how]).arg(run.get_program());
        command.args(["run", "--job", document, "--report"]).arg(&self.outcome);
        command.args(options).env_clear().env("PATH", "/usr/bin:/bin");
        for (name, value) in run.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command
            .env("JOB", &self.document)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command.stderr(Stdio::null());
        command
    }

    /// Starts it, and returns the first line that the caller prints.
    fn start(&self, mut command: Command) -> (Child, String) {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (child, line.trim_end().to_owned())
    }

    fn path(&self) -> &str {
        self.document.to_str().unwrap()
    }

    /// Waits until no process of it is left, and returns its outcome.
    fn ends(&self) -> Value {
        eventually("processes are left", || {
            let left = processes(&self.marker);
            is_so(left.is_empty(), &left)
        });
        outcome(&self.outcome)
    }
}

fn outcome(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("no outcome: {error}"));
    serde_json::from_slice(&text).unwrap()
}

fn sleeper() -> &'static Gantry {
    let gantry = shared();
    gantry.build(function(SLEEPER, None).path(), "caller:sleeper");
    gantry
}

#[test]
fn a_run_ends_with_a_caller_that_is_killed() {
    let gantry = sleeper();
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        let job = Job::new("caller:sleeper", json!({"id": format!("job {round}"), "attempt": 1}));
        let (mut caller, said) = job.start(job.called(gantry, "plain", job.path(), &[]));
        assert_eq!(said, "up");
        send(&caller, Signal::KILL);
        let killed = Instant::now();
        caller.wait().unwrap();
        let outcome = job.ends();
        longest = longest.max(killed.elapsed());
        assert_eq!(
            (&outcome["status"], &outcome["exit_code"], &outcome["id"]),
            (&json!("killed"), &json!(143), &json!(format!("job {round}")))
        );
        assert_eq!(outcome["error"], format!("the caller (pid {}) ended", caller.id()));
    }
    eprintln!("nothing was left {longest:?} after the caller at the latest");
}

#[test]
fn the_time_to_tidy_up_is_short_once_the_caller_is_gone() {
    let gantry = shared();
    let code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n";
    gantry.build(function(code, None).path(), "caller:deaf");
    let job = Job::new("caller:deaf", json!({"grace": "500s", "timeout": "600s"}));
    let (mut caller, said) = job.start(job.called(gantry, "plain", job.path(), &[]));
    assert_eq!(said, "up");
    send(&caller, Signal::KILL);
    caller.wait().unwrap();
    assert_eq!(job.ends()["status"], "killed");
}

#[test]
fn a_run_goes_on_when_the_thread_that_started_it_ends() {
    let gantry = shared();
    gantry.build(function(BRIEF, None).path(), "caller:brief");
    for _ in 0..ROUNDS {
        let job = Job::new("caller:brief", json!({}));
        let (mut caller, said) = job.start(job.called(gantry, "thread", job.path(), &[]));
        caller.wait().unwrap();
        assert_eq!(said, "up done 0");
        assert_eq!(outcome(&job.outcome)["status"], "ok");
    }
}

#[test]
fn a_copy_of_the_caller_that_holds_its_pipes_hides_no_death() {
    let gantry = sleeper();
    for round in 0..ROUNDS {
        let job = Job::new("caller:sleeper", json!({}));
        let mut command = job.called(gantry, "prefork", "-", &[]);
        // In every second round the job is never read to its end: the copy keeps it open.
        let closes = round % 2;
        command.env("CLOSE", closes.to_string());
        let (mut caller, copy) = job.start(command);
        eventually("gantry is not started", || {
            let started = processes(&job.marker).len();
            is_so(started > 0, started)
        });
        send(&caller, Signal::KILL);
        caller.wait().unwrap();
        let outcome = job.ends();
        // gantry may not have looked at its caller yet; then it is refused.
        if outcome["code"] == "no_caller" {
            assert_eq!(outcome["status"], "error", "{outcome}");
        } else {
            assert_eq!(outcome["status"], "killed", "{outcome}");
            assert_eq!(outcome["error"], format!("the caller (pid {}) ended", caller.id()));
        }
        let copy = rustix::process::Pid::from_raw(copy.parse().unwrap()).unwrap();
        rustix::process::kill_process(copy, Signal::KILL).unwrap();
    }
}

#[test]
fn a_caller_that_was_gone_before_the_start_refuses_the_run() {
    let gantry = sleeper();
    for _ in 0..ROUNDS {
        let job = Job::new("caller:sleeper", json!({"id": "orphan"}));
        let mut caller = job.called(gantry, "dead", job.path(), &[]).spawn().unwrap();
        caller.wait().unwrap();
        eventually("there is no outcome", || is_so(job.outcome.exists(), "none"));
        let outcome = job.ends();
        assert_eq!(
            (&outcome["status"], &outcome["exit_code"], &outcome["id"]),
            (&json!("error"), &json!(125), &json!("orphan")),
            "{outcome}"
        );
        let error = outcome["error"].as_str().unwrap();
        assert!(
            error.starts_with("the caller ended before the run began: process "),
            "{error}"
        );
        assert_eq!(outcome["phases_ms"]["run"], 0.0);
    }
}

#[test]
fn a_caller_is_known_where_the_leader_of_its_session_is_outside() {
    let job = Job::new("caller:nowhere", json!({}));
    let run = job.called(shared(), "plain", job.path(), &[]);
    // Our session goes into the new pid namespace, its leader does not. The caller is not the first process there.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-current-user", "--pid", "--fork", "--mount-proc"]);
    command.args(["sh", "-c", r#"sh -c '"$@"; true' - "$@"; true"#, "-"]);
    command.args(run.get_args().skip(3));
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    assert!(command.stdin(Stdio::null()).status().unwrap().success());
    let outcome = job.ends();
    assert_eq!(outcome["code"], "unknown_image", "{outcome}");
}

#[test]
fn a_detached_run_needs_no_caller() {
    let gantry = shared();
    gantry.build(function(BRIEF, None).path(), "caller:brief");
    for (keys, options) in [
        (json!({}), &["--detached"][..]),
        (json!({"caller": "detached"}), &[]),
        (json!({"caller": "watch"}), &["--detached"]),
    ] {
        let job = Job::new("caller:brief", keys);
        let mut caller = job.called(gantry, "dead", job.path(), options).spawn().unwrap();
        caller.wait().unwrap();
        eventually("there is no outcome", || is_so(job.outcome.exists(), "none"));
        assert_eq!(job.ends()["status"], "ok");
        let job = Job::new("caller:brief", json!({"caller": "detached"}));
        let (mut caller, said) = job.start(job.called(gantry, "plain", job.path(), options));
        assert_eq!(said, "up");
        send(&caller, Signal::KILL);
        caller.wait().unwrap();
        assert_eq!(job.ends()["status"], "ok");
    }
}

#[test]
fn only_a_job_can_be_detached_and_only_its_caller_is_watched() {
    let gantry = shared();
    gantry.build(function(BRIEF, None).path(), "caller:brief");
    let refused = gantry.run(&["--detached", "caller:brief"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("--detached"), "{}", refused.stderr);
    // A run without a job goes on.
    let scratch = tempfile::Builder::new().prefix("gantry-caller-").tempdir().unwrap();
    let marker = scratch.path().file_name().unwrap().to_str().unwrap();
    let report = scratch.path().join("outcome.json");
    let run = gantry.command();
    let mut command = Command::new("python3");
    command.args(["-c", CALLER, "dead"]).arg(run.get_program());
    command
        .args(["run", "--allow-degraded", DEGRADED, "--report"])
        .arg(&report);
    command
        .args(["caller:brief", "--", marker])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    assert!(command.status().unwrap().success());
    eventually("there is no outcome", || is_so(report.exists(), "none"));
    assert_eq!(outcome(&report)["status"], "ok");
}

#[test]
fn the_callers_words_come_back_in_the_outcome_and_in_the_journal() {
    let gantry = shared();
    gantry.build(function("print('hello')\n", None).path(), "caller:hello");
    // The store stays, and with it what earlier tests have written there.
    let id = format!("words {}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    let ticket = json!({"id": id, "attempt": 7, "labels": {"queue": "slow", "": "refused"}});
    for (name, error) in [
        ("", Some("the name of a label: it has 0 bytes, want 1 to 64")),
        ("user", None),
    ] {
        let mut ticket = ticket.clone();
        let labels = ticket["labels"].as_object_mut().unwrap();
        let value = labels.remove("").unwrap();
        labels.insert(name.to_owned(), value);
        let job = Job::new("caller:hello", ticket.clone());
        let mut command = gantry.command();
        command.args(["run", "--job", job.path(), "--report"]).arg(&job.outcome);
        let done = done(command.output().unwrap());
        let outcome = outcome(&job.outcome);
        match error {
            Some(error) => {
                assert_eq!((done.code, &outcome["status"]), (125, &json!("error")));
                assert!(outcome["error"].as_str().unwrap().contains(error), "{outcome}");
                // The words that can be read are there: the caller shall find its job again.
                assert_eq!((&outcome["id"], &outcome["labels"]), (&json!(id), &json!({})));
            }
            None => {
                assert_eq!((done.code, &outcome["status"]), (0, &json!("ok")), "{}", done.stderr);
                for key in ["id", "attempt", "labels"] {
                    assert_eq!(outcome[key], ticket[key]);
                }
            }
        }
    }
    let mut lines = journal(gantry);
    lines.retain(|line| line["id"] == id);
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (&lines[0]["attempt"], &lines[0]["labels"]["user"]),
        (&json!(7), &json!("refused"))
    );
}
