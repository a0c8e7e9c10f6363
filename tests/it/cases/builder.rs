//! What the builder makes of packages that people use.

use std::fs;

use serde_json::Value;

use super::{assert_prints, case_with, directory, prints};
use crate::common::{done, function, shared, Done, PYTHONS};

/// Builds the case `name` with `args` among the arguments: what was said, and the report.
fn build(name: &str, args: &[&str]) -> (Done, Value) {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    let mut command = shared().command();
    command
        .arg("build")
        .arg(directory(name))
        .args(["--tag", &format!("case-{name}:1"), "--report"]);
    let done = done(command.arg(&report).args(args).output().unwrap());
    let report = fs::read(&report).unwrap();
    (done, serde_json::from_slice(&report).unwrap())
}

fn warnings(report: &Value) -> Vec<String> {
    let warnings = report["warnings"].as_array().unwrap().iter();
    warnings.map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_package_of_fifteen_thousand_sources_has_its_bytecode() {
    prints("plotly-many-files", "traces 1\n");
}

#[test]
fn markers_know_the_full_version_of_python() {
    for (python, expected) in [("3.11", "(3, 11, 2)\nsix\n"), ("3.13", "(3, 13, 5)\nsix\n")] {
        let (done, _) = case_with("full-version-marker", &["--python", python], &[]);
        assert_prints(&done, expected);
    }
}

#[test]
fn the_python_of_somebody_elses_base_says_its_version_itself() {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "case-base:1");
    let scratch = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:base", scratch.path().join("layout").display());
    gantry.ok(["push", "case-base:1", &layout]);
    let (done, _) = case_with("full-version-marker", &["--base", &layout], &[]);
    assert_prints(&done, "(3, 11, 2)\nsix\n");
}

#[test]
fn what_the_resolver_warns_of_is_said_at_each_build() {
    // The second build for a Python asks nobody.
    for python in [PYTHONS, PYTHONS].concat() {
        let (done, report) = build("yanked-release", &["--python", python]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let warnings = warnings(&report);
        for parts in [
            ["requests==2.32.0", "is yanked", "CVE-2024-35195"],
            ["idna==", "does not have an extra", "nosuchextra"],
        ] {
            let says = |text: &String| parts.iter().all(|part| text.contains(part));
            assert!(warnings.iter().any(says), "{parts:?}: {warnings:?}");
            assert!(
                done.stderr.lines().any(|line| says(&line.to_owned())),
                "{parts:?}: {}",
                done.stderr
            );
        }
    }
}

#[test]
fn an_override_leaves_out_what_a_package_requires() {
    prints("opencv-of-a-dependency", "0\n");
}

#[test]
fn tests_that_two_wheels_bring_are_a_warning() {
    for python in PYTHONS {
        let (done, report) = build("tests-of-two-wheels", &["--python", python]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let warnings = warnings(&report);
        let says = |text: &String| {
            ["cdflib", "libdyson", "/opt/py/site/tests"]
                .iter()
                .all(|part| text.contains(part))
        };
        assert_eq!(warnings.iter().filter(|text| says(text)).count(), 1, "{warnings:?}");
    }
    prints("tests-of-two-wheels", "imported cdflib libdyson\n");
}

#[test]
fn a_source_whose_bytecode_explodes_is_refused_by_the_limit_that_strikes() {
    // 20,000 texts of 4,000 characters each, in half a megabyte.
    let texts = (0..20_000).map(|number| format!("x = 'abcd{number:05}' * 440\n"));
    let dir = function(&texts.collect::<String>(), None);
    let done = shared().gantry(["build", dir.path().to_str().unwrap(), "--tag", "explodes:1"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    for part in ["compile /app", "the bytecode has more than", "1 source of"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}
