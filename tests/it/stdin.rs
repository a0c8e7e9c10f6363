//! Standard input of a function: nothing without `-i`; with it what gantry is given, up to a limit.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::common::{done, function, shared, Done, DEGRADED};

const COUNT: &str =
    "import hashlib, sys\ndata = sys.stdin.buffer.read()\nprint(len(data), hashlib.sha256(data).hexdigest()[:8])\n";

/// Runs the function `code` with `input` on gantry's standard input.
fn run(code: &str, input: &[u8], args: &[&str]) -> (Done, Value) {
    let gantry = shared();
    // Under one name for each: tests run at once.
    let name = format!("stdin:{}", code.len());
    gantry.build(function(code, None).path(), &name);
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let mut command = gantry.command();
    command.args([
        "run",
        "--allow-degraded",
        DEGRADED,
        "--report",
        report.to_str().unwrap(),
    ]);
    command
        .args(args)
        .arg(name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let bytes = input.to_vec();
    // It may end before it has taken everything.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let done = done(child.wait_with_output().unwrap());
    writer.join().unwrap();
    (done, serde_json::from_slice(&fs::read(report).unwrap()).unwrap())
}

#[test]
fn it_is_passed_on_whole_with_i_and_empty_without() {
    let input: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (done, _) = run(COUNT, &input, &["-i"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "12000000 97744d16\n"),
        "{}",
        done.stderr
    );
    let (done, _) = run(COUNT, &input, &[]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "0 e3b0c442\n"),
        "{}",
        done.stderr
    );
}

#[test]
fn more_than_the_limit_ends_the_run_and_says_so() {
    let (done, outcome) = run(COUNT, &[7; 2000], &["-i", "--input-limit", "1999"]);
    assert_eq!((done.code, done.stdout.as_str()), (125, ""));
    assert_eq!(
        (&outcome["status"], &outcome["code"]),
        (&"error".into(), &"input_too_large".into())
    );
    assert!(
        done.stderr
            .contains("standard input is over 1999 B, the limit (--input-limit)"),
        "{}",
        done.stderr
    );
    let (done, outcome) = run(COUNT, &[7; 2000], &["-i", "--input-limit", "2000"]);
    assert_eq!(
        (done.code, &outcome["limits"]["input_limit"]),
        (0, &2000.into()),
        "{}",
        done.stderr
    );
}

#[test]
fn a_function_that_reads_nothing_or_closes_it_ends_as_always() {
    let input = vec![0; 4 << 20];
    let (done, _) = run("print('done')\n", &input, &["-i"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "done\n"), "{}", done.stderr);
    let (done, _) = run("import os\nos.close(0)\nprint('closed')\n", &input, &["-i"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "closed\n"), "{}", done.stderr);
}

#[test]
fn what_comes_late_is_passed_on_as_it_comes() {
    let gantry = shared();
    let code = "import sys\nfor line in sys.stdin: print('got', line.strip(), flush=True)\n";
    gantry.build(function(code, None).path(), "stdin:late");
    let mut command = gantry.command();
    command.args(["run", "--allow-degraded", DEGRADED, "-i", "stdin:late"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for word in ["one", "two"] {
        writeln!(input, "{word}").unwrap();
        let mut answer = [0; 8];
        output.read_exact(&mut answer).unwrap();
        assert_eq!(&answer[..], format!("got {word}\n").as_bytes());
    }
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn it_cannot_be_both_the_job_and_the_functions() {
    let gantry = shared();
    let done = gantry.gantry(["run", "--job", "-", "-i"]);
    assert_eq!(done.code, 125);
    assert!(
        done.stderr.contains("-i") && done.stderr.contains("--job -"),
        "{}",
        done.stderr
    );
}
