//! What the cache says to somebody who is new to it: what went and how it comes back, what was done and not more, and what to
//! type.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{json, Value};

use crate::common::{function, says, tiny, Done, Gantry};
use crate::registry::fake::Fake;
use crate::registry::images::{configure, image, layers, store_of};

/// A registry with `count` images `team/x:N`, a store that knows it and has `[cache]` as `limits` say, and their digests.
fn with_images(count: usize, limits: &str) -> (Fake, Gantry, Vec<String>) {
    let (fake, maker) = (Fake::start(), Gantry::new());
    let held = |number: usize| {
        let digest = image(&maker, &format!("x:{number}"), &[(100 + number as u64, 5000)]);
        fake.hold(&maker.root, &digest, "team/x", &number.to_string());
        digest
    };
    let digests = (0..count).map(held).collect();
    let gantry = store_of(&[&fake], &format!("[cache]\nlow_water = 100\n{limits}"));
    (fake, gantry, digests)
}

/// Configures the store without any registry.
fn limited(gantry: &Gantry, cache: &str) {
    configure(gantry, &format!("[cache]\n{cache}"));
}

#[test]
fn an_image_that_was_evicted_says_when_it_went_and_how_it_comes_back() {
    let (fake, gantry, digests) = with_images(2, "max_images = 1\n");
    gantry.ok(["pull", &fake.name("team/x:0"), "--tag", "beam:1"]);
    let second = gantry.gantry(["pull", &fake.name("team/x:1")]);
    let place = fake.name("team/x");
    says(&second, 0, &["Evicted beam:1, ", &format!("; {place} has it, ")]);

    let back = format!("`gantry pull {place}@{} --tag beam:1` brings it back", digests[0]);
    let hint = ["hint: it was evicted on 2", &back];
    for args in [
        &["images", "show", "beam:1"][..],
        &["save", "beam:1", "x.tar"],
        &["cache", "pin", "beam:1"],
        &["cache", "warm", "beam:1"],
    ] {
        says(&gantry.gantry(args), 1, &hint);
    }
    says(&gantry.run(&["beam:1"]), 125, &hint);
    // By its digest as well; what to type does what it says.
    let hint = [&*format!("`gantry pull {place}@{}` brings it back", digests[0])];
    says(&gantry.run(&[&digests[0][..19]]), 125, &hint);
    let typed = back.split('`').nth(1).unwrap().replace("gantry ", "");
    gantry.ok(typed.split(' '));
    assert_eq!(gantry.ok(["images", "ls", "-q"]), "beam:1\n");
    // One of a registry by its own name.
    let other = fake.name("team/x:1");
    let hint = [
        "it was evicted on 2",
        &format!(" to make room: `gantry pull {other}` brings it back"),
    ];
    says(&gantry.run(&["--pull", "never", &other]), 125, &hint);
    // Somebody removed it since: it did not go by itself.
    gantry.ok(["images", "rm", "beam:1"]);
    let gone = gantry.run(&["beam:1"]);
    assert!(!gone.stderr.contains("evicted"), "{}", gone.stderr);
}

