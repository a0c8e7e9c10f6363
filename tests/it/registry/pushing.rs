//! What a push sends, and what it does not send again.

use super::fake::{Fake, Reply, Then};
use super::images::{configure, image, layers, store_of};
use crate::common::Gantry;

/// A store with `a:1` of two layers, and its digest.
fn source(fakes: &[&Fake], more: &str) -> (Gantry, String) {
    let gantry = store_of(fakes, more);
    let digest = image(&gantry, "a:1", &[(1, 200_000), (2, 3_000_000)]);
    (gantry, digest)
}

fn pulls_back(fake: &Fake, rest: &str, digest: &str) {
    let other = store_of(&[fake], "");
    assert_eq!(other.ok(["pull", &fake.name(rest)]).trim(), digest);
}

#[test]
fn an_image_is_pushed_once_and_its_manifest_last() {
    let fake = Fake::start();
    let (gantry, digest) = source(&[&fake], "");
    assert_eq!(gantry.ok(["push", "a:1", &fake.name("team/a:1")]).trim(), digest);
    assert_eq!(fake.digest_of("team/a", "1").as_deref(), Some(digest.as_str()));
    let last = fake.seen().pop().unwrap();
    assert!(
        last.is("PUT", "/v2/team/a/manifests/1"),
        "{} {}",
        last.method,
        last.path
    );
    assert_eq!(
        fake.count("POST", "/blobs/uploads/"),
        3,
        "two layers and the configuration"
    );
    assert_eq!((fake.count("PUT", "/blobs/"), fake.count("PATCH", "")), (3, 0));
    pulls_back(&fake, "team/a:1", &digest);

    // Again: it is looked for, and nothing is sent but the manifest.
    let before = fake.seen().len();
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    let again = &fake.seen()[before..];
    assert_eq!(again.iter().filter(|seen| seen.method != "HEAD").count(), 1);

    // A change of one layer uploads that one.
    image(&gantry, "a:2", &[(1, 200_000), (2, 3_000_000), (3, 1000)]);
    let before = fake.seen().len();
    gantry.ok(["push", "a:2", &fake.name("team/a:2")]);
    let sent: usize = fake.seen()[before..].iter().map(|seen| seen.body.len()).sum();
    assert!(sent < 5000, "{sent} bytes were sent");
}

#[test]
fn the_name_of_an_image_says_where_it_goes() {
    let fake = Fake::start();
    let gantry = store_of(&[&fake], "");
    let name = fake.name("team/a:1");
    let digest = image(&gantry, &name, &[(1, 1000)]);
    assert_eq!(gantry.ok(["push", &name]).trim(), digest);
    assert_eq!(fake.digest_of("team/a", "1"), Some(digest.clone()));
    let by_digest = format!("{}@{digest}", fake.name("team/b"));
    gantry.ok(["push", &name, &by_digest]);
    assert_eq!(
        (fake.digest_of("team/b", &digest), fake.digest_of("team/b", "latest")),
        (Some(digest), None)
    );
    let bare = gantry.gantry(["push", "a:1"]);
    assert_eq!(bare.code, 1);
    assert!(bare.stderr.contains("HOST/REPOSITORY"), "{}", bare.stderr);
}

#[test]
fn a_layer_that_another_repository_has_is_mounted() {
    let fake = Fake::start();
    let gantry = store_of(&[&fake], "");
    let (one, two) = (fake.name("team/one:1"), fake.name("team/two:1"));
    image(&gantry, &one, &[(1, 200_000), (2, 1000)]);
    let second = image(&gantry, &two, &[(1, 200_000), (3, 1000)]);
    gantry.ok(["push", &one]);
    let shared = layers(&gantry, &second)[0].0.clone();
    // As a registry does that keeps repositories apart: in this one it is not.
    let of_two = shared.clone();
    fake.rule(move |seen, _| {
        seen.is("HEAD", &format!("team/two/blobs/{of_two}"))
            .then(|| Reply::new(404, ""))
    });
    let before = fake.seen().len();
    gantry.ok(["push", &two]);
    let mounts: Vec<String> = fake.seen()[before..]
        .iter()
        .filter(|seen| seen.path.contains("mount="))
        .map(|seen| seen.path.clone())
        .collect();
    assert_eq!(mounts.len(), 1);
    assert!(mounts[0].contains("from=team%2Fone"), "{mounts:?}");
    let sent: usize = fake.seen()[before..].iter().map(|seen| seen.body.len()).sum();
    assert!(sent < 10_000, "{sent} bytes were sent");

    // A registry that will not: 202 is an upload that has begun, an error is no reason to give up.
    for reply in [
        None,
        Some(Reply::new(403, "")),
        Some(Reply::new(405, "")),
        Some(Reply::new(503, "")),
    ] {
        let other = Fake::start();
        let gantry = store_of(&[&other], "");
        let (one, two) = (other.name("team/one:1"), other.name("team/two:1"));
        image(&gantry, &one, &[(1, 200_000)]);
        let digest = image(&gantry, &two, &[(1, 200_000), (3, 1000)]);
        if let Some(reply) = reply {
            other.rule(move |seen, _| seen.path.contains("mount=").then(|| reply.clone()));
        }
        gantry.ok(["push", &two]);
        pulls_back(&other, "team/two:1", &digest);
    }
}

