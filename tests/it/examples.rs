//! The four examples, as a user would build and run them on each Python, and every way a function can end.

use std::fs;

use crate::common::{example, function, shared, PYTHONS};
use serde_json::json;

fn prints_what_it_should(name: &str) {
    let (gantry, directory) = (shared(), example(name));
    let expected = fs::read_to_string(directory.join("expected.txt")).unwrap();
    for python in PYTHONS {
        let tag = format!("{name}:{python}");
        gantry.ok(["build", directory.to_str().unwrap(), "--tag", &tag, "--python", python]);
        let (done, outcome) = gantry.run_with_outcome(&[&tag]);
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (0, expected.as_str()),
            "on Python {python}: {}",
            done.stderr
        );
        assert_eq!(outcome["status"], "ok");
    }
}

#[test]
fn hello_runs() {
    prints_what_it_should("hello");
}

#[test]
fn beam_runs() {
    prints_what_it_should("beam");
}

#[test]
fn ode_runs() {
    prints_what_it_should("ode");
}

#[test]
fn series_reads_its_input_and_writes_its_output() {
    let (gantry, directory) = (shared(), example("series"));
    let expected = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
    let input = directory.join("input");
    for python in PYTHONS {
        let (tag, out) = (format!("series:{python}"), tempfile::tempdir().unwrap());
        gantry.ok(["build", directory.to_str().unwrap(), "--tag", &tag, "--python", python]);
        let (input, output) = (input.to_str().unwrap(), out.path().to_str().unwrap());
        let done = gantry.run(&["--input", input, "--output", output, &tag]);
        assert_eq!(
            (done.code, done.stdout),
            (0, expected("expected.txt")),
            "on Python {python}: {}",
            done.stderr
        );
        let summary = fs::read_to_string(out.path().join("summary.csv")).unwrap();
        assert_eq!(summary, expected("expected_summary.csv"));
        assert_eq!(
            fs::read_dir(out.path()).unwrap().count(),
            1,
            "only the summary is left in the output directory"
        );
    }
}

#[test]
fn an_exception_is_exit_code_1_with_its_traceback() {
    let (done, outcome) = shared().try_python("ends:exception", "def f():\n    raise ValueError('no')\nf()\n", &[]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("/app/user_function.py\", line 2, in f"),
        "{}",
        done.stderr
    );
    assert_eq!(
        (&outcome["status"], &outcome["exit_code"], &outcome["signal"]),
        (&json!("failed"), &json!(1), &json!(null))
    );
}

#[test]
fn the_exit_code_passes_through() {
    let (done, outcome) = shared().try_python("ends:seven", "import sys\nprint('bye')\nsys.exit(7)\n", &[]);
    assert_eq!((done.code, done.stdout.as_str()), (7, "bye\n"));
    assert_eq!(
        (&outcome["status"], &outcome["exit_code"]),
        (&json!("failed"), &json!(7))
    );
}

#[test]
fn a_signal_is_128_plus_its_number() {
    let code = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n";
    let (done, outcome) = shared().try_python("ends:signal", code, &[]);
    assert_eq!(done.code, 128 + 11);
    assert_eq!((&outcome["status"], &outcome["signal"]), (&json!("failed"), &json!(11)));
}

#[test]
fn a_timeout_is_124_and_kills_what_ignores_signals() {
    let code = "import signal, time, os\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\nos.fork()\nos.write(1, b'in\\n')\nwhile True: time.sleep(1)\n";
    // As long as it takes here until both are in.
    for seconds in [2, 10, 60] {
        let limit = format!("{seconds}s");
        let (done, outcome) = shared().try_python("ends:timeout", code, &["--timeout", &limit]);
        assert_eq!((done.code, &outcome["status"]), (124, &json!("timeout")));
        let ran = outcome["phases_ms"]["run"].as_f64().unwrap();
        let limit_ms = f64::from(seconds) * 1e3;
        assert!((limit_ms..limit_ms + 60e3).contains(&ran), "{ran}");
        if done.stdout == "in\nin\n" {
            return;
        }
    }
    panic!("two processes are not up within a minute");
}

#[test]
fn output_over_the_limit_is_cut_and_counted() {
    let code = "import sys\nsys.stdout.write('x' * 3_000_000)\nsys.stderr.write('y' * 10)\n";
    let (done, outcome) = shared().try_python("ends:flood", code, &["--output-limit", "1M"]);
    assert_eq!(
        (done.code, done.stdout.len(), done.stderr.matches("yyyyyyyyyy").count()),
        (0, 1 << 20, 1)
    );
    assert_eq!(
        outcome["output"],
        json!({"stdout_bytes": 3_000_000, "stderr_bytes": 10, "truncated": true, "files": null, "bytes": null})
    );
}

#[test]
fn arguments_follow_the_command() {
    let gantry = shared();
    gantry.build(function("import sys\nprint(sys.argv[1:])\n", None).path(), "ends:args");
    let done = gantry.run(&["ends:args", "--", "a b", "--memory", "é"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "['a b', '--memory', 'é']\n"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_job_document_runs_like_the_options() {
    let gantry = shared();
    gantry.build(
        function("import os\nprint(os.environ['WHO'])\n", None).path(),
        "ends:job",
    );
    let scratch = tempfile::tempdir().unwrap();
    let job = scratch.path().join("job.json");
    fs::write(
        &job,
        json!({"image": "ends:job", "env": {"WHO": "queue"}, "timeout": "30s", "allow_degraded": ["memory", "cpu"]})
            .to_string(),
    )
    .unwrap();
    let done = gantry.gantry(["run", "--job", job.to_str().unwrap()]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "queue\n"), "{}", done.stderr);

    fs::write(&job, json!({"image": "ends:job", "memmory": "1G"}).to_string()).unwrap();
    let done = gantry.gantry(["run", "--job", job.to_str().unwrap()]);
    assert_eq!(done.code, 125);
    assert!(done.stderr.contains("memmory"), "{}", done.stderr);
}