#[test]
fn an_image_that_was_only_here_is_named_as_it_goes_however_little_is_said() {
    let (fake, gantry, _) = with_images(2, "");
    tiny(&gantry, &["own:1"]);
    let config = fs::read_to_string(gantry.home.join(".config/gantry/config.toml")).unwrap();
    fs::write(
        gantry.home.join(".config/gantry/config.toml"),
        config + "max_images = 1\n",
    )
    .unwrap();
    let first = gantry.gantry(["-q", "pull", &fake.name("team/x:0")]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let [line] = first.stderr.lines().collect::<Vec<_>>()[..] else {
        panic!("one line: {}", first.stderr)
    };
    assert!(
        line.starts_with("Evicted own:1, ") && line.contains("; no registry is known to have it"),
        "{line}"
    );
    says(
        &gantry.run(&["own:1"]),
        125,
        &["no registry is known to have it: build it or load it again"],
    );
    // What can be had again is nothing that a quiet command speaks of.
    let second = gantry.gantry(["-q", "pull", &fake.name("team/x:1")]);
    assert_eq!((second.code, second.stderr.as_str()), (0, ""));
}

/// Names of `podman save` begin with `localhost/`, and those of `docker save` may be anybody's.
#[test]
fn an_image_that_came_in_an_archive_and_went_is_not_to_be_tried_again_for_ever() {
    let (fake, gantry, _) = with_images(1, "max_images = 1\n");
    let name = "localhost/own:1";
    tiny(&gantry, &[name]);
    gantry.run(&[name]);
    gantry.ok(["pull", &fake.name("team/x:0")]);
    let run = gantry.run(&[name]);
    says(
        &run,
        125,
        &["no registry is known to have it: build it or load it again"],
    );
    // One of another digest was never here: its registry may have it later.
    let other = format!("{name}@sha256:{}", "1".repeat(64));
    says(&gantry.run(&[&other]), 4, &["nobody answers"]);
    // Where the store may keep no other image, this one is not even looked for.
    let warm = ["cache", "warm", "--top", "5", "--since", "7d"];
    says(&gantry.gantry(warm), 0, &["1 left out", "the store may keep 1 image ("]);
    let config = gantry.home.join(".config/gantry/config.toml");
    let two = fs::read_to_string(&config)
        .unwrap()
        .replace("max_images = 1", "max_images = 2");
    fs::write(&config, two).unwrap();
    says(&gantry.gantry(warm), 0, &["1 gone (skipped)"]);
    // A registry that somebody configured may have it later.
    let with_host = fs::read_to_string(&config).unwrap() + "\n[[registry]]\nhost = \"localhost\"\n";
    fs::write(&config, with_host).unwrap();
    says(&gantry.run(&[name]), 4, &["Pulling localhost/own:1"]);
}

#[test]
fn an_age_has_a_unit() {
    let gantry = Gantry::new();
    for args in [
        &["cache", "gc", "--older-than", "7"][..],
        &["cache", "warm", "--top", "1", "--since", "7"],
    ] {
        says(&gantry.gantry(args), 2, &["parse age \"7\"", "such as 12h or 7d"]);
    }
    gantry.ok(["cache", "gc", "--older-than", "7d"]);
}

#[test]
fn what_is_evicted_during_a_run_is_said_by_gantry_and_not_by_the_function() {
    let (fake, gantry, _) = with_images(2, "max_images = 1\n");
    let (one, two) = (fake.name("team/x:0"), fake.name("team/x:1"));
    gantry.ok(["pull", &one]);
    // It has no command, and is there by the time that this is known.
    let done = gantry.run(&[&two]);
    says(&done, 125, &[&format!("gantry: Evicted {one}, ")]);
    let others = done.stderr.lines().filter(|line| line.contains("Evicted"));
    assert!(others.clone().count() == 1, "{}", done.stderr);
}

#[test]
fn what_was_warmed_and_went_again_is_not_called_pulled_and_the_first_of_the_list_stay() {
    let (fake, maker) = (Fake::start(), Gantry::new());
    for number in 0..4 {
        let digest = image(&maker, &format!("x:{number}"), &[(100 + number, 300_000)]);
        fake.hold(&maker.root, &digest, "team/x", &number.to_string());
    }
    let measured = store_of(&[&fake], "");
    let names = [0, 1, 2, 3].map(|number| fake.name(&format!("team/x:{number}")));
    measured.ok(["cache", "warm", &names[0], &names[1]]);
    let stats: Value = serde_json::from_str(&measured.ok(["cache", "stats", "--json"])).unwrap();
    // Two fit, and what is written about the others.
    let most = stats["physical"].as_u64().unwrap() + 200_000;
    let gantry = store_of(&[&fake], &format!("[cache]\nlow_water = 100\nmax_bytes = {most}\n"));
    let mut args = vec!["cache", "warm", "--jobs", "1"];
    args.extend(names.iter().map(String::as_str));
    let report = gantry.home.join("report.json");
    let done = gantry.gantry([&args[..], &["--report", report.to_str().unwrap()]].concat());
    says(
        &done,
        0,
        &[
            "2 pulled, 1 evicted for others of the list, 1 left out",
            "warning: 1 image of the list was evicted again, as together they are over max_bytes = ",
            &format!(
                "warning: 1 image of the list is left out: {}; the store may hold ",
                names[3]
            ),
        ],
    );
    assert!(done.stdout.contains("evicted"), "{}", done.stdout);
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let statuses: Vec<&str> = report["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["pulled", "pulled", "evicted", "left_out"]);
    assert_eq!(
        (&report["images"][2]["digest"], &report["status"]),
        (&Value::Null, &json!("ok"))
    );
    let listed = gantry.ok(["images", "ls", "-q"]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), [&names[0], &names[1]], "{listed}");
}

/// `cache warm NAMES` one by one: what it did, and what came of each.
fn warm(gantry: &Gantry, names: &[&String]) -> (Done, Vec<String>) {
    let mut args = vec!["cache", "warm", "--json", "--jobs", "1"];
    args.extend(names.iter().map(|name| name.as_str()));
    let done = gantry.gantry(args);
    let report: Value = serde_json::from_str(&done.stdout).unwrap_or(Value::Null);
    let images = report["images"].as_array().cloned().unwrap_or_default();
    let statuses = images.iter().map(|one| one["status"].as_str().unwrap().to_owned());
    (done, statuses.collect())
}

#[test]
fn nothing_of_the_list_goes_where_what_is_pinned_is_too_much_anyway() {
    let (fake, maker) = (Fake::start(), Gantry::new());
    for number in 0..5 {
        let size = if number == 0 { 2_000_000 } else { 300_000 };
        let digest = image(&maker, &format!("x:{number}"), &[(100 + number, size)]);
        fake.hold(&maker.root, &digest, "team/x", &number.to_string());
    }
    let names = [0, 1, 2, 3, 4].map(|number| fake.name(&format!("team/x:{number}")));
    let [pinned, one, two, three, four] = &names;
    let gantry = store_of(&[&fake], "");
    for name in [pinned, one, two] {
        gantry.ok(["pull", name]);
    }
    gantry.ok(["cache", "pin", pinned]);
    let file = gantry.home.join(".config/gantry/config.toml");
    let text = fs::read_to_string(&file).unwrap();
    configure(
        &gantry,
        &format!("{text}[cache]\nlow_water = 100\nmax_bytes = \"1M\"\n"),
    );
    let (done, statuses) = warm(&gantry, &[one, two, three, four]);
    assert_eq!(
        statuses,
        ["present", "present", "pulled", "left_out"],
        "{}",
        done.stderr
    );
    says(
        &done,
        0,
        &["(`max_bytes` under [cache]), and holds more: what is pinned, in use or on its way is too much"],
    );
    // Nothing came: what the store holds is not counted, and all are there.
    let (done, statuses) = warm(&gantry, &[one, two, three]);
    assert_eq!(statuses, ["present"; 3], "{}", done.stderr);
}

#[test]
fn what_cannot_be_counted_is_a_warning_of_a_warming_that_goes_on() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1", "b:1"]);
    limited(&gantry, "max_bytes = \"1G\"\n");
    for entry in fs::read_dir(gantry.root.join("snapshots")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let downloads = gantry.root.join("downloads");
    let mode = fs::metadata(&downloads).unwrap().permissions();
    fs::set_permissions(&downloads, fs::Permissions::from_mode(0o000)).unwrap();
    let (done, statuses) = warm(&gantry, &[&"a:1".to_owned(), &"b:1".to_owned()]);
    fs::set_permissions(&downloads, mode).unwrap();
    assert_eq!(
        statuses.first().map(String::as_str),
        Some("prepared"),
        "{}",
        done.stderr
    );
    assert_eq!(statuses.len(), 2, "{}", done.stderr);
    says(&done, 0, &["warning: the store may hold more than it is to: "]);
}

#[test]
fn a_time_and_a_count_of_one_are_singular() {
    let gantry = Gantry::new();
    for (since, said) in [
        ("60s", "in the last minute\n"),
        ("90s", "in the last 2 minutes\n"),
        ("1h", "in the last hour\n"),
        ("47h", "in the last 47 hours\n"),
        ("7d", "in the last 7 days\n"),
    ] {
        says(
            &gantry.gantry(["cache", "warm", "--top", "5", "--since", since]),
            0,
            &[said],
        );
    }
    tiny(&gantry, &["a:1"]);
    let checked = gantry.ok(["cache", "check"]);
    assert!(checked.ends_with(", 1 name, 1 image: nothing is wrong\n"), "{checked}");
    gantry.ok(["images", "rm", "a:1"]);
    let would = gantry.ok(["cache", "gc", "--dry-run"]);
    let done = gantry.ok(["cache", "gc"]);
    for (said, verb) in [(&would, "Would remove"), (&done, "Removed")] {
        assert!(said.starts_with(verb), "{said}");
        assert!(said.contains(": 3 blobs, 1 layer, 1 snapshot, 1 lease"), "{said}");
        assert!(!said.contains(" 0 "), "{said}");
    }
    gantry.ok(["cache", "gc"]);
    assert_eq!(gantry.ok(["cache", "gc"]), "There was no garbage\n");
    assert_eq!(gantry.ok(["cache", "gc", "--dry-run"]), "Would remove no garbage\n");
}

#[test]
fn what_is_read_into_memory_is_not_counted_before_a_run_has_told() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let done = gantry.gantry(["cache", "warm", "--resident", "a:1"]);
    says(
        &done,
        0,
        &["nothing is read into memory: which files an image needs at first is known when it has run"],
    );
    assert!(!done.stderr.contains("0 B"), "{}", done.stderr);
}

