//! `gantry cache check`: what is wrong is named, repaired where that is possible, and nobody is kept waiting meanwhile.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{json, Value};

use crate::common::{tiny, tool, Gantry};
use crate::registry::fake::{Fake, Reply};
use crate::registry::images::{image, store_of};

/// What `cache check ARGS --json` says, and its exit code.
fn check(gantry: &Gantry, args: &[&str]) -> (i32, Value) {
    let mut command = gantry.command();
    command.args(["cache", "check", "--json"]).args(args);
    let done = crate::common::done(command.output().unwrap());
    let report = serde_json::from_str(&done.stdout);
    (
        done.code,
        report.unwrap_or_else(|error| panic!("{error}: {}{}", done.stdout, done.stderr)),
    )
}

fn shown(gantry: &Gantry, name: &str) -> Value {
    serde_json::from_str(&gantry.ok(["images", "show", name, "--json"])).unwrap()
}

fn blob(gantry: &Gantry, digest: &Value) -> PathBuf {
    gantry.root.join("blobs/sha256").join(&digest.as_str().unwrap()[7..])
}

/// The folder of the first layer of an image.
fn layer(gantry: &Gantry, shown: &Value) -> PathBuf {
    let diff_id = shown["config"]["rootfs"]["diff_ids"][0].as_str().unwrap();
    gantry.root.join("layers").join(&diff_id[7..])
}

