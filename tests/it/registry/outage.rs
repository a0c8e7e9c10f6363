//! What is done about an outage that lasts, and about registries that take only so much: the registry that is preferred,
//! connections and pulls that all processes of a store share, and who was asked when nobody had it.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use super::fake::{Fake, Reply, Then};
use super::images::{configure, image, partials, store_of, PATIENT};
use crate::common::wait::{eventually, is_so, send};
use crate::common::{done, journal, Gantry, DEGRADED};

/// Two registries with one image under `team/a:1`, and its digest.
fn pair() -> (Fake, Fake, Gantry, String) {
    let (one, two, source) = (Fake::start(), Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 20_000), (2, 30_000)]);
    for fake in [&one, &two] {
        fake.hold(&source.root, &digest, "team/a", "1");
    }
    (one, two, source, digest)
}

fn entry(fake: &Fake, more: &str) -> String {
    format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n{more}\n", fake.host)
}

fn report(gantry: &Gantry) -> Value {
    serde_json::from_slice(&fs::read(gantry.home.join("report.json")).unwrap()).unwrap()
}

#[test]
fn a_report_of_a_failure_says_who_was_asked() {
    let (one, two, ..) = pair();
    let gantry = store_of(&[&one, &two], "");
    image(&gantry, "b:1", &[(5, 1000)]);
    let place = gantry.home.join("report.json");
    for fake in [&one, &two] {
        fake.rule(|_, _| Some(Reply::new(503, "").with("Retry-After", "3600")));
    }
    let name = one.name("team/a:1");
    let asked = |args: &[&str], hosts: &[&Fake]| {
        let done = gantry.gantry(args.iter().chain(&["--report", place.to_str().unwrap()]));
        let report = report(&gantry);
        assert_eq!(
            (done.code, &report["status"]),
            (4, &"unavailable".into()),
            "{}",
            done.stderr
        );
        let attempts = report["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), hosts.len(), "{report}");
        for (attempt, fake) in attempts.iter().zip(hosts) {
            assert_eq!(
                (&attempt["registry"], &attempt["status"], &attempt["reason"]),
                (&fake.host.as_str().into(), &"failed".into(), &"server_error".into())
            );
            assert!(attempt["error"].as_str().unwrap().contains("503") && attempt["ms"].as_f64().is_some());
        }
    };
    asked(&["pull", &name], &[&one, &two]);
    asked(&["push", "b:1", &two.name("team/b:1")], &[&two]);
    asked(&["copy", &name, &two.name("team/c:1")], &[&one]);
    let (_, outcome) = gantry.run_with_outcome(&[&name]);
    assert_eq!(outcome["code"], "registry_unavailable");
    assert_eq!(outcome["attempts"].as_array().unwrap().len(), 2, "{outcome}");
    // A failure that has nothing to do with a registry has no list of them.
    gantry.gantry(["build", "/nonexistent", "--report", place.to_str().unwrap()]);
    assert!(report(&gantry).get("attempts").is_none());
}

#[test]
fn a_registry_that_is_preferred_is_asked_first_and_pushed_to_alone() {
    let (one, two, source, digest) = pair();
    let gantry = store_of(&[&one, &two], "");
    let on = gantry.gantry(["registries", "prefer", &two.host, "--for", "24h"]);
    assert_eq!(on.code, 0, "{}", on.stderr);
    assert!(
        on.stderr.contains(&format!("{} is preferred until", two.host)),
        "{}",
        on.stderr
    );
    let known: Value = serde_json::from_str(&gantry.ok(["registries", "--json"])).unwrap();
    assert_eq!(
        (&known[0]["host"], &known[0]["is_preferred"], &known[1]["is_preferred"]),
        (&two.host.as_str().into(), &true.into(), &false.into())
    );
    let left = known[0]["preferred_until"].as_u64().unwrap() - journal(&gantry)[0]["at"].as_u64().unwrap();
    assert!((86_390..=86_400).contains(&left), "{left}");
    assert!(gantry.ok(["registries"]).contains("preferred until 20"));

    // Pulled by the name of the one, from the other; a push by its name goes to the other.
    let name = one.name("team/a:1");
    assert_eq!(gantry.ok(["pull", &name]).trim(), digest);
    assert!(one.seen().is_empty());
    let pushed = gantry.gantry(["push", &name, &one.name("team/new:1")]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    assert!(pushed.stderr.contains(&two.name("team/new:1")), "{}", pushed.stderr);
    assert_eq!(two.digest_of("team/new", "1"), Some(digest.clone()));
    assert!(one.seen().is_empty());
    // What is copied goes where it is said to go, and `--no-failover` means the one that is named.
    gantry.ok(["copy", &two.name("team/new:1"), &one.name("team/new:1")]);
    assert_eq!(one.digest_of("team/new", "1"), Some(digest.clone()));
    let before = two.seen().len();
    gantry.ok(["pull", "--no-failover", &name]);
    assert_eq!(two.seen().len(), before);

    // The journal has all of it: when it began and ended, and where the image really went.
    gantry.ok(["registries", "prefer", "--off"]);
    let kinds: Vec<(String, String)> = journal(&gantry)
        .iter()
        .map(|event| (&event["kind"], &event["status"], &event["reference"]))
        .map(|(kind, status, of)| {
            (
                format!("{} {}", kind.as_str().unwrap(), status.as_str().unwrap()),
                of.as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert_eq!(kinds[0], ("prefer on".to_owned(), two.host.clone()));
    assert!(
        kinds.contains(&("push ok".to_owned(), two.name("team/new:1"))),
        "{kinds:?}"
    );
    assert_eq!(kinds.last(), Some(&("prefer off".to_owned(), two.host.clone())));
    gantry.ok(["push", &name, &one.name("team/last:1")]);
    assert_eq!(
        (one.digest_of("team/last", "1"), two.digest_of("team/last", "1")),
        (Some(digest), None)
    );
    drop(source);
}

#[test]
fn a_note_of_who_is_preferred_that_is_broken_counts_for_nothing() {
    let (one, two, _, digest) = pair();
    let gantry = store_of(&[&one, &two], "");
    gantry.ok(["registries", "prefer", &two.host, "--for", "1h"]);
    let note = gantry.root.join("registries/_preferred.json");
    for text in [
        "",
        "{\"schema\":1,\"host\":\"evil.example\",\"since\":1,\"until\":99999999999}",
        "\u{1b}[31m",
    ] {
        fs::write(&note, text).unwrap();
        let done = gantry.gantry(["pull", &one.name("team/a:1")]);
        assert_eq!((done.code, done.stdout.trim()), (0, digest.as_str()), "{}", done.stderr);
        assert!(
            done.stderr.contains("warning: ")
                && done.stderr.contains("_preferred.json")
                && !done.stderr.contains('\u{1b}'),
            "{}",
            done.stderr
        );
        assert!(two.seen().is_empty(), "{text}");
        let shown = gantry.gantry(["registries", "--json"]);
        assert!(
            shown.stderr.contains("_preferred.json") && shown.code == 0,
            "{}",
            shown.stderr
        );
    }
    gantry.ok(["registries", "prefer", "--off"]);
    assert!(!note.exists());
    // One that is over says nothing and is nothing.
    fs::write(
        &note,
        format!("{{\"schema\":1,\"host\":\"{}\",\"since\":1,\"until\":2}}", two.host),
    )
    .unwrap();
    let done = gantry.gantry(["pull", &one.name("team/a:1")]);
    assert!(done.code == 0 && !done.stderr.contains("warning"), "{}", done.stderr);
    for (args, code) in [
        (&["registries", "prefer", "other.example", "--for", "1h"][..], 2),
        (&["registries", "prefer", &two.host], 2),
        (&["registries", "prefer"], 2),
        (&["registries", "prefer", &two.host, "--for", "8d"], 2),
        (&["registries", "prefer", &two.host, "--off"], 2),
    ] {
        assert_eq!(gantry.gantry(args).code, code, "{args:?}");
    }
    // Who may not push does not get around it.
    configure(
        &gantry,
        &format!("{}{}", entry(&one, ""), entry(&two, "role = \"pull\"")),
    );
    gantry.ok(["registries", "prefer", &two.host, "--for", "1h"]);
    let refused = gantry.gantry(["push", &one.name("team/a:1")]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("only pulls from it"), "{}", refused.stderr);
}

#[test]
fn a_registry_that_takes_so_many_pulls_a_minute_is_asked_no_more() {
    let (one, two, _, digest) = pair();
    let gantry = Gantry::new();
    let limited = "pulls_per_minute = 2";
    configure(
        &gantry,
        &format!("{}{}{PATIENT}", entry(&one, limited), entry(&two, "")),
    );
    let name = one.name("team/a:1");
    // Each time with nothing of it there.
    let pull_anew = |gantry: &Gantry| {
        let place = gantry.home.join("report.json");
        let done = gantry.gantry(["pull", &name, "--report", place.to_str().unwrap()]);
        assert_eq!((done.code, done.stdout.trim()), (0, digest.as_str()), "{}", done.stderr);
        gantry.ok(["images", "rm", &name]);
        gantry.ok(["cache", "gc", "--all"]);
        report(gantry)["attempts"].clone()
    };
    for _ in 0..2 {
        let attempts = pull_anew(&gantry);
        assert_eq!(attempts.as_array().unwrap().len(), 1, "{attempts}");
    }
    assert_eq!((one.count("GET", "/manifests/"), two.seen().len()), (2, 0));
    let attempts = pull_anew(&gantry);
    assert_eq!(
        (&attempts[0]["reason"], &attempts[1]["status"]),
        (&"rate_limited".into(), &"ok".into()),
        "{attempts}"
    );
    assert!(
        attempts[0]["error"].as_str().unwrap().contains("pulls_per_minute"),
        "{attempts}"
    );
    assert_eq!((one.count("GET", "/blobs/"), one.count("GET", "/manifests/")), (6, 2));

    // Alone it is waited for: the message says for whom and how long. Here all of the minute is left.
    configure(&gantry, &format!("{}{PATIENT}", entry(&one, limited)));
    let mut waiting = gantry
        .command()
        .args(["pull", &name])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(waiting.stderr.take().unwrap()));
    let wait = said
        .find(|line| line.as_ref().unwrap().contains("Waiting"))
        .unwrap()
        .unwrap();
    assert!(
        wait.contains(&one.host) && wait.contains("2 pulls of an image"),
        "{wait}"
    );
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    // More than can be waited for is an outage for who asks: two times that are to come are taken.
    let pulls = gantry.root.join("registries/_pulls").join(&one.host);
    let text = fs::read_to_string(&pulls).unwrap();
    let last = text
        .lines()
        .last()
        .unwrap()
        .split_once(' ')
        .unwrap()
        .0
        .parse::<u64>()
        .unwrap();
    let more: String = (1..4).map(|at| format!("{} team/a\n", last + at * 60_000)).collect();
    fs::write(&pulls, format!("{text}{more}")).unwrap();
    let done = gantry.gantry(["pull", &name]);
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(done.stderr.contains("pulls_per_minute"), "{}", done.stderr);
}

#[test]
fn connections_to_a_registry_are_shared_by_processes_and_freed_by_death() {
    let (one, _, source, digest) = pair();
    let gantry = Gantry::new();
    configure(&gantry, &entry(&one, "connections = 1"));
    let other = image(&source, "b:1", &[(7, 40_000)]);
    one.hold(&source.root, &other, "team/b", "1");
    // The first that gets a layer holds the only connection until it is killed.
    let mut is_first = true;
    one.rule(move |seen, state| {
        let stalls = is_first && seen.is("GET", "/team/a/blobs/");
        is_first &= !stalls;
        stalls.then(|| state.answer(seen, "").cut(10, Then::Stall))
    });
    let pull = |name: &str| {
        let mut command = gantry.command();
        command
            .args(["pull", &one.name(name)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut holder = pull("team/a:1");
    eventually("nobody holds the connection", || {
        is_so(one.count("GET", "/team/a/blobs/") > 0, one.seen().len())
    });
    let waiter = pull("team/b:1");
    eventually("the other does not come so far", || {
        is_so(one.count("GET", "/team/b/manifests/") > 0, one.seen().len())
    });
    assert_eq!(one.count("GET", "/team/b/blobs/"), 0);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let done = done(waiter.wait_with_output().unwrap());
    assert_eq!((done.code, done.stdout.trim()), (0, other.as_str()), "{}", done.stderr);
    // And no more than one at a time within a process.
    let gate = one.gate(1);
    let again = store_of(&[], &entry(&one, "connections = 1"));
    assert_eq!(again.ok(["pull", &one.name("team/a:1")]).trim(), digest);
    assert_eq!(gate.most(), 1);
    assert!(partials(&again).is_empty());
}

#[test]
fn what_a_registry_prints_of_our_password_is_not_shown() {
    for echo in ["s3cret-of-mine", "bWU6czNjcmV0LW9mLW1pbmU="] {
        let fake = Fake::start();
        let text = format!(
            r#"{{"errors":[{{"code":"ODD","message":"{} you sent {echo}"}}]}}"#,
            "x".repeat(180)
        );
        fake.rule(move |seen, _| {
            Some(match seen.header("authorization") {
                "" => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"),
                _ => Reply::new(400, text.as_str()),
            })
        });
        let other = echo.to_owned();
        let gantry = Gantry::new();
        let credentials = "credentials = { user = \"me\", password_env = \"KEY\" }";
        configure(&gantry, &entry(&fake, credentials));
        let place = gantry.home.join("report.json");
        let mut command = gantry.command();
        command.args(["pull", &fake.name("team/a:1"), "--report", place.to_str().unwrap()]);
        let said = done(command.env("KEY", "s3cret-of-mine").output().unwrap());
        let all = format!("{}{}", said.stderr, report(&gantry));
        assert_eq!(said.code, 1, "{all}");
        assert!(all.contains("[redacted]") && !all.contains(&other[..8]), "{all}");
    }
}

#[test]
fn a_success_that_made_nothing_is_none() {
    for (method, part, status) in [
        ("PUT", "/manifests/", 200),
        ("PUT", "/blobs/", 204),
        ("PUT", "/manifests/", 202),
    ] {
        let fake = Fake::start();
        // As a gateway that says yes to everything.
        fake.rule(move |seen, _| seen.is(method, part).then(|| Reply::new(status, "")));
        let gantry = store_of(&[&fake], "");
        image(&gantry, "a:1", &[(1, 1000)]);
        let done = gantry.gantry(["push", "a:1", &fake.name("team/a:1")]);
        assert_eq!(done.code, 1, "{method} {part}: {}", done.stderr);
        assert!(done.stderr.contains("is not there"), "{}", done.stderr);
    }
    // One that made it and says so in another way is believed when it is there.
    let fake = Fake::start();
    fake.rule(|seen, state| {
        seen.is("PUT", "/manifests/").then(|| Reply {
            status: 200,
            ..state.answer(seen, "")
        })
    });
    let gantry = store_of(&[&fake], "");
    let digest = image(&gantry, "a:1", &[(1, 1000)]);
    assert_eq!(gantry.ok(["push", "a:1", &fake.name("team/a:1")]).trim(), digest);
    // HEAD of a blob that says nothing about it is no blob.
    let fake = Fake::start();
    fake.rule(|seen, _| {
        seen.is("HEAD", "/blobs/").then(|| Reply {
            length: None,
            ..Reply::new(200, "").then(Then::Close)
        })
    });
    let gantry = store_of(&[&fake], "");
    image(&gantry, "a:1", &[(1, 1000)]);
    assert_eq!(gantry.gantry(["push", "a:1", &fake.name("team/a:1")]).code, 1);
    assert!(fake.digest_of("team/a", "1").is_none());
}

#[test]
fn a_tag_that_somebody_moves_meanwhile_is_said_to_be() {
    let fake = Fake::start();
    let gantry = Gantry::new();
    configure(&gantry, &entry(&fake, "immutable = [\"base/*\"]"));
    let (mine, theirs) = (image(&gantry, "a:1", &[(1, 1000)]), image(&gantry, "b:1", &[(2, 1000)]));
    let raw = fs::read(gantry.root.join("blobs/sha256").join(&theirs[7..])).unwrap();
    fake.rule(move |seen, state| {
        // Theirs comes just after ours.
        let answer = seen.is("PUT", "/manifests/3.11").then(|| state.answer(seen, ""))?;
        let mut manifests = state.manifests.lock().unwrap();
        let key = ("base/python".to_owned(), "3.11".to_owned());
        let name = manifests.get(&key).unwrap().0.clone();
        manifests.insert(key, (name, raw.clone()));
        Some(answer)
    });
    let place = fake.name("base/python:3.11");
    let done = gantry.gantry(["push", "a:1", &place]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(done.stderr.contains(&theirs), "{}", done.stderr);
    // By its digest it is there all the same, and a digest beside a tag gives both.
    assert_eq!(fake.digest_of("base/python", &mine), Some(mine.clone()));
    gantry.ok(["push", "a:1", &format!("{}@{mine}", fake.name("team/a:v1"))]);
    assert_eq!(fake.digest_of("team/a", "v1"), Some(mine.clone()));
    let other = gantry.gantry(["push", "b:1", &format!("{}@{mine}", fake.name("team/a:v2"))]);
    assert!(
        other.code == 1 && fake.digest_of("team/a", "v2").is_none(),
        "{}",
        other.stderr
    );
}

#[test]
fn who_needs_no_token_does_not_depend_on_where_tokens_are_had() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 20_000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    let host = fake.host.clone();
    let mut is_first = true;
    fake.rule(move |seen, _| match seen.path.starts_with("/token") {
        true => Some(Reply::new(500, "")),
        // The manifest by its tag alone is asked for a token, and only once.
        false => (seen.is("HEAD", "/manifests/") && std::mem::take(&mut is_first)).then(|| {
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
            Reply::new(401, "").with("WWW-Authenticate", challenge)
        }),
    });
    let gantry = store_of(&[&fake], "");
    assert_eq!(gantry.ok(["pull", &fake.name("team/a:1")]).trim(), digest);
}

#[test]
fn storage_that_refuses_one_object_is_no_outage_of_its_registry() {
    let (one, _, source, _) = pair();
    let storage = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = storage.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in storage.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let mut request = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut request);
            let _ = std::io::Write::write_all(
                &mut stream,
                b"HTTP/1.1 403 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    one.rule(move |seen, _| {
        let target = format!("http://{place}/object?signature=1");
        seen.is("GET", "/blobs/")
            .then(|| Reply::new(307, "").with("Location", target))
    });
    let gantry = store_of(&[&one], "");
    let done = gantry.gantry(["pull", &one.name("team/a:1")]);
    assert_eq!(done.code, 4, "{}", done.stderr);
    let known: Value = serde_json::from_str(&gantry.ok(["registries", "--json"])).unwrap();
    assert_eq!(
        (&known[0]["is_away"], &known[0]["failures"]),
        (&false.into(), &0.into()),
        "{known}"
    );
    drop(source);
}

#[test]
fn a_source_of_another_registry_is_read_once_however_small_the_parts_are() {
    let (one, two, source) = (Fake::start(), Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 300_000)]);
    one.hold(&source.root, &digest, "team/a", "1");
    let gantry = Gantry::new();
    configure(
        &gantry,
        &format!("{}{}", entry(&one, ""), entry(&two, "chunk = \"64K\"")),
    );
    gantry.ok(["copy", &one.name("team/a:1"), &two.name("team/a:1")]);
    let (layer, _) = super::images::layers(&source, &digest)[0].clone();
    assert!(two.count("PATCH", "") >= 5);
    assert_eq!(one.count("GET", &layer), 1);
    assert_eq!(two.digest_of("team/a", "1"), Some(digest));
}

#[test]
fn a_command_that_is_ended_during_its_pull_says_who_was_asked() {
    let (one, two, ..) = pair();
    let name = one.name("team/a:1");
    // The first is broken, and the second never says a word.
    one.rule(|_, _| Some(Reply::new(503, "")));
    two.rule(|_, _| Some(Reply::nothing().then(Then::Stall)));
    let run = ["run", "--pull", "always", "--allow-degraded", DEGRADED, &name];
    let start = |args: &[&str]| {
        let gantry = store_of(&[&one, &two], "");
        let asked = two.state.seen_count();
        let mut command = gantry.command();
        command.args(args).arg("--report").arg(gantry.home.join("report.json"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        (gantry, child, asked)
    };
    let expect = |gantry: &Gantry, status: &str| {
        let report = report(gantry);
        assert_eq!(report["status"], status, "{report}");
        let attempts = report["attempts"].as_array().unwrap();
        let of = |at: usize| ["registry", "status", "reason"].map(|key| attempts[at][key].as_str().unwrap());
        assert_eq!(of(0), [&one.host, "failed", "server_error"], "{report}");
        assert_eq!(of(1), [&two.host, "failed", "unanswered"], "{report}");
        assert!(attempts[1]["ms"].as_f64().unwrap() > 0.0, "{report}");
    };
    for args in [&run[..], &["pull", &name]] {
        let (gantry, mut child, asked) = start(args);
        // The second is asked once the first has failed.
        eventually("nobody asks", || {
            is_so(two.state.seen_count() > asked, two.state.seen_count())
        });
        send(&child, Signal::TERM);
        child.wait().unwrap();
        expect(&gantry, "killed");
    }
    // As long as it takes here until the second is asked.
    for deadline in ["2s", "8s", "40s"] {
        let (gantry, mut child, asked) = start(&[&["run", "--deadline", deadline], &run[1..]].concat());
        child.wait().unwrap();
        if two.state.seen_count() > asked || deadline == "40s" {
            expect(&gantry, "unavailable");
            break;
        }
    }
}