#[test]
fn a_limit_that_cannot_be_held_says_by_how_much_and_why() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1", "b:1"]);
    gantry.ok(["cache", "pin", "a:1", "b:1"]);
    limited(&gantry, "max_bytes = \"64K\"\nmax_images = 1\n");
    for (args, holds) in [(&["--dry-run"][..], "would hold"), (&[], "holds")] {
        let done = gantry.gantry([&["cache", "gc"], args].concat());
        says(
            &done,
            0,
            &[
                &format!("warning: the store {holds} "),
                " more than max_bytes = 64K (65.5 KB), and 2 images, 1 more than max_images = 1: 2 images are pinned; `gantry cache unpin IMAGE` lets one go, and `gantry cache stats` says what takes room\n",
            ],
        );
        assert!(done.stdout.contains("Kept a:1: pinned\n"), "{}", done.stdout);
    }
    assert!(gantry.ok(["cache", "stats"]).contains(" of 64K (65.5 KB)\n"));
    // What is left when all that builds remember is gone.
    let done = gantry.gantry(["cache", "gc", "--max-size", "1K"]);
    says(
        &done,
        0,
        &["more than 1K (1.0 KB): the rest belongs to images (`gantry images rm` removes some)\n"],
    );
    // A limit of the store would have that go first.
    let without = Gantry::new();
    tiny(&without, &["a:1"]);
    let tool = without.root.join("tools/uv-cache");
    fs::create_dir_all(&tool).unwrap();
    fs::write(tool.join("x"), [0; 5000]).unwrap();
    let done = without.gantry(["cache", "gc", "--max-size", "1K"]);
    says(&done, 0, &[" and programs that builds need (5.0 KB), which stay\n"]);
    let empty = Gantry::new();
    let done = empty.gantry(["cache", "gc", "--max-size", "1"]);
    assert!(!done.stderr.contains("images"), "{}", done.stderr);
}

