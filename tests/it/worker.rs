//! The worker of `examples/worker`: whatever becomes of a job, its status, code and action say what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::common::{example, function, shared, Gantry};

const JOBS: usize = 200;

/// Ends in the way that its argument names.
const FUNCTION: &str = r#"
import ctypes, os, sys, time
how = sys.argv[1]
print("function:", how, flush=True)
if how == "exit": sys.exit(3)
if how == "signal": os.kill(os.getpid(), 11)
# getpid of the x32 interface.
if how == "call": ctypes.CDLL(None).syscall(0x40000027)
if how == "sleep": time.sleep(600)
if how == "memory":
    # Whoever only looks from time to time sees it.
    held = bytearray(1 << 30)
    time.sleep(600)
if how == "link": os.symlink("/etc/passwd", "/output/link")
"#;

/// Keys of a job, and how it ends: status, code, action.
type Kind = (Value, &'static str, Option<&'static str>, &'static str);

/// A job of each kind; `scratch` is a directory of ours.
fn kinds(scratch: &Path) -> Vec<Kind> {
    let file = scratch.join("file");
    fs::write(&file, "").unwrap();
    let (below, output) = (file.join("below"), scratch.join("output"));
    // Where it is with a cgroup, everything is kept, and the run of a job that accepts no loss is a good one.
    let mut kinds: Vec<Kind> = vec![
        (json!({"args": ["well"]}), "ok", None, "done"),
        (json!({"args": ["exit"]}), "failed", Some("nonzero_exit"), "done"),
        (json!({"args": ["signal"]}), "failed", Some("signal"), "done"),
        (json!({"args": ["call"]}), "failed", Some("bad_system_call"), "done"),
        (
            json!({"args": ["link"], "output": output}),
            "failed",
            Some("output_refused"),
            "done",
        ),
        (json!({"args": ["memory"], "memory": "64M"}), "oom", Some("oom"), "done"),
        (
            json!({"args": ["sleep"], "timeout": "500ms"}),
            "timeout",
            Some("timeout"),
            "done",
        ),
        (
            json!({"args": ["sleep"], "deadline": "6s"}),
            "timeout",
            Some("deadline"),
            "done",
        ),
        (
            json!({"args": ["well"], "deadline": "1ms"}),
            "unavailable",
            Some("deadline"),
            "retry",
        ),
        (
            json!({"image": "worker:no-such"}),
            "error",
            Some("unknown_image"),
            "retry",
        ),
        (json!({"imgae": "worker:function"}), "error", Some("bad_job"), "retry"),
        (json!({"input": below}), "error", Some("input_unusable"), "retry"),
        (json!({"output": below}), "error", Some("output_unwritable"), "retry"),
        (
            json!({"secrets": {"KEY": below}}),
            "error",
            Some("secret_unavailable"),
            "retry",
        ),
    ];
    if shared().gantry(["run", "worker:function", "--", "well"]).code != 0 {
        kinds.push((
            json!({"args": ["well"], "allow_degraded": []}),
            "refused",
            Some("promise_lost"),
            "done",
        ));
    }
    kinds
}

/// The worker, which tries each job `tries` times, with gantry on its path.
fn worker(gantry: &Gantry, tries: usize) -> Command {
    let run = gantry.command();
    let mut command = Command::new("python3");
    command.arg(example("worker").join("worker.py")).arg(tries.to_string());
    command.env_clear();
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let program = Path::new(run.get_program()).parent().unwrap().display();
    command.env("PATH", format!("{program}:/usr/local/bin:/usr/bin:/bin"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn two_hundred_jobs_end_in_fifteen_ways_that_are_told_apart() {
    let gantry = shared();
    gantry.build(function(FUNCTION, None).path(), "worker:function");
    let scratch = tempfile::tempdir().unwrap();
    let kinds = kinds(scratch.path());
    assert!(kinds.len() >= 14);
    let ends: BTreeSet<_> = kinds
        .iter()
        .map(|(_, status, code, action)| (status, code, action))
        .collect();
    assert_eq!(ends.len(), kinds.len(), "each kind has an end of its own");
    let mut worker = worker(gantry, 1).spawn().unwrap();
    let mut jobs = worker.stdin.take().unwrap();
    for (number, (keys, ..)) in kinds.iter().cycle().take(JOBS).enumerate() {
        let mut job = json!({"id": number.to_string(), "image": "worker:function", "args": ["well"], "timeout": "300s",
            "allow_degraded": ["memory", "cpu"]});
        job.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        writeln!(jobs, "{job}").unwrap();
    }
    drop(jobs);
    let done = worker.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let printed = String::from_utf8(done.stdout).unwrap();
    let mut found = BTreeMap::new();
    for line in printed.lines() {
        let end: Value = serde_json::from_str(line).unwrap();
        let number: usize = end["id"].as_str().unwrap().parse().unwrap();
        let (keys, status, code, action) = &kinds[number % kinds.len()];
        assert_eq!(
            (&end["status"], &end["code"], &end["action"]),
            (&json!(status), &json!(code), &json!(action)),
            "{keys}"
        );
        assert!(found.insert(number, ()).is_none(), "{number} ended twice");
    }
    assert_eq!(found.len(), JOBS);
    assert!(
        said.contains("function: well"),
        "what functions print is not lost: {said}"
    );
}

#[test]
fn the_worker_has_25_lines() {
    let text = fs::read_to_string(example("worker").join("worker.py")).unwrap();
    assert_eq!(text.lines().count(), 25);
}
