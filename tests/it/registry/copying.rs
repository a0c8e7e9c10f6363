//! Images are copied between registries, layouts and archives with what belongs to them, one by one or as a list.

use std::collections::BTreeMap;
use std::fs;

use gantry::oci::Digest;
use serde_json::{json, Value};

use super::fake::{Fake, Reply};
use super::images::{configure, image, layers, store_of};
use crate::common::Gantry;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Puts an artifact into a fake, under `tag` or its digest alone; returns its digest and its size.
pub(super) fn artifact(
    fake: &Fake,
    repository: &str,
    tag: Option<&str>,
    subject: Option<&str>,
    bytes: &[u8],
) -> (String, usize) {
    let blob = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes).to_string();
        fake.state.blobs.lock().unwrap().insert(digest.clone(), bytes.to_vec());
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    };
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": blob(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [blob(bytes, "application/vnd.example.bytes")],
        "annotations": {"org.example.by": "us"},
        "x-custom": {"kept": [1, null]},
    });
    if let Some(digest) = subject {
        manifest["subject"] = json!({"mediaType": MANIFEST, "digest": digest, "size": 1});
    }
    put(
        fake,
        repository,
        tag,
        MANIFEST,
        &serde_json::to_vec_pretty(&manifest).unwrap(),
    )
}

pub(super) fn put(fake: &Fake, repository: &str, tag: Option<&str>, kind: &str, raw: &[u8]) -> (String, usize) {
    let digest = Digest::of(raw).to_string();
    let mut manifests = fake.state.manifests.lock().unwrap();
    for name in tag.into_iter().chain([digest.as_str()]) {
        manifests.insert(
            (repository.to_owned(), name.to_owned()),
            (kind.to_owned(), raw.to_vec()),
        );
    }
    (digest, raw.len())
}

pub(super) fn list(entries: &[(String, usize)]) -> Vec<u8> {
    let entry = |(digest, size): &(String, usize)| json!({"mediaType": MANIFEST, "digest": digest, "size": size});
    let entries: Vec<Value> = entries.iter().map(entry).collect();
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})).unwrap()
}

pub(super) fn raw(fake: &Fake, repository: &str, name: &str) -> Option<Vec<u8>> {
    let manifests = fake.state.manifests.lock().unwrap();
    manifests
        .get(&(repository.to_owned(), name.to_owned()))
        .map(|found| found.1.clone())
}

/// What the fallback tag of an image lists there.
pub(super) fn listed(fake: &Fake, repository: &str, image: &str) -> BTreeMap<String, Value> {
    let Some(raw) = raw(fake, repository, &image.replace(':', "-")) else {
        return BTreeMap::new();
    };
    let index: Value = serde_json::from_slice(&raw).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    entries
        .map(|entry| (entry["digest"].as_str().unwrap().to_owned(), entry.clone()))
        .collect()
}

/// Puts something that refers to the image `digest` there, and the list that has it; returns digest and size of the former.
pub(super) fn listed_referrer(from: &Fake, digest: &str) -> (String, usize) {
    let one = artifact(from, "team/x", None, Some(digest), b"packages");
    let tag = digest.replace(':', "-");
    put(from, "team/x", Some(&tag), INDEX, &list(std::slice::from_ref(&one)));
    one
}

/// Two registries, the first with an image.
pub(super) fn two() -> (Fake, Fake, Gantry, String) {
    let (from, to, maker) = (Fake::start(), Fake::start(), Gantry::new());
    let digest = image(&maker, "x:1", &[(1, 40_000)]);
    from.hold(&maker.root, &digest, "team/x", "1");
    let gantry = store_of(&[&from, &to], "");
    (from, to, gantry, digest)
}