#[test]
fn whoever_brings_an_image_is_told_that_the_store_stays_over_its_limit() {
    let gantry = Gantry::with_function("print(1)", "built:1");
    tiny(&gantry, &["pinned:1", "other:1"]);
    gantry.ok(["cache", "pin", "pinned:1"]);
    let archive = gantry.home.join("other.tar");
    gantry.ok(["save", "other:1", archive.to_str().unwrap()]);
    limited(&gantry, "max_bytes = \"64K\"\nmax_images = 1\n");
    let over = [
        "warning: the store holds ",
        " more than max_bytes = 64K (65.5 KB), and 2 images, 1 more than max_images = 1: 1 image is pinned, the image that came stays; `gantry cache unpin IMAGE` lets one go",
    ];
    let load = ["load", archive.to_str().unwrap()];
    let copy = ["copy", &format!("oci-archive:{}", archive.display()), "copied:1"];
    let pull = [
        "pull",
        &format!("oci-archive:{}", archive.display()),
        "--tag",
        "pulled:1",
    ];
    for args in [&load[..], &copy, &pull] {
        let done = gantry.gantry(args);
        says(&done, 0, &over);
        assert_eq!(done.stderr.matches("more than max_bytes").count(), 1, "{}", done.stderr);
    }
    let (function, report) = (function("print(2)", None), gantry.home.join("report.json"));
    let build = [
        "build",
        function.path().to_str().unwrap(),
        "--tag",
        "built:2",
        "--report",
    ];
    let done = gantry.gantry([&build[..], &[report.to_str().unwrap()]].concat());
    says(&done, 0, &over);
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let warnings: Vec<&str> = report["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        matches!(warnings[..], [told] if format!("warning: {told}").starts_with(over[0]) && told.contains(over[1])),
        "{warnings:?}"
    );
    // It is not the matter of a run, nor of who keeps the limits.
    assert!(!gantry.run(&["built:2"]).stderr.contains("max_bytes"));
    limited(&gantry, "max_bytes = \"2GB\"\nmax_images = 9\n");
    assert!(!gantry.gantry(load).stderr.contains("more than"));
}

