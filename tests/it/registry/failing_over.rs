//! What happens when a registry is away, half away, slow or wrong, and another one has the image.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fake::{Fake, Reply, Then};
use super::images::{configure, image, layers, partials, store_of, PATIENT};
use crate::common::port::ClosedPort;
use crate::common::Gantry;

/// Two registries with one image, and its digest.
fn pair() -> (Fake, Fake, Gantry, String) {
    let (one, two, source) = (Fake::start(), Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 200_000), (2, 3_000_000)]);
    for fake in [&one, &two] {
        fake.hold(&source.root, &digest, "team/a", "1");
    }
    (one, two, source, digest)
}

/// Pulls `team/a:1` of `host`, which must succeed, and returns the attempts in the report and the time it took.
fn pull(gantry: &Gantry, host: &str, digest: &str) -> (Value, Duration) {
    pull_named(gantry, &format!("{host}/team/a:1"), digest)
}

fn pull_named(gantry: &Gantry, reference: &str, digest: &str) -> (Value, Duration) {
    let report = gantry.home.join("report.json");
    let started = Instant::now();
    let done = gantry.gantry(["pull", reference, "--report", report.to_str().unwrap()]);
    let took = started.elapsed();
    assert_eq!((done.code, done.stdout.trim()), (0, digest), "{}", done.stderr);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["digest"], digest);
    (report["attempts"].clone(), took)
}

fn entry(host: &str) -> String {
    format!("[[registry]]\nhost = \"{host}\"\nplain_http = true\n")
}

#[test]
fn the_second_registry_has_it_when_the_first_is_away() {
    let (_, two, _, digest) = pair();
    let closed = ClosedPort::new();
    let (dead, gantry) = (&closed.host, Gantry::new());
    configure(&gantry, &format!("{}{}{PATIENT}", entry(dead), entry(&two.host)));
    let (attempts, took) = pull(&gantry, dead, &digest);
    assert_eq!(
        (&attempts[0]["status"], &attempts[0]["reason"]),
        (&"failed".into(), &"connection".into())
    );
    assert_eq!(
        (&attempts[0]["registry"], &attempts[1]["registry"]),
        (&dead.as_str().into(), &two.host.as_str().into())
    );
    assert_eq!(attempts[1]["status"], "ok");
    eprintln!("refused: {took:?}");

    // The other processes of the store know, and ask it last.
    gantry.ok(["images", "rm", &format!("{dead}/team/a:1")]);
    let other = gantry.root.join("registries").join(format!("{dead}.json"));
    let circuit: Value = serde_json::from_slice(&fs::read(other).unwrap()).unwrap();
    assert_eq!(
        (&circuit["failures"], &circuit["reason"]),
        (&1.into(), &"connection".into())
    );
    let (attempts, _) = pull(&gantry, dead, &digest);
    assert_eq!(attempts[0]["registry"], two.host.as_str(), "{attempts}");
    let known: Value = serde_json::from_str(&gantry.ok(["registries", "--json"])).unwrap();
    assert_eq!(
        (&known[0]["host"], &known[0]["is_away"]),
        (&two.host.as_str().into(), &false.into())
    );
    assert_eq!(
        (&known[1]["host"], &known[1]["is_away"]),
        (&dead.as_str().into(), &true.into())
    );
    assert!(gantry.ok(["registries"]).contains("away (connection)"));
    let diagnosis: Value = serde_json::from_str(&gantry.gantry(["doctor", "--json"]).stdout).unwrap();
    assert_eq!(diagnosis["surroundings"]["registries"], known);

    // Whoever wants this one alone gets it or nothing.
    let done = gantry.gantry(["pull", "--no-failover", &format!("{dead}/team/none:1")]);
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(!done.stderr.contains(&two.host), "{}", done.stderr);
}

#[test]
fn a_registry_that_answers_with_errors_is_left() {
    for (status, body, reason) in [
        (500, "", "server_error"),
        (503, "", "server_error"),
        (429, "toomanyrequests: retry-after: 90s", "rate_limited"),
        (400, "", "refused"),
        (402, "", "refused"),
        (403, "", "auth"),
        (404, "", "not_found"),
        (406, "", "refused"),
        (451, "", "refused"),
    ] {
        let (one, two, _, digest) = pair();
        one.rule(move |_, _| Some(Reply::new(status, body)));
        let gantry = store_of(&[&one, &two], "");
        let (attempts, took) = pull_named(&gantry, &format!("{}/team/a@{digest}", one.host), &digest);
        assert_eq!(
            (&attempts[0]["reason"], &attempts[1]["status"]),
            (&reason.into(), &"ok".into()),
            "{attempts}"
        );
        eprintln!("{status}: {took:?}");
    }
}

