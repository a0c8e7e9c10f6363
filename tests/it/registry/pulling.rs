//! What a pull asks for, and how it goes on when an answer breaks off.

use std::collections::HashSet;
use std::fs;
use std::process::Stdio;

use gantry::oci::{media_type, DiffId, Digest};
use rustix::fs::{flock, FlockOperation};
use serde_json::Value;

use super::fake::{Fake, Reply, Seen, Then};
use super::images::{configure, hold, image, layers, partials, store_of, tar};
use crate::comfort::on_a_terminal;
use crate::common::{tree, Gantry};

/// A registry with an image of two layers under `team/a:1`, and its digest.
fn registry() -> (Fake, Gantry, String) {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 200_000), (2, 3_000_000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    (fake, source, digest)
}

#[test]
fn an_image_is_pulled_by_tag_and_by_digest_and_what_is_there_is_not_asked_for_again() {
    let (fake, _, digest) = registry();
    let gantry = store_of(&[&fake], "");
    let reference = fake.name("team/a:1");
    let pulled = gantry.gantry(["pull", &reference]);
    assert_eq!(
        (pulled.code, pulled.stdout.trim()),
        (0, digest.as_str()),
        "{}",
        pulled.stderr
    );
    assert!(
        pulled.stderr.contains(&format!("Pulled {digest} as {reference}")),
        "{}",
        pulled.stderr
    );
    assert_eq!(gantry.ok(["images", "ls", "-q"]).trim(), reference);
    // The tag by HEAD, then each thing once.
    assert_eq!((fake.count("HEAD", ""), fake.count("GET", "")), (1, 4));
    assert_eq!(fake.count("GET", "/manifests/sha256:"), 1);
    assert!(partials(&gantry).is_empty());

    gantry.ok(["pull", &reference]);
    assert_eq!((fake.count("HEAD", ""), fake.count("GET", "")), (2, 4));
    let pinned = format!("{}@{digest}", fake.name("team/a"));
    let pulled = gantry.gantry(["pull", &pinned]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    assert!(pulled.stderr.contains("kept for a day"), "{}", pulled.stderr);
    assert_eq!((fake.count("HEAD", ""), fake.count("GET", "")), (2, 4));
    // Another name in the store, and another store by the digest alone.
    gantry.ok(["pull", &reference, "--tag", "mine:1"]);
    assert!(gantry.ok(["images", "ls", "-q"]).contains("mine:1"));
    let other = store_of(&[&fake], "");
    assert_eq!(other.ok(["pull", &pinned]).trim(), digest);
    assert_eq!(fake.count("HEAD", ""), 3);
}

#[test]
fn a_layer_that_is_there_is_shown_to_be_in_the_repository_and_not_sent() {
    let (fake, source, _) = registry();
    let more = image(&source, "b:1", &[(1, 200_000), (3, 1000)]);
    fake.hold(&source.root, &more, "team/b", "1");
    let gantry = store_of(&[&fake], "");
    gantry.ok(["pull", &fake.name("team/a:1")]);
    let shared = layers(&source, &more)[0].0.clone();
    let before = fake.count("GET", &shared);
    gantry.ok(["pull", &fake.name("team/b:1")]);
    assert_eq!((fake.count("GET", &shared), fake.count("HEAD", &shared)), (before, 1));

    // A manifest names it, and the registry has it not: the image is not put together of what others pulled.
    let other = store_of(&[&fake], "");
    other.ok(["pull", &fake.name("team/a:1")]);
    fake.state.blobs.lock().unwrap().remove(&shared);
    let refused = other.gantry(["pull", &fake.name("team/b:1")]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("look for blob") && refused.stderr.contains("404"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_layer_that_breaks_off_goes_on_at_its_next_byte() {
    let (fake, source, digest) = registry();
    let (layer, size) = layers(&source, &digest)[1].clone();
    // Twice in the middle, each time a megabyte further.
    for _ in 0..2 {
        let (layer, mut left) = (layer.clone(), 1);
        fake.rule(move |seen, state| {
            (left > 0 && seen.is("GET", &layer)).then(|| {
                left -= 1;
                state.answer(seen, "").cut(1 << 20, Then::Close)
            })
        });
    }
    let gantry = store_of(&[&fake], "");
    assert_eq!(gantry.ok(["pull", &fake.name("team/a:1")]).trim(), digest);
    let ranges: Vec<String> = fake
        .seen()
        .iter()
        .filter(|seen| seen.is("GET", &layer))
        .map(|seen| seen.header("range").to_owned())
        .collect();
    assert_eq!(
        ranges,
        [
            "".to_owned(),
            format!("bytes={}-", 1 << 20),
            format!("bytes={}-", 2 << 20)
        ]
    );
    assert!(size > 2 << 20 && partials(&gantry).is_empty());
}

#[test]
fn what_an_earlier_process_has_of_a_layer_is_not_fetched_again() {
    let (fake, source, digest) = registry();
    let (layer, size) = layers(&source, &digest)[1].clone();
    let cut = layer.clone();
    fake.rule(move |seen, state| {
        let is_first = seen.is("GET", &cut) && seen.header("range").is_empty();
        is_first.then(|| state.answer(seen, "").cut(2_000_000, Then::Stall))
    });
    let gantry = store_of(&[&fake], "");
    let mut child = gantry
        .command()
        .args(["pull", &fake.name("team/a:1")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let partial = gantry.root.join("partial").join(&layer[7..]);
    crate::common::wait::eventually("the layer does not come", || match fs::metadata(&partial) {
        Ok(found) if found.len() == 2_000_000 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(gantry.ok(["pull", &fake.name("team/a:1")]).trim(), digest);
    let last = fake.seen().into_iter().rfind(|seen| seen.is("GET", &layer)).unwrap();
    assert_eq!(last.header("range"), "bytes=2000000-");
    assert!(size > 2_000_000 && partials(&gantry).is_empty());
}

#[test]
fn a_server_without_ranges_sends_all_of_it_and_what_is_there_is_passed_over() {
    let (fake, source, digest) = registry();
    let (layer, _) = layers(&source, &digest)[1].clone();
    let mut count = 0;
    fake.rule(move |seen, state| {
        if !seen.is("GET", &layer) {
            return None;
        }
        count += 1;
        let mut whole = seen.clone();
        whole.headers.remove("range");
        let reply = state.answer(&whole, "");
        Some(if count == 1 {
            reply.cut(1 << 20, Then::Close)
        } else {
            reply
        })
    });
    let gantry = store_of(&[&fake], "");
    assert_eq!(gantry.ok(["pull", &fake.name("team/a:1")]).trim(), digest);
}

#[test]
fn a_run_pulls_what_is_missing_always_or_never() {
    let (fake, source, digest) = registry();
    let gantry = store_of(&[&fake], "");
    let reference = fake.name("team/a:1");
    let run = |when: &str| gantry.run_with_outcome(&["--pull", when, &reference, "true"]);

    let (never, outcome) = run("never");
    assert_eq!((never.code, &outcome["code"]), (125, &Value::from("unknown_image")));
    assert!(fake.seen().is_empty() && outcome["attempts"] == Value::Array(Vec::new()));

    // The image holds no program: that it is looked for is enough to know that the image is there.
    let (missing, outcome) = run("missing");
    assert_ne!(outcome["code"], "unknown_image", "{}", missing.stderr);
    assert_eq!(outcome["image"]["digest"], digest.as_str());
    assert_eq!(
        (&outcome["cache"], &outcome["attempts"][0]["status"]),
        (&"miss".into(), &"ok".into())
    );
    assert_eq!(outcome["attempts"][0]["registry"], fake.host.as_str());
    assert!(outcome["phases_ms"]["pull"].as_f64().unwrap() > 0.0);
    let asked = fake.seen().len();
    let (_, outcome) = run("missing");
    assert_eq!((fake.seen().len(), &outcome["cache"]), (asked, &"hit".into()));

    // Always: the tag is looked at, and moved.
    let newer = image(&source, "a:2", &[(1, 200_000), (4, 1000)]);
    fake.hold(&source.root, &newer, "team/a", "1");
    let (_, outcome) = run("always");
    assert_eq!(outcome["image"]["digest"], newer.as_str());
    let asked = fake.seen().len();
    run("always");
    assert_eq!(fake.seen().len(), asked + 1, "a tag that has not moved costs one HEAD");
    let local = gantry.gantry(["run", "--pull", "always", "bare:1"]);
    assert_eq!(local.code, 125);
    assert!(
        local.stderr.contains("an image of this store alone"),
        "{}",
        local.stderr
    );
}

#[test]
fn a_tag_that_is_not_there_is_answered_with_those_that_are() {
    let (fake, ..) = registry();
    let gantry = store_of(&[&fake], "");
    let done = gantry.gantry(["pull", &fake.name("team/a:none")]);
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(
        done.stderr.contains("no registry has this tag; its tags are: 1\n"),
        "{}",
        done.stderr
    );
    let done = gantry.gantry(["pull", &fake.name("team/none:1")]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("the registry answers 404"), "{}", done.stderr);
    let (_, outcome) = gantry.run_with_outcome(&[&fake.name("team/none:1")]);
    assert_eq!(outcome["code"], "unknown_image");
    assert!(tree(&gantry.root.join("partial")).is_empty());
}

#[test]
fn an_index_leads_to_the_image_for_this_platform() {
    let (fake, source, digest) = registry();
    let manifest = fs::read(source.root.join("blobs/sha256").join(&digest[7..])).unwrap();
    let entry = |architecture: &str, digest: &str| {
        serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
            "size": manifest.len(), "platform": {"os": "linux", "architecture": architecture}})
    };
    let arm = gantry::oci::Digest::of(b"arm").to_string();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry("arm64", &arm), entry("amd64", &digest)]});
    let raw = index.to_string().into_bytes();
    let name = gantry::oci::Digest::of(&raw).to_string();
    for reference in ["all", &name] {
        let media_type = "application/vnd.oci.image.index.v1+json".to_owned();
        let mut manifests = fake.state.manifests.lock().unwrap();
        manifests.insert(("team/a".to_owned(), reference.to_owned()), (media_type, raw.clone()));
    }
    for reference in [fake.name("team/a:all"), format!("{}@{name}", fake.name("team/a"))] {
        let gantry = store_of(&[&fake], "");
        assert_eq!(gantry.ok(["pull", &reference]).trim(), digest, "{reference}");
    }
}

#[test]
fn a_registry_without_head_and_without_digests_is_read_all_the_same() {
    let (fake, _, digest) = registry();
    fake.rule(|seen, state| match seen.method.as_str() {
        "HEAD" => Some(Reply::new(405, "")),
        "GET" if seen.path.contains("/manifests/") => {
            let mut reply = state.answer(seen, "");
            reply.headers = vec![("Content-Type".to_owned(), "text/plain; charset=utf-8".to_owned())];
            reply.length = None;
            Some(reply.then(Then::Close))
        }
        _ => None,
    });
    let gantry = store_of(&[&fake], "");
    assert_eq!(gantry.ok(["pull", &fake.name("team/a:1")]).trim(), digest);
}

#[test]
fn ten_layers_come_at_once_or_as_many_as_the_configuration_says() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let sizes: Vec<(u64, usize)> = (10..22).map(|seed| (seed, 5000)).collect();
    let digest = image(&source, "many:1", &sizes);
    fake.hold(&source.root, &digest, "many", "1");
    for (more, most) in [("", 10), ("[transfer]\ndownloads = 3\n", 3)] {
        let gate = fake.gate(most);
        store_of(&[&fake], more).ok(["pull", &fake.name("many:1")]);
        assert_eq!(gate.most(), most);
    }
    let gantry = Gantry::new();
    configure(&gantry, "[transfer]\ndownloads = 0\n");
    assert_eq!(gantry.gantry(["images", "ls"]).code, 2);
}

/// The numbers of the first and the last byte of each part of `layer` that was asked for.
fn parts(fake: &Fake, layer: &str) -> Vec<(usize, usize)> {
    let seen = fake.seen();
    let ranges = seen.iter().filter(|seen| seen.is("GET", layer));
    let parts = ranges.filter_map(|seen| {
        let (from, end) = seen.header("range").strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().unwrap(), end.parse().ok()?))
    });
    let mut parts: Vec<(usize, usize)> = parts.collect();
    parts.sort_unstable();
    parts
}