fn states(report: &Value) -> Vec<(String, String)> {
    let findings = report["findings"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    findings.map(|one| (text(&one["what"]), text(&one["state"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(what, state): &(&str, &str)| ((*what).to_owned(), (*state).to_owned());
    expected.iter().map(owned).collect()
}

#[test]
fn what_is_wrong_is_named_and_only_a_repair_changes_anything() {
    let gantry = Gantry::new();
    let digests = tiny(&gantry, &["a:1", "b:1"]);
    let (code, report) = check(&gantry, &[]);
    assert_eq!(
        (code, &report["status"], &report["sample"]),
        (0, &json!("ok"), &Value::Null)
    );
    assert_eq!(
        report["looked"],
        json!({"blobs": 6, "downloads": 0, "layers": 2, "merged": 0, "names": 2, "images": 2, "snapshots": 2, "memos": 0})
    );
    assert!(gantry
        .ok(["cache", "check"])
        .ends_with("2 names, 2 images: nothing is wrong\n"));

    let digest = shown(&gantry, "a:1")["manifest"]["layers"][0]["digest"].clone();
    let path = blob(&gantry, &digest);
    let sound = fs::read(&path).unwrap();
    fs::write(&path, vec![0; sound.len()]).unwrap();
    let done = gantry.gantry(["cache", "check"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    let which = format!("blobs/sha256/{}", &digest.as_str().unwrap()[7..]);
    let line = format!("{which}: expected {}, got sha256:", digest.as_str().unwrap());
    assert!(
        done.stdout.starts_with(&line) && done.stdout.contains("; needed by a:1; `gantry cache check --repair`"),
        "{}",
        done.stdout
    );
    assert!(path.exists(), "a check changes nothing");
    let file = tempfile::NamedTempFile::new().unwrap();
    let (code, report) = check(&gantry, &["--report", file.path().to_str().unwrap()]);
    let written: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
    assert_eq!((code, &written), (1, &report));
    assert_eq!(
        (&report["status"], &report["findings"][0]["which"]),
        (&json!("failed"), &json!(which))
    );

    // No registry has it, and it cannot be made: the name says what to do.
    let done = gantry.gantry(["cache", "check", "--repair", "--report", file.path().to_str().unwrap()]);
    assert!(
        done.stdout.contains("2 wrong of 1 cause: 1 removed, 1 not repaired\n"),
        "{}",
        done.stdout
    );
    let (code, report) = (
        done.code,
        serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap(),
    );
    assert_eq!(
        (code, states(&report)),
        (1, pairs(&[("blob", "removed"), ("image", "kept")]))
    );
    let image = &report["findings"][1];
    assert_eq!(
        (&image["which"], &image["images"]),
        (&json!(digests[0]), &json!(["a:1"]))
    );
    assert!(
        image["remedy"].as_str().unwrap().contains("`gantry images rm a:1`"),
        "{image}"
    );
    assert!(!path.exists());
    assert_eq!(tiny(&gantry, &["a:1"]), digests[..1]);
    assert_eq!(check(&gantry, &[]).0, 0);
}

#[test]
fn a_layer_is_made_again_of_its_blob_unless_a_run_holds_it() {
    let gantry = Gantry::new();
    let digests = tiny(&gantry, &["a:1"]);
    let file = layer(&gantry, &shown(&gantry, "a:1")).join("fs/etc/name");
    fs::write(&file, "b:1").unwrap();
    let store = gantry::store::Store::open(&gantry.root).unwrap();
    let lease = store.locks().lease(&digests[0].parse().unwrap()).unwrap();
    let (code, report) = check(&gantry, &["--repair"]);
    assert_eq!((code, states(&report)), (1, pairs(&[("layer", "kept")])));
    assert!(
        report["findings"][0]["remedy"]
            .as_str()
            .unwrap()
            .contains("a run is using it"),
        "{report}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "b:1");
    drop(lease);
    // By a person it is read in words, with the images that it is of.
    let told = gantry.gantry(["cache", "check"]).stdout;
    let differs = told.lines().next().unwrap().split_once(": ").unwrap().1;
    assert!(
        differs.starts_with("expected etc/name, a file of 3 bytes, mode 644, blake3:")
            && differs.contains(", got a file of 3 bytes, mode 644, blake3:")
            && differs.contains("; needed by a:1; "),
        "{told}"
    );
    let (code, report) = check(&gantry, &["--repair"]);
    assert_eq!(
        (code, states(&report), &report["status"]),
        (0, pairs(&[("layer", "remade")]), &json!("repaired"))
    );
    assert_eq!(report["findings"][0]["images"], json!(["a:1"]));
    assert_eq!(fs::read_to_string(&file).unwrap(), "a:1");
    assert_eq!(check(&gantry, &[]).0, 0);
}

#[test]
fn what_images_of_a_registry_need_is_fetched_again_and_nothing_else() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 300_000), (2, 1000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    let gantry = store_of(&[&fake], "");
    let name = fake.name("team/a:1");
    gantry.ok(["pull", &name]);
    let image = shown(&gantry, &name);
    let (lost, kept) = (
        &image["manifest"]["layers"][1]["digest"],
        &image["manifest"]["layers"][0]["digest"],
    );
    fs::write(blob(&gantry, lost), "other").unwrap();

    // A registry that is away: what to type.
    let away = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_away = std::sync::Arc::clone(&away);
    fake.rule(move |_, _| {
        is_away
            .load(std::sync::atomic::Ordering::Relaxed)
            .then(|| Reply::new(500, ""))
    });
    let (code, report) = check(&gantry, &["--repair"]);
    assert_eq!((code, &report["status"]), (1, &json!("failed")), "{report}");
    let left = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["what"] == "image")
        .unwrap();
    assert!(
        left["remedy"]
            .as_str()
            .unwrap()
            .contains(&format!("`gantry pull {name}`")),
        "{left}"
    );

    away.store(false, std::sync::atomic::Ordering::Relaxed);
    let before = fake.count("GET", &kept.as_str().unwrap()[7..]);
    let (code, report) = check(&gantry, &["--repair"]);
    assert_eq!((code, &report["status"]), (0, &json!("repaired")), "{report}");
    assert_eq!(fake.count("GET", &kept.as_str().unwrap()[7..]), before, "it was there");
    assert_eq!(shown(&gantry, &name), image);
    let (code, report) = check(&gantry, &[]);
    assert_eq!((code, &report["findings"]), (0, &json!([])));
    assert!(fs::read_dir(gantry.root.join("unnamed")).unwrap().next().is_none());
}

#[test]
fn a_repair_says_what_it_removed_and_what_is_whole_again() {
    let gantry = Gantry::new();
    let digests = tiny(&gantry, &["a:1"]);
    let damaged = || layer(&gantry, &shown(&gantry, "a:1")).join("fs/etc/name");
    let repaired = |wrong: &str| {
        let done = gantry.gantry(["cache", "check", "--repair"]);
        assert_eq!(done.code, 0, "{}", done.stdout);
        assert!(done.stdout.ends_with(wrong), "{}", done.stdout);
        done.stdout
    };
    // Nothing needs it.
    fs::write(gantry.root.join("downloads").join("0".repeat(64)), "x").unwrap();
    fs::write(damaged(), "b:1").unwrap();
    repaired(": 2 wrong: 1 made again of what the store has, 1 removed\n");
    // An image that is kept without a name is called by its digest.
    let lost = layer(&gantry, &shown(&gantry, "a:1"));
    gantry.ok(["cache", "pin", "a:1"]);
    gantry.ok(["images", "rm", "a:1"]);
    fs::remove_file(lost.join("fs/etc/name")).unwrap();
    let told = repaired(": 1 wrong: 1 made again of what the store has\n");
    assert!(
        told.contains(&format!(", got no etc/name; needed by {}; made again\n", digests[0])),
        "{told}"
    );
}

#[test]
fn a_sample_reads_less_and_says_so() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1", "b:1"]);
    for (sample, read) in [("50%", 4), ("3", 3), ("100", 8)] {
        let (code, report) = check(&gantry, &["--sample", sample]);
        let looked = &report["looked"];
        let count: u64 = ["blobs", "layers", "downloads"]
            .iter()
            .map(|part| looked[part].as_u64().unwrap())
            .sum();
        assert_eq!(
            (code, &report["sample"], &report["contents"], count),
            (0, &json!(sample), &json!(8), read)
        );
    }
    let said = gantry.ok(["cache", "check", "--sample", "3"]);
    assert!(
        said.starts_with("Checked 3 of 8 blobs, downloads and layers ("),
        "{said}"
    );
    for sample in ["0", "0%", "101%", "many"] {
        let done = gantry.gantry(["cache", "check", "--sample", sample]);
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains("from 1% to 100%"), "{}", done.stderr);
    }
}

#[test]
fn whatever_lies_in_the_store_makes_no_check_hang() {
    let gantry = Gantry::new();
    let digests = tiny(&gantry, &["a:1"]);
    let image = shown(&gantry, "a:1");
    let fifos = [
        blob(&gantry, &image["manifest"]["layers"][0]["digest"]),
        layer(&gantry, &image).join("meta.json"),
        gantry.root.join("snapshots").join(format!("{}.json", &digests[0][7..])),
        gantry.root.join("refs/_local/a/1"),
        gantry.root.join("index.json"),
        gantry.root.join("tmp/pipe"),
        gantry.root.join("partial").join(&digests[0][7..]),
        gantry.root.join("locks/pipe"),
    ];
    for path in &fifos {
        let _ = fs::remove_file(path);
        tool(std::process::Command::new("mkfifo").arg(path));
    }
    fs::File::create(gantry.root.join("blobs/sha256").join("0".repeat(64)))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    std::os::unix::fs::symlink("/dev/zero", gantry.root.join("blobs/sha256").join("1".repeat(64))).unwrap();
    std::os::unix::fs::symlink("/", gantry.root.join("layers").join("2".repeat(64))).unwrap();
    let mut command = std::process::Command::new("timeout");
    let gantry_command = gantry.command();
    command
        .arg("300")
        .arg(gantry_command.get_program())
        .args(["cache", "check", "--json"]);
    let set = gantry_command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    command.env_clear().envs(set).stdin(Stdio::null());
    let done = crate::common::done(command.output().unwrap());
    assert_eq!(done.code, 1, "{}", done.stderr);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let found: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["which"].as_str().unwrap())
        .collect();
    for part in [
        "blobs/sha256/0",
        "blobs/sha256/1",
        "layers/2",
        "a:1",
        "tmp/pipe",
        "partial/",
        "locks/pipe",
        "snapshots/",
    ] {
        assert!(found.iter().any(|which| which.starts_with(part)), "{part}: {found:?}");
    }
    // All of it goes, and the name with it: nothing says any more what it meant.
    let (code, report) = check(&gantry, &["--repair"]);
    assert_eq!((code, &report["status"]), (0, &json!("repaired")), "{report}");
    assert_eq!(check(&gantry, &[]).0, 0);
    assert_eq!(tiny(&gantry, &["a:1"]), digests);
}

/// The findings about images: the digest, what is there, and the remedy.
fn images_of(report: &Value) -> Vec<[&str; 3]> {
    let findings = report["findings"].as_array().unwrap().iter();
    let images = findings.filter(|one| one["what"] == "image");
    images
        .map(|one| ["which", "got", "remedy"].map(|key| one[key].as_str().unwrap_or_default()))
        .collect()
}

#[test]
fn an_image_that_lost_its_manifest_is_damage_and_what_is_hinted_at_mends_it() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 300_000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    let gantry = store_of(&[&fake], "");
    let name = fake.name("team/a:1");
    gantry.ok(["pull", &name]);
    let archive = gantry.home.join("a.tar");
    let save = || gantry.gantry(["save", &name, archive.to_str().unwrap()]);
    let manifest = gantry.root.join("blobs/sha256").join(&digest[7..]);
    for is_collected in [false, true] {
        fs::remove_file(&manifest).unwrap();
        if is_collected {
            // Nothing says any more which blobs it had.
            gantry.ok(["cache", "gc"]);
            assert_eq!(fs::read_dir(gantry.root.join("blobs/sha256")).unwrap().count(), 0);
        }
        let refused = save();
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert!(
            refused.stderr.contains(&digest) && refused.stderr.contains("hint: `gantry cache check --repair`"),
            "{}",
            refused.stderr
        );
        let (code, report) = check(&gantry, &[]);
        let repairs = "`gantry cache check --repair` fetches it again";
        let got = "nothing: it runs from its unpacked layers, and can be neither pushed, saved nor shown";
        assert_eq!(
            (code, images_of(&report)),
            (1, vec![[digest.as_str(), got, repairs]]),
            "{report}"
        );
        assert_eq!(report["findings"][0]["images"], json!([name]));
        let (code, report) = check(&gantry, &["--repair"]);
        assert_eq!((code, states(&report)), (0, pairs(&[("image", "fetched")])), "{report}");
        assert_eq!(save().code, 0);
        assert_eq!(check(&gantry, &[]).0, 0);
    }

    // Nobody has it: its name stays, as it runs, and the way to have all of it is the one that is named.
    let digests = tiny(&gantry, &["b:1"]);
    let manifest = gantry.root.join("blobs/sha256").join(&digests[0][7..]);
    fs::remove_file(&manifest).unwrap();
    for (args, state) in [(&[][..], "found"), (&["--repair"], "kept"), (&["--repair"], "kept")] {
        let (code, report) = check(&gantry, args);
        assert_eq!((code, states(&report)), (1, pairs(&[("image", state)])), "{report}");
        let [[_, _, remedy]] = images_of(&report)[..] else {
            panic!("{report}")
        };
        assert!(remedy.contains("`gantry build DIR --tag b:1`"), "{remedy}");
        assert!(remedy.contains("`gantry images rm b:1`"), "{remedy}");
    }
    let said = gantry.gantry(["cache", "check"]);
    assert!(
        said.stdout
            .contains(&format!("image {}: expected its manifest blobs/sha256/", digests[0])),
        "{}",
        said.stdout
    );
    assert_eq!(tiny(&gantry, &["b:1"]), digests);
    assert_eq!(check(&gantry, &[]).0, 0);
}

#[test]
fn an_image_without_a_name_that_runs_still_is_kept_by_a_repair() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 300_000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    let gantry = store_of(&[&fake], "");
    gantry.ok(["pull", &fake.name(&format!("team/a@{digest}"))]);
    let manifest = gantry.root.join("blobs/sha256").join(&digest[7..]);
    let note = gantry.root.join("unnamed").join(&digest[7..]);
    // It is fetched again from where it came from, and has no more name than before.
    fs::remove_file(&manifest).unwrap();
    let (code, report) = check(&gantry, &["--repair"]);
    assert_eq!((code, states(&report)), (0, pairs(&[("image", "fetched")])), "{report}");
    assert!(manifest.exists() && note.exists());
    // Nobody has it any more: what keeps it stays, and a collection takes nothing that it runs from.
    fake.state.manifests.lock().unwrap().clear();
    fs::remove_file(&manifest).unwrap();
    let (code, report) = check(&gantry, &["--repair"]);
    assert_eq!((code, states(&report)), (1, pairs(&[("image", "kept")])), "{report}");
    let before = fs::read_dir(gantry.root.join("layers")).unwrap().count();
    gantry.ok(["cache", "gc"]);
    assert!(note.exists() && before > 0);
    assert_eq!(fs::read_dir(gantry.root.join("layers")).unwrap().count(), before);
}
