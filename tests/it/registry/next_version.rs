//! The next version of an image in a repository: what its predecessor answers for, and what is done when it answers wrongly.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::fake::{Fake, Reply, Seen};
use super::images::{image, layers, store_of};
use super::logging_in::{store, wants_tokens, with_key, NAMED};
use crate::common::Gantry;

/// A layer of 200 kB, of some, and of 1 kB, which is another one in each version.
fn version(gantry: &Gantry, name: &str, small: u64) -> String {
    let shared = (1..8).map(|seed| (seed, 200_000));
    image(gantry, name, &shared.chain([(small, 1000)]).collect::<Vec<_>>())
}

/// What a push of `a:2` asks when `a:1` was pushed before and `between` happened since.
fn next(fake: &Fake, between: impl FnOnce(&Gantry, &str)) -> (Gantry, String, Vec<Seen>) {
    let gantry = store_of(&[fake], "");
    let first = version(&gantry, "a:1", 100);
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    between(&gantry, &first);
    let second = version(&gantry, "a:2", 200);
    let before = fake.seen().len();
    let report = gantry.home.join("report.json");
    let done = gantry.gantry([
        "push",
        "a:2",
        &fake.name("team/a:2"),
        "--report",
        report.to_str().unwrap(),
    ]);
    assert_eq!((done.code, done.stdout.trim()), (0, second.as_str()), "{}", done.stderr);
    // What was asked in vain and done in another way then is no failure.
    let attempts = &json(report)["attempts"];
    assert_eq!(attempts.as_array().map(Vec::len), Some(1), "{attempts}");
    assert_eq!(
        (&attempts[0]["status"], &attempts[0]["reason"]),
        (&"ok".into(), &Value::Null),
        "{attempts}"
    );
    let other = store_of(&[fake], "");
    let asked = fake.seen()[before..].to_vec();
    assert_eq!(other.ok(["pull", &fake.name("team/a:2")]).trim(), second);
    (gantry, first, asked)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn count(asked: &[Seen], method: &str, part: &str) -> usize {
    asked.iter().filter(|seen| seen.is(method, part)).count()
}

/// As a registry does that looks.
fn refuses_manifests_of_unknown_blobs(fake: &Fake) {
    fake.rule(|seen, state| {
        let is_wrong = seen.is("PUT", "/manifests/") && !state.has_blobs_of(&seen.body);
        is_wrong.then(|| Reply::new(400, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#))
    });
}

fn note_of(gantry: &Gantry) -> PathBuf {
    let notes = fs::read_dir(gantry.root.join("registries/_pushed")).unwrap();
    let notes: Vec<PathBuf> = notes.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    notes[0].clone()
}

/// Has the note say that each blob was asked for so many seconds earlier; returns when.
fn set_back(gantry: &Gantry, seconds: i64) -> u64 {
    let mut note = json(note_of(gantry));
    let asked = note["asked"].as_u64().unwrap().saturating_add_signed(-seconds);
    note["asked"] = asked.into();
    fs::write(note_of(gantry), note.to_string()).unwrap();
    asked
}

#[test]
fn one_question_answers_for_all_layers_of_the_version_before() {
    let fake = Fake::start();
    let (_, first, asked) = next(&fake, |_, _| ());
    assert_eq!(count(&asked, "HEAD", &format!("/v2/team/a/manifests/{first}")), 1);
    let (begun, sent) = (count(&asked, "POST", "/uploads/"), count(&asked, "PUT", "/uploads/"));
    assert_eq!((begun, sent), (2, 2), "a layer and the configuration");
    assert_eq!(asked.len(), 6, "and the manifest: {asked:?}");
    assert!(asked[5].is("PUT", "/manifests/2"));
}

#[test]
fn an_image_that_is_pushed_again_is_whole_then_where_manifests_are_taken_unseen() {
    let fake = Fake::start();
    let gantry = store_of(&[&fake], "");
    let first = version(&gantry, "a:1", 100);
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    let lost = layers(&gantry, &first)[0].0.clone();
    fake.lose(&lost);
    let second = version(&gantry, "a:2", 200);
    let is_there = || fake.state.blobs.lock().unwrap().contains_key(&lost);
    gantry.ok(["push", "a:2", &fake.name("team/a:2")]);
    assert!(!is_there(), "the manifest before it answered");
    let before = fake.seen().len();
    gantry.ok(["push", "a:2", &fake.name("team/a:2")]);
    assert!(is_there());
    let asked = &fake.seen()[before..];
    assert_eq!(
        (
            count(asked, "HEAD", "/blobs/"),
            count(asked, "PUT", "/uploads/"),
            asked.len()
        ),
        (9, 1, 12)
    );
    let other = store_of(&[&fake], "");
    assert_eq!(other.ok(["pull", &fake.name("team/a:2")]).trim(), second);
}

#[test]
fn a_manifest_answers_for_an_hour_after_each_layer_was_asked_for() {
    let fake = Fake::start();
    // Half an hour: it answers, and is as old as before.
    let mut asked_at = 0;
    let (gantry, _, asked) = next(&fake, |gantry, _| asked_at = set_back(gantry, 1800));
    assert_eq!(count(&asked, "HEAD", "/blobs/"), 0);
    assert_eq!(json(note_of(&gantry))["asked"], asked_at);
    // An hour, or a clock that was set back: each layer is asked for, and what is lost is sent.
    for ago in [3600, -3600] {
        let fake = Fake::start();
        let mut asked_at = 0;
        let (gantry, _, asked) = next(&fake, |gantry, first| {
            fake.lose(&layers(gantry, first)[0].0);
            asked_at = set_back(gantry, ago);
        });
        let looked = (count(&asked, "HEAD", "/manifests/"), count(&asked, "HEAD", "/blobs/"));
        assert_eq!((looked, count(&asked, "PUT", "/uploads/")), ((0, 9), 3));
        assert_ne!(json(note_of(&gantry))["asked"], asked_at);
    }
}

#[test]
fn a_push_that_gets_no_answer_about_the_version_before_does_without() {
    for status in [403, 503] {
        let fake = Fake::start();
        let (gantry, first, asked) = next(&fake, |_, first| {
            let before = first.to_owned();
            fake.rule(move |seen, _| seen.is("HEAD", &before).then(|| Reply::new(status, "")));
        });
        let looked = (count(&asked, "HEAD", &first), count(&asked, "HEAD", "/blobs/"));
        assert_eq!(looked, (1, 7), "{status}");
        let circuit = json(gantry.root.join(format!("registries/{}.json", fake.host)));
        assert_eq!(circuit["last_failure"], Value::Null, "{circuit}");
    }
}

#[test]
fn a_push_has_one_token_for_all_of_it() {
    let fake = Fake::start();
    wants_tokens(&fake, "Bearer realm=\"http://HOST/token\",service=registry");
    let gantry = store(&fake, NAMED);
    version(&gantry, "a:1", 100);
    version(&gantry, "a:2", 200);
    let mut before = 0;
    for (name, to) in [("a:1", "team/a:1"), ("a:2", "team/a:2")] {
        before = fake.seen().len();
        let done = with_key(&gantry, &["push", name, &fake.name(to)]);
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    let asked = &fake.seen()[before..];
    assert!(count(asked, "HEAD", "/manifests/sha256:") > 0, "{asked:?}");
    let tokens: Vec<_> = asked.iter().filter(|seen| seen.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert!(tokens[0].path.contains("%3Apull%2Cpush"), "{}", tokens[0].path);
}

#[test]
fn each_layer_is_asked_for_when_the_version_before_is_gone() {
    let fake = Fake::start();
    let (_, _, asked) = next(&fake, |_, first| {
        let gone = first.to_owned();
        fake.rule(move |seen, _| seen.is("HEAD", &gone).then(|| Reply::new(404, "")));
    });
    assert_eq!(
        (count(&asked, "HEAD", "/manifests/"), count(&asked, "HEAD", "/blobs/")),
        (1, 7)
    );
}

#[test]
fn a_layer_that_a_registry_lost_is_sent_again() {
    let fake = Fake::start();
    refuses_manifests_of_unknown_blobs(&fake);
    let mut lost = String::new();
    let (gantry, _, asked) = next(&fake, |gantry, first| {
        lost.clone_from(&layers(gantry, first)[0].0);
        fake.lose(&lost);
    });
    assert_eq!(
        (count(&asked, "PUT", "/manifests/"), count(&asked, "PUT", "/uploads/")),
        (2, 3)
    );
    assert_eq!(count(&asked, "HEAD", &format!("/blobs/{lost}")), 1);
    // The predecessor is the one that is whole.
    version(&gantry, "a:3", 300);
    let before = fake.seen().len();
    gantry.ok(["push", "a:3", &fake.name("team/a:3")]);
    assert_eq!(fake.seen().len() - before, 6);
}

#[test]
fn a_manifest_that_is_refused_for_another_reason_is_not_sent_for_ever() {
    let fake = Fake::start();
    let gantry = store_of(&[&fake], "");
    version(&gantry, "a:1", 100);
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    fake.rule(|seen, _| seen.is("PUT", "/manifests/").then(|| Reply::new(400, "")));
    version(&gantry, "a:2", 200);
    let before = fake.seen().len();
    let done = gantry.gantry(["push", "a:2", &fake.name("team/a:2")]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert_eq!(count(&fake.seen()[before..], "PUT", "/manifests/"), 2);
}

#[test]
fn a_note_that_is_damaged_or_of_another_repository_says_nothing() {
    for (key, value) in [
        ("repository", Value::from("other.example/team/a")),
        ("schema", Value::from(9)),
        ("manifest", Value::Null),
        ("cut", Value::Null),
    ] {
        let fake = Fake::start();
        let (_, _, asked) = next(&fake, |gantry, _| {
            let mut note = json(note_of(gantry));
            note[key] = value;
            let text = note.to_string();
            let length = if key == "cut" { 1 } else { text.len() };
            fs::write(note_of(gantry), &text[..length]).unwrap();
        });
        let looked = (count(&asked, "HEAD", "/manifests/"), count(&asked, "HEAD", "/blobs/"));
        assert_eq!(looked, (0, 9), "{key}");
    }
}