/// Bytes of a layer that is worth several connections.
const LARGE: usize = 90_000_000;

/// Whether a request asks for a part with an end.
fn is_part(seen: &Seen) -> bool {
    !seen.header("range").is_empty() && !seen.header("range").ends_with('-')
}

/// `reply` as by a connection that is slow until several take its place, however long that takes, or which breaks off after
/// the time in which they would.
fn slow(reply: Reply, breaks_off: bool) -> Reply {
    match breaks_off {
        true => Reply {
            rate: Some(1_000_000),
            ..reply.cut(2_000_000, Then::Close)
        },
        false => Reply {
            rate: Some(200_000),
            ..reply
        },
    }
}

#[test]
fn a_large_layer_of_a_registry_that_limits_each_connection_comes_by_several() {
    let bytes = tar("zeros", LARGE);
    let layer = Digest::of(&bytes).to_string();
    // Parts as they were asked for; refused from the third on; the second breaks off; a registry that knows none; and a
    // configuration that wants none.
    for (says, takes) in [
        ("parts", 0),
        ("refused", 1),
        ("broken", 2),
        ("none", 3),
        ("unwanted", 4),
    ] {
        let fake = Fake::start();
        hold(&fake, vec![(media_type::LAYER_TAR, bytes.clone(), DiffId::of(&bytes))]);
        let (own, mut asked) = (layer.clone(), 0);
        fake.rule(move |seen, state| {
            if !seen.is("GET", &own) {
                return None;
            }
            asked += 1;
            let mut whole = seen.clone();
            if takes == 3 {
                whole.headers.remove("range");
            }
            let mut reply = state.answer(&whole, "");
            match takes {
                1 if is_part(seen) && asked > 3 => return Some(Reply::new(403, "")),
                2 if is_part(seen) && asked == 3 => reply = reply.cut(1000, Then::Close),
                3 => reply.headers.retain(|(name, _)| name != "Accept-Ranges"),
                _ => {}
            }
            Some(match asked {
                1 => slow(reply, takes > 2),
                _ => reply,
            })
        });
        let unwanted = if takes == 4 { "[transfer]\nranges = false\n" } else { "" };
        let gantry = store_of(&[&fake], unwanted);
        gantry.ok(["pull", &fake.name("team/a:1")]);
        let parts = parts(&fake, &layer);
        match takes {
            0 => {
                // One after the other, to the last byte, each as large as the others.
                assert!(parts.len() > 10, "{parts:?}");
                assert!(parts.windows(2).all(|two| two[0].1 + 1 == two[1].0), "{parts:?}");
                assert_eq!(parts.last().unwrap().1, bytes.len() - 1);
                assert_eq!(fake.count("GET", &layer), 1 + parts.len());
            }
            1 | 2 => assert!((1..10).contains(&parts.len()), "{parts:?}"),
            _ => assert!(parts.is_empty(), "{says}: {parts:?}"),
        }
        let file = tree(&gantry.root.join("layers"))
            .into_iter()
            .find(|path| path.ends_with("fs/zeros"));
        assert_eq!(
            fs::metadata(gantry.root.join("layers").join(file.unwrap()))
                .unwrap()
                .len(),
            LARGE as u64
        );
        assert!(partials(&gantry).is_empty());
    }
}

