//! A store that lost something: it says so, repairs what it can, and lets everything else go on.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::images::image;
use crate::common::wait::{eventually, held_at, is_so, send};
use crate::common::{function, shared, Gantry};
use serde_json::Value;

const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// As if the machine had been started again since this document was written.
fn set_boot(path: &Path) {
    let mut document = read(path);
    assert!(document["boot"].as_str().unwrap().len() == 36, "{document}");
    document["boot"] = OTHER_BOOT.into();
    fs::write(path, document.to_string()).unwrap();
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap()
}

/// The folders of the layers of an image, base first.
fn layers(gantry: &Gantry, name: &str) -> Vec<PathBuf> {
    let shown: Value = serde_json::from_str(&gantry.ok(["images", "show", name, "--json"])).unwrap();
    let diff_ids = shown["config"]["rootfs"]["diff_ids"].as_array().unwrap();
    diff_ids
        .iter()
        .map(|diff_id| gantry.root.join("layers").join(hex(diff_id.as_str().unwrap())))
        .collect()
}

#[test]
fn a_run_after_a_power_loss_runs_what_was_built() {
    let gantry = shared();
    let dir = function("print('as it was made')\n", None);
    let digest = gantry.build(dir.path(), "power:1");
    let code = layers(gantry, "power:1")
        .into_iter()
        .find(|layer| layer.join("fs/app/user_function.py").exists())
        .unwrap();
    let snapshot = gantry.root.join(format!("snapshots/{}.json", hex(&digest)));

    // Nothing was lost: the layer is read once, and known to be on the disk from then on.
    set_boot(&code.join("stamp.json"));
    set_boot(&snapshot);
    let (done, outcome) = gantry.run_with_outcome(&["power:1"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "as it was made\n"),
        "{}",
        done.stderr
    );
    assert_eq!(outcome["cache"], "miss");
    assert_eq!(gantry.run_with_outcome(&["power:1"]).1["cache"], "hit");
    assert_eq!(read(&code.join("stamp.json"))["boot"], "durable");
    assert_ne!(read(&snapshot)["boot"], OTHER_BOOT);

    // The file was lost.
    let mut stamp = read(&code.join("stamp.json"));
    stamp["boot"] = OTHER_BOOT.into();
    fs::write(code.join("stamp.json"), stamp.to_string()).unwrap();
    set_boot(&snapshot);
    fs::write(code.join("fs/app/user_function.py"), b"").unwrap();
    let (done, outcome) = gantry.run_with_outcome(&["power:1"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "as it was made\n"),
        "{}",
        done.stderr
    );
    assert_eq!(outcome["cache"], "miss");

    // And its blob with it: the error names the layer, and building again is the repair.
    set_boot(&code.join("stamp.json"));
    set_boot(&snapshot);
    fs::write(code.join("fs/app/user_function.py"), b"").unwrap();
    let shown: Value = serde_json::from_str(&gantry.ok(["images", "show", "power:1", "--json"])).unwrap();
    let at = layers(gantry, "power:1")
        .iter()
        .position(|layer| *layer == code)
        .unwrap();
    let blob = shown["manifest"]["layers"][at]["digest"].as_str().unwrap();
    fs::write(gantry.root.join("blobs/sha256").join(hex(blob)), b"").unwrap();
    let done = gantry.run(&["power:1"]);
    assert_eq!((done.code, done.stdout.as_str()), (125, ""));
    assert!(
        done.stderr.contains(blob) && done.stderr.contains("build the image again"),
        "{}",
        done.stderr
    );
    assert_eq!(gantry.build(dir.path(), "power:1"), digest);
    assert_eq!(gantry.run(&["power:1"]).stdout, "as it was made\n");
}