#[test]
fn what_belongs_to_an_image_goes_with_it_and_is_found_where_nothing_lists_it() {
    let (from, to, gantry, digest) = two();
    let package_list = artifact(&from, "team/x", None, Some(&digest), b"packages");
    let of_list = artifact(&from, "team/x", None, Some(&package_list.0), b"signature of the list");
    let signature = artifact(
        &from,
        "team/x",
        Some(&format!("{}.sig", digest.replace(':', "-"))),
        None,
        b"sig",
    );
    // By the first page of a list, by its second, and by the fallback tag.
    let (image_path, list_path) = (format!("/referrers/{digest}"), format!("/referrers/{}", package_list.0));
    let (first, empty) = (list(&[]), list(std::slice::from_ref(&package_list)));
    from.rule(move |seen, _| {
        let page = |raw: &[u8]| Reply::new(200, raw).with("Content-Type", INDEX);
        match seen.path.split_once('?') {
            None if seen.path.ends_with(&image_path) => {
                Some(page(&first).with("Link", format!("<{}?page=2>; rel=\"next\"", seen.path)))
            }
            Some((path, "page=2")) if path.ends_with(&image_path) => Some(page(&empty)),
            _ if seen.path.ends_with(&list_path) => Some(Reply::new(404, "")),
            _ => None,
        }
    });
    put(
        &from,
        "team/x",
        Some(&package_list.0.replace(':', "-")),
        INDEX,
        &list(std::slice::from_ref(&of_list)),
    );
    // Another one's is there already, with a field that we do not know.
    let other = json!({"mediaType": MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 7, "x-new": 1});
    let there = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other]});
    put(
        &to,
        "mirror/x",
        Some(&digest.replace(':', "-")),
        INDEX,
        &serde_json::to_vec(&there).unwrap(),
    );

    let copied = gantry.ok(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    assert_eq!(copied.trim(), digest);
    assert_eq!(to.digest_of("mirror/x", "1").unwrap(), digest);
    for (name, of) in [(&package_list.0, &digest), (&of_list.0, &package_list.0)] {
        assert_eq!(raw(&to, "mirror/x", name).unwrap(), raw(&from, "team/x", name).unwrap());
        let entry = listed(&to, "mirror/x", of).remove(name).unwrap();
        assert_eq!(entry["artifactType"], "application/vnd.example.signature");
        assert_eq!(entry["annotations"], json!({"org.example.by": "us"}));
    }
    assert_eq!(
        listed(&to, "mirror/x", &digest)[other["digest"].as_str().unwrap()],
        other
    );
    assert_eq!(
        to.digest_of("mirror/x", &format!("{}.sig", digest.replace(':', "-")))
            .unwrap(),
        signature.0
    );
    // The image has its name when all of that is there.
    let puts: Vec<String> = to
        .seen()
        .iter()
        .filter(|seen| seen.is("PUT", "/manifests/"))
        .map(|seen| seen.path.clone())
        .collect();
    assert!(puts.last().unwrap().ends_with("/manifests/1"), "{puts:?}");
    // Again: everything is there, and no blob is sent.
    let sent = to.count("PUT", "/blobs/");
    gantry.ok(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    assert_eq!(to.count("PUT", "/blobs/"), sent);
    // Not where it is not wanted.
    gantry.ok(["copy", "--no-referrers", &from.name("team/x:1"), &to.name("plain/x:1")]);
    assert!(raw(&to, "plain/x", &package_list.0).is_none());
    assert_eq!(to.count("PUT", "/v2/plain/x/manifests/"), 1);
}

#[test]
fn a_registry_that_lists_referrers_itself_gets_no_list() {
    let (from, to, gantry, digest) = two();
    let one = listed_referrer(&from, &digest);
    let subject = digest.clone();
    to.rule(move |seen, state| {
        let is_it = seen.method == "PUT" && seen.path.contains("/manifests/sha256:");
        is_it.then(|| state.answer(seen, "").with("OCI-Subject", subject.as_str()))
    });
    gantry.ok(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    assert!(raw(&to, "mirror/x", &one.0).is_some());
    assert!(listed(&to, "mirror/x", &digest).is_empty());
}

#[test]
fn a_list_that_another_one_writes_at_once_loses_nothing() {
    let (from, to, gantry, digest) = two();
    let one = listed_referrer(&from, &digest);
    // Twice somebody writes over ours between our writing it and our reading it again.
    let (tag, mut times) = (format!("/manifests/{}", digest.replace(':', "-")), 0);
    to.rule(move |seen, state| {
        if !seen.is("PUT", &tag) || times == 2 {
            return None;
        }
        times += 1;
        let theirs = list(&[(format!("sha256:{}", times.to_string().repeat(64)), 1)]);
        let reply = state.answer(seen, "");
        let key = ("mirror/x".to_owned(), tag["/manifests/".len()..].to_owned());
        state.manifests.lock().unwrap().insert(key, (INDEX.to_owned(), theirs));
        Some(reply)
    });
    gantry.ok(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    let there = listed(&to, "mirror/x", &digest);
    assert!(there.contains_key(&one.0) && there.len() == 3, "{there:?}");
}

#[test]
fn a_hostile_list_of_referrers_has_an_end() {
    let (from, to, gantry, digest) = two();
    let path = format!("/referrers/{digest}");
    let copy = |gantry: &Gantry| gantry.gantry(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    // One entry that is about something else is left out, one that is about itself ends.
    let stray = artifact(
        &from,
        "team/x",
        None,
        Some(&format!("sha256:{}", "1".repeat(64))),
        b"stray",
    );
    let own = path.clone();
    let listed_stray = list(&[
        stray.clone(),
        (digest.clone(), raw(&from, "team/x", &digest).unwrap().len()),
    ]);
    from.rule(move |seen, _| {
        seen.path
            .ends_with(&own)
            .then(|| Reply::new(200, listed_stray.as_slice()))
    });
    let done = copy(&gantry);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("refers to something else"), "{}", done.stderr);
    assert!(raw(&to, "mirror/x", &stray.0).is_none());

    let many: Vec<(String, usize)> = (0..1001)
        .map(|number: usize| (Digest::of(&number.to_le_bytes()).to_string(), 1))
        .collect();
    let huge = {
        let blob = json!({"mediaType": "x", "digest": stray.0, "size": 1u64 << 40});
        let subject = json!({"mediaType": MANIFEST, "digest": digest, "size": 1});
        let raw = json!({"schemaVersion": 2, "config": blob, "layers": [], "subject": subject});
        put(&from, "team/x", None, MANIFEST, &serde_json::to_vec(&raw).unwrap())
    };
    let page = |raw: Vec<u8>, link: Option<String>| {
        let reply = Reply::new(200, raw).with("Content-Type", INDEX);
        match link {
            Some(link) => reply.with("Link", format!("<{link}>; rel=\"next\"")),
            None => reply,
        }
    };
    let elsewhere = format!("http://{}/v2/team/x/referrers/{digest}", to.host);
    for (reply, code, says) in [
        (page(list(&many), None), 3, "more than 1000"),
        (page(list(std::slice::from_ref(&huge)), None), 3, "over 1 GiB"),
        (page(list(&[]), Some(elsewhere)), 1, "next page"),
        (page(list(&[]), Some(format!("/v2/team/x{path}"))), 1, "circle"),
        (page(vec![b' '; 5 << 20], None), 1, "over 4"),
    ] {
        let own = path.clone();
        from.rule(move |seen, _| seen.path.ends_with(&own).then(|| reply.clone()));
        let seen = to.seen().len();
        let done = copy(&gantry);
        assert_eq!(done.code, code, "{says}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
        let moved = to.seen()[seen..]
            .iter()
            .filter(|seen| seen.is("PUT", "/manifests/1"))
            .count();
        assert_eq!(moved, 0, "{says}");
    }
    // What is listed is not read to its end when it is too much: of pages with 600 entries each two are asked for.
    let (own, mut number) = (path.clone(), 0);
    from.rule(move |seen, _| {
        let bare = seen.path.split('?').next().unwrap().to_owned();
        bare.ends_with(&own).then(|| {
            number += 1;
            let entries: Vec<(String, usize)> = (0..600)
                .map(|entry: usize| (Digest::of(&(number * 1000 + entry).to_le_bytes()).to_string(), 1))
                .collect();
            Reply::new(200, list(&entries)).with("Link", format!("<{bare}?page={number}>; rel=\"next\""))
        })
    });
    let asked = from.count("GET", &path);
    let done = copy(&gantry);
    assert!(
        done.code == 3 && done.stderr.contains("more than 1000"),
        "{}",
        done.stderr
    );
    assert_eq!(from.count("GET", &path) - asked, 2);
    // Pages without end.
    let (own, mut number) = (path.clone(), 0);
    from.rule(move |seen, _| {
        let is_it = seen.path.split('?').next().is_some_and(|path| path.ends_with(&own));
        is_it.then(|| {
            number += 1;
            let next = format!("{}?page={number}", seen.path.split('?').next().unwrap());
            Reply::new(200, list(&[])).with("Link", format!("<{next}>; rel=\"next\""))
        })
    });
    let done = copy(&gantry);
    assert!(
        done.code == 1 && done.stderr.contains("more than 100 pages"),
        "{}",
        done.stderr
    );
}

#[test]
fn layouts_and_archives_keep_what_belongs_to_an_image() {
    let (from, to, gantry, digest) = two();
    let one = listed_referrer(&from, &digest);
    let tag = format!("{}.sig", digest.replace(':', "-"));
    let signature = artifact(&from, "team/x", Some(&tag), None, b"sig");
    let scratch = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}", scratch.path().join("layout").display());
    let archive = format!("oci-archive:{}", scratch.path().join("x.tar").display());
    // Round it goes: registry, layout, archive, registry. Twice into the layout: nothing is there twice.
    gantry.ok(["copy", &from.name("team/x:1"), &layout]);
    gantry.ok(["copy", &from.name("team/x:1"), &layout]);
    let index: Value = serde_json::from_slice(&fs::read(scratch.path().join("layout/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3, "{index}");
    gantry.ok(["copy", &layout, &archive]);
    gantry.ok(["copy", &archive, &to.name("mirror/x:1")]);
    assert_eq!(to.digest_of("mirror/x", "1").unwrap(), digest);
    assert_eq!(to.digest_of("mirror/x", &tag).unwrap(), signature.0);
    assert!(listed(&to, "mirror/x", &digest).contains_key(&one.0));
    // They are one image each, for whoever asks for it.
    let other = Gantry::new();
    for place in [&layout, &archive] {
        assert_eq!(other.ok(["pull", place, "--tag", "y:1"]).trim(), digest);
    }
    assert_eq!(
        other
            .ok(["load", &archive["oci-archive:".len()..], "--tag", "z:1"])
            .lines()
            .count(),
        1
    );
}

#[test]
fn a_layer_that_this_machine_has_is_not_fetched_for_others_but_has_to_be_there() {
    let (from, to, gantry, digest) = two();
    gantry.ok(["pull", &from.name("team/x:1")]);
    let (layer, _) = layers(&gantry, &digest).remove(0);
    let blob = format!("/blobs/{layer}");
    let (fetched, proved) = (from.count("GET", &blob), from.count("HEAD", &blob));
    gantry.ok(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    assert_eq!(from.count("GET", &blob), fetched);
    assert!(from.count("HEAD", &blob) > proved);
    assert_eq!(to.digest_of("mirror/x", "1").unwrap(), digest);
    // A registry that has only the manifest gives nobody our layer.
    from.state.blobs.lock().unwrap().remove(&layer);
    let done = gantry.gantry(["copy", &from.name("team/x:1"), &to.name("stolen/x:1")]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(to.digest_of("stolen/x", "1").is_none());
}

#[test]
fn a_list_is_copied_to_its_end_and_what_is_there_is_skipped() {
    let (from, to, maker) = (Fake::start(), Fake::start(), Gantry::new());
    let digests: Vec<String> = (1..=6).map(|number| image(&maker, "x:1", &[(number, 4000)])).collect();
    for (digest, name) in digests.iter().zip(["a", "b", "c", "d", "e"]) {
        from.hold(&maker.root, digest, &format!("team/{name}"), "1");
    }
    let gantry = store_of(&[&from, &to], "");
    let scratch = tempfile::tempdir().unwrap();
    let (file, report) = (scratch.path().join("list"), scratch.path().join("report.json"));
    let lines: String = ["a", "b", "none", "c", "d", "e"]
        .map(|name| format!("{}\n", from.name(&format!("team/{name}:1"))))
        .concat();
    fs::write(&file, format!("# the base images\n{lines}")).unwrap();
    let (file, report) = (file.display().to_string(), report.display().to_string());
    let target = to.name("mirror");
    let run = || {
        let done = gantry.gantry(["copy", "--all-from", &file, &target, "--report", &report]);
        let document: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        (done, document)
    };
    let statuses = |document: &Value| -> Vec<String> {
        let images = document["images"].as_array().unwrap();
        images
            .iter()
            .map(|one| one["status"].as_str().unwrap().to_owned())
            .collect()
    };
    let (done, document) = run();
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert_eq!(
        (&document["status"], &document["exit_code"]),
        (&json!("failed"), &json!(1))
    );
    assert_eq!(
        statuses(&document),
        ["copied", "copied", "failed", "copied", "copied", "copied"]
    );
    assert!(
        document["images"][2]["error"].as_str().unwrap().contains("team/none"),
        "{document}"
    );
    assert_eq!(document["images"][0]["destination"], to.name("mirror/team/a:1"));
    for (digest, name) in digests.iter().zip(["a", "b", "c", "d", "e"]) {
        assert_eq!(&to.digest_of(&format!("mirror/team/{name}"), "1").unwrap(), digest);
    }
    assert_eq!(done.stdout.lines().count(), 5);
    // Again, without a byte of what is there, and the one that was missing; what refers to one came later.
    let signature = artifact(&from, "team/b", None, Some(&digests[1]), b"signature");
    let tag = format!("{}.sig", digests[1].replace(':', "-"));
    put(
        &from,
        "team/b",
        Some(&tag),
        MANIFEST,
        &raw(&from, "team/b", &signature.0).unwrap(),
    );
    from.hold(&maker.root, &digests[5], "team/none", "1");
    let (before, sent) = (from.seen().len(), to.count("PUT", ""));
    let (done, document) = run();
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(
        statuses(&document),
        ["equal", "equal", "copied", "equal", "equal", "equal"]
    );
    assert_eq!(to.digest_of("mirror/team/b", &tag).unwrap(), signature.0);
    let of_signature = [b"{}".as_slice(), b"signature"].map(|bytes| Digest::of(bytes).to_string());
    let is_of_others = |path: &str| {
        let is_new = path.contains(&signature.0) || of_signature.iter().any(|digest| path.contains(digest));
        path.starts_with("/v2/team/") && !path.contains("none") && !is_new
    };
    for seen in &from.seen()[before..] {
        assert!(
            seen.method == "HEAD" || seen.path.contains("/referrers/") || !is_of_others(&seen.path),
            "{} {}",
            seen.method,
            seen.path
        );
    }
    assert!(to.count("PUT", "") > sent);
    // Who was asked, of one that was equal and of one that was copied.
    for at in [0usize, 2] {
        let attempts = document["images"][at]["attempts"].as_array().unwrap();
        let mut hosts: Vec<&str> = attempts.iter().map(|one| one["registry"].as_str().unwrap()).collect();
        hosts.sort_unstable();
        let mut expected = [from.host.as_str(), to.host.as_str()];
        expected.sort_unstable();
        assert_eq!(hosts, expected);
    }
    // One that is moved is copied again.
    from.hold(&maker.root, &digests[5], "team/a", "1");
    assert_eq!(statuses(&run().1)[0], "copied");
    assert_eq!(to.digest_of("mirror/team/a", "1").unwrap(), digests[5]);
    // A registry that is away is worth another try.
    configure(&gantry, &format!("[transfer]\nconnect = \"1s\"\nstall = \"1s\"\n[[registry]]\nhost = \"{}\"\nplain_http = true\n[[registry]]\nhost = \"{}\"\nplain_http = true\n", from.host, to.host));
    from.rule(|seen, _| seen.path.contains("team/b").then(|| Reply::new(503, "")));
    let (done, document) = run();
    assert_eq!(
        (done.code, document["status"].as_str()),
        (4, Some("unavailable")),
        "{}",
        done.stderr
    );
    assert_eq!(
        (&document["images"][1]["status"], &document["images"][1]["is_retryable"]),
        (&json!("failed"), &json!(true))
    );
}

#[test]
fn a_list_says_once_what_can_be_done_about_its_failures() {
    let (from, to, gantry, _) = two();
    to.rule(|_, _| Some(Reply::new(401, "")));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("list").display().to_string();
    let lines = ["a", "b", "c"].map(|name| format!("{} {}\n", from.name("team/x:1"), to.name(&format!("{name}/x:1"))));
    fs::write(&file, lines.concat()).unwrap();
    let done = gantry.gantry(["copy", "--all-from", &file]);
    assert_eq!(
        (done.code, done.stderr.matches("error: copy ").count()),
        (1, 3),
        "{}",
        done.stderr
    );
    assert_eq!(
        done.stderr
            .matches(&format!("hint: `gantry login {} ", to.host))
            .count(),
        1,
        "{}",
        done.stderr
    );
}

#[test]
fn a_list_that_cannot_be_meant_copies_nothing() {
    let (from, to, gantry, _) = two();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("list").display().to_string();
    fs::write(
        &file,
        format!("{} {}\ndocker://x y\n", from.name("team/x:1"), to.name("mirror/x:1")),
    )
    .unwrap();
    let done = gantry.gantry(["copy", "--all-from", &file]);
    assert!(done.code == 2 && done.stderr.contains("line 2"), "{}", done.stderr);
    assert!(from.seen().is_empty() && to.seen().is_empty());
    for args in [
        ["copy", "--all-from", "/none/list"].as_slice(),
        &["copy"],
        &["copy", "a:1"],
        &["copy", "--all-from", &file, "a:1", "b:1"],
    ] {
        assert!(matches!(gantry.gantry(args).code, 1 | 2), "{args:?}");
    }
}