#[test]
fn parts_are_asked_of_where_the_registry_leads_to_and_not_of_one_that_has_too_many_requests() {
    // The second layer breaks off after the time in which it would come in parts.
    let layers = ["zeros", "more"].map(|name| tar(name, LARGE));
    // In the order in which they are fetched.
    let mut digests = layers.each_ref().map(|bytes| Digest::of(bytes));
    digests.sort_unstable();
    let [first, second] = digests.map(|digest| digest.to_string());
    let (fake, behind) = (Fake::start(), Fake::start());
    let of = |bytes: &Vec<u8>| (media_type::LAYER_TAR, bytes.clone(), DiffId::of(bytes));
    hold(&fake, layers.iter().map(of).collect());
    *behind.state.blobs.lock().unwrap() = fake.state.blobs.lock().unwrap().clone();
    let host = behind.host.clone();
    fake.rule(move |seen, _| {
        let leads_on = seen.method == "GET" && seen.path.contains("/blobs/");
        leads_on.then(|| Reply::new(307, "").with("Location", format!("http://{host}{}?signature=x", seen.path)))
    });
    let (mut asked, mut refused) = (HashSet::new(), 0);
    let own = first.clone();
    behind.rule(move |seen, state| {
        let is_large = state.answer(seen, "").body.len() > 1_000_000;
        if seen.is("GET", &own) && is_part(seen) {
            refused += 1;
            if refused > 20 {
                return Some(Reply::new(429, "").with("Retry-After", "0"));
            }
        }
        let is_first = is_large && asked.insert(seen.path.clone());
        is_first.then(|| slow(state.answer(seen, ""), !seen.path.contains(&own)))
    });
    let gantry = store_of(&[&fake], "[transfer]\ndownloads = 1\n");
    gantry.ok(["pull", &fake.name("team/a:1")]);
    // The registry itself was asked for all of it, and once more when a part was refused.
    assert_eq!(fake.count("GET", &first), 2);
    assert!(parts(&fake, &first).is_empty());
    assert!(parts(&behind, &first).len() >= 20);
    assert!(behind.seen().iter().all(|seen| seen.header("authorization").is_empty()));
    assert_eq!((fake.count("GET", &second), parts(&behind, &second)), (2, Vec::new()));
}

