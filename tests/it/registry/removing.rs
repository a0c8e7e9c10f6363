//! What goes with an image that is deleted in a registry, and what does not, whoever says that it belongs to it.

use std::sync::{Arc, Mutex};

use gantry::oci::Digest;
use serde_json::{json, Value};

use super::fake::{Fake, Reply};
use super::images::{configure, image, store_of};
use super::managing::{rm, with_api};
use crate::common::{journal, Gantry};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A registry with the images 1 and prod.
fn registry() -> (Fake, Gantry, [String; 2]) {
    let (fake, maker) = (Fake::start(), Gantry::new());
    let digests = [1, 2].map(|number| image(&maker, "x:1", &[(number, 4000)]));
    for (digest, tag) in [(&digests[0], "1"), (&digests[1], "prod")] {
        fake.hold(&maker.root, digest, "team/x", tag);
    }
    let gantry = store_of(&[&fake], "");
    (fake, gantry, digests)
}

/// Puts a document there, under its digest and `tags`.
fn put(fake: &Fake, kind: &str, document: &Value, tags: &[&str]) -> String {
    let raw = serde_json::to_vec(document).unwrap();
    let digest = Digest::of(&raw).to_string();
    let mut manifests = fake.state.manifests.lock().unwrap();
    for name in tags.iter().chain([&digest.as_str()]) {
        let key = ("team/x".to_owned(), (*name).to_owned());
        manifests.insert(key, (kind.to_owned(), raw.clone()));
    }
    digest
}