#[test]
fn a_registry_that_is_busy_says_when_it_is_asked_again() {
    for reply in [
        Reply::new(429, "").with("Retry-After", "0.05"),
        Reply::new(
            429,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 880.092µs, allowed: 44000/minute"}]}"#,
        ),
        Reply::new(503, ""),
        Reply::new(408, ""),
    ] {
        let (one, _, _, digest) = pair();
        one.first(2, "GET", "/blobs/", reply);
        let gantry = store_of(&[&one], "");
        let (attempts, _) = pull(&gantry, &one.host, &digest);
        assert_eq!(attempts[0]["status"], "ok", "{attempts}");
    }
    // One that asks for more patience than anybody has is unavailable at once.
    let (one, ..) = pair();
    one.rule(|_, _| Some(Reply::new(429, "").with("Retry-After", "3600")));
    let gantry = store_of(&[&one], "");
    let done = gantry.gantry(["pull", &one.name("team/a:1")]);
    assert_eq!((done.code, one.seen().len()), (4, 1), "{}", done.stderr);
    let (_, outcome) = gantry.run_with_outcome(&[&one.name("team/a:1")]);
    assert_eq!(
        (&outcome["status"], &outcome["code"]),
        (&"unavailable".into(), &"registry_unavailable".into())
    );
    assert_eq!(outcome["attempts"][0]["reason"], "rate_limited");
}

#[test]
fn a_registry_that_accepts_and_says_nothing_costs_a_quarter_of_a_second() {
    let (_, two, _, digest) = pair();
    // As a black hole: not even the head of an answer.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = hole.local_addr().unwrap().to_string();
    let gantry = Gantry::new();
    configure(&gantry, &format!("{}{}", entry(&silent), entry(&two.host)));
    let (attempts, took) = pull(&gantry, &silent, &digest);
    assert_eq!(
        (&attempts[0]["reason"], &attempts[1]["status"]),
        (&"timeout".into(), &"ok".into()),
        "{attempts}"
    );
    assert!(attempts[0]["error"].as_str().unwrap().contains("250 ms"));
    eprintln!("black hole: {took:?}");

    // By itself it is given up when its time is over.
    let gantry = Gantry::new();
    configure(&gantry, &format!("{}[transfer]\nstall = \"200ms\"\n", entry(&silent)));
    let done = gantry.gantry(["pull", &format!("{silent}/team/a:1")]);
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(done.stderr.contains("does not answer"), "{}", done.stderr);
}

#[test]
fn a_registry_that_dies_in_mid_layer_is_gone_on_from_elsewhere() {
    let (one, two, source, digest) = pair();
    let (layer, size) = layers(&source, &digest)[1].clone();
    let cut = layer.clone();
    let mut is_dead = false;
    one.rule(move |seen, state| {
        if is_dead {
            return Some(Reply::new(500, ""));
        }
        seen.is("GET", &cut).then(|| {
            is_dead = true;
            state.answer(seen, "").cut(2_000_000, Then::Close)
        })
    });
    let gantry = store_of(&[&one, &two], "");
    let (attempts, took) = pull(&gantry, &one.host, &digest);
    assert_eq!(
        (&attempts[0]["reason"], &attempts[1]["status"]),
        (&"server_error".into(), &"ok".into()),
        "{attempts}"
    );
    let ranges: Vec<String> = two
        .seen()
        .iter()
        .filter(|seen| seen.is("GET", &layer))
        .map(|seen| seen.header("range").to_owned())
        .collect();
    assert_eq!(ranges, ["bytes=2000000-"], "no byte that was there is fetched again");
    assert!(size > 2_000_000 && partials(&gantry).is_empty());
    eprintln!("mid-layer: {took:?}");
}

