//! What refers to an image and is at fault does not keep the image from being copied, and nothing of it is lost without a word.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use gantry::oci::Digest;
use serde_json::{json, Value};

use super::copying::{artifact, list, listed, listed_referrer, put, raw, two, INDEX, MANIFEST};
use super::fake::{Fake, Reply};
use super::images::{configure, layers, store_of};
use crate::common::Gantry;

const OTHER: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn tag_of(digest: &str) -> String {
    digest.replace(':', "-")
}

#[test]
fn a_referrer_at_fault_is_left_out_by_name_and_the_others_come() {
    let (from, to, gantry, digest) = two();
    let entry =
        |(digest, size): &(String, usize), kind: &str| json!({"mediaType": kind, "digest": digest, "size": size});
    let of = |bytes: &[u8]| artifact(&from, "team/x", None, Some(&digest), bytes);
    let (good, lied, strange) = (of(b"good"), of(b"lied"), of(b"strange"));
    // One of which the registry has the manifest alone.
    let bare = of(b"bare");
    from.state
        .blobs
        .lock()
        .unwrap()
        .remove(&Digest::of(b"bare").to_string());
    let gone = (OTHER.to_owned(), 7);
    let entries = [
        entry(&gone, MANIFEST),
        entry(&(lied.0.clone(), lied.1 + 1), MANIFEST),
        entry(&strange, "application/vnd.oci.artifact.manifest.v1+json"),
        entry(&bare, MANIFEST),
        // A manifest that is called an index.
        entry(&good, INDEX),
    ];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    put(
        &from,
        "team/x",
        Some(&tag_of(&digest)),
        INDEX,
        &serde_json::to_vec(&index).unwrap(),
    );
    let done = gantry.gantry(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(to.digest_of("mirror/x", "1").unwrap(), digest);
    for (one, reason) in [
        (&gone, "404"),
        (&lied, "size"),
        (&strange, "no manifest's"),
        (&bare, "404"),
    ] {
        let says = format!("{}, listed as a referrer of {digest}, is left out", one.0);
        let line = done.stderr.lines().find(|line| line.contains(&says));
        assert!(
            line.is_some_and(|line| line.contains(reason)),
            "{reason}: {}",
            done.stderr
        );
        assert!(raw(&to, "mirror/x", &one.0).is_none());
    }
    let there = listed(&to, "mirror/x", &digest);
    assert_eq!(there.keys().collect::<Vec<_>>(), [&good.0]);
    assert_eq!(there[&good.0]["mediaType"], MANIFEST);
    // Into an archive, which cannot begin a blob anew.
    let scratch = tempfile::tempdir().unwrap();
    let archive = format!("oci-archive:{}", scratch.path().join("x.tar").display());
    gantry.ok(["copy", &from.name("team/x:1"), &archive]);
    gantry.ok(["copy", &archive, &to.name("again/x:1")]);
    assert_eq!(listed(&to, "again/x", &digest).keys().collect::<Vec<_>>(), [&good.0]);
}

#[test]
fn a_registry_without_a_list_says_so_in_many_ways_and_is_asked_once() {
    let (from, to, gantry, digest) = two();
    let one = listed_referrer(&from, &digest);
    for (number, reply) in [
        Reply::new(400, ""),
        Reply::new(405, ""),
        Reply::new(406, ""),
        Reply::new(501, ""),
        Reply::new(200, "<html>").with("Content-Type", "text/html"),
        Reply::new(200, "{\"schemaVersion\":2}"),
    ]
    .into_iter()
    .enumerate()
    {
        from.rule(move |seen, _| seen.path.contains("/referrers/").then(|| reply.clone()));
        let (asked, repository) = (from.count("GET", "/referrers/"), format!("mirror{number}/x"));
        gantry.ok(["copy", &from.name("team/x:1"), &to.name(&format!("{repository}:1"))]);
        assert!(listed(&to, &repository, &digest).contains_key(&one.0), "{number}");
        assert_eq!(from.count("GET", "/referrers/") - asked, 1, "{number}");
    }
    // One that refuses is no registry without a list, and the error says what it is about.
    from.rule(|seen, _| seen.path.contains("/referrers/").then(|| Reply::new(403, "")));
    let done = gantry.gantry(["copy", &from.name("team/x:1"), &to.name("refused/x:1")]);
    assert_ne!(done.code, 0);
    for says in [&format!("copy what refers to {digest}"), "hint: `--no-referrers`"] {
        assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
    }
    assert!(to.digest_of("refused/x", "1").is_none());
}

#[test]
fn a_companion_tag_that_is_not_moved_keeps_no_image_from_its_new_tag() {
    let (from, to, gantry, digest) = two();
    let registry = |host: &str, more: &str| format!("[[registry]]\nhost = \"{host}\"\nplain_http = true\n{more}");
    let all = registry(&from.host, "") + &registry(&to.host, "immutable = [\"fixed/*\"]\n");
    configure(&gantry, &all);
    let tag = format!("{}.sig", tag_of(&digest));
    let sign = |bytes: &[u8]| artifact(&from, "team/x", Some(&tag), None, bytes).0;
    let scratch = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}", scratch.path().display());
    let first = sign(b"one");
    for place in [&to.name("fixed/x:1"), &to.name("free/x:1"), &layout] {
        gantry.ok(["copy", &from.name("team/x:1"), place]);
    }
    let second = sign(b"two");
    for (place, says) in [
        (&to.name("fixed/x:2"), format!("means {first} and stays")),
        (&to.name("free/x:2"), format!("meant {first} and is replaced")),
        (&layout, format!("meant {first} and is replaced")),
    ] {
        let done = gantry.gantry(["copy", &from.name("team/x:1"), place]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert!(done.stderr.contains(&says), "{says}: {}", done.stderr);
    }
    assert_eq!(to.digest_of("fixed/x", "2").unwrap(), digest);
    assert_eq!(to.digest_of("fixed/x", &tag).unwrap(), first);
    assert_eq!(to.digest_of("free/x", &tag).unwrap(), second);
    // The image itself is not moved all the same.
    let manifest = raw(&from, "team/x", &first).unwrap();
    put(&to, "fixed/x", Some("3"), MANIFEST, &manifest);
    assert_eq!(
        gantry
            .gantry(["copy", &from.name("team/x:1"), &to.name("fixed/x:3")])
            .code,
        3
    );
}

#[test]
fn a_damaged_signature_of_a_layout_is_named() {
    let (from, to, gantry, digest) = two();
    let one = listed_referrer(&from, &digest);
    let scratch = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}", scratch.path().display());
    gantry.ok(["copy", &from.name("team/x:1"), &layout]);
    fs::write(scratch.path().join("blobs/sha256").join(&one.0[7..]), "damaged").unwrap();
    let done = gantry.gantry(["copy", &layout, &to.name("mirror/x:1")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains(&one.0) && done.stderr.contains("is left out"),
        "{}",
        done.stderr
    );
    assert_eq!(to.digest_of("mirror/x", "1").unwrap(), digest);
}

#[test]
fn a_fallback_tag_that_is_no_list_is_nobodys_to_write_over() {
    let (from, to, gantry, digest) = two();
    let tag = tag_of(&digest);
    let image = raw(&from, "team/x", &digest).unwrap();
    // At the source: nothing is listed there, which is said.
    put(&from, "team/x", Some(&tag), MANIFEST, &image);
    let done = gantry.gantry(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains(&format!("the tag {tag} is no list")),
        "{}",
        done.stderr
    );
    // At the destination: it stays, and the error says what to do.
    listed_referrer(&from, &digest);
    put(&to, "other/x", Some(&tag), MANIFEST, &image);
    let done = gantry.gantry(["copy", &from.name("team/x:1"), &to.name("other/x:1")]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    for says in [
        &to.name(&format!("other/x:{tag}")),
        "list of referrers",
        "--no-referrers",
    ] {
        assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
    }
    assert_eq!(to.digest_of("other/x", &tag).unwrap(), digest);
}

#[test]
fn what_refers_to_an_index_is_said_to_stay() {
    let (from, to, gantry, digest) = two();
    let size = raw(&from, "team/x", &digest).unwrap().len();
    let (index, _) = put(&from, "team/x", Some("all"), INDEX, &list(&[(digest.clone(), size)]));
    gantry.ok(["copy", &from.name("team/x:all"), &to.name("plain/x:1")]);
    artifact(&from, "team/x", Some(&format!("{}.sig", tag_of(&index))), None, b"sig");
    let done = gantry.gantry(["copy", &from.name("team/x:all"), &to.name("mirror/x:1")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let says = format!("what refers to the index {index} is not copied (1 found)");
    assert!(done.stderr.contains(&says), "{}", done.stderr);
}

#[test]
fn a_layer_that_is_damaged_on_this_machine_comes_from_the_registry() {
    let (from, to, gantry, digest) = two();
    gantry.ok(["pull", &from.name("team/x:1")]);
    let (layer, _) = layers(&gantry, &digest).remove(0);
    let path = gantry.root.join("blobs/sha256").join(&layer[7..]);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let done = gantry.gantry(["copy", &from.name("team/x:1"), &to.name("mirror/x:1")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains(&format!("{layer} is damaged")) && done.stderr.contains("gantry cache check"),
        "{}",
        done.stderr
    );
    let there = to.state.blobs.lock().unwrap()[&layer].clone();
    assert_eq!(Digest::of(&there).to_string(), layer);
}

#[test]
fn a_destination_with_a_tag_and_a_digest_gets_both() {
    let (from, to, gantry, digest) = two();
    let place = to.name(&format!("mirror/x:7@{digest}"));
    gantry.ok(["copy", &from.name("team/x:1"), &place]);
    assert_eq!(to.digest_of("mirror/x", "7").unwrap(), digest);
    // In a list as well: equal is what has the tag.
    let scratch = tempfile::tempdir().unwrap();
    let (file, report) = (scratch.path().join("list"), scratch.path().join("report.json"));
    let lines = ["7", "8"].map(|tag| {
        format!(
            "{} {}\n",
            from.name("team/x:1"),
            to.name(&format!("mirror/x:{tag}@{digest}"))
        )
    });
    fs::write(&file, lines.concat()).unwrap();
    let [file, report] = [file, report].map(|path| path.display().to_string());
    gantry.ok(["copy", "--all-from", &file, "--report", &report]);
    let document: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let statuses = [0, 1].map(|at| document["images"][at]["status"].as_str().unwrap());
    assert_eq!(statuses, ["equal", "copied"]);
    assert_eq!(to.digest_of("mirror/x", "8").unwrap(), digest);
}

#[test]
fn a_registry_that_answers_for_another_one_may_know_less_of_what_belongs_to_an_image() {
    let (first, second, gantry, digest) = two();
    let place = |registry: &Fake| registry.name("team/x:1");
    gantry.ok(["copy", "--no-referrers", &place(&first), &place(&second)]);
    let signature = listed_referrer(&first, &digest).0;
    let is_away = Arc::new(AtomicBool::new(true));
    let away = Arc::clone(&is_away);
    first.rule(move |_, _| away.load(Ordering::Relaxed).then(|| Reply::new(503, "")));
    let scratch = tempfile::tempdir().unwrap();
    let copy = |gantry: &Gantry, name: &str| {
        let layout = scratch.path().join(name);
        let to = format!("oci:{}:1", layout.display());
        let done = gantry.gantry(["copy", &place(&first), &to]);
        assert_eq!((done.code, done.stdout.trim()), (0, digest.as_str()), "{}", done.stderr);
        (layout.join("blobs/sha256").join(&signature[7..]).exists(), done.stderr)
    };
    let (is_signed, said) = copy(&gantry, "unsigned");
    let warning = format!(
        "{} was asked what refers to {digest} (0 found), and not {}: signatures",
        second.name("team/x"),
        first.name("team/x")
    );
    assert!(!is_signed && said.contains(&warning), "{said}");
    // And without a word where the one that was named says it.
    is_away.store(false, Ordering::Relaxed);
    let (is_signed, said) = copy(&store_of(&[&first, &second], ""), "signed");
    assert!(is_signed && !said.contains("warning"), "{said}");
}