#[test]
fn a_damaged_image_is_listed_and_removed() {
    let gantry = Gantry::new();
    let images = crate::common::tiny(&gantry, &["lost:1", "fine:1"]);
    fs::remove_file(gantry.root.join("blobs/sha256").join(hex(&images[0]))).unwrap();
    fs::create_dir_all(gantry.root.join("refs/_local/empty")).unwrap();
    fs::write(gantry.root.join("refs/_local/empty/1"), b"").unwrap();

    let listed: Value = serde_json::from_str(&gantry.ok(["images", "ls", "--json"])).unwrap();
    let entry = |name: &str| {
        let mut all = listed.as_array().unwrap().iter();
        all.find(|image| image["reference"] == name).unwrap().clone()
    };
    assert_eq!(entry("lost:1")["digest"], images[0].as_str());
    assert_eq!(
        (&entry("lost:1")["size"], &entry("empty:1")["digest"]),
        (&Value::Null, &Value::Null)
    );
    assert!(entry("lost:1")["damaged"].is_string() && entry("empty:1")["damaged"].is_string());
    assert_eq!(entry("fine:1")["damaged"], Value::Null);
    let text = gantry.ok(["images", "ls"]);
    assert_eq!(
        text.lines().filter(|line| line.contains("damaged: ")).count(),
        2,
        "{text}"
    );

    let done = gantry.gantry(["images", "show", "empty:1"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("gantry images rm empty:1"), "{}", done.stderr);
    gantry.ok(["images", "rm", "--dry-run", "lost:1"]);
    gantry.ok(["images", "rm", "lost:1", "empty:1"]);
    let left = gantry.ok(["images", "ls", "--quiet"]);
    assert!(left.starts_with("fine:1") && left.lines().count() == 1, "{left}");
    let done = gantry.gantry(["images", "rm", "lost:1"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("hint: `gantry images ls`"), "{}", done.stderr);
}

#[test]
fn a_name_with_a_digest_is_refused_before_anything_is_done() {
    let gantry = Gantry::new();
    let images = crate::common::tiny(&gantry, &["localhost/a", "a:1"]);
    let pinned = format!("localhost/a@{}", images[1]);
    let dir = function("print(1)\n", None);
    for tag in [pinned.as_str(), "oci:/nowhere:x"] {
        let done = gantry.gantry(["build", dir.path().to_str().unwrap(), "--tag", tag]);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{tag}: {}", done.stderr);
    }
    let done = gantry.gantry(["images", "rm", &pinned]);
    assert_eq!(done.code, 1);
    assert!(!done.stderr.contains("Removed"), "{}", done.stderr);
    // What a registry calls by a digest has that one.
    let other = format!("localhost/a@{}", images[0]);
    let done = gantry.gantry(["copy", "a:1", &other]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains(&images[1]), "{}", done.stderr);
    let listed = gantry.ok(["images", "ls", "--json"]);
    assert!(
        listed.contains("localhost/a") && listed.contains(&images[0]),
        "{listed}"
    );
}

#[test]
fn a_collector_says_that_it_waits_and_nobody_waits_for_it() {
    let gantry = Gantry::new();
    crate::common::tiny(&gantry, &["a:1"]);
    let store = gantry::store::Store::open(&gantry.root).unwrap();
    let kept_out = store.locks().keep_collector_out().unwrap();
    let mut collector = gantry.command();
    collector
        .args(["cache", "gc"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut collector = collector.spawn().unwrap();
    let mut told = String::new();
    let mut errors = BufReader::new(collector.stderr.take().unwrap());
    errors.read_line(&mut told).unwrap();
    assert!(told.starts_with("Waiting for"), "{told}");
    // Nobody waits for one that waits.
    gantry.ok(["images", "ls"]);
    drop(kept_out);
    errors.read_to_string(&mut told).unwrap();
    assert_eq!(collector.wait().unwrap().code(), Some(0), "{told}");
}

#[test]
fn pulling_a_layout_without_a_tag_takes_its_name_or_says_that_it_needs_one() {
    let gantry = Gantry::new();
    let images = crate::common::tiny(&gantry, &["named:1", "other:1"]);
    let scratch = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}", scratch.path().join("layout").display());
    let index = scratch.path().join("layout/index.json");
    let call_it = |name: Option<&str>| {
        let mut document = read(&index);
        let annotations = document["manifests"][0].as_object_mut().unwrap();
        annotations.remove("annotations");
        if let Some(name) = name {
            annotations.insert(
                "annotations".to_owned(),
                serde_json::json!({"org.opencontainers.image.ref.name": name}),
            );
        }
        fs::write(&index, document.to_string()).unwrap();
    };
    gantry.ok(["push", "named:1", &layout]);
    for name in [None, Some("No Name"), Some("localhost/x:1"), Some("oci:x")] {
        call_it(name);
        let other = Gantry::new();
        let done = other.gantry(["pull", &layout]);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{name:?}");
        let remedy = format!("gantry copy {layout} NAME");
        assert!(done.stderr.contains(&remedy), "{}", done.stderr);
        assert_eq!(
            fs::read_dir(other.root.join("blobs/sha256")).unwrap().count(),
            0,
            "{name:?}"
        );
        other.ok(["copy", &layout, "mine:1"]);
    }
    for (name, kept) in [("named:1", "named:1 "), ("hello", "hello:latest ")] {
        call_it(Some(name));
        let other = Gantry::new();
        assert_eq!(other.ok(["pull", &layout]).trim(), images[0]);
        let listed = other.ok(["images", "ls"]);
        assert!(listed.lines().nth(1).unwrap().starts_with(kept), "{listed}");
    }
}

#[test]
fn a_repair_that_a_signal_ends_while_it_unpacks_has_said_what_it_removed_and_leaves_a_sound_store() {
    let gantry = Gantry::new();
    image(&gantry, "a:1", &[(1, 300_000)]);
    image(&gantry, "a:2", &[(2, 300_000)]);
    // One image is brought back after the other, so that neither is while the first is held.
    let layers = ["a:1", "a:2"].map(|name| layers(&gantry, name).remove(0));
    for (layer, seed) in layers.iter().zip(1..) {
        fs::write(layer.join(format!("fs/data/{seed}")), "something else").unwrap();
    }
    let pipe = gantry.home.join("pipe");
    crate::common::tool(std::process::Command::new("mkfifo").arg(&pipe));
    let mut repair = gantry.command();
    repair
        .args(["cache", "check", "--repair"])
        .env("GANTRY_FAULT", format!("Tree:0:hold={}", pipe.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut repair = repair.spawn().unwrap();
    let held = held_at(&pipe, &mut repair);
    send(&repair, rustix::process::Signal::TERM);
    let ended = repair.wait_with_output().unwrap();
    drop(held);
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(128 + 15), "{stderr}");
    for layer in &layers {
        let removed = format!("Removed layers/{}\n", layer.file_name().unwrap().to_str().unwrap());
        assert!(!layer.exists() && stderr.contains(&removed), "{removed}: {stderr}");
    }
    assert!(!stderr.contains("error"), "{stderr}");
    assert!(crate::common::tree(&gantry.root.join("tmp")).is_empty());
    // What was taken away is damage no more, and whoever wants the image unpacks it.
    gantry.ok(["cache", "check"]);
    let store = gantry::store::Store::open(&gantry.root).unwrap();
    let digest = store.names().find(&"a:1".parse().unwrap()).unwrap().unwrap();
    store.images().prepare(&store.images().open(&digest).unwrap()).unwrap();
    assert_eq!(fs::metadata(layers[0].join("fs/data/1")).unwrap().len(), 300_000);
}

#[test]
fn a_signal_leaves_nothing_beside_what_is_saved_or_pushed() {
    let gantry = Gantry::new();
    crate::common::tiny(&gantry, &["slow:1"]);
    let shown: Value = serde_json::from_str(&gantry.ok(["images", "show", "slow:1", "--json"])).unwrap();
    let layer = shown["manifest"]["layers"][0]["digest"].as_str().unwrap();
    let blob = gantry.root.join("blobs/sha256").join(hex(layer));
    fs::remove_file(&blob).unwrap();
    crate::common::tool(std::process::Command::new("mkfifo").arg(&blob));
    // Open on both sides: neither blocks, and reading never ends.
    let mut pipe = fs::OpenOptions::new().read(true).write(true).open(&blob).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("image.tar");
    let layout = format!("oci:{}:x", scratch.path().join("layout").display());
    for args in [
        ["save", "slow:1", archive.to_str().unwrap()],
        ["push", "slow:1", &layout],
    ] {
        let mut child = gantry.command().args(args).current_dir("/").spawn().unwrap();
        // What is copied to a layout is looked at first: it begins as a gzip stream does.
        pipe.write_all(&[0x1f, 0x8b, 8, 0]).unwrap();
        let temporary = || {
            let mut all = crate::common::tree(scratch.path()).into_iter();
            all.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(".gantry-"))
        };
        eventually("nothing is written", || {
            assert!(child.try_wait().unwrap().is_none(), "{args:?} ended");
            is_so(temporary().is_some(), args)
        });
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), Some(128 + 15), "{args:?}");
        assert_eq!(temporary(), None, "{args:?}");
        assert!(crate::common::tree(&gantry.root.join("tmp")).is_empty(), "{args:?}");
    }
    assert!(!archive.exists());

    // Killed, the next command does it, wherever it is called.
    let mut saving = gantry.command();
    let mut saving = saving
        .args(["save", "slow:1", "image.tar"])
        .current_dir(scratch.path())
        .spawn()
        .unwrap();
    let temporary = || fs::read_dir(scratch.path()).unwrap().count() > 1;
    eventually("nothing is written", || is_so(temporary(), "no file"));
    saving.kill().unwrap();
    saving.wait().unwrap();
    assert!(temporary());
    gantry.ok(["images", "ls"]);
    assert!(!temporary());
}

#[test]
fn what_a_build_leaves_is_described_in_the_header_of_the_store_and_gc_takes_what_only_builds_need() {
    let gantry = Gantry::with_downloads();
    let function = function("import six\n", Some("six==1.16.0\n"));
    gantry.build(function.path(), "f:1");
    let lines = include_str!("../../src/store/mod.rs").lines();
    let header: String = lines.take_while(|line| line.starts_with("//!")).collect();
    for entry in fs::read_dir(&gantry.root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let described = [format!("//!   {name}"), format!(", {name}")];
        assert!(
            described.iter().any(|text| header.contains(text)),
            "{name} is not described"
        );
    }
    fs::write(gantry.root.join("journal/1.jsonl"), "{}\n").unwrap();
    let told = gantry.ok(["cache", "gc", "--all", "--dry-run", "--json"]);
    assert!(gantry.root.join("tools/uv-cache").exists(), "a dry run removes nothing");
    let removed = gantry.ok(["cache", "gc", "--all", "--json"]);
    let (told, removed): (Value, Value) = (
        serde_json::from_str(&told).unwrap(),
        serde_json::from_str(&removed).unwrap(),
    );
    assert_eq!(told, removed);
    assert_eq!(
        (&removed["tools"], &removed["journal_days"]),
        (&1.into(), &1.into()),
        "{removed}"
    );
    assert!(removed["locks"].as_u64() > Some(0), "{removed}");
    assert!(!gantry.root.join("tools/uv-cache").exists() && !gantry.root.join("journal/1.jsonl").exists());
    gantry.build(function.path(), "f:1");
}