#[test]
fn five_layers_go_at_once_or_as_many_as_the_configuration_says() {
    for (more, most) in [("", 5), ("[transfer]\nuploads = 2\n", 2)] {
        let fake = Fake::start();
        let gantry = store_of(&[&fake], more);
        let sizes: Vec<(u64, usize)> = (10..18).map(|seed| (seed, 5000)).collect();
        image(&gantry, "many:1", &sizes);
        let gate = fake.gate(most);
        gantry.ok(["push", "many:1", &fake.name("many:1")]);
        assert_eq!(gate.most(), most);
    }
}

#[test]
fn an_upload_that_fails_is_made_again_or_goes_on() {
    // A server that is busy for a moment, at each step.
    for (method, part) in [
        ("POST", "/uploads/"),
        ("PUT", "/uploads/"),
        ("PUT", "/manifests/"),
        ("HEAD", "/blobs/"),
    ] {
        let fake = Fake::start();
        let (gantry, digest) = source(&[&fake], "");
        fake.first(1, method, part, Reply::new(503, ""));
        gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
        pulls_back(&fake, "team/a:1", &digest);
    }
    // The answer to a blob that arrived is lost: it is found, and not sent again.
    let fake = Fake::start();
    let (gantry, digest) = source(&[&fake], "");
    let mut lost = false;
    fake.rule(move |seen, state| {
        let is_it = !lost && seen.is("PUT", "/blobs/uploads/") && seen.body.len() > 1_000_000;
        is_it.then(|| {
            lost = true;
            state.answer(seen, "");
            Reply::nothing()
        })
    });
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    pulls_back(&fake, "team/a:1", &digest);
}

#[test]
fn a_registry_that_takes_no_large_requests_gets_chunks() {
    const LIMIT: usize = 4 << 20;
    let fake = Fake::start();
    let gantry = store_of(&[&fake], "");
    let digest = image(&gantry, "a:1", &[(1, 9_000_000)]);
    fake.rule(|seen, _| (seen.body.len() > LIMIT).then(|| Reply::new(416, "request body is too large")));
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    assert_eq!(fake.count("PATCH", ""), 3);
    pulls_back(&fake, "team/a:1", &digest);

    // From the beginning, where the configuration says so, and with what the registry says of it.
    let fake = Fake::start();
    let gantry = Gantry::new();
    let digest = image(&gantry, "a:1", &[(1, 9_000_000)]);
    configure(
        &gantry,
        &format!(
            "[[registry]]\nhost = \"{}\"\nplain_http = true\nchunk = \"1M\"\n",
            fake.host
        ),
    );
    fake.rule(|seen, state| {
        let is_begin = seen.is("POST", "/uploads/");
        is_begin.then(|| {
            state
                .answer(seen, seen.header("host"))
                .with("OCI-Chunk-Min-Length", "2097152")
        })
    });
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    assert_eq!(
        (
            fake.count("PATCH", ""),
            fake.seen().iter().map(|seen| seen.body.len()).max()
        ),
        (5, Some(2 << 20))
    );
    pulls_back(&fake, "team/a:1", &digest);
}

#[test]
fn a_registry_that_is_only_pulled_from_is_not_pushed_to() {
    let fake = Fake::start();
    let gantry = Gantry::new();
    image(&gantry, "a:1", &[(1, 1000)]);
    configure(
        &gantry,
        &format!(
            "[[registry]]\nhost = \"{}\"\nplain_http = true\nrole = \"pull\"\n",
            fake.host
        ),
    );
    let plain = fake.name("team/a:1");
    let (name, port) = fake.host.split_once(':').unwrap();
    let spelled = format!("{name}:0{port}/team/a:1");
    for args in [["push", "a:1"], ["copy", "a:1"]]
        .iter()
        .flat_map(|args| [(args, &spelled), (args, &plain)])
    {
        let done = gantry.gantry(args.0.iter().copied().chain([args.1.as_str()]));
        assert_eq!((done.code, done.stdout.as_str()), (3, ""), "{}", done.stderr);
        assert!(done.stderr.contains("role = \"pull\""), "{}", done.stderr);
    }
    assert!(fake.seen().is_empty());
}

