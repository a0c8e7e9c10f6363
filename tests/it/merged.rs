//! An image of many layers runs from one tree for most of them: the same files as from the layers, whoever runs meanwhile.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::{json, Value};

use crate::common::{add_layer, Gantry, DEGRADED};

/// Says what every path of the image is, and afterwards, when it is told to by a line, the same again.
const CODE: &str = r#"
import hashlib, os, stat, sys
def tell():
    listed = []
    for at, directories, files in os.walk("/"):
        if at == "/": directories[:] = sorted(set(directories) - {"proc", "sys", "dev", "tmp", "output", "input"})
        directories.sort()
        for name in directories + files:
            path = os.path.join(at, name)
            found = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
            if stat.S_ISREG(found.st_mode):
                what = hashlib.sha256(open(path, "rb").read()).hexdigest()
            listed.append(f"{path} {found.st_mode:o} {what}")
    print(len(listed), hashlib.sha256("\n".join(sorted(listed)).encode()).hexdigest(), sorted(os.listdir("/srv")), sorted(os.listdir("/srv/all")), flush=True)
tell()
if len(sys.argv) > 1:
    sys.stdin.readline()
    tell()
"#;

const RUN: [&str; 4] = ["run", "--allow-degraded", DEGRADED, "many:1"];

/// A store with the image `many:1`, whose upper layers add, replace and remove what those below have.
fn with_many_layers() -> Gantry {
    let (gantry, scratch) = (Gantry::with_function(CODE, "merged:base"), tempfile::tempdir().unwrap());
    let layout = scratch.path().join("layout");
    gantry.ok(["copy", "merged:base", &format!("oci:{}", layout.display())]);
    for number in 0..28 {
        let mut entries = json!({
            format!("srv/all/{number}"): format!("file {number}"),
            "srv/last": format!("last {number}"),
            format!("srv/own-{number}/file"): "own",
        });
        match number % 4 {
            1 => entries[format!("srv/all/{}", number - 1)] = Value::Null,
            2 => entries[format!("srv/own-{}", number - 1)] = Value::Null,
            3 => entries[format!("srv/own-{}", number - 1)] = json!({"link": "/srv/last"}),
            _ => {}
        }
        add_layer(&layout, &entries, None);
    }
    gantry.ok(["copy", &format!("oci:{}", layout.display()), "many:1"]);
    gantry
}

fn merged(gantry: &Gantry) -> Vec<PathBuf> {
    let found = fs::read_dir(gantry.root.join("merged")).into_iter().flatten();
    found.map(|entry| entry.unwrap().path()).collect()
}

/// Forgets what is prepared of images, as after an upgrade.
fn forget(gantry: &Gantry) {
    fs::remove_dir_all(gantry.root.join("snapshots")).unwrap();
    fs::create_dir(gantry.root.join("snapshots")).unwrap();
}

#[test]
fn a_run_sees_the_same_with_one_tree_and_with_many() {
    let gantry = with_many_layers();
    let told = gantry.ok(RUN);
    assert!(told.contains("'own-26'") && !told.contains("'own-25'"), "{told}");
    let trees = merged(&gantry);
    assert_eq!(trees.len(), 1);
    let mounts = gantry.ok([
        &RUN[..3],
        &["--entrypoint", "/usr/bin/python3", "many:1", "--", "-c"],
        &["print(open('/proc/self/mountinfo').readline())"],
    ]
    .concat());
    let hex = trees[0].file_name().unwrap().to_str().unwrap();
    assert!(mounts.contains(hex) && mounts.matches("/fs").count() < 8, "{mounts}");

    // It is gone, as after an eviction of an older gantry that knows nothing of it.
    fs::remove_dir_all(gantry.root.join("merged")).unwrap();
    assert_eq!(gantry.ok(RUN), told);
    assert!(merged(&gantry).is_empty());
    forget(&gantry);
    assert_eq!(gantry.ok(RUN), told);
    assert_eq!(merged(&gantry), trees);

    // A power loss took a directory of it.
    fs::remove_dir_all(trees[0].join("fs/srv")).unwrap();
    let hex = trees[0].join("stamp.json");
    let stamp: Value = serde_json::from_slice(&fs::read(&hex).unwrap()).unwrap();
    let other = "00000000-0000-4000-8000-000000000000";
    let text = stamp.to_string().replace(stamp["boot"].as_str().unwrap(), other);
    fs::write(&hex, text).unwrap();
    for entry in fs::read_dir(gantry.root.join("snapshots")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace(stamp["boot"].as_str().unwrap(), other)).unwrap();
    }
    assert_eq!(gantry.ok(RUN), told);
    assert!(trees[0].join("fs/srv/last").exists());
    gantry.ok(["cache", "check"]);

    gantry.ok(["images", "rm", "many:1"]);
    let collected: Value = serde_json::from_str(&gantry.ok(["cache", "gc", "--all", "--json"])).unwrap();
    assert_eq!((&collected["merged"], merged(&gantry).len()), (&json!(1), 0));
}

#[test]
fn many_prepare_it_at_once_and_nobody_takes_it_from_a_run() {
    let gantry = with_many_layers();
    let told = gantry.ok(RUN);
    let tree = merged(&gantry).remove(0).join("fs");
    let made = fs::metadata(&tree).unwrap().ino();
    let mut running = start(&gantry, &["-i"]);
    let mut said = BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, told);

    for _ in 0..3 {
        forget(&gantry);
        let others: Vec<Child> = (0..8).map(|_| start(&gantry, &[])).collect();
        for other in others {
            let output = other.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(String::from_utf8_lossy(&output.stdout).starts_with(&told));
        }
    }
    // What nothing leads to but the run that uses it stays.
    gantry.ok(["images", "rm", "many:1"]);
    gantry.ok(["cache", "gc", "--all"]);
    assert_eq!(fs::metadata(&tree).unwrap().ino(), made);
    running.stdin.take().unwrap().write_all(b"\n").unwrap();
    line.clear();
    said.read_to_string(&mut line).unwrap();
    assert_eq!(line, told);
    assert!(running.wait().unwrap().success());
    gantry.ok(["cache", "gc", "--all"]);
    assert!(merged(&gantry).is_empty());
}

/// A run that tells twice, the second time when it is told to or nobody can tell it to any more.
fn start(gantry: &Gantry, options: &[&str]) -> Child {
    let mut command = gantry.command();
    command.args(&RUN[..3]).args(options).args(["many:1", "twice"]);
    let stdin = if options.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}