#[test]
fn each_layer_has_a_bar_on_a_terminal_and_the_whole_has_lines_elsewhere() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 2_000_000), (2, 3_000_000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    let reference = fake.name("team/a:1");
    let layers = layers(&source, &digest);
    // Both come at once.
    fake.gate(2);
    let gantry = store_of(&[&fake], "");
    let said = on_a_terminal(&gantry, "whole", &["pull", &reference]);
    for (layer, _) in &layers {
        assert!(said.contains(&format!("layer {}", &layer[7..19])), "{said:?}");
    }
    let (bars, after) = said.rsplit_once('█').unwrap_or_else(|| panic!("no bar: {said:?}"));
    assert!(bars.contains("Pulling") && after.contains(" MB"), "{said:?}");
    assert!(after.contains("Pulled sha256:"), "{said:?}");

    let plain = store_of(&[&fake], "").gantry(["pull", &reference]);
    let total: u64 = layers.iter().map(|(_, size)| size).sum();
    let last = format!("  {0:.1} MB of {0:.1} MB", total as f64 / 1e6);
    assert!(plain.stderr.contains(&last), "{last}: {}", plain.stderr);
    assert!(
        !plain.stderr.contains("layer ") && !plain.stderr.contains('█'),
        "{}",
        plain.stderr
    );
}