#[test]
fn a_tag_that_does_not_move_is_not_moved() {
    let fake = Fake::start();
    let gantry = Gantry::new();
    let (one, two) = (image(&gantry, "a:1", &[(1, 1000)]), image(&gantry, "a:2", &[(2, 1000)]));
    configure(
        &gantry,
        &format!(
            "[[registry]]\nhost = \"{}\"\nplain_http = true\nimmutable = [\"base/*\"]\n",
            fake.host
        ),
    );
    let base = fake.name("base/python:3.11");
    gantry.ok(["push", "a:1", &base]);
    gantry.ok(["push", "a:1", &base]);
    let before = fake.seen().len();
    let done = gantry.gantry(["push", "a:2", &base]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(
        done.stderr.contains(&one) && done.stderr.contains("immutable"),
        "{}",
        done.stderr
    );
    assert!(
        fake.seen()[before..].iter().all(|seen| seen.method == "HEAD"),
        "nothing is sent"
    );
    assert_eq!(fake.digest_of("base/python", "3.11"), Some(one));
    gantry.ok(["push", "a:2", &fake.name("team/a:1")]);
    assert_eq!(fake.digest_of("team/a", "1"), Some(two));
}

#[test]
fn a_copy_goes_from_registry_to_registry_and_to_every_other_place() {
    let (one, two) = (Fake::start(), Fake::start());
    let source = Gantry::new();
    let digest = image(&source, "a:1", &[(1, 200_000), (2, 1000)]);
    one.hold(&source.root, &digest, "team/a", "1");
    let gantry = Gantry::new();
    let entry = |fake: &Fake| format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", fake.host);
    configure(&gantry, &format!("{}{}", entry(&one), entry(&two)));
    let scratch = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:x", scratch.path().join("layout").display());
    let archive = format!("oci-archive:{}", scratch.path().join("a.tar").display());
    for place in [&two.name("copies/a:9"), &layout, &archive] {
        let done = gantry.gantry(["copy", "--no-failover", &one.name("team/a:1"), place]);
        assert_eq!(
            (done.code, done.stdout.trim()),
            (0, digest.as_str()),
            "{place}: {}",
            done.stderr
        );
    }
    assert_eq!(two.digest_of("copies/a", "9"), Some(digest.clone()));
    assert_eq!(
        gantry.ok(["images", "ls", "-q"]),
        "",
        "what passes through gets no name"
    );
    for place in [&layout, &archive] {
        let other = Gantry::new();
        assert_eq!(other.ok(["copy", place, "back:1"]).trim(), digest, "{place}");
    }
    // And from a layout to a registry.
    gantry.ok(["copy", &layout, &two.name("copies/b:1")]);
    assert_eq!(two.digest_of("copies/b", "1"), Some(digest));
}

#[test]
fn an_answer_that_comes_before_the_body_ends_in_chunks() {
    const LIMIT: u64 = 4 << 20;
    let fake = Fake::start();
    let gantry = store_of(&[&fake], "");
    let digest = image(&gantry, "a:1", &[(1, 9_000_000)]);
    fake.early(|seen, _| {
        let length = seen.header("content-length").parse::<u64>().unwrap_or(0);
        (length > LIMIT).then(|| Reply::new(413, "").then(Then::Close))
    });
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    assert_eq!(fake.count("PATCH", ""), 3);
    pulls_back(&fake, "team/a:1", &digest);
}

#[test]
fn an_upload_that_goes_on_at_a_wrong_byte_begins_anew() {
    let fake = Fake::start();
    let (gantry, digest) = source(&[&fake], "");
    let mut is_lost = false;
    fake.rule(move |seen, _| {
        let is_it = !is_lost && seen.is("PUT", "/uploads/") && seen.body.len() > 1_000_000;
        is_lost |= is_it;
        is_it.then(Reply::nothing)
    });
    // It says that it has what it has not.
    fake.rule(|seen, _| {
        seen.is("GET", "/uploads/").then(|| {
            Reply::new(204, "")
                .with("Location", format!("http://{}{}", seen.header("host"), seen.path))
                .with("Range", "0-99999")
        })
    });
    gantry.ok(["push", "a:1", &fake.name("team/a:1")]);
    assert_eq!(fake.count("GET", "/uploads/"), 2, "it is asked once more");
    pulls_back(&fake, "team/a:1", &digest);
}
