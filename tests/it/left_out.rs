//! What of a directory gets into an image, and what a build says of the rest.

use std::fs;

use serde_json::Value;

use crate::common::{function, Gantry};

#[test]
fn what_a_file_of_patterns_names_is_left_out_and_said() {
    let gantry = Gantry::with_downloads();
    let dir = function("import os\nprint(sorted(os.listdir('.')))\n", None);
    let path = dir.path();
    for name in ["kept.txt", "data.csv", "notes/a.txt", ".venv/x", "docker.txt"] {
        fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
        fs::write(path.join(name), "x").unwrap();
    }
    let report = gantry.home.join("report.json");
    let build = |name: &str| {
        let done = gantry.gantry([
            "build",
            path.to_str().unwrap(),
            "--tag",
            name,
            "--report",
            report.to_str().unwrap(),
        ]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        (done.stderr, report["left_out"].clone(), gantry.run(&[name]).stdout)
    };
    fs::write(path.join(".dockerignore"), "docker.txt\n").unwrap();
    let (said, left_out, there) = build("docker:1");
    assert!(
        said.contains("Leaving out .venv, docker.txt (see .dockerignore)"),
        "{said}"
    );
    assert_eq!(left_out, serde_json::json!([".venv", "docker.txt"]));
    assert!(
        there.contains("'kept.txt'") && there.contains("'data.csv'") && !there.contains("docker.txt"),
        "{there}"
    );

    fs::write(path.join(".gantryignore"), "*.csv\nnotes/\n.*ignore\n").unwrap();
    let (said, _, there) = build("git:1");
    assert!(said.contains("(see .gantryignore)"), "{said}");
    assert_eq!(there, "['__pycache__', 'docker.txt', 'kept.txt', 'user_function.py']\n");

    fs::write(path.join(".gantryignore"), "[z-a]\n").unwrap();
    let refused = gantry.gantry(["build", path.to_str().unwrap()]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains(".gantryignore") && refused.stderr.contains("line 1"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_function_that_only_defines_things_is_warned_of() {
    let gantry = Gantry::with_downloads();
    let dir = function("def main(x):\n    return x\n", None);
    let done = gantry.gantry(["build", dir.path().to_str().unwrap(), "--tag", "idle:1"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains("defines main but calls nothing"),
        "{}",
        done.stderr
    );
    let dir = function("def main(x):\n    return x\nprint(main(1))\n", None);
    let done = gantry.gantry(["build", dir.path().to_str().unwrap(), "--tag", "busy:1"]);
    assert!(!done.stderr.contains("calls nothing"), "{}", done.stderr);
}

#[test]
fn what_is_no_python_is_told_by_its_error_alone() {
    let gantry = Gantry::with_downloads();
    let dir = function("def main(:\n    pass\n", None);
    let done = gantry.gantry(["build", dir.path().to_str().unwrap()]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(
        done.stderr.contains("user_function.py, line 1") && !done.stderr.contains("warning"),
        "{}",
        done.stderr
    );
}

#[test]
fn what_a_function_imports_and_nothing_has_is_warned_of() {
    let gantry = Gantry::with_downloads();
    let source = "import json, sklearn\nimport helper\ntry:\n    import nothing\nexcept ImportError:\n    pass\nimport six\nprint(1)\n";
    let dir = function(source, Some("six\n"));
    std::fs::write(dir.path().join("helper.py"), "").unwrap();
    std::fs::write(dir.path().join("package.txt"), "libgl1\n").unwrap();
    let done = gantry.gantry(["build", dir.path().to_str().unwrap(), "--tag", "missing:1"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for warning in [
        "user_function.py imports sklearn, which nothing in the image has",
        "such as scikit-learn",
        "package.txt is not read: Debian packages are listed in packages.txt",
    ] {
        assert!(done.stderr.contains(warning), "{warning}: {}", done.stderr);
    }
}
