//! The import profile: a run that finds its files on the disk tells which those are, and those that find them there again have them read
//! ahead.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{fadvise, syncfs, Advice};
use serde_json::{json, Value};

use crate::common::{function, shared, tree, Gantry};

/// Reads modules of the standard library and a file of its own.
const FUNCTION: &str =
    "import asyncio, csv, decimal, email, http.client, json, unittest\nprint(len(open('/app/data').read()))\n";

/// A store of its own, so that no other test reads its files, with the image `cold:1`; the digest of that.
fn with_image() -> (Gantry, String) {
    let source = function(FUNCTION, None);
    fs::write(source.path().join("data"), "x".repeat(3 << 20)).unwrap();
    let archive = tempfile::tempdir().unwrap();
    let file = archive.path().join("image.tar");
    let digest = shared().build(source.path(), "cold:1");
    shared().ok(["save", "cold:1", file.to_str().unwrap()]);
    let gantry = Gantry::new();
    gantry.ok(["load", file.to_str().unwrap()]);
    (gantry, digest)
}

/// Lets go of what is in memory of the files of a store.
fn let_go(gantry: &Gantry) {
    let layers = gantry.root.join("layers");
    // What is not written yet stays.
    syncfs(File::open(&layers).unwrap()).unwrap();
    let files = tree(&layers).into_iter();
    let files = files.filter(|path| path.is_file() && !path.is_symlink());
    for file in files.filter_map(|path| File::open(path).ok()) {
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}

fn profile(gantry: &Gantry, digest: &str) -> PathBuf {
    gantry.root.join("profiles").join(&digest[7..])
}

/// Runs the image and returns what was read from the disk for it.
fn run(gantry: &Gantry) -> u64 {
    let (done, outcome) = gantry.run_with_outcome(&["cold:1"]);
    assert_eq!((done.code, &*done.stdout), (0, "3145728\n"), "{}", done.stderr);
    outcome["usage"]["read_bytes"].as_u64().unwrap()
}

/// Reads into memory what runs read at first; how many bytes that was, or null.
fn warm(gantry: &Gantry) -> Value {
    let printed = gantry.ok(["cache", "warm", "--resident", "--json", "cold:1"]);
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["images"][0]["status"], "present");
    report["images"][0]["resident_bytes"].clone()
}

fn paths(profile: &Path) -> Vec<String> {
    let text = fs::read_to_string(profile).unwrap();
    let lines = text.lines().skip(1);
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line[1].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_from_the_disk_tells_what_it_read_and_the_next_one_has_it_read_ahead() {
    let (gantry, digest) = with_image();
    let profile = profile(&gantry, &digest);
    // Its files were written just now: nothing tells which of them it reads.
    assert!(run(&gantry) < 4 << 20);
    assert!(!profile.exists());
    assert_eq!(warm(&gantry), Value::Null);

    let_go(&gantry);
    let cold = run(&gantry);
    assert!(
        cold >= 4 << 20,
        "{cold}: are the files of this test in memory for good?"
    );
    let recorded = paths(&profile);
    let has = |end: &str| recorded.iter().any(|path| path.ends_with(end));
    assert!(has("app/data") && has("usr/bin/python3.11"), "{recorded:?}");
    let unread = recorded.iter().find(|path| path.contains("turtle"));
    assert_eq!((unread, recorded.len() < 1500), (None, true), "{recorded:?}");
    let text = fs::read(&profile).unwrap();

    // Warm, it is looked at and stays as it is.
    assert!(run(&gantry) < 4 << 20);
    assert_eq!(fs::read(&profile).unwrap(), text);
    // What is read ahead is not read for the function.
    let_go(&gantry);
    let ahead = run(&gantry);
    assert!(ahead * 4 < cold, "{ahead} of {cold}");
    assert_eq!(fs::read(&profile).unwrap(), text);
    let_go(&gantry);
    let resident = warm(&gantry).as_u64().unwrap();
    assert!((4 << 20..100 << 20).contains(&resident), "{resident}");
    let after = run(&gantry);
    assert!(after * 4 < cold, "{after} of {cold}");

    // A broken one counts as absent, and is made anew.
    fs::write(&profile, "{\"version\":1").unwrap();
    assert_eq!(warm(&gantry), Value::Null);
    let_go(&gantry);
    assert!(run(&gantry) >= 4 << 20);
    assert!(!paths(&profile).is_empty());

    // It goes with its image.
    gantry.ok(["images", "rm", "cold:1"]);
    let removed: Value = serde_json::from_str(&gantry.ok(["cache", "gc", "--json", "--all"])).unwrap();
    assert_eq!(removed["profiles"], json!(1));
    assert!(!profile.exists());
}

#[test]
fn a_function_that_fails_tells_nothing_and_links_of_an_image_lead_nowhere() {
    let (gantry, digest) = with_image();
    let profile = profile(&gantry, &digest);
    // As in a layer of a stranger's: links out of the tree, beside its files.
    let layers = fs::read_dir(gantry.root.join("layers")).unwrap();
    let mut of_code = layers.map(|entry| entry.unwrap().path().join("fs/app"));
    let app = of_code.find(|path| path.join("data").is_file()).unwrap();
    let secret = gantry.home.join("secret");
    fs::write(&secret, "s".repeat(100_000)).unwrap();
    for (name, target) in [("out", &*secret), ("home", &*gantry.home), ("root", Path::new("/"))] {
        std::os::unix::fs::symlink(target, app.join(name)).unwrap();
    }
    let_go(&gantry);
    let code = "import json, asyncio; open('/app/data').read(); raise SystemExit(3)";
    let failed = gantry.run(&["--entrypoint", "python", "cold:1", "--", "-c", code]);
    assert_eq!(failed.code, 3, "{}", failed.stderr);
    assert!(!profile.exists());
    let_go(&gantry);
    run(&gantry);
    let recorded = paths(&profile);
    let leads_out = |path: &&String| {
        ["out", "home", "root"]
            .iter()
            .any(|name| path.contains(&format!("app/{name}")))
    };
    assert_eq!(recorded.iter().find(leads_out), None, "{recorded:?}");
    // A layer that is gone takes nothing with it but itself.
    let resident = warm(&gantry).as_u64().unwrap();
    fs::rename(&app, app.with_file_name("gone")).unwrap();
    let left = warm(&gantry).as_u64().unwrap();
    assert!(left > 0 && left + (3 << 20) <= resident, "{left} of {resident}");
}