#[test]
fn wrong_bytes_are_asked_for_once_more_and_then_elsewhere() {
    let wrong = |seen: &super::fake::Seen, state: &super::fake::State| {
        let mut reply = state.answer(seen, "");
        reply.body.iter_mut().skip(2000).for_each(|byte| *byte ^= 1);
        reply
    };
    let (one, two, source, digest) = pair();
    let (layer, _) = layers(&source, &digest)[0].clone();
    let own = layer.clone();
    one.rule(move |seen, state| seen.is("GET", &own).then(|| wrong(seen, state)));
    let gantry = store_of(&[&one, &two], "");
    let (attempts, _) = pull(&gantry, &one.host, &digest);
    assert_eq!(one.count("GET", &layer), 2);
    assert_eq!(attempts[0]["reason"], "digest_mismatch", "{attempts}");
    assert!(two.count("GET", &layer) == 1 && partials(&gantry).is_empty());
    // It is known of the registry, which is asked as before.
    let known: Value = serde_json::from_str(&gantry.ok(["registries", "--json"])).unwrap();
    let known = known.as_array().unwrap().iter().find(|known| known["host"] == one.host);
    assert_eq!(
        known.map(|known| (&known["reason"], &known["is_away"])),
        Some((&"digest_mismatch".into(), &false.into()))
    );

    // From one alone they are an error, and nothing of them stays.
    let (one, _, source, digest) = pair();
    let (layer, _) = layers(&source, &digest)[0].clone();
    let own = layer.clone();
    one.rule(move |seen, state| seen.is("GET", &own).then(|| wrong(seen, state)));
    let gantry = store_of(&[&one], "");
    let done = gantry.gantry(["pull", &one.name("team/a:1")]);
    assert_eq!((done.code, one.count("GET", &layer)), (1, 2), "{}", done.stderr);
    assert!(done.stderr.contains("have digest"), "{}", done.stderr);
    assert!(!gantry.root.join("blobs/sha256").join(&layer[7..]).exists());
    assert!(!gantry.root.join("partial").join(&layer[7..]).exists());
    assert_eq!(gantry.ok(["images", "ls", "-q"]), "");
}

#[test]
fn the_priorities_say_who_is_asked_first() {
    let (one, two, _, digest) = pair();
    let gantry = Gantry::new();
    let with = |fake: &Fake, priority: u32| format!("{}priority = {priority}\n", entry(&fake.host));
    configure(&gantry, &format!("{}{}{PATIENT}", with(&one, 2), with(&two, 1)));
    let (attempts, _) = pull(&gantry, &one.host, &digest);
    assert_eq!(attempts[0]["registry"], two.host.as_str());
    assert_eq!(attempts.as_array().unwrap().len(), 1);
    assert!(one.seen().is_empty());
    // A host that is not listed stands for itself.
    let done = gantry.gantry(["pull", "localhost:1/team/a:1"]);
    assert!(done.code != 0 && !done.stderr.contains(&two.host), "{}", done.stderr);
}

#[test]
fn a_tag_that_a_registry_does_not_give_is_nobody_elses_to_give() {
    for status in [404, 401, 403, 400] {
        let (one, two, _, digest) = pair();
        one.rule(move |seen, _| {
            seen.path
                .contains("/team/a/manifests/1")
                .then(|| Reply::new(status, ""))
        });
        let gantry = store_of(&[&one, &two], "");
        let done = gantry.gantry(["pull", &one.name("team/a:1")]);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{status}: {}", done.stderr);
        assert!(two.seen().is_empty(), "{status}: the next registry is not asked");
        // In an outage it is, and so it is when the name is one of its own.
        one.rule(|_, _| Some(Reply::new(503, "")));
        pull(&gantry, &one.host, &digest);
    }
    let (one, two, _, digest) = pair();
    one.rule(|seen, _| seen.is("HEAD", "/manifests/").then(|| Reply::new(404, "")));
    let gantry = store_of(&[&one, &two], "");
    pull(&gantry, &two.host, &digest);
}

#[test]
fn a_tag_means_what_the_first_registry_says_though_the_second_is_faster() {
    let (one, two, source, digest) = pair();
    let other = image(&source, "b:1", &[(3, 1000)]);
    two.hold(&source.root, &other, "team/a", "1");
    let state = std::sync::Arc::clone(&two.state);
    one.rule(move |seen, _| {
        // It answers when the other one was asked.
        while seen.is("HEAD", "/manifests/1") && state.seen_count() == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    });
    let gantry = store_of(&[&one, &two], "[transfer]\nhedge = \"4s\"\n");
    pull(&gantry, &one.host, &digest);
    assert_eq!(two.count("HEAD", "/manifests/1"), 1);
}