/// A signature as cosign writes it, or with a subject.
fn signature(fake: &Fake, subject: Option<&str>, tags: &[&str]) -> String {
    let blob = |kind: &str| json!({"mediaType": kind, "digest": Digest::of(b"x"), "size": 1});
    let mut document =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": blob(CONFIG), "layers": [blob(SIGNATURE)]});
    if let Some(subject) = subject {
        document["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
    }
    put(fake, MANIFEST, &document, tags)
}

/// A list of what refers to an image.
fn list(fake: &Fake, tag: &str, entries: &[&str]) -> String {
    let entry = |digest: &&str| json!({"mediaType": MANIFEST, "digest": digest, "size": 1});
    let entries: Vec<Value> = entries.iter().map(entry).collect();
    let document = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    put(fake, INDEX, &document, &[tag])
}

fn companion(image: &str, kind: &str) -> String {
    format!("{}{kind}", image.replace(':', "-"))
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn a_tag_that_says_to_belong_to_an_image_takes_no_other_tag_along() {
    let (fake, gantry, [first, second]) = registry();
    let document = fake.state.manifests.lock().unwrap()[&("team/x".to_owned(), "prod".to_owned())].clone();
    let sbom = companion(&first, ".sbom");
    // Whoever may push a tag writes that of an image.
    let key = ("team/x".to_owned(), sbom.clone());
    fake.state.manifests.lock().unwrap().insert(key, document);
    // One file of two images is one digest with two tags.
    let shared = signature(&fake, None, &[&companion(&first, ".sig"), &companion(&second, ".sig")]);
    let done = rm(&gantry, &fake, &[":1"]);
    assert_eq!(
        (done.code, lines(&done.stdout)),
        (0, vec![first.as_str()]),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains(&second) && done.stderr.contains(&shared),
        "{}",
        done.stderr
    );
    assert_eq!(fake.digest_of("team/x", "prod"), Some(second.clone()));
    assert_eq!(fake.digest_of("team/x", &companion(&second, ".sig")), Some(shared));
}

#[test]
fn of_a_list_of_referrers_goes_what_refers_to_the_image_before_it() {
    let (fake, gantry, [first, second]) = registry();
    // Deployed by digest.
    fake.state
        .manifests
        .lock()
        .unwrap()
        .retain(|(_, name), _| name != "prod");
    let referrer = signature(&fake, Some(&first), &[]);
    let stranger = signature(&fake, Some(&second), &[]);
    let gone = format!("sha256:{}", "0".repeat(64));
    let whole = list(&fake, &companion(&first, ""), &[&second, &referrer, &stranger, &gone]);
    let signed = signature(&fake, None, &[&companion(&first, ".sig")]);
    // It breaks off at the image: the same command finds the tag, and does the rest.
    let image = first.clone();
    fake.rule(move |seen, _| seen.is("DELETE", &image).then(|| Reply::new(403, "")));
    let broken = rm(&gantry, &fake, &[":1"]);
    assert_eq!(broken.code, 1, "{}", broken.stderr);
    assert_eq!(lines(&broken.stdout), [&referrer, &whole, &signed]);
    fake.rule({
        let image = first.clone();
        move |seen, state| {
            seen.is("DELETE", &image).then(|| {
                let mut manifests = state.manifests.lock().unwrap();
                manifests.retain(|_, (_, raw)| Digest::of(raw).to_string() != image);
                Reply::new(202, "")
            })
        }
    });
    let done = rm(&gantry, &fake, &[":1"]);
    assert_eq!(
        (done.code, lines(&done.stdout)),
        (0, vec![first.as_str()]),
        "{}",
        done.stderr
    );
    for digest in [&second, &stranger] {
        assert!(fake.digest_of("team/x", digest).is_some());
    }
}

#[test]
fn a_tag_with_a_digest_names_one_image_and_what_is_not_there_is_not_deleted() {
    let (fake, gantry, [first, second]) = registry();
    let moved = rm(&gantry, &fake, &[&format!(":prod@{first}")]);
    assert_eq!(moved.code, 3, "{}", moved.stderr);
    assert!(moved.stderr.contains(&second), "{}", moved.stderr);
    let nothing = format!("@sha256:{}", "0".repeat(64));
    for options in [&[][..], &["--dry-run"]] {
        let name = fake.name(&format!("team/x{nothing}"));
        let args = [&["registries", "rm"], options, &[name.as_str()]].concat();
        let done = gantry.gantry(&args);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{}", done.stderr);
        assert!(done.stderr.contains("there is no sha256:000"), "{}", done.stderr);
    }
    let done = rm(&gantry, &fake, &[":7"]);
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{}", done.stderr);
    assert!(
        done.stderr.contains("there is no tag 7; nothing is deleted"),
        "{}",
        done.stderr
    );
    assert_eq!(fake.count("DELETE", ""), 0);
    let done = rm(&gantry, &fake, &[&format!(":prod@{second}")]);
    assert_eq!((done.code, done.stdout.trim()), (0, second.as_str()), "{}", done.stderr);
}

#[test]
fn a_deletion_is_in_the_journal_and_in_the_report_however_it_ends() {
    let (fake, gantry, [first, second]) = registry();
    let report = gantry.home.join("report.json");
    let command = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| fake.name(&format!("team/x:{name}"))).collect();
        let report = report.to_str().unwrap();
        let mut args = vec!["registries", "rm", "--report", report];
        args.extend(names.iter().map(String::as_str));
        let done = gantry.gantry(&args);
        let text = std::fs::read_to_string(report).unwrap();
        (done.code, serde_json::from_str::<Value>(&text).unwrap())
    };
    let image = second.clone();
    fake.rule(move |seen, _| seen.is("DELETE", &image).then(|| Reply::new(403, "")));
    let (code, document) = command(&["1", "prod"]);
    assert_eq!((code, &document["status"]), (1, &json!("failed")));
    let deleted = json!([{"repository": fake.name("team/x"), "digest": first, "tags": ["1"]}]);
    assert_eq!(document["deleted"], deleted);
    fake.rule(|seen, _| seen.is("DELETE", "").then(|| Reply::new(202, "")));
    let (code, document) = command(&["prod"]);
    assert_eq!((code, &document["status"]), (0, &json!("ok")));
    assert_eq!(document["deleted"][0]["digest"], json!(second));
    let events = journal(&gantry);
    let of_rm: Vec<(&Value, &Value)> = events
        .iter()
        .filter(|event| event["kind"] == "rm")
        .map(|event| (&event["digest"], &event["status"]))
        .collect();
    let (first, second) = (json!(first), json!(second));
    let (ok, failed, none) = (json!("ok"), json!("failed"), Value::Null);
    assert_eq!(of_rm, [(&first, &ok), (&none, &failed), (&second, &ok)]);
}

