//! The next version of an image in a repository: what its predecessor answers for, and what is done when it answers wrongly.

use std::path::PathBuf;

use super::fake::{Fake, Reply, Seen};
use super::images::{image, layers, store_of};
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
    let done = gantry.gantry(["push", "a:2", &fake.name("team/a:2")]);
    assert_eq!((done.code, done.stdout.trim()), (0, second.as_str()), "{}", done.stderr);
    let other = store_of(&[fake], "");
    let asked = fake.seen()[before..].to_vec();
    assert_eq!(other.ok(["pull", &fake.name("team/a:2")]).trim(), second);
    (gantry, first, asked)
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
    let notes = std::fs::read_dir(gantry.root.join("registries/_pushed")).unwrap();
    let notes: Vec<PathBuf> = notes.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    notes[0].clone()
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
fn an_image_that_is_there_is_asked_for_once() {
    let fake = Fake::start();
    let (gantry, ..) = next(&fake, |_, _| ());
    let before = fake.seen().len();
    gantry.ok(["push", "a:2", &fake.name("team/a:3")]);
    let asked = &fake.seen()[before..];
    assert!(asked.len() == 2 && asked[0].is("HEAD", "/manifests/") && asked[1].is("PUT", "/manifests/3"));
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
    for text in [
        "{",
        r#"{"schema":1,"repository":"other.example/team/a","manifest":null,"blobs":[]}"#,
        r#"{"schema":9}"#,
    ] {
        let fake = Fake::start();
        let (_, _, asked) = next(&fake, |gantry, _| std::fs::write(note_of(gantry), text).unwrap());
        let looked = (count(&asked, "HEAD", "/manifests/"), count(&asked, "HEAD", "/blobs/"));
        assert_eq!(looked, (0, 9), "{text}");
    }
}