#[test]
fn a_registry_that_is_silent_about_blobs_alone_is_overtaken() {
    let (one, two, _, digest) = pair();
    one.rule(|seen, _| seen.is("GET", "/blobs/").then(|| Reply::nothing().then(Then::Stall)));
    let gantry = store_of(&[&one, &two], "[transfer]\nstall = \"100s\"\n");
    let (attempts, took) = pull(&gantry, &one.host, &digest);
    assert_eq!(attempts[0]["reason"], "timeout", "{attempts}");
    assert!(attempts[0]["error"].as_str().unwrap().contains("250 ms"), "{attempts}");
    eprintln!("silent about blobs: {took:?}");
}

#[test]
fn a_registry_that_fails_at_the_configuration_is_unavailable() {
    let (one, _, source, digest) = pair();
    let raw = fs::read(source.root.join("blobs/sha256").join(&digest[7..])).unwrap();
    let manifest: gantry::oci::Manifest = serde_json::from_slice(&raw).unwrap();
    let config = manifest.config.digest.to_string();
    one.rule(move |seen, _| {
        seen.is("GET", &config)
            .then(|| Reply::new(503, "").with("Retry-After", "3600"))
    });
    let gantry = store_of(&[&one], "");
    let done = gantry.gantry(["pull", &one.name("team/a:1")]);
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(done.stderr.contains("answers 503"), "{}", done.stderr);
}

#[test]
fn a_copy_reads_the_registry_that_is_typed() {
    let (one, two, source, _) = pair();
    let (old, new) = (
        image(&source, "old:1", &[(4, 1000)]),
        image(&source, "new:1", &[(5, 1000)]),
    );
    one.hold(&source.root, &new, "team/x", "1");
    two.hold(&source.root, &old, "team/x", "1");
    let gantry = store_of(&[&one, &two], "");
    let (first, second) = (one.name("team/x:1"), two.name("team/x:1"));
    // Away as far as the store knows: the other one would be asked first.
    one.rule(|seen, _| {
        seen.is("HEAD", "/team/none/")
            .then(|| Reply::new(503, "").with("Retry-After", "3600"))
    });
    gantry.gantry(["pull", "--no-failover", &one.name("team/none:1")]);
    assert_eq!(gantry.ok(["copy", &first, &second]).trim(), new);
    assert_eq!(two.digest_of("team/x", "1"), Some(new.clone()));
    // And back: what the backup has is what the primary gets.
    two.hold(&source.root, &old, "team/x", "1");
    assert_eq!(gantry.ok(["copy", &second, &first]).trim(), old);
    assert_eq!(one.digest_of("team/x", "1"), Some(old));
}

#[test]
fn a_host_without_an_address_is_no_outage_and_may_be_mistyped() {
    let (_, two, _, digest) = pair();
    // Of this domain no name server knows an address (RFC 6761).
    let none = "registry.invalid";
    let gantry = Gantry::new();
    configure(
        &gantry,
        &format!("[[registry]]\nhost = \"{none}\"\n{}{PATIENT}", entry(&two.host)),
    );
    let (attempts, took) = pull(&gantry, none, &digest);
    eprintln!("no address: {took:?}");
    let of = |at: usize| {
        [
            &attempts[at]["registry"],
            &attempts[at]["status"],
            &attempts[at]["reason"],
        ]
    };
    assert_eq!(of(0), [none, "failed", "name"]);
    assert_eq!((of(1)[0], of(1)[1]), (&two.host.as_str().into(), &"ok".into()));
    // The other processes of the store ask it first as before: to ask again costs nothing.
    let known: Value = serde_json::from_str(&gantry.ok(["registries", "--json"])).unwrap();
    assert_eq!((&known[0]["host"], &known[0]["is_away"]), (&none.into(), &false.into()));
    assert_eq!(
        (&known[0]["reason"], &known[0]["away_until"]),
        (&"name".into(), &Value::Null)
    );
    let (attempts, _) = pull(&gantry, none, &digest);
    assert_eq!(attempts[0]["registry"], none, "{attempts}");

    let alone = gantry.gantry(["pull", "ghrc.invalid/team/a:1"]);
    assert_eq!(alone.code, 4, "{}", alone.stderr);
    for part in [
        "ghrc.invalid",
        "the name servers know no such name",
        "hint: the host is mistyped",
    ] {
        assert!(alone.stderr.contains(part), "{part}: {}", alone.stderr);
    }
}
