//! Which images go when the store holds more than it is to, which stay, and that what is told of it adds up.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::images::{image, image_of, noise};
use crate::common::wait::{eventually, held_at, is_so, send};
use crate::common::{done, function, holder_of, tool, Gantry, DEGRADED};

/// The lease of an image, which says when it was used.
fn lease(gantry: &Gantry, digest: &str) -> std::path::PathBuf {
    gantry.root.join("leases").join(digest.strip_prefix("sha256:").unwrap())
}

fn used_before(gantry: &Gantry, digest: &str, minutes: u64) {
    let time = SystemTime::now() - Duration::from_secs(60 * minutes);
    fs::File::open(lease(gantry, digest))
        .unwrap()
        .set_modified(time)
        .unwrap();
}

fn configure(gantry: &Gantry, cache: &str) {
    let directory = gantry.home.join(".config/gantry");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.toml"), format!("[cache]\n{cache}")).unwrap();
}

fn json(gantry: &Gantry, args: &[&str]) -> Value {
    serde_json::from_str(&gantry.ok(args)).unwrap()
}

fn names(gantry: &Gantry) -> BTreeSet<String> {
    gantry.ok(["images", "ls", "-q"]).lines().map(str::to_owned).collect()
}

/// What the disk holds, by somebody else's count.
fn du(gantry: &Gantry) -> u64 {
    let told = tool(Command::new("du").args(["-s", "--block-size=1"]).arg(&gantry.root));
    told.split_whitespace().next().unwrap().parse().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// The numbers of `cache stats`, which add up.
fn stats(gantry: &Gantry) -> Value {
    let mut told = Value::Null;
    // A file system that gives a file its blocks later may give it one more for where they are.
    eventually("the counts differ", || {
        told = json(gantry, &["cache", "stats", "--json"]);
        let counted = du(gantry);
        is_so(number(&told["physical"]) == counted, (counted, &told))
    });
    let folders: u64 = told["folders"].as_object().unwrap().values().map(number).sum();
    let root = {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&gantry.root).unwrap().blocks() * 512
    };
    assert_eq!(folders + root, number(&told["physical"]));
    let kinds = number(&told["of_images"]) + number(&told["of_builds"]) + number(&told["other"]);
    assert_eq!(kinds, number(&told["physical"]));
    let images = told["images"].as_array().unwrap();
    let sum = |key: &str| -> u64 { images.iter().map(|image| number(&image[key])).sum() };
    assert_eq!(sum("logical"), number(&told["logical"]));
    assert_eq!(sum("unique") + sum("shared"), sum("logical"));
    // Without builds beside them, what is not shared is some image's own.
    assert_eq!(sum("unique") + number(&told["shared"]), number(&told["of_images"]));
    told
}

