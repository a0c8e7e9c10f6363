//! What a build promises: the same bytes everywhere, shared layers, nothing done twice.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::{done, example, function, shared, Gantry};
use serde_json::Value;

const EPOCH: (&str, &str) = ("SOURCE_DATE_EPOCH", "1700000000");

fn build(gantry: &Gantry, dir: &std::path::Path, tag: &str, epoch: Option<&str>) -> (String, Value) {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    let mut command = gantry.command();
    if let Some(epoch) = epoch {
        command.env(EPOCH.0, epoch);
    }
    command
        .arg("build")
        .arg(dir)
        .args(["--tag", tag, "--report"])
        .arg(&report);
    let done = done(command.output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    (
        done.stdout.trim().to_owned(),
        serde_json::from_slice(&fs::read(&report).unwrap()).unwrap(),
    )
}

fn layers(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| (text(&layer["reason"]), text(&layer["digest"])))
        .collect()
}

fn config(gantry: &Gantry, digest: &str) -> Value {
    let blob = |digest: &str| {
        let hex = digest.trim_start_matches("sha256:");
        serde_json::from_slice::<Value>(&fs::read(gantry.root.join("blobs/sha256").join(hex)).unwrap()).unwrap()
    };
    blob(blob(digest)["config"]["digest"].as_str().unwrap())
}

