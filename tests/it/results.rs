//! The files of `/output`: when they are taken, what stands in the outcome about them, and that DIR is tried first.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{json, Value};

use crate::common::{function, shared, tree, Done};

/// Writes half of a result, then ends as its argument says.
const HALF: &str = "import os, sys, time\nopen('/output/result', 'w').write('half')\nopen('/output/more', 'w').write('12345')\nprint('up', flush=True)\nend = sys.argv[1]\nif end == 'fail': sys.exit(3)\nif end == 'memory': held = bytearray(b'x') * (300 << 20)\nif end != 'well': time.sleep(600)\n";

/// What is in `directory` after a run that ended as `end` says, which had a whole result there before.
fn taken(end: &str, options: &[&str]) -> (Done, Value, Vec<(String, String)>) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("result"), "whole").unwrap();
    shared().build(function(HALF, None).path(), "results:half");
    // It is up before the limit, on a busy machine as well.
    for limit in ["2s", "10s", "60s"] {
        let limit = if end == "time" { limit } else { "600s" };
        let place = [
            "--memory",
            "100M",
            "--timeout",
            limit,
            "--output",
            directory.path().to_str().unwrap(),
        ];
        let (done, outcome) = shared().run_with_outcome(&[&place[..], options, &["results:half", "--", end]].concat());
        if done.stdout == "up\n" {
            return (done, outcome, files(directory.path()));
        }
    }
    panic!("it is not up within a minute");
}

fn files(directory: &Path) -> Vec<(String, String)> {
    let paths = tree(directory).into_iter();
    paths
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

#[test]
fn files_are_taken_as_a_whole_after_ok_and_failed_alone() {
    let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let all = [pair("more", "12345"), pair("result", "half")];
    let before = [pair("result", "whole")];
    for (end, status) in [("well", "ok"), ("fail", "failed")] {
        let (_, outcome, found) = taken(end, &[]);
        assert_eq!((&outcome["status"], found.as_slice()), (&status.into(), &all[..]));
        assert_eq!(
            (&outcome["output"]["files"], &outcome["output"]["bytes"]),
            (&json!(2), &json!(9))
        );
    }
    for (end, status) in [("time", "timeout"), ("memory", "oom")] {
        let (_, outcome, found) = taken(end, &[]);
        assert_eq!((&outcome["status"], found.as_slice()), (&status.into(), &before[..]));
        assert_eq!(outcome["output"]["files"], Value::Null);
        let (_, outcome, found) = taken(end, &["--output-partial"]);
        assert_eq!((&outcome["status"], found.as_slice()), (&status.into(), &all[..]));
        assert_eq!(outcome["output"]["files"], 2);
    }
}

#[test]
fn a_job_may_ask_for_files_of_every_end() {
    let directory = tempfile::tempdir().unwrap();
    shared().build(function(HALF, None).path(), "results:half");
    let job = tempfile::NamedTempFile::new().unwrap();
    let wanted = json!({"image": "results:half", "args": ["memory"], "output": directory.path(), "memory": "100M",
        "timeout": "600s", "output_partial": true, "allow_degraded": ["memory", "cpu"]});
    fs::write(job.path(), wanted.to_string()).unwrap();
    let done = shared().gantry(["run", "--job", job.path().to_str().unwrap()]);
    assert_eq!(done.code, 137, "{}", done.stderr);
    assert_eq!(files(directory.path()).len(), 2);
}

#[test]
fn a_directory_that_cannot_be_written_is_named_before_the_function_starts() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("locked");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "").unwrap();
    shared().build(function("print('ran')\n", None).path(), "results:ran");
    for place in [&directory, &directory.join("new"), &file, &file.join("new")] {
        let place = place.to_str().unwrap();
        let (done, outcome) = shared().run_with_outcome(&["--output", place, "results:ran"]);
        assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{}", done.stderr);
        assert!(
            done.stderr.contains(place) && done.stderr.contains("--output"),
            "{}",
            done.stderr
        );
        assert_eq!(
            (&outcome["code"], &outcome["started"]),
            (&"output_unwritable".into(), &json!(false))
        );
    }
    assert!(files(&directory).is_empty(), "nothing of the try stays");
}

#[test]
fn a_file_that_cannot_be_put_in_place_is_named_by_its_path_outside() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("result")).unwrap();
    let code = "open('/output/result', 'w').write('x')\n";
    let place = ["--output", directory.path().to_str().unwrap()];
    let (done, outcome) = shared().try_python("results:blocked", code, &place);
    let path = directory.path().join("result");
    assert_eq!(done.code, 125);
    assert!(done.stderr.contains(path.to_str().unwrap()), "{}", done.stderr);
    assert_eq!(
        (&outcome["code"], &outcome["started"]),
        (&"output_unwritable".into(), &json!(true))
    );
}
