//! The digest of an image is a reference, nothing else can be taken for one, and the same image keeps its digest.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::common::{function, Gantry};

/// Builds a function without a name; returns its digest and what was said.
fn build_unnamed(gantry: &Gantry, code: &str) -> (String, String) {
    let dir = function(code, None);
    let done = gantry.gantry(["build", dir.path().to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    (done.stdout.trim().to_owned(), done.stderr)
}

fn listed(gantry: &Gantry) -> Vec<String> {
    let list: Value = serde_json::from_str(&gantry.ok(["images", "ls", "--json"])).unwrap();
    let images = list.as_array().unwrap().iter();
    images
        .map(|image| image["reference"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_digest_that_a_build_prints_is_a_reference_everywhere() {
    let gantry = Gantry::with_downloads();
    let (digest, said) = build_unnamed(&gantry, "print('by its digest')\n");
    let short = &digest[7..19];
    for part in [format!("gantry run {short} "), format!("gantry copy {short} NAME:TAG")] {
        assert!(said.contains(&part), "{said}");
    }
    let table = gantry.ok(["images", "ls"]);
    assert!(table.contains(&format!("\nsha256:{short} ")), "{table}");
    assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    let hex = &digest[7..];
    for reference in [&digest, short, &digest[..19], hex, &format!("beam@{digest}")] {
        let done = gantry.run(&[reference]);
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (0, "by its digest\n"),
            "{}",
            done.stderr
        );
        let shown: Value = serde_json::from_str(&gantry.ok(["images", "show", reference, "--json"])).unwrap();
        assert_eq!(shown["digest"], digest.as_str());
    }
    // Once it has a name, a build without one says so.
    gantry.ok(["copy", short, "called:1"]);
    let (again, said) = build_unnamed(&gantry, "print('by its digest')\n");
    assert_eq!(again, digest);
    assert!(
        said.contains("It is the image called:1. Run it: gantry run called:1"),
        "{said}"
    );
    gantry.ok(["images", "rm", "called:1"]);
    build_unnamed(&gantry, "print('by its digest')\n");
    let archive = gantry.home.join("image.tar");
    gantry.ok(["save", short, archive.to_str().unwrap()]);
    let other = Gantry::new();
    let loaded = other.ok(["load", archive.to_str().unwrap()]);
    assert_eq!(loaded, format!("{digest} {digest}\n"));
    assert_eq!(listed(&other), std::slice::from_ref(&digest));
    assert_eq!(other.ok(["copy", short, "named:1"]).trim(), digest);
    assert_eq!(listed(&other), ["named:1"]);

    let dir = function("print('on a digest')\n", None);
    gantry.ok([
        "build",
        dir.path().to_str().unwrap(),
        "--base",
        &digest,
        "--tag",
        "on:1",
    ]);
    assert_eq!(gantry.run(&["on:1"]).stdout, "on a digest\n");

    let unknown = format!("sha256:{}", "0".repeat(64));
    let done = gantry.run(&[&unknown]);
    assert_eq!(done.code, 125);
    assert!(done.stderr.contains(&unknown), "{}", done.stderr);
    // A layer is no image.
    let shown: Value = serde_json::from_str(&gantry.ok(["images", "show", short, "--json"])).unwrap();
    let layer = shown["manifest"]["layers"][0]["digest"].as_str().unwrap();
    assert!(gantry.run(&[layer]).stderr.contains("no such image"));
}

#[test]
fn a_pulled_image_keeps_its_name_and_says_it_or_takes_the_one_that_is_given() {
    let gantry = Gantry::with_downloads();
    let dir = function("print('pulled')\n", None);
    let digest = gantry.build(dir.path(), "pulled:1");
    let layout = format!("oci:{}:pulled-there", gantry.home.join("layout").display());
    gantry.ok(["push", "pulled:1", &layout]);
    let other = Gantry::new();
    let done = other.gantry(["pull", &layout]);
    assert_eq!((done.code, done.stdout.trim()), (0, digest.as_str()), "{}", done.stderr);
    assert!(
        done.stderr.contains(&format!("Pulled {digest} as pulled-there:latest")),
        "{}",
        done.stderr
    );
    let done = other.gantry(["pull", "--tag", "mine:2", &layout]);
    assert!(done.stderr.contains(" as mine:2"), "{}", done.stderr);
    assert_eq!(listed(&other), ["mine:2", "pulled-there:latest"]);
    let refused = other.gantry(["pull", "--tag", &digest, &layout]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
}

#[test]
fn an_image_without_a_name_is_kept_for_a_day() {
    let gantry = Gantry::with_downloads();
    let (digest, _) = build_unnamed(&gantry, "print('for a day')\n");
    assert_eq!(listed(&gantry), std::slice::from_ref(&digest));
    gantry.ok(["cache", "gc", "--all"]);
    assert_eq!(gantry.run(&[&digest]).stdout, "for a day\n");
    let note = gantry.root.join("unnamed").join(&digest[7..]);
    let yesterday = SystemTime::now() - Duration::from_secs(25 * 3600);
    File::options()
        .write(true)
        .open(note)
        .unwrap()
        .set_modified(yesterday)
        .unwrap();
    let report: Value = serde_json::from_str(&gantry.ok(["cache", "gc", "--json"])).unwrap();
    assert_eq!((&report["unnamed"], &report["snapshots"]), (&1.into(), &1.into()));
    assert_eq!(gantry.run(&[&digest]).code, 125);
    assert!(listed(&gantry).is_empty());

    // It can go before its day is over, and a name that is taken away lets go at once.
    let (digest, _) = build_unnamed(&gantry, "print('shorter')\n");
    gantry.ok(["images", "rm", &digest[..19]]);
    let (again, _) = build_unnamed(&gantry, "print('shorter')\n");
    gantry.ok(["copy", &again, "short:1"]);
    let refused = gantry.gantry(["images", "rm", &again]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("gantry images rm short:1"),
        "{}",
        refused.stderr
    );
    gantry.ok(["images", "rm", "short:1"]);
    let report: Value = serde_json::from_str(&gantry.ok(["cache", "gc", "--json"])).unwrap();
    assert_eq!(report["snapshots"], 1);
}

#[test]
fn a_name_that_passes_for_a_digest_is_refused() {
    let gantry = Gantry::with_downloads();
    let (digest, _) = build_unnamed(&gantry, "print('the first')\n");
    let dir = function("print('another')\n", None);
    for name in [
        digest.as_str(),
        "sha256:latest",
        "sha256",
        "sha512:1",
        "sha512",
        &digest[..19],
    ] {
        let done = gantry.gantry(["build", dir.path().to_str().unwrap(), "--tag", name]);
        assert_eq!(done.code, 2, "{name}: {}", done.stderr);
        assert!(done.stderr.contains(name), "{name}: {}", done.stderr);
    }
    let names = gantry.gantry(["copy", &digest, "sha256:abcdef"]);
    assert!(
        names.code != 0 && names.stderr.contains("sha256:abcdef"),
        "{}",
        names.stderr
    );
    assert_eq!(gantry.run(&[&digest]).stdout, "the first\n");
    assert_eq!(listed(&gantry), [digest]);
}

#[test]
fn an_unchanged_rebuild_is_the_same_image_under_any_name() {
    let gantry = Gantry::with_downloads();
    let dir = function("print('unchanged')\n", None);
    let first = gantry.build(dir.path(), "one:1");
    // Images say the second in which they were made.
    let second = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let made = second(SystemTime::now());
    while second(SystemTime::now()) == made {
        std::thread::yield_now();
    }
    assert_eq!(gantry.build(dir.path(), "one:1"), first);
    assert_eq!(gantry.build(dir.path(), "two:1"), first);
    assert_eq!(build_unnamed(&gantry, "print('unchanged')\n").0, first);
    fs::write(dir.path().join("user_function.py"), "print('changed')\n").unwrap();
    assert_ne!(gantry.build(dir.path(), "one:1"), first);
    // Whoever asks for a time gets it.
    let dated = gantry.command();
    let mut dated = dated;
    dated
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .arg("build")
        .arg(dir.path());
    let dated = dated.output().unwrap();
    assert!(dated.status.success());
    assert_ne!(
        String::from_utf8(dated.stdout).unwrap().trim(),
        gantry.build(dir.path(), "one:1")
    );
}