#[test]
fn a_list_whose_pages_shift_is_read_again_and_an_api_shows_no_password() {
    let (fake, gantry, [first, _]) = registry();
    with_api(&gantry, &fake, "scaleway", "/api");
    let digest = first.clone();
    let tag = move |name: &str| json!({"id": format!("id-{name}"), "name": name, "digest": digest});
    let tags = Arc::new(Mutex::new(vec!["0", "1", "2", "latest"]));
    let own = Arc::clone(&tags);
    fake.rule(move |seen, _| {
        let (path, query) = seen.path.split_once('?')?;
        let json = |value: Value| Some(Reply::new(200, value.to_string()));
        match path {
            "/api/namespaces" => json(json!({"namespaces": [{"id": "s", "name": "team"}], "total_count": 1})),
            "/api/images" => json(json!({"images": [{"id": "i", "name": "x"}], "total_count": 1})),
            "/api/images/i/tags" => {
                let number: usize = query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix("page=")?.parse().ok())?;
                let mut tags = own.lock().unwrap();
                let page: Vec<Value> = tags
                    .iter()
                    .skip((number - 1) * 2)
                    .take(2)
                    .map(|name| tag(name))
                    .collect();
                // The first is deleted by another one: what comes next is passed over.
                if tags[0] == "0" {
                    tags.remove(0);
                }
                json(json!({"tags": page, "total_count": tags.len()}))
            }
            _ => None,
        }
    });
    let refused = rm(&gantry, &fake, &[":1", ":latest"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("is also 2"), "{}", refused.stderr);
    assert_eq!(fake.count("DELETE", ""), 0);
    let mut number = 0;
    fake.rule(move |seen, _| {
        number += 1;
        let tag = json!({"id": format!("id-{number}"), "name": "1", "digest": first});
        seen.path
            .contains("/api/images/i/tags")
            .then(|| Reply::new(200, json!({"tags": [tag], "total_count": 1}).to_string()))
    });
    let moving = rm(&gantry, &fake, &[":1"]);
    assert!(
        moving.code == 1 && moving.stderr.contains("changes while"),
        "{}",
        moving.stderr
    );
    for reply in [
        Reply::new(403, r#"{"message":"the key s3cret may not"}"#),
        Reply::new(
            200,
            r#"{"namespaces":[{"id":"s3cret/","name":"team"}],"total_count":1}"#,
        ),
    ] {
        fake.rule(move |seen, _| seen.path.contains("/api/namespaces").then(|| reply.clone()));
        let done = rm(&gantry, &fake, &[":1"]);
        assert!(done.code == 1 && done.stderr.contains("[redacted]"), "{}", done.stderr);
        assert!(!done.stderr.contains("s3cret"), "{}", done.stderr);
    }
}

#[test]
fn tags_are_asked_for_several_at_once_but_no_more_than_connections_are_allowed() {
    for (more, most) in [("", 8), ("connections = 3\n", 3)] {
        let fake = Fake::start();
        for number in 0..20 {
            put(
                &fake,
                MANIFEST,
                &json!({"schemaVersion": 2, "n": number}),
                &[&format!("t{number}")],
            );
        }
        let gantry = Gantry::new();
        let entry = format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n{more}", fake.host);
        configure(&gantry, &entry);
        let gate = fake.gate_for(most, |seen| seen.is("HEAD", "/manifests/"));
        gantry.ok(["registries", "rm", "--dry-run", &fake.name("team/x:t7")]);
        assert_eq!(gate.most(), most);
    }
}
