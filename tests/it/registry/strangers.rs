//! What something else than a registry answers, with a status that says that all is well: a portal's page, half a manifest. It is
//! the fault of that server, not of the image, and the next registry is asked.

use serde_json::Value;

use super::fake::{Fake, Reply, Seen, State};
use super::images::{image, store_of};
use crate::common::Gantry;

/// Nobody is overtaken because the machine is busy.
const PATIENT: &str = "[transfer]\nhedge = \"20s\"\n";
const PAGE: &str = "<!DOCTYPE html>\n<title>Log in to \u{1b}[31mthis network</title>";

/// A way to answer in the place of a registry.
type Stranger = fn(&Seen, &State) -> Option<Reply>;

/// Whatever is asked for, the page of a portal.
fn portal(_: &Seen, _: &State) -> Option<Reply> {
    let page = format!("{PAGE}{}", " ".repeat(2000));
    Some(Reply::new(200, page).with("Content-Type", "text/html; charset=utf-8"))
}

/// Half of the manifest, and a length that is right for it.
fn half(seen: &Seen, state: &State) -> Option<Reply> {
    seen.path.contains("/manifests/").then(|| {
        let mut reply = state.answer(seen, "");
        reply.body.truncate(reply.body.len() / 2);
        reply.length = Some(reply.body.len());
        reply
    })
}

/// As [`half`], of a registry that says no digests.
fn nameless_half(seen: &Seen, state: &State) -> Option<Reply> {
    let mut reply = half(seen, state)?;
    reply.headers.retain(|(name, _)| name != "Docker-Content-Digest");
    Some(reply)
}

/// What a proxy says of a server behind it that is away.
fn proxy(seen: &Seen, _: &State) -> Option<Reply> {
    let words = "{\"message\":\"no healthy upstream\"}";
    seen.path
        .contains("/manifests/")
        .then(|| Reply::new(200, words).with("Content-Type", "application/json"))
}

const STRANGERS: [(Stranger, &str); 4] = [
    (portal, "it answers with text/html; charset=utf-8, "),
    (half, "it answers with application/vnd.oci.image.manifest.v1+json, "),
    (nameless_half, "it answers with application/vnd.oci.image.manifest.v1+json, "),
    (proxy, "it answers with application/json, 33 bytes that begin \"{\\\"message\\\":\\\"no healthy upstream\\\"}\", where a manifest was asked for"),
];

fn pair(stranger: Stranger) -> (Fake, Fake, String) {
    let (one, two, source) = (Fake::start(), Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 200_000)]);
    for fake in [&one, &two] {
        fake.hold(&source.root, &digest, "team/a", "1");
    }
    one.rule(stranger);
    (one, two, digest)
}

#[test]
fn a_page_or_half_a_manifest_is_the_fault_of_its_server_and_the_next_one_is_asked() {
    for (number, (stranger, _)) in STRANGERS.into_iter().enumerate() {
        let (one, two, digest) = pair(stranger);
        for name in ["team/a:1".to_owned(), format!("team/a@{digest}")] {
            let gantry = store_of(&[&one, &two], PATIENT);
            let report = gantry.home.join("report.json");
            let before = one.seen().len();
            let done = gantry.gantry(["pull", &one.name(&name), "--report", report.to_str().unwrap()]);
            let case = format!("{number} {name}: {}", done.stderr);
            assert_eq!((done.code, done.stdout.trim()), (0, digest.as_str()), "{case}");
            let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
            let attempts = &report["attempts"];
            assert_eq!(
                (&attempts[0]["reason"], &attempts[1]["status"]),
                (&"not_a_registry".into(), &"ok".into()),
                "{case}"
            );
            assert!(one.seen().len() - before < 6, "{case}");
            // It counts against the server: others of this store ask it last for a while.
            let known: Value = serde_json::from_str(&gantry.ok(["registries", "--json"])).unwrap();
            let known = known.as_array().unwrap();
            let first = known.iter().find(|known| known["host"] == one.host).unwrap();
            assert_eq!(first["is_away"], true, "{case} {first}");
        }
    }
}

#[test]
fn a_registry_alone_that_answers_with_something_else_is_ill_and_says_what_came() {
    for (number, (stranger, says)) in STRANGERS.into_iter().enumerate() {
        let (one, _, digest) = pair(stranger);
        for name in ["team/a:1".to_owned(), format!("team/a@{digest}")] {
            let gantry = store_of(&[&one], "");
            let before = one.seen().len();
            let done = gantry.gantry(["pull", &one.name(&name)]);
            let case = format!("{number} {name}: {}", done.stderr);
            assert_eq!((done.code, done.stdout.as_str()), (4, ""), "{case}");
            assert!(one.seen().len() - before < 10, "{case}");
            let error = done.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
            assert!(error.contains(&one.host) && error.contains(says), "{case}");
            assert!(error.len() < 600 && !error.contains('\u{1b}'), "{case}");
            assert!(done.stderr.contains("hint: "), "{case}");
            assert_eq!(gantry.ok(["images", "ls", "-q"]), "");
            let (done, outcome) = gantry.run_with_outcome(&[&one.name(&name)]);
            assert_eq!(
                (done.code, &outcome["status"], &outcome["code"]),
                (4, &"unavailable".into(), &"registry_unavailable".into()),
                "{case}"
            );
        }
    }
}

#[test]
fn what_has_its_digest_and_is_no_manifest_is_the_same_everywhere() {
    let (one, _, _) = pair(|_, _| None);
    let raw = b"half a manif".to_vec();
    let digest = gantry::oci::Digest::of(&raw).to_string();
    let document = ("application/vnd.oci.image.manifest.v1+json".to_owned(), raw);
    let key = ("team/a".to_owned(), digest.clone());
    one.state.manifests.lock().unwrap().insert(key, document);
    let gantry = store_of(&[&one], "");
    let done = gantry.gantry(["pull", &one.name(&format!("team/a@{digest}"))]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("parse manifest"), "{}", done.stderr);
    assert_eq!(one.count("GET", "/manifests/"), 1);
}