#[test]
fn of_forty_images_the_least_recently_used_go_and_what_is_shared_pinned_or_in_use_stays() {
    let gantry = Gantry::new();
    let (base, group, own) = (6 << 20, 4 << 20, 3 << 20);
    // In an order of use that is not that of their names.
    let minutes = |number: u64| 10 + (number * 17 % 40) * 10;
    let digests: Vec<String> = (0..40)
        .map(|number| {
            let layers = [(1, base), (2 + number % 4, group), (100 + number, own)];
            let digest = image(&gantry, &format!("function:{number}"), &layers);
            used_before(&gantry, &digest, minutes(number));
            digest
        })
        .collect();
    let before = stats(&gantry);
    assert_eq!(number(&before["count"]), 40);
    let (physical, logical) = (number(&before["physical"]), number(&before["logical"]));
    assert!(
        physical > 280_000_000 && logical > physical * 3 / 2,
        "{physical} {logical}"
    );
    assert_eq!(number(&before["only_here"]), 40);

    // The three that were used least recently: two of them stay for other reasons.
    let oldest = |place: u64| (0..40).find(|number| minutes(*number) == 400 - place * 10).unwrap();
    let (pinned, in_use, first) = (oldest(0), oldest(1), oldest(2));
    let name = |number: u64| format!("function:{number}");
    assert_eq!(
        gantry.ok(["cache", "pin", &name(pinned)]).trim(),
        digests[usize::try_from(pinned).unwrap()]
    );
    let mut user = holder_of(&lease(&gantry, &digests[usize::try_from(in_use).unwrap()]), "LOCK_SH");
    used_before(&gantry, &digests[usize::try_from(in_use).unwrap()], minutes(in_use));

    let listed = json(&gantry, &["cache", "ls", "--json"]);
    let listed: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["names"][0].as_str().unwrap())
        .collect();
    let mut by_use: Vec<u64> = (0..40).collect();
    by_use.sort_by_key(|number| minutes(*number));
    assert_eq!(listed, by_use.iter().map(|number| name(*number)).collect::<Vec<_>>());

    // No limit: nothing is evicted.
    let collected = json(&gantry, &["cache", "gc", "--json"]);
    assert_eq!(collected["evictions"], Value::Null);
    assert_eq!(names(&gantry).len(), 40);

    configure(&gantry, "max_bytes = \"200MB\"\n");
    let planned = json(&gantry, &["cache", "gc", "--dry-run", "--json"]);
    let planned = &planned["evictions"];
    assert_eq!(names(&gantry).len(), 40);
    let would = gantry.ok(["cache", "gc", "--dry-run"]);
    assert!(would.contains(&format!("Would evict {}, ", name(first))), "{would}");
    assert!(would.contains(&format!("Kept {}: pinned", name(pinned))), "{would}");
    assert!(would.contains(&format!("Kept {}: in use", name(in_use))), "{would}");
    assert!(would.contains("no registry is known to have it"), "{would}");

    let told = gantry.gantry(["cache", "gc", "--json"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let done: Value = serde_json::from_str(&told.stdout).unwrap();
    let done = &done["evictions"];
    assert_eq!(done["is_enough"], true);
    assert_eq!(done["items"], planned["items"], "what was planned is what went");
    let went: Vec<&str> = done["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    // The least recently used of those that could go, in that order, and no more than needed.
    let expected: Vec<String> = by_use
        .iter()
        .rev()
        .filter(|number| ![pinned, in_use].contains(number))
        .map(|number| name(*number))
        .take(went.len())
        .collect();
    assert_eq!(went, expected);
    let left = names(&gantry);
    assert_eq!(left.len() + went.len(), 40);
    assert!(left.contains(&name(pinned)) && left.contains(&name(in_use)));

    let after = stats(&gantry);
    let physical = number(&after["physical"]);
    // Below the limit, by less than one image: nobody could bring them back, so none goes for the low-water mark.
    assert!((190_000_000..=200_000_000).contains(&physical), "{physical}");
    assert_eq!((number(&after["pinned"]), number(&after["in_use"])), (1, 1));
    // The base and the four groups are there for those that stay.
    let shared: Vec<u64> = after["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|layer| number(&layer["images"]) > 1)
        .map(|layer| number(&layer["bytes"]))
        .collect();
    assert_eq!(shared.len(), 5, "{after}");
    assert!(number(&after["shared"]) > (2 * (6 + 4 * 4)) << 20);
    // What stays is whole: nothing of it is unpacked again, or missing.
    for name in &left {
        gantry.ok(["save", name, gantry.home.join("whole.tar").to_str().unwrap()]);
    }
    let text = gantry.ok(["cache", "stats"]);
    let first_line = text.lines().next().unwrap();
    assert!(
        first_line.starts_with("on the disk") && first_line.ends_with(" of 200.0 MB"),
        "{text}"
    );

    send(&user, Signal::KILL);
    user.wait().unwrap();
    gantry.ok(["cache", "unpin", &name(pinned)]);
    configure(&gantry, "max_images = 5\nlow_water = 100\n");
    let done = json(&gantry, &["cache", "gc", "--json"]);
    assert_eq!(number(&done["evictions"]["images_after"]), 5);
    // By now the two are the least recently used of all that is left.
    let first: Vec<&str> = done["evictions"]["items"]
        .as_array()
        .unwrap()
        .iter()
        .take(2)
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert_eq!(first, [name(pinned), name(in_use)]);
    assert_eq!(
        names(&gantry),
        by_use.iter().take(5).map(|number| name(*number)).collect()
    );
    stats(&gantry);
    let again = json(&gantry, &["cache", "gc", "--json"]);
    assert_eq!(
        number(&again["blobs"]) + number(&again["layers"]) + number(&again["snapshots"]),
        0,
        "{again}"
    );
}

#[test]
fn a_pin_outlives_the_name_and_its_end_is_the_end_of_the_image() {
    let gantry = Gantry::new();
    let digest = image(&gantry, "kept:1", &[(1, 1000)]);
    gantry.ok(["cache", "pin", "kept:1"]);
    gantry.ok(["cache", "pin", "kept:1"]);
    let removed = gantry.gantry(["images", "rm", "kept:1"]);
    let id = &digest[..19];
    let says = format!("Removed kept:1; its image {id} is pinned and stays: `gantry cache unpin {id}` lets it go\n");
    assert_eq!((removed.code, removed.stderr), (0, says));
    gantry.ok(["cache", "gc", "--all"]);
    let listed = json(&gantry, &["cache", "ls", "--json"]);
    assert_eq!(
        (&listed[0]["digest"], &listed[0]["is_pinned"], &listed[0]["names"]),
        (&digest.as_str().into(), &true.into(), &Value::Array(Vec::new()))
    );
    let shown = gantry.ok(["cache", "ls"]);
    assert!(shown.contains("pinned") && shown.starts_with("NAME"), "{shown}");
    gantry.ok(["copy", &digest, "again:1"]);
    gantry.ok(["images", "rm", "again:1"]);
    let refused = gantry.gantry(["images", "rm", id]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains(&format!(
            "is pinned, and stays until it is not: `gantry cache unpin {id}`"
        )),
        "{}",
        refused.stderr
    );
    gantry.ok(["cache", "unpin", id]);
    gantry.ok(["cache", "gc"]);
    assert_eq!(json(&gantry, &["cache", "ls", "--json"]), Value::Array(Vec::new()));
    let unknown = gantry.gantry(["cache", "pin", "kept:1"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("no such image"), "{}", unknown.stderr);
}

#[test]
fn what_comes_makes_room_for_itself_and_is_not_what_goes() {
    let gantry = Gantry::new();
    let other = Gantry::new();
    image(&other, "new:1", &[(9, 2 << 20)]);
    let archive = other.home.join("new.tar");
    other.ok(["save", "new:1", archive.to_str().unwrap()]);
    for number in 0..3 {
        let digest = image(&gantry, &format!("old:{number}"), &[(1 + number, 2 << 20)]);
        used_before(&gantry, &digest, 100 - number);
    }
    configure(&gantry, "max_images = 3\nlow_water = 100\n");
    let loaded = gantry.gantry(["load", archive.to_str().unwrap()]);
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    assert!(loaded.stderr.contains("Evicted old:0, "), "{}", loaded.stderr);
    assert_eq!(names(&gantry), ["new:1", "old:1", "old:2"].map(str::to_owned).into());
    // A limit that nothing fits: the image that came stays for its run.
    configure(&gantry, "max_bytes = \"64K\"\n");
    let copied = gantry.gantry(["copy", &format!("oci-archive:{}", archive.display()), "other:1"]);
    assert_eq!(copied.code, 0, "{}", copied.stderr);
    // It is one image of two names.
    assert_eq!(names(&gantry), ["new:1", "other:1"].map(str::to_owned).into());
}

#[test]
fn a_manifest_alone_makes_no_room_for_what_does_not_come_with_it() {
    let (gantry, maker) = (Gantry::new(), Gantry::new());
    image(&gantry, "own:1", &[(1, 1 << 20)]);
    let most = number(&stats(&gantry)["physical"]) + (100 << 10);
    configure(&gantry, &format!("max_bytes = {most}\nlow_water = 100\n"));
    let digest = image(&maker, "new:1", &[(2, 500_000)]);
    let (layout, archive) = (maker.home.join("layout"), maker.home.join("a.tar"));
    maker.ok(["copy", "new:1", &format!("oci:{}:1", layout.display())]);
    let (layer, size) = crate::registry::images::layers(&maker, &digest).remove(0);
    let blob = layout.join("blobs/sha256").join(&layer["sha256:".len()..]);
    let pack = || {
        let tar = Command::new("tar")
            .arg("-C")
            .arg(&layout)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(tar.unwrap().success());
    };
    let is_refused = |words: &[&str], says: &str| {
        let refused = gantry.gantry(words);
        assert!(
            refused.code != 0 && refused.stderr.contains(says),
            "{words:?}: {}",
            refused.stderr
        );
        assert!(!refused.stderr.contains("Evicted"), "{words:?}: {}", refused.stderr);
        assert_eq!(names(&gantry), BTreeSet::from(["own:1".to_owned()]), "{words:?}");
    };
    let from = format!("oci:{}:1", layout.display());
    fs::OpenOptions::new()
        .write(true)
        .open(&blob)
        .unwrap()
        .set_len(100)
        .unwrap();
    pack();
    let short = format!("size is 100, descriptor says {size}");
    is_refused(&["copy", &from, "new:1"], &short);
    is_refused(&["load", archive.to_str().unwrap()], "its bytes have digest");
    fs::remove_file(&blob).unwrap();
    pack();
    is_refused(&["copy", &from, "new:1"], &layer["sha256:".len()..]);
    is_refused(&["load", archive.to_str().unwrap()], &layer);
}

#[test]
fn a_limit_that_is_none_is_refused_with_its_line() {
    let gantry = Gantry::new();
    for (text, says) in [
        ("max_bytes = \"1K\"\n", "at least"),
        ("max_images = 0\n", "line 2"),
        ("low_water = 0\n", "low_water"),
        ("max_bites = 1\n", "unknown field"),
    ] {
        configure(&gantry, text);
        let refused = gantry.gantry(["cache", "stats"]);
        assert_eq!(refused.code, 2, "{text}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{text}: {}", refused.stderr);
    }
}

#[test]
fn a_function_that_runs_keeps_its_image_until_it_has_ended() {
    let gantry = Gantry::with_downloads();
    let code = "import sys\nprint('up', flush=True)\nsys.stdin.readline()\nimport calendar, decimal\nprint(calendar.isleap(2000), decimal.Decimal(1))\n";
    gantry.build(function(code, None).path(), "running:1");
    let mut command = gantry.command();
    command.args([
        "run",
        "-i",
        "--allow-degraded",
        DEGRADED,
        "--timeout",
        "600s",
        "running:1",
    ]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    configure(&gantry, "max_bytes = \"64K\"\n");
    let done = json(&gantry, &["cache", "gc", "--all", "--json"]);
    assert_eq!(done["evictions"]["kept"][0]["reason"], "in use", "{done}");
    assert_eq!(done["evictions"]["is_enough"], false);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(
        (ended.status.code(), String::from_utf8_lossy(&ended.stdout).as_ref()),
        (Some(0), "True 1\n")
    );
    let done = json(&gantry, &["cache", "gc", "--all", "--json"]);
    assert_eq!(done["evictions"]["items"][0]["name"], "running:1", "{done}");
    assert!(names(&gantry).is_empty());
    let gone = gantry.run(&["running:1"]);
    assert_eq!(gone.code, 125);
    assert!(
        gone.stderr.contains("no such image") || gone.stderr.contains("not in the store"),
        "{}",
        gone.stderr
    );
}

#[test]
fn the_commands_of_the_page_about_the_cache_do_what_it_says() {
    let gantry = Gantry::new();
    image(&gantry, "f:1", &[(1, 1000)]);
    let page = include_str!("../../docs/cache.md");
    configure(
        &gantry,
        page.split("[cache]\n").nth(1).unwrap().split("```").next().unwrap(),
    );
    let lines = page.lines().filter_map(|line| line.strip_prefix("    gantry "));
    let mut count = 0;
    for line in lines {
        let words = line.split("  ").next().unwrap().replace("IMAGE", "f:1");
        gantry.ok(words.split(' '));
        count += 1;
    }
    assert_eq!(count, 7);
}

#[test]
fn what_comes_and_loses_a_layer_to_an_eviction_is_brought_again() {
    let other = Gantry::new();
    let body = |user: &str| gantry::oci::ImageConfigBody {
        user: Some(user.to_owned()),
        ..Default::default()
    };
    let layer = [("data/1".to_owned(), noise(1, 300_000))];
    let digest = image_of(&other, "new:1", &layer, &body("1000"));
    image(&other, "third:1", &[(3, 1000)]);
    let archives = ["new", "third"].map(|name| {
        let archive = other.home.join(format!("{name}.tar")).to_str().unwrap().to_owned();
        other.ok(["save", &format!("{name}:1"), &archive]);
        archive
    });
    let copied = format!("oci-archive:{}", archives[0]);
    for command in [&["load", &archives[0]][..], &["copy", &copied, "new:1"]] {
        let gantry = Gantry::new();
        // The layer lies there as that of an image which goes while the new one comes, its blob before its files.
        let old = image_of(&gantry, "old:1", &layer, &body("1001"));
        used_before(&gantry, &old, 100);
        let shown = json(&gantry, &["images", "show", "old:1", "--json"]);
        let text = |value: &Value| value.as_str().unwrap()[7..].to_owned();
        let blob = text(&shown["manifest"]["layers"][0]["digest"]);
        let tree = gantry
            .root
            .join("layers")
            .join(text(&shown["config"]["rootfs"]["diff_ids"][0]));
        fs::remove_file(gantry.root.join("blobs/sha256").join(blob)).unwrap();
        let pipe = gantry.home.join("pipe");
        tool(Command::new("mkfifo").arg(&pipe));
        let mut bringing = gantry.command();
        bringing
            .args(command)
            .env("GANTRY_FAULT", format!("Blob:0:hold={}", pipe.display()));
        let mut bringing = bringing.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Its bytes were compared with the files that are there.
        let held = held_at(&pipe, &mut bringing);
        configure(&gantry, "max_images = 1\n");
        let third = gantry.gantry(["load", &archives[1]]);
        assert!(third.stderr.contains("Evicted old:1, "), "{}", third.stderr);
        assert!(!tree.exists());
        drop(held);
        let brought = done(bringing.wait_with_output().unwrap());
        assert_eq!(brought.code, 0, "{command:?}: {}", brought.stderr);
        assert!(tree.exists());
        let shown = json(&gantry, &["images", "show", "new:1", "--json"]);
        assert_eq!(shown["digest"], digest.as_str());
        gantry.ok(["cache", "check"]);
    }
}

#[test]
fn what_is_told_of_images_of_many_layers_adds_up_and_what_goes_of_them_is_free() {
    let gantry = Gantry::new();
    let layers = |own: u64| -> Vec<(u64, usize)> { (1..30).chain([own]).map(|seed| (seed, 50_000)).collect() };
    for (name, own) in [("a:1", 100), ("b:1", 101)] {
        let digest = image(&gantry, name, &layers(own));
        used_before(&gantry, &digest, own);
    }
    // A shorter one, whose files the others have.
    let short: Vec<(u64, usize)> = (1..26).map(|seed| (seed, 50_000)).collect();
    image(&gantry, "c:1", &short);
    let merged = || fs::read_dir(gantry.root.join("merged")).unwrap().count();
    assert_eq!(merged(), 2);
    // Which notes what each layer takes.
    configure(&gantry, "max_images = 3\n");
    gantry.ok(["cache", "gc"]);
    let before = stats(&gantry);
    let folders = |told: &Value, name: &str| number(&told["folders"][name]);
    assert!(
        folders(&before, "layers") > 31 * 50_000 && folders(&before, "merged") < 100_000,
        "{before}"
    );

    configure(&gantry, "max_images = 1\n");
    let report = json(&gantry, &["cache", "gc", "--json"]);
    let evicted = &report["evictions"];
    let freed = number(&evicted["bytes_before"]) - number(&evicted["bytes_after"]);
    configure(&gantry, "");
    let after = stats(&gantry);
    assert_eq!((names(&gantry), merged()), (BTreeSet::from(["c:1".to_owned()]), 1));
    let apart = |told: &Value| {
        number(&told["physical"])
            - ["refs", "journal", "tmp", "locks"]
                .map(|name| folders(told, name))
                .iter()
                .sum::<u64>()
    };
    assert_eq!(apart(&before) - apart(&after), freed, "{report}");
}
