//! A store on a machine of many: who may read it, how large it is, and what goes first.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::{done, tiny, Gantry};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_store_is_its_owners_alone_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        let gantry = Gantry::new();
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &format!("umask {umask}; exec \"$0\" images ls"),
            env!("CARGO_BIN_EXE_gantry"),
        ]);
        shell.env("HOME", &gantry.home).env("GANTRY_ROOT", &gantry.root);
        let made = done(shell.output().unwrap());
        assert_eq!(made.code, 0, "{}", made.stderr);
        assert_eq!(mode(&gantry.root), 0o700, "umask {umask}");
    }
}

/// Takes the right to write from every directory of a store, or gives it back.
fn set_writable(directory: &Path, mode: u32) {
    if mode & 0o200 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            set_writable(&entry.path(), mode);
        } else if entry.path().starts_with(directory) && directory.ends_with("locks") {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode & 0o600)).unwrap();
        }
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_store_that_cannot_be_written_can_be_read() {
    let gantry = Gantry::new();
    tiny(&gantry, &["kept:1"]);
    set_writable(&gantry.root, 0o500);
    let listed = gantry.gantry(["images", "ls", "-q"]);
    let shown = gantry.gantry(["images", "show", "kept:1", "--json"]);
    let built = gantry.gantry(["copy", "kept:1", "other:1"]);
    set_writable(&gantry.root, 0o700);
    assert_eq!(
        (listed.code, listed.stdout.as_str()),
        (0, "kept:1\n"),
        "{}",
        listed.stderr
    );
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert_eq!(built.code, 1);
    assert!(built.stderr.contains("Permission denied"), "{}", built.stderr);
}

fn json(gantry: &Gantry, args: &[&str]) -> Value {
    serde_json::from_str(&gantry.ok(args)).unwrap()
}

#[test]
fn the_room_that_a_store_takes_is_told_by_kind_and_can_be_bounded() {
    let gantry = Gantry::new();
    tiny(&gantry, &["kept:1"]);
    let old = gantry.root.join("downloads").join("0".repeat(64));
    fs::write(&old, vec![0; 100_000]).unwrap();
    let usage = json(&gantry, &["cache", "du", "--json"]);
    assert_eq!((&usage["schema"], &usage["downloads"]), (&1.into(), &100_000.into()));
    let sum: u64 = [
        "blobs",
        "layers",
        "downloads",
        "partials",
        "memos",
        "tools",
        "journal",
        "scratch",
    ]
    .iter()
    .map(|kind| usage[kind].as_u64().unwrap())
    .sum();
    assert!(sum > 100_000 && usage["total"].as_u64().unwrap() >= sum, "{usage}");
    let told = gantry.ok(["cache", "du"]);
    let line = told.lines().find(|line| line.starts_with("downloads")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["downloads", "100.0", "KB"]
    );

    let dry = |args: &[&str]| {
        let mut all = vec!["cache", "gc", "--dry-run", "--json"];
        all.extend(args);
        json(&gantry, &all)
    };
    assert_eq!(dry(&[])["downloads"], 0);
    assert_eq!(dry(&["--older-than", "1d"])["downloads"], 0);
    let week_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 86_400);
    fs::File::open(&old).unwrap().set_modified(week_ago).unwrap();
    assert_eq!(dry(&["--older-than", "30d"])["downloads"], 0);
    assert_eq!(dry(&["--older-than", "7d"])["downloads"], 1);
    assert_eq!(dry(&["--max-size", "1G"])["downloads"], 0);
    assert_eq!(dry(&["--max-size", "90K"])["downloads"], 1);
    let done = gantry.gantry(["cache", "gc", "--max-size", "1K"]);
    assert!(
        done.code == 0 && done.stderr.contains("belongs to images"),
        "{}",
        done.stderr
    );
    assert!(!old.exists());
    assert!(gantry.ok(["images", "ls", "-q"]).contains("kept:1"));
    assert_eq!(gantry.gantry(["cache", "gc", "--older-than", "soon"]).code, 2);
}
