//! `gantry cache warm`: images are there before somebody waits for them, by lists, by use, and by the platform's inventory.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::{json, Value};

use super::fake::{Fake, Reply, Seen};
use super::images::{image, layers, store_of};
use crate::common::port::ClosedPort;
use crate::common::{done, journal, tiny, Done, Gantry};

/// A registry with `count` images `team/x:N`, an empty store that knows it, and their digests.
fn with_images(count: usize) -> (Fake, Gantry, Vec<String>) {
    let (fake, maker) = (Fake::start(), Gantry::new());
    let digests: Vec<String> = (0..count)
        .map(|number| {
            let digest = image(
                &maker,
                &format!("x:{number}"),
                &[(1, 3000), (100 + number as u64, 5000)],
            );
            fake.hold(&maker.root, &digest, "team/x", &number.to_string());
            digest
        })
        .collect();
    let gantry = store_of(&[&fake], "");
    gantry.ok(["images", "ls"]);
    (fake, gantry, digests)
}

fn name(fake: &Fake, number: usize) -> String {
    fake.name(&format!("team/x:{number}"))
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Appends a run of `reference` to the journal, in the file of any day.
fn used(gantry: &Gantry, reference: &str, digest: &str, at: u64, times: usize) {
    let line = json!({"at": at, "kind": "run", "reference": reference, "digest": digest, "status": "ok", "ms": 20, "cache": "hit"});
    // `at` comes first, as gantry writes it.
    let line = format!(
        "{{\"at\":{at},{}",
        &line.to_string()[1..].replace(&format!("\"at\":{at},"), "")
    ) + "\n";
    let file = gantry.root.join(format!("journal/{}.jsonl", at / 86_400));
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    file.write_all(line.repeat(times).as_bytes()).unwrap();
}

/// Warms, and returns the report that `--json` prints.
fn warm(gantry: &Gantry, args: &[&str]) -> (Done, Value) {
    let done = gantry.gantry([&["cache", "warm", "--json"], args].concat());
    let report = serde_json::from_str(&done.stdout).unwrap_or(Value::Null);
    (done, report)
}

fn statuses(report: &Value) -> Vec<(&str, &str)> {
    let images = report["images"].as_array().unwrap().iter();
    images
        .map(|one| (one["reference"].as_str().unwrap(), one["status"].as_str().unwrap()))
        .collect()
}

#[test]
fn the_most_used_come_first_and_five_at_once() {
    let (fake, gantry, digests) = with_images(8);
    // The most used one has the highest number.
    for (number, digest) in digests.iter().enumerate() {
        used(&gantry, &name(&fake, number), digest, now() - 60, number + 1);
    }
    let is_for = |seen: &Seen| seen.path.contains("/manifests/");
    let gate = fake.gate_for(5, is_for);
    let (done, report) = warm(&gantry, &["--top", "7", "--since", "7d"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(gate.most(), 5);
    let wanted: Vec<String> = (1..8).rev().map(|number| name(&fake, number)).collect();
    let wanted: Vec<(&str, &str)> = wanted.iter().map(|name| (name.as_str(), "pulled")).collect();
    assert_eq!(statuses(&report), wanted);
    assert_eq!(
        (&report["images"][0]["uses"], &report["images"][0]["digest"]),
        (&json!(8), &json!(digests[7]))
    );
    assert_eq!(
        (&report["schema"], &report["status"], &report["exit_code"]),
        (&json!(1), &json!("ok"), &json!(0))
    );
    // None of the others was begun before the first five were.
    let asked = fake.seen().into_iter().filter(is_for).take(5);
    let mut first: Vec<String> = asked
        .map(|seen| seen.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    first.sort();
    assert_eq!(first, ["3", "4", "5", "6", "7"]);
    assert!(
        done.stderr.contains("Pulling") && done.stderr.contains("7 pulled"),
        "{}",
        done.stderr
    );
    // What they share came once.
    let shared = &layers_of_first(&fake, &digests)[0];
    assert_eq!(fake.count("GET", shared), 1);

    // All of it is there, and that is found out without a question to anybody.
    let before = fake.seen().len();
    let (done, report) = warm(&gantry, &["--top", "7"]);
    assert_eq!((done.code, fake.seen().len()), (0, before));
    assert!(statuses(&report).iter().all(|(_, status)| *status == "present"));
    // To warm is not to use: the order stays, and so does the hit rate.
    let pulls: Vec<Value> = journal(&gantry)
        .into_iter()
        .filter(|line| line["kind"] == "pull")
        .collect();
    assert_eq!(pulls.len(), 7);
    for pull in &pulls {
        assert_eq!(
            (&pull["purpose"], &pull["cache"], &pull["status"]),
            (&json!("warm"), &json!("miss"), &json!("ok"))
        );
        assert_eq!(
            (&pull["registry"], pull["bytes"].as_u64() > Some(5000)),
            (&json!(fake.host), true),
            "{pull}"
        );
    }
    assert_eq!(report["images"][0]["uses"], json!(8));
}

/// The layers of the first image, as the registry has them.
fn layers_of_first(fake: &Fake, digests: &[String]) -> Vec<String> {
    let raw = fake.state.manifests.lock().unwrap()[&("team/x".to_owned(), digests[0].clone())]
        .1
        .clone();
    let manifest: Value = serde_json::from_slice(&raw).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn one_that_fails_stops_no_other_and_says_what_sort_of_failure_it_was() {
    let (fake, gantry, digests) = with_images(4);
    tiny(&gantry, &["own:1"]);
    let unknown = fake.name("team/x:none");
    let refused = name(&fake, 2);
    fake.rule(|seen, _| seen.path.contains("/manifests/2").then(|| Reply::new(403, "")));
    let report = gantry.home.join("report.json");
    let (first, last) = (name(&fake, 0), name(&fake, 3));
    let args = [
        &*first,
        &unknown,
        &refused,
        "own:1",
        "typo:1",
        &last,
        &first,
        "--report",
        report.to_str().unwrap(),
    ];
    let (done, printed) = warm(&gantry, &args);
    let written: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(written, printed);
    assert_eq!(
        (done.code, &written["status"], &written["exit_code"]),
        (1, &json!("failed"), &json!(1))
    );
    let wanted = [
        (&*first, "pulled"),
        (&*unknown, "failed"),
        (&*refused, "failed"),
        ("own:1", "present"),
        ("typo:1", "failed"),
        (&*last, "pulled"),
    ];
    assert_eq!(statuses(&written), wanted);
    assert_eq!(written["images"][1]["attempts"][0]["reason"], "not_found");
    assert!(written["images"][4]["error"]
        .as_str()
        .unwrap()
        .contains("no such image"));
    for (at, code) in [(0, 0), (1, 1), (2, 1), (4, 1)] {
        assert_eq!(written["images"][at]["exit_code"], json!(code));
    }
    assert!(
        done.stderr.contains("error: warm typo:1") && done.stderr.contains("2 pulled, 1 there already, 3 failed"),
        "{}",
        done.stderr
    );
    assert!(gantry.ok(["images", "ls"]).contains(&digests[3][7..19]));

    // A registry that is away: another try may help.
    drop(fake);
    let closed = ClosedPort::new();
    let (done, report) = warm(&gantry, &[&format!("{}/team/x:1", closed.host), &last, "--no-failover"]);
    assert_eq!(
        (done.code, &report["status"]),
        (4, &json!("unavailable")),
        "{}",
        done.stderr
    );
    assert_eq!(
        (&report["images"][0]["is_retryable"], &report["images"][0]["exit_code"]),
        (&json!(true), &json!(4))
    );
    assert_eq!(report["images"][1]["status"], "present");
}

#[test]
fn a_list_comes_from_a_file_or_from_standard_input() {
    let (fake, gantry, _) = with_images(3);
    let file = gantry.home.join("list");
    let path = file.to_str().unwrap();
    fs::write(
        &file,
        format!("# ours\n{} # the first\n\n{}\n", name(&fake, 0), name(&fake, 1)),
    )
    .unwrap();
    let (done, report) = warm(&gantry, &["--from", path, "--jobs", "1"]);
    assert_eq!((done.code, statuses(&report).len()), (0, 2), "{}", done.stderr);
    let mut command = gantry.command();
    command.args(["cache", "warm", "--from", "-"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let all = format!("{}\n{}\n", name(&fake, 1), name(&fake, 2));
    child.stdin.take().unwrap().write_all(all.as_bytes()).unwrap();
    let printed = done_of(child);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    assert!(
        printed.stdout.contains("present") && printed.stdout.contains("pulled"),
        "{}",
        printed.stdout
    );

    // Nothing is begun when a line cannot be meant, and the line is named.
    let before = fake.seen().len();
    for (text, says) in [
        ("a.example/x:1\na.example/X:1\n", "line 2"),
        ("a:1 b:1\n", "one image and no more"),
        ("oci:/tmp/x:1\n", "gantry pull"),
    ] {
        fs::write(&file, text).unwrap();
        let (done, _) = warm(&gantry, &["--from", path]);
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
    fs::write(&file, "a:1 # \u{1b}[31m\n".repeat(400_000)).unwrap();
    assert_eq!(warm(&gantry, &["--from", path]).0.code, 1);
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert_eq!(warm(&gantry, &["--from", path]).0.code, 1);
    assert_eq!(warm(&gantry, &["--from", "/none"]).0.code, 1);
    for nothing in ["", "\n# none\n"] {
        fs::write(&file, nothing).unwrap();
        let (done, report) = warm(&gantry, &["--from", path]);
        assert_eq!((done.code, &report["status"]), (0, &json!("ok")));
        assert!(
            done.stderr.contains("Nothing to warm: the list is empty"),
            "{}",
            done.stderr
        );
    }
    for args in [
        &[][..],
        &["--since", "1d", "a:1"],
        &["--top", "0"],
        &["--top", "3", "a:1"],
        &["--jobs", "0", "a:1"],
        &["--since", "1d"],
    ] {
        assert_eq!(warm(&gantry, args).0.code, 2, "{args:?}");
    }
    assert_eq!(fake.seen().len(), before);
}

fn done_of(child: std::process::Child) -> Done {
    done(child.wait_with_output().unwrap())
}

#[test]
fn a_store_without_a_journal_has_nothing_to_warm_and_the_day_after_it_has() {
    let (fake, gantry, digests) = with_images(2);
    let (done, report) = warm(&gantry, &["--top", "50", "--since", "7d"]);
    assert_eq!((done.code, &report["images"]), (0, &json!([])));
    assert!(
        done.stderr
            .contains("Nothing to warm: the journal has no image that was used in the last 7 days"),
        "{}",
        done.stderr
    );
    // A store of an older gantry has no such directory.
    fs::remove_dir_all(gantry.root.join("journal")).unwrap();
    assert_eq!(warm(&gantry, &["--top", "50"]).0.code, 0);
    fs::create_dir(gantry.root.join("journal")).unwrap();

    let day = 86_400;
    used(&gantry, &name(&fake, 0), &digests[0], now() - day - 60, 2);
    used(&gantry, &name(&fake, 1), &digests[1], now() - 8 * day, 9);
    // One of this store alone that is gone is no failure: nobody can bring it.
    used(&gantry, "own:1", &digests[1], now() - day - 60, 5);
    let (done, report) = warm(&gantry, &["--top", "50", "--since", "12h"]);
    assert_eq!((done.code, statuses(&report).len()), (0, 0));
    let (done, report) = warm(&gantry, &["--top", "50"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(statuses(&report), [("own:1", "skipped"), (&*name(&fake, 0), "pulled")]);
    assert!(done.stderr.contains("1 pulled, 1 gone"), "{}", done.stderr);
    let (_, report) = warm(&gantry, &["--top", "1", "--since", "30d"]);
    assert_eq!(statuses(&report), [("own:1", "skipped")]);
    // Rotation takes files that are read already; the counts stay as long as they should.
    gantry.ok(["cache", "gc"]);
    let (_, report) = warm(&gantry, &["--top", "50"]);
    assert_eq!(statuses(&report).len(), 2);
}

#[test]
fn the_inventory_of_the_platform_says_what_is_active() {
    let (fake, maker) = (Fake::start(), Gantry::new());
    let repository = |id: &str| format!("mecapy/functions/user-u1-func-{id}");
    let mut digests = Vec::new();
    for (seed, id) in [(1, "10"), (2, "11"), (3, "12")] {
        let digest = image(&maker, &format!("x:{id}"), &[(seed, 4000)]);
        fake.hold(&maker.root, &digest, &repository(id), "v1");
        digests.push(digest);
    }
    let gantry = store_of(&[&fake], "[naming]\nnamespace = \"mecapy\"\n");
    let at = |ago: u64| rfc3339(now() - ago);
    let function = |id: &str, digest: &str, ago: u64| json!({"id": id, "user": "u1", "deleted": false, "active": digest, "versions": ["1.0.0"], "last_executed": at(ago), "source": {"dir": "x"}});
    let functions = [
        function("10", &digests[0], 7200),
        function("11", &digests[1], 60),
        function("12", &digests[2], 20 * 86_400),
        json!({"id": "13", "user": "u1", "deleted": true}),
    ];
    let document =
        |as_of: String, count: usize| json!({"schema": 1, "as_of": as_of, "count": count, "functions": functions});
    let file = gantry.home.join("inventory.json");
    let path = file.to_str().unwrap();
    let write = |value: Value| fs::write(&file, value.to_string()).unwrap();
    write(document(at(3600), 4));
    let (done, report) = warm(&gantry, &["--inventory", path, "--top", "50", "--since", "7d"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let name = |at: usize, id: &str| fake.name(&format!("{}@{}", repository(id), digests[at]));
    assert_eq!(
        statuses(&report),
        [(&*name(1, "11"), "pulled"), (&*name(0, "10"), "pulled")]
    );
    let before = fake.seen().len();
    let (_, report) = warm(&gantry, &["--inventory", path, "--top", "1"]);
    assert_eq!(
        (statuses(&report), fake.seen().len()),
        (vec![(&*name(1, "11"), "present")], before)
    );

    // What is cut, stale or not understood is no inventory, and nothing is begun.
    let whole = document(at(3600), 4).to_string();
    for (text, says) in [
        (whole[..whole.len() / 2].to_owned(), "no inventory"),
        (
            document(at(3600), 5).to_string(),
            "says that there are 5 functions, and has 4",
        ),
        (document(at(25 * 3600), 4).to_string(), "more than 24 hours ago"),
        (whole.replace("\"user\"", "\"owner\""), "unknown field"),
        (String::new(), "no inventory"),
    ] {
        fs::write(&file, text).unwrap();
        let (done, _) = warm(&gantry, &["--inventory", path]);
        assert_eq!(done.code, 1, "{}", done.stderr);
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
    assert_eq!(fake.seen().len(), before);
}

fn rfc3339(at: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    let date = crate::common::tool(std::process::Command::new("date").args([
        "-u",
        "-d",
        &format!("@{}", time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()),
        "+%Y-%m-%dT%H:%M:%SZ",
    ]));
    date.trim().to_owned()
}

#[test]
fn pulls_pushes_and_failing_over_are_in_the_journal_with_whom_and_how_much() {
    let (one, two, maker) = (Fake::start(), Fake::start(), Gantry::new());
    let digest = image(&maker, "x:1", &[(1, 40_000)]);
    for fake in [&one, &two] {
        fake.hold(&maker.root, &digest, "mecapy/functions/f", "1");
    }
    let bytes: u64 = layers(&maker, &digest).iter().map(|(_, size)| size).sum();
    let gantry = store_of(&[&one, &two], "");
    let name = one.name("mecapy/functions/f:1");
    one.rule(|seen, _| seen.is("GET", "/manifests/").then(|| Reply::new(503, "")));
    one.rule(|seen, _| seen.is("HEAD", "/manifests/").then(|| Reply::new(503, "")));
    gantry.ok(["pull", &name]);
    gantry.ok(["pull", &name]);
    tiny(&gantry, &["own:1"]);
    gantry.ok(["push", "own:1", &two.name("mecapy/functions/g:1")]);
    let failed = gantry.gantry(["pull", "--no-failover", &one.name("mecapy/base/python:1")]);
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    gantry.ok(["images", "rm", &name]);
    let lines = journal(&gantry);
    let of = |kind: &str| -> Vec<&Value> { lines.iter().filter(|line| line["kind"] == kind).collect() };
    let (pulls, pushes, failovers, deleted) = (of("pull"), of("push"), of("failover"), of("delete"));
    assert_eq!((pulls.len(), pushes.len(), deleted.len()), (3, 1, 1));
    let common = |line: &Value| {
        (
            line["registry"].clone(),
            line["image_type"].clone(),
            line["cache"].clone(),
        )
    };
    assert_eq!(common(pulls[0]), (json!(two.host), json!("function"), json!("miss")));
    assert!(pulls[0]["bytes"].as_u64().unwrap() > bytes, "{}", pulls[0]);
    assert_eq!(
        (common(pulls[1]), &pulls[1]["bytes"]),
        ((json!(two.host), json!("function"), json!("hit")), &Value::Null)
    );
    assert_eq!(common(pulls[2]), (json!(one.host), json!("base"), Value::Null));
    assert_eq!(
        (&pulls[2]["error_type"], &pulls[2]["digest"]),
        (&json!("server_error"), &Value::Null)
    );
    assert!(pushes[0]["bytes"].as_u64().unwrap() > 100, "{}", pushes[0]);
    assert!(!failovers.is_empty());
    assert_eq!(
        (
            &failovers[0]["from"],
            &failovers[0]["registry"],
            &failovers[0]["error_type"]
        ),
        (&json!(one.host), &json!(two.host), &json!("server_error"))
    );
    assert_eq!(
        (&deleted[0]["reference"], &deleted[0]["digest"]),
        (&json!(name), &json!(digest))
    );
    // What failed found nothing and missed nothing; what was pushed was nobody's wish to have it.
    let stats: Value = serde_json::from_str(&gantry.ok(["cache", "stats", "--json"])).unwrap();
    for time in ["day", "week"] {
        assert_eq!(
            stats["hit_rate"][time],
            json!({"hits": 1, "misses": 1, "share": 0.5}),
            "{stats}"
        );
    }
    let told = gantry.ok(["cache", "stats"]);
    assert!(
        told.contains("hits         50 % of 2 in the last day, 50 % of 2 in the last 7 days\n"),
        "{told}"
    );
}

#[test]
fn more_than_the_store_may_keep_are_not_begun_and_the_most_used_stay() {
    let (fake, gantry, digests) = with_images(7);
    let text = fs::read_to_string(gantry.home.join(".config/gantry/config.toml")).unwrap();
    super::images::configure(&gantry, &format!("{text}[cache]\nmax_images = 4\n"));
    // One that is pinned stays whatever comes; one that can be fetched again goes.
    tiny(&gantry, &["pinned:1"]);
    let (maker, old) = (Gantry::new(), fake.name("team/old:1"));
    let digest = image(&maker, "old:1", &[(50, 1000)]);
    fake.hold(&maker.root, &digest, "team/old", "1");
    gantry.ok(["pull", &old]);
    gantry.ok(["cache", "pin", "pinned:1"]);
    for (number, digest) in digests.iter().enumerate() {
        used(&gantry, &name(&fake, number), digest, now() - 60, number + 2);
    }
    // The second of them is gone, and leaves its place to the next one.
    fake.rule(|seen, _| seen.path.contains("/manifests/5").then(|| Reply::new(404, "")));
    let (done, report) = warm(&gantry, &["--top", "7"]);
    let wanted: Vec<String> = (0..7).rev().map(|number| name(&fake, number)).collect();
    let states = [
        "pulled", "failed", "pulled", "pulled", "left_out", "left_out", "left_out",
    ];
    let wanted: Vec<(&str, &str)> = wanted.iter().map(String::as_str).zip(states).collect();
    assert_eq!(statuses(&report), wanted, "{}", done.stderr);
    let why = report["images"][4]["error"].as_str().unwrap();
    assert!(
        why.contains("max_images = 4") && why.contains("1 more that stays"),
        "{why}"
    );
    assert_eq!(report["images"][4]["exit_code"], json!(0));
    assert!(
        done.stderr.contains("3 left out") && done.stderr.contains("warning: 3 images of the list are left out: "),
        "{}",
        done.stderr
    );
    let listed = gantry.ok(["images", "ls", "-q"]);
    let there: Vec<bool> = (0..7).map(|number| listed.contains(&name(&fake, number))).collect();
    assert_eq!(there, [false, false, false, true, true, false, true], "{listed}");
    assert!(listed.contains("pinned:1") && !listed.contains(&old), "{listed}");
    for digest in digests.iter().take(3) {
        assert_eq!(fake.count("GET", digest), 0);
    }
    // Again: the same, and nobody is asked but for the one that failed.
    let (done, report) = warm(&gantry, &["--top", "7"]);
    let states: Vec<&str> = statuses(&report).into_iter().map(|(_, status)| status).collect();
    let wanted = [
        "present", "failed", "present", "present", "left_out", "left_out", "left_out",
    ];
    assert_eq!(states, wanted, "{}", done.stderr);
}