#[test]
fn a_number_of_the_configuration_that_is_none_names_its_key_and_an_example() {
    let gantry = Gantry::new();
    let percent = "expected cache.low_water to be a whole number of percent from 1 to 100, such as 90, not the number ";
    let images = "expected cache.max_images to be a whole number from 1 on, such as 200, not ";
    let bytes = "expected cache.max_bytes to be a size of at least 64K, such as \"40GB\", not ";
    for (text, said) in [
        ("low_water = 0", format!("{percent}0")),
        ("low_water = 101", format!("{percent}101")),
        ("low_water = 1e3", format!("{percent}1000.0")),
        ("max_images = 0", format!("{images}the number 0")),
        ("max_images = -1", format!("{images}the number -1")),
        ("max_images = \"many\"", format!("{images}the text \"many\"")),
        ("max_images = 99999999999", format!("{images}the number 99999999999")),
        ("max_bytes = -1", format!("{bytes}the number -1")),
        ("max_bytes = 1.5", format!("{bytes}the number 1.5")),
        ("max_bytes = \"1K\"", format!("{bytes}the text \"1K\"")),
        ("max_bytes = \"all\"", format!("{bytes}the text \"all\"")),
        ("max_bytes = [1]", format!("{bytes}a list")),
    ] {
        limited(&gantry, &format!("{text}\n"));
        let refused = gantry.gantry(["cache", "stats"]);
        says(&refused, 2, &[&said, &format!("2 | {text}"), "line 2, column "]);
    }
}

#[test]
fn an_inventory_says_what_the_configuration_lacks_to_name_its_images() {
    let gantry = Gantry::new();
    let at = gantry.home.join("inventory.json");
    let now = crate::common::tool(std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]));
    let digest = format!("sha256:{}", "a".repeat(64));
    let function = json!({"id": "1", "user": "u1", "active": digest, "last_executed": now.trim()});
    let document = json!({"schema": 1, "as_of": now.trim(), "count": 1, "functions": [function]});
    fs::write(&at, document.to_string()).unwrap();
    let warm = || gantry.gantry(["cache", "warm", "--inventory", at.to_str().unwrap()]);
    says(
        &warm(),
        1,
        &[
            "name a function: its registry",
            "hint: `registry` under [naming] of the configuration",
        ],
    );
    configure(&gantry, "[naming]\nregistry = \"registry.example.org\"\n");
    says(
        &warm(),
        1,
        &[
            "its namespace",
            "hint: `namespace` under [naming] of the configuration says it, such as namespace = \"mecapy\"",
        ],
    );
}

#[test]
fn a_quiet_command_says_nothing_or_names_alone() {
    let (fake, gantry, digests) = with_images(1, "");
    let name = fake.name("team/x:0");
    let pulled = gantry.gantry(["-q", "pull", &name]);
    assert_eq!((pulled.stdout.trim(), pulled.stderr.as_str()), (&*digests[0], ""));
    let silent = |args: &[&str]| {
        let done = gantry.gantry(args);
        assert_eq!((done.code, &*done.stdout, &*done.stderr), (0, "", ""), "{args:?}");
    };
    silent(&["cache", "warm", "-q", &name]);
    silent(&["cache", "gc", "-q"]);
    silent(&["cache", "warm", "-q", "--top", "5", "--since", "1m"]);
    assert_eq!(gantry.ok(["cache", "ls", "-q"]), format!("{name}\n"));
    // A name a line, as `xargs` takes them.
    gantry.ok(["copy", &name, "other:1"]);
    let listed = gantry.ok(["cache", "ls", "-q"]);
    assert_eq!(
        listed.lines().collect::<std::collections::BTreeSet<_>>(),
        [name.as_str(), "other:1"].into()
    );
    gantry.ok(["images", "rm", "other:1"]);
    let pinned = gantry.gantry(["-q", "cache", "pin", &name]);
    assert_eq!((pinned.stdout.trim(), &*pinned.stderr), (&*digests[0], ""));
    gantry.ok(["images", "rm", &name]);
    assert_eq!(gantry.ok(["cache", "ls", "-q"]), format!("{}\n", digests[0]));
    // Data is data.
    assert!(gantry.ok(["cache", "gc", "-q", "--json"]).starts_with('{'));
}