#[test]
fn each_part_of_a_large_layer_takes_one_of_the_connections_that_processes_share() {
    let bytes = tar("zeros", LARGE);
    let layer = Digest::of(&bytes).to_string();
    // Of two connections both are free, or another process has one.
    for is_held in [false, true] {
        let fake = Fake::start();
        hold(&fake, vec![(media_type::LAYER_TAR, bytes.clone(), DiffId::of(&bytes))]);
        let (own, mut is_first) = (layer.clone(), true);
        fake.rule(move |seen, state| {
            let is_slow = seen.is("GET", &own) && std::mem::take(&mut is_first);
            is_slow.then(|| slow(state.answer(seen, ""), is_held))
        });
        let gantry = Gantry::new();
        let entry = format!(
            "[[registry]]\nhost = \"{}\"\nplain_http = true\nconnections = 2\n",
            fake.host
        );
        configure(&gantry, &entry);
        gantry.ok(["images", "ls"]);
        let connections = gantry.root.join("registries/_connections").join(&fake.host);
        fs::create_dir_all(&connections).unwrap();
        let other = fs::File::create(connections.join("0")).unwrap();
        if is_held {
            flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
        }
        let gate = fake.gate(0);
        gantry.ok(["pull", &fake.name("team/a:1")]);
        let parts = parts(&fake, &layer);
        if is_held {
            assert_eq!((fake.count("GET", &layer), parts.len()), (2, 0), "{parts:?}");
        } else {
            assert!(parts.len() > 10, "{parts:?}");
            // Beside them the fake may still be at the slow one, which it does not know to be closed.
            assert!(gate.most() <= 3, "{} at once", gate.most());
        }
        assert!(partials(&gantry).is_empty());
    }
}
