//! Functions that engineers brought and that did not run: each is a directory of `tests/cases/`, built and run as its
//! author would. A file of this folder holds those of one area.

mod base;
mod builder;
mod inputs;
mod machine;
mod sandbox;
mod system;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{shared, Done, PYTHONS};

/// The directory of a case.
fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name)
}

/// Builds the case `name` and runs it with the limits that a run has by default.
fn case(name: &str) -> Done {
    case_with(name, &[], &[]).0
}

/// Builds the case `name` with `build` among the arguments, runs it with `run` among them, and returns the outcome, too.
fn case_with(name: &str, build: &[&str], run: &[&str]) -> (Done, Value) {
    // Under a name for each way to build it: tests run at once.
    let way = build.first().map_or("1", |option| option.trim_start_matches('-'));
    let (gantry, directory, tag) = (shared(), directory(name), format!("case-{name}:{way}"));
    let words = ["build", directory.to_str().unwrap(), "--tag", &tag];
    gantry.ok([&words[..], build].concat());
    gantry.run_with_outcome(&[run, &[&tag]].concat())
}

/// Builds the case `name` on each Python and runs it as [`case_with`] does: it prints `expected`.
fn prints_with(name: &str, build: &[&str], run: &[&str], expected: &str) {
    for python in PYTHONS {
        let (gantry, directory, tag) = (shared(), directory(name), format!("case-{name}:{python}"));
        let words = ["build", directory.to_str().unwrap(), "--tag", &tag, "--python", python];
        gantry.ok([&words[..], build].concat());
        let (done, _) = gantry.run_with_outcome(&[run, &[&tag]].concat());
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (0, expected),
            "on Python {python}: {}",
            done.stderr
        );
    }
}

/// [`prints_with`] no more arguments.
fn prints(name: &str, expected: &str) {
    prints_with(name, &[], &[], expected);
}

/// Holds what `done` printed against `expected`, and its end against success.
fn assert_prints(done: &Done, expected: &str) {
    assert_eq!((done.code, done.stdout.as_str()), (0, expected), "{}", done.stderr);
}