#[test]
fn two_empty_stores_give_the_same_image() {
    // Another directory, another order of creation, other times: only names, modes and contents count.
    let (one, two) = (Gantry::with_downloads(), Gantry::with_downloads());
    let copy = tempfile::tempdir().unwrap();
    for name in ["user_function.py", "requirements.txt"] {
        fs::copy(example("beam").join(name), copy.path().join(name)).unwrap();
    }
    for entry in fs::read_dir(example("beam")).unwrap() {
        let entry = entry.unwrap();
        if !copy.path().join(entry.file_name()).exists() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let (first, first_report) = build(&one, &example("beam"), "beam:1", Some(EPOCH.1));
    let (second, second_report) = build(&two, copy.path(), "other:2", Some(EPOCH.1));
    assert_eq!(first, second);
    assert_eq!(layers(&first_report), layers(&second_report));

    // Another time: the same layers, another config.
    let third_store = Gantry::with_downloads();
    let (third, third_report) = build(&third_store, &example("beam"), "beam:1", Some("1700000001"));
    assert_ne!(third, first);
    assert_eq!(layers(&third_report), layers(&first_report));
    let (mut before, mut after) = (config(&one, &first), config(&third_store, &third));
    for config in [&mut before, &mut after] {
        config["created"] = Value::Null;
        config["config"]["Labels"]["org.mecapy.function.created"] = Value::Null;
    }
    assert_eq!(before, after, "only the time differs");
}

#[test]
fn functions_that_share_numpy_share_its_layer() {
    let gantry = shared();
    let (_, one) = build(gantry, &example("beam"), "share:beam", None);
    let other = function("import numpy\nprint(numpy.__version__)\n", Some("numpy==1.26.4\n"));
    let (_, two) = build(gantry, other.path(), "share:other", None);
    let numpy = |report: &Value| {
        layers(report)
            .into_iter()
            .filter(|(reason, _)| reason.contains("numpy"))
            .collect::<Vec<_>>()
    };
    assert_eq!(numpy(&one), numpy(&two));
    assert!(!numpy(&one).is_empty());
    let reused = |report: &Value| {
        report["layers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|layer| layer["reused"] == true)
            .count()
    };
    assert!(reused(&two) >= 4, "{two}");
}

#[test]
fn a_build_of_the_same_again_is_the_same_image() {
    let gantry = shared();
    let (first, _) = build(gantry, &example("hello"), "again:1", None);
    let (second, report) = build(gantry, &example("hello"), "again:1", None);
    assert_eq!(first, second);
    assert!(
        report["layers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|layer| layer["reused"] == true),
        "{report}"
    );
}

#[test]
fn a_code_change_makes_only_code_layers() {
    let gantry = shared();
    let dir = function("print(1)\n", Some("numpy==1.26.4\n"));
    build(gantry, dir.path(), "change:1", None);
    fs::write(
        dir.path().join("user_function.py"),
        format!("print({})\n", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()),
    )
    .unwrap();
    let (_, report) = build(gantry, dir.path(), "change:1", None);
    let made: Vec<_> = report["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|layer| layer["reused"] == false)
        .map(|layer| layer["reason"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        !made.is_empty() && made.iter().all(|reason| reason.contains("code")),
        "{made:?}"
    );
}

#[test]
fn the_report_says_what_was_made_and_how_long_it_took() {
    let (digest, report) = build(shared(), &example("beam"), "report:1", None);
    assert_eq!(report["digest"], digest);
    for field in ["reference", "layers", "seconds", "warnings", "size", "unpacked_bytes"] {
        assert!(!report[field].is_null(), "{field}: {report}");
    }
    for layer in report["layers"].as_array().unwrap() {
        for field in ["digest", "diff_id", "size", "reason", "reused", "unpacked_bytes"] {
            assert!(!layer[field].is_null(), "{field}: {layer}");
        }
    }
    for (step, seconds) in report["seconds"].as_object().unwrap() {
        assert!(seconds.as_f64().unwrap() >= 0.0, "{step}");
    }
}

#[test]
fn links_within_the_directory_stay_links() {
    let gantry = shared();
    let dir = function("import alias.one, two, os\nprint(os.readlink('two.py'))\n", None);
    fs::create_dir(dir.path().join("lib")).unwrap();
    fs::write(dir.path().join("lib/one.py"), "print('one')\n").unwrap();
    std::os::unix::fs::symlink("lib", dir.path().join("alias")).unwrap();
    std::os::unix::fs::symlink("alias/one.py", dir.path().join("two.py")).unwrap();
    gantry.build(dir.path(), "links:1");
    let done = gantry.run(&["links:1"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "one\none\nalias/one.py\n"),
        "{}",
        done.stderr
    );
}

#[test]
fn labels_and_command_are_the_platforms() {
    let gantry = shared();
    let dir = function("print(1)\n", None);
    let digest = gantry.ok([
        "build",
        dir.path().to_str().unwrap(),
        "--tag",
        "labels:1",
        "--label",
        "org.mecapy.function.id=42",
        "--label",
        "org.mecapy.function.version=3",
    ]);
    let config = config(gantry, digest.trim());
    assert_eq!(config["config"]["User"], "1000:1000");
    assert_eq!(config["config"]["WorkingDir"], "/app");
    assert_eq!(
        config["config"]["Cmd"],
        serde_json::json!(["python", "user_function.py"])
    );
    assert_eq!(config["config"]["Labels"]["org.mecapy.function.id"], "42");
    assert_eq!(
        config["config"]["Labels"]["org.mecapy.function.created"],
        config["created"]
    );
}

#[test]
fn a_label_that_the_build_writes_is_not_taken_and_that_is_said() {
    let gantry = shared();
    let dir = function("print('labelled')\n", None);
    let dir = dir.path().to_str().unwrap();
    let label = "org.mecapy.function.created=yesterday";
    let done = gantry.gantry(["build", dir, "--tag", "created:1", "--label", label]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains("--label org.mecapy.function.created is not taken")
            && done.stderr.contains("SOURCE_DATE_EPOCH"),
        "{}",
        done.stderr
    );
    let config = config(gantry, done.stdout.trim());
    assert_eq!(
        config["config"]["Labels"]["org.mecapy.function.created"],
        config["created"]
    );
}

#[test]
fn console_scripts_run_in_a_base_without_a_shell() {
    let gantry = shared();
    let code = "import subprocess\nprint(subprocess.run(['/opt/py/bin/f2py', '-v'], capture_output=True, text=True).stdout.strip())\nimport os\nprint(os.path.exists('/bin/sh'))\n";
    let dir = function(code, Some("numpy==1.26.4\n"));
    gantry.build(dir.path(), "scripts:1");
    let done = gantry.run(&["scripts:1"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "1.26.4\nFalse\n"),
        "{}",
        done.stderr
    );
}

#[test]
fn wheels_are_compiled_ahead() {
    let gantry = shared();
    let code = "import numpy, json, sys\nprint(all(m.__spec__.cached and __import__('os').path.exists(m.__spec__.cached) for m in (numpy, json)))\n";
    gantry.build(function(code, Some("numpy==1.26.4\n")).path(), "compiled:1");
    let done = gantry.run(&["compiled:1"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "True\n"), "{}", done.stderr);
}

/// The sources of what the interpreter imports to compile are no Python any more: whoever reads them fails.
#[test]
fn code_is_compiled_by_a_python_whose_own_modules_are_compiled() {
    let gantry = Gantry::with_downloads();
    let (_, report) = build(&gantry, function("print(1)\n", None).path(), "first:1", None);
    let hex = report["layers"][0]["diff_id"]
        .as_str()
        .unwrap()
        .trim_start_matches("sha256:");
    let library = gantry.root.join("layers").join(hex).join("fs/usr/lib/python3.11");
    for module in ["warnings.py", "encodings/utf_8.py"] {
        let (path, name) = (library.join(module), library.join(module).with_extension("old"));
        let folder = path.parent().unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&path, name).unwrap();
        fs::write(&path, "no Python\n").unwrap();
    }
    gantry.build(function("print(2)\n", None).path(), "second:1");
    assert_eq!(gantry.run(&["second:1"]).stdout, "2\n");
}

#[test]
fn another_image_is_the_base() {
    let gantry = shared();
    gantry.ok(["base", "build", "python-3.11-slim"]);
    let dir = function("import subprocess\nprint(subprocess.run(['sh', '-c', 'echo $((6*7))'], capture_output=True, text=True).stdout.strip())\n", None);
    let path = dir.path().to_str().unwrap();
    gantry.ok(["build", path, "--tag", "based:slim", "--base", "python-3.11-slim"]);
    assert_eq!(gantry.run(&["based:slim"]).stdout, "42\n");

    // An image of the store, and the same through a layout: the base's layers are kept as they are.
    let scratch = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:base", scratch.path().join("layout").display());
    gantry.ok(["push", "based:slim", &layout]);
    let other = Gantry::new();
    other.ok(["build", path, "--tag", "based:layout", "--base", &layout]);
    let done = other.run(&["based:layout"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "42\n"), "{}", done.stderr);
}

#[test]
fn the_base_is_small_and_has_no_shell() {
    let gantry = shared();
    let (_, report) = build(gantry, &example("hello"), "small:1", None);
    let base = &report["layers"][0];
    assert!(base["reason"].as_str().unwrap().starts_with("base"), "{base}");
    assert!(base["unpacked_bytes"].as_u64().unwrap() <= 60_000_000, "{base}");
    let hex = base["diff_id"].as_str().unwrap().trim_start_matches("sha256:");
    let tree = gantry.root.join("layers").join(hex).join("fs");
    for shell in ["usr/bin/sh", "usr/bin/bash", "usr/bin/dash", "usr/bin/env"] {
        assert!(!tree.join(shell).exists(), "{shell}");
    }
    assert!(tree.join("etc/ssl/certs/ca-certificates.crt").exists());
    assert!(tree.join("usr/share/zoneinfo/Europe/Paris").exists());
}

#[test]
fn two_builds_at_once_agree() {
    let gantry = Gantry::with_downloads();
    let start = || {
        let mut command: Command = gantry.command();
        command
            .env(EPOCH.0, EPOCH.1)
            .arg("build")
            .arg(example("hello"))
            .args(["--tag", "once:1"]);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    let digests: Vec<_> = children
        .into_iter()
        .map(|child| {
            let done = done(child.wait_with_output().unwrap());
            assert_eq!(done.code, 0, "{}", done.stderr);
            done.stdout
        })
        .collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

#[test]
fn libraries_that_wheels_put_below_the_prefix_are_found_by_name() {
    let code = "import ctypes, ctypes.util\nprint(ctypes.util.find_library('tbb'), ctypes.util.find_library('z'))\nctypes.CDLL('libtbb.so.12')\nprint('/opt/py/lib/libtbb.so.12' in open('/proc/self/maps').read())\n";
    let gantry = shared();
    gantry.build(function(code, Some("tbb==2021.13.1\n")).path(), "by-name:1");
    let done = gantry.run(&["by-name:1"]);
    let expected = "libtbb.so.12 libz.so.1\nTrue\n";
    assert_eq!((done.code, done.stdout.as_str()), (0, expected), "{}", done.stderr);
}

#[test]
fn the_data_of_wheels_lie_below_the_prefix_of_python() {
    let code = "import ctypes, json, sys\nctypes.CDLL(sys.prefix + '/lib/libtbb.so.12')\nprint(sys.prefix, sys.exec_prefix, sys.base_prefix, json.__file__)\n";
    let gantry = shared();
    gantry.build(function(code, Some("tbb==2021.13.1\n")).path(), "prefix:1");
    let done = gantry.run(&["prefix:1"]);
    let expected = "/opt/py /opt/py /usr /usr/lib/python3.11/json/__init__.py\n";
    assert_eq!((done.code, done.stdout.as_str()), (0, expected), "{}", done.stderr);
}