#[test]
fn pins_are_data_for_programs() {
    let gantry = Gantry::new();
    let digests = tiny(&gantry, &["a:1", "b:1"]);
    let pins = |args: &[&str]| -> Value { serde_json::from_str(&gantry.ok([&["cache"], args].concat())).unwrap() };
    let one = |name: &str, digest: &str, is_new: bool| json!({"reference": name, "digest": digest, "is_new": is_new});
    assert_eq!(pins(&["pin", "--json", "a:1"]), json!([one("a:1", &digests[0], true)]));
    assert_eq!(
        pins(&["pin", "a:1", "b:1", "--format", "json"]),
        json!([one("a:1", &digests[0], false), one("b:1", &digests[1], true)])
    );
    assert_eq!(
        pins(&["unpin", "a:1", "--json"]),
        json!([one("a:1", &digests[0], true)])
    );
}

#[test]
fn what_builds_remember_goes_in_one_line_and_in_each_for_who_wants_to_know() {
    let gantry = Gantry::new();
    let store = gantry::store::Store::open(&gantry.root).unwrap();
    drop(store);
    let downloads = gantry.root.join("downloads");
    for number in 0..20 {
        fs::write(downloads.join(format!("{number:064x}")), [0; 8192]).unwrap();
    }
    limited(&gantry, "max_bytes = \"64K\"\nlow_water = 1\n");
    let would = |args: &[&str]| gantry.ok([&["cache", "gc", "--dry-run"], args].concat());
    let lines = |text: &str| text.lines().filter(|line| line.starts_with("Would evict")).count();
    let short = would(&[]);
    assert!(
        short.starts_with("Would evict 20 things kept for later builds, 163.8 KB\n"),
        "{short}"
    );
    assert_eq!((lines(&short), lines(&would(&["-v"]))), (1, 20));
}

fn blob(gantry: &Gantry, digest: &str) -> PathBuf {
    gantry.root.join("blobs/sha256").join(&digest[7..])
}

#[test]
fn an_image_that_lost_a_blob_says_what_brings_it_back() {
    let (fake, gantry, digests) = with_images(1, "");
    let digest = image(&gantry, "own:1", &[(1, 1000)]);
    let lost = layers(&gantry, &digest)[0].0.clone();
    fs::remove_file(blob(&gantry, &lost)).unwrap();
    let hint = ["hint: `gantry cache check --repair` fetches again what a registry has; an image that none has is to be built or loaded again"];
    says(&gantry.gantry(["push", "own:1", &fake.name("team/own:1")]), 1, &hint);
    says(
        &gantry.gantry(["save", "own:1", gantry.home.join("x.tar").to_str().unwrap()]),
        1,
        &hint,
    );
    // And it does.
    let name = fake.name("team/x:0");
    gantry.ok(["pull", &name]);
    gantry.ok(["images", "rm", "own:1"]);
    let lost = layers(&gantry, &digests[0])[0].0.clone();
    fs::remove_file(blob(&gantry, &lost)).unwrap();
    let out = gantry.home.join("y.tar");
    says(&gantry.gantry(["save", &name, out.to_str().unwrap()]), 1, &hint);
    gantry.ok(["cache", "check", "--repair"]);
    gantry.ok(["save", &name, out.to_str().unwrap()]);
}

#[test]
fn one_fault_is_told_once_with_what_comes_of_it_below() {
    let gantry = Gantry::new();
    let shared = (1, 3000);
    let digests: Vec<String> = (0..3)
        .map(|number| image(&gantry, &format!("x:{number}"), &[shared, (10 + number, 100)]))
        .collect();
    let lost = layers(&gantry, &digests[0])[0].0.clone();
    fs::remove_file(blob(&gantry, &lost)).unwrap();
    let done = gantry.gantry(["cache", "check"]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(done.code, 1);
    let part = format!("blobs/sha256/{}", &lost[7..]);
    assert_eq!(
        lines[0],
        format!("{part} is missing, which is why all of this is wrong:")
    );
    assert!(
        lines[1..4].iter().all(|line| line.starts_with("  image sha256:")),
        "{}",
        done.stdout
    );
    assert!(lines[4].ends_with(": 3 wrong of 1 cause"), "{}", done.stdout);
    assert_eq!(lines.len(), 5);
    assert_eq!(
        done.stdout.matches("gantry images rm").count(),
        3,
        "each has its own way back"
    );
}
