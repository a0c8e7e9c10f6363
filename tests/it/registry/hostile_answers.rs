//! A registry that is wrong or hostile: it gets no credential that is not its, makes nothing be written outside, and does
//! not keep anybody for ever.

use std::fs;
use std::time::{Duration, Instant};

use gantry::oci::Digest;

use super::fake::{Fake, Reply, Then};
use super::images::{configure, image, layers, partials, store_of};
use crate::common::{tree, Gantry};

/// Ten times what it takes to give up the slowest of them. What is slow here would take an hour, and what stalls never ends.
const GIVEN_UP: Duration = Duration::from_secs(120);
/// The patience with answers that are slow, or that have no end, and are wrong by what came of them.
const SHORT: &str = "3s";

fn registry() -> (Fake, Gantry, String) {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 200_000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    (fake, source, digest)
}

/// Refuses the image, for a reason that has `says`; what is given up is given up soon.
fn refused(fake: &Fake, code: i32, says: &str) -> Gantry {
    // What is wrong is not slow, however busy this machine is.
    refused_within(fake, if code == 4 { "1s" } else { "30s" }, code, says)
}

fn refused_within(fake: &Fake, stall: &str, code: i32, says: &str) -> Gantry {
    let gantry = store_of(&[fake], &format!("[transfer]\nstall = \"{stall}\"\n"));
    let started = Instant::now();
    let done = gantry.gantry(["pull", &fake.name("team/a:1")]);
    let took = started.elapsed();
    assert_eq!((done.code, done.stdout.as_str()), (code, ""), "{says}: {}", done.stderr);
    assert!(took < GIVEN_UP, "{says}: given up after {took:?}");
    assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
    assert_eq!(gantry.ok(["images", "ls", "-q"]), "", "{says}");
    gantry
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_refused() {
    let part = |range: &'static str| {
        move |fake: &Fake, layer: &str| {
            let layer = layer.to_owned();
            fake.rule(move |seen, state| {
                if !seen.is("GET", &layer) {
                    return None;
                }
                let mut reply = state.answer(seen, "");
                match reply.status {
                    206 => {
                        reply.headers = vec![("Content-Range".to_owned(), range.to_owned())];
                        Some(reply)
                    }
                    _ => Some(reply.cut(100_000, Then::Close)),
                }
            });
        }
    };
    // Another part, another size, no part at all.
    for range in [
        "bytes 0-99/200000",
        "bytes 100001-199999/200000",
        "bytes 100000-199999/1",
        "nonsense",
        "",
    ] {
        let (fake, source, digest) = registry();
        let (layer, _) = layers(&source, &digest)[0].clone();
        part(range)(&fake, &layer);
        let gantry = refused(&fake, 1, "asked for byte 100000");
        assert_eq!(partials(&gantry), [100_000], "what was right is kept");
    }
    // Too long, too short, by their headers.
    for (length, says) in [(10, "10 bytes long"), (1 << 40, "1099511627776 bytes long")] {
        let (fake, source, digest) = registry();
        let (layer, _) = layers(&source, &digest)[0].clone();
        fake.rule(move |seen, state| {
            seen.is("GET", &layer).then(|| Reply {
                length: Some(length),
                ..state.answer(seen, "").then(Then::Close)
            })
        });
        refused(&fake, 1, says);
    }
    // 416 to what cannot be past the end.
    let (fake, source, digest) = registry();
    let (layer, _) = layers(&source, &digest)[0].clone();
    fake.rule(move |seen, state| {
        seen.is("GET", &layer).then(|| match seen.header("range") {
            "" => state.answer(seen, "").cut(100_000, Then::Close),
            _ => Reply::new(416, ""),
        })
    });
    refused(&fake, 1, "ends before byte 100000");
}

#[test]
fn a_body_without_an_end_is_not_read_to_its_end() {
    // A manifest of 40 MB, with and without saying so; and one that is nested without end.
    for says_so in [true, false] {
        let (fake, ..) = registry();
        fake.rule(move |seen, _| {
            seen.path.contains("/manifests/").then(|| {
                let mut reply = Reply::new(200, vec![b' '; 40 << 20])
                    .with("Content-Type", "application/vnd.oci.image.manifest.v1+json");
                reply.length = reply.length.filter(|_| says_so);
                // A connection that is closed behind the answer to a HEAD would be used again.
                reply.then(if seen.method == "HEAD" { Then::Go } else { Then::Close })
            })
        });
        refused_within(&fake, SHORT, 1, "is over");
    }
    for (raw, says) in [
        ("[".repeat(100_000), "parse"),
        (
            r#"{"schemaVersion":2,"schemaVersion":2,"layers":[]}"#.to_owned(),
            "twice",
        ),
        (
            r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#.to_owned(),
            "",
        ),
    ] {
        let (fake, ..) = registry();
        let digest = Digest::of(raw.as_bytes()).to_string();
        fake.rule(move |seen, _| {
            seen.path.contains("/manifests/").then(|| {
                Reply::new(200, raw.clone())
                    .with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                    .with("Docker-Content-Digest", digest.clone())
            })
        });
        refused(&fake, 1, says);
    }
    // A configuration that never ends and says no length is cut where it should end.
    let (fake, source, digest) = registry();
    let raw = fs::read(source.root.join("blobs/sha256").join(&digest[7..])).unwrap();
    let manifest: gantry::oci::Manifest = serde_json::from_slice(&raw).unwrap();
    let config = manifest.config.digest.to_string();
    fake.rule(move |seen, _| {
        seen.is("GET", &config).then(|| {
            let reply = Reply::new(200, vec![b'x'; 1 << 20]).then(Then::Stall);
            Reply { length: None, ..reply }
        })
    });
    refused_within(&fake, SHORT, 1, "have digest");
}

#[test]
fn a_manifest_of_another_digest_is_refused() {
    let (fake, source, digest) = registry();
    let other = image(&source, "b:1", &[(2, 1000)]);
    fake.hold(&source.root, &other, "team/b", "1");
    let raw = fs::read(source.root.join("blobs/sha256").join(&other[7..])).unwrap();
    let wanted = digest.clone();
    fake.rule(move |seen, _| {
        seen.is("GET", &format!("manifests/{wanted}")).then(|| {
            Reply::new(200, raw.clone())
                .with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                .with("Docker-Content-Digest", wanted.clone())
        })
    });
    let gantry = refused(&fake, 1, &format!("digest {other}"));
    assert!(tree(&gantry.root.join("partial")).is_empty());
}

#[test]
fn redirects_lead_nowhere_that_they_should_not() {
    let elsewhere = Fake::start();
    for (target, says) in [
        (
            "http://169.254.169.254/latest/meta-data".to_owned(),
            "from http to http",
        ),
        ("https://169.254.169.254/latest/meta-data".to_owned(), "link-local"),
        ("http://192.0.2.1/blob".to_owned(), "from http to http"),
        ("file:///etc/passwd".to_owned(), "from http to file"),
        ("https://me:pw@127.0.0.1/x".to_owned(), "user or a password"),
        ("http://[fe80::1]/x".to_owned(), "from http to http"),
        (String::new(), "more than 5"),
    ] {
        let (fake, ..) = registry();
        let own = format!("http://{}", fake.host);
        // The last one leads in a circle.
        let target = if says.is_empty() {
            format!("{own}/v2/team/a/blobs/x")
        } else {
            target
        };
        let says = if says.is_empty() { "more than 5" } else { says };
        fake.rule(move |seen, _| {
            seen.is("GET", "/blobs/")
                .then(|| Reply::new(307, "").with("Location", target.clone()))
        });
        let gantry = refused(&fake, 1, says);
        assert!(gantry.root.exists());
    }
    // To another server on this machine, as registries do with their storage: it gets the request, and no credential.
    let (fake, source, digest) = registry();
    elsewhere.hold(&source.root, &digest, "store", "1");
    let target = format!("http://{}", elsewhere.host);
    fake.rule(move |seen, _| {
        if seen.header("authorization") != "Basic bWU6czNjcmV0" {
            return Some(Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"));
        }
        let digest = seen.path.rsplit('/').next().unwrap().to_owned();
        seen.is("GET", "/blobs/")
            .then(|| Reply::new(307, "").with("Location", format!("{target}/v2/store/blobs/{digest}?signature=x")))
    });
    let gantry = Gantry::new();
    configure(
        &gantry,
        &format!(
            "[[registry]]\nhost = \"{}\"\nplain_http = true\ncredentials = {{ user = \"me\", password_env = \"KEY\" }}\n",
            fake.host
        ),
    );
    let mut command = gantry.command();
    command.args(["pull", &fake.name("team/a:1")]).env("KEY", "s3cret");
    let done = crate::common::done(command.output().unwrap());
    assert_eq!((done.code, done.stdout.trim()), (0, digest.as_str()), "{}", done.stderr);
    assert!(elsewhere.seen().len() >= 2);
    assert!(elsewhere
        .seen()
        .iter()
        .all(|seen| seen.header("authorization").is_empty()));
    assert!(fake
        .seen()
        .iter()
        .skip(1)
        .all(|seen| !seen.header("authorization").is_empty()));
}

#[test]
fn an_upload_is_sent_nowhere_that_the_registry_may_not_send_us() {
    for (location, says) in [
        (Some("http://169.254.169.254/upload"), "from http to http"),
        (Some("https://169.254.169.254/upload"), "link-local"),
        (Some("ftp://127.0.0.1/upload"), "from http to ftp"),
        (None, "not where to upload"),
    ] {
        let fake = Fake::start();
        let gantry = store_of(&[&fake], "");
        image(&gantry, "a:1", &[(1, 1000)]);
        fake.rule(move |seen, _| {
            seen.is("POST", "/uploads/").then(|| {
                let reply = Reply::new(202, "");
                location.map_or(reply.clone(), |location| reply.with("Location", location))
            })
        });
        let done = gantry.gantry(["push", "a:1", &fake.name("team/a:1")]);
        assert_eq!(done.code, 1, "{}", done.stderr);
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
}

#[test]
fn what_is_too_slow_is_not_waited_for() {
    let (fake, source, digest) = registry();
    let (layer, _) = layers(&source, &digest)[0].clone();
    // A byte each 20 ms: never silent, and never done.
    fake.rule(move |seen, state| {
        seen.is("GET", &layer).then(|| Reply {
            pace: Some(Duration::from_millis(20)),
            ..state.answer(seen, "")
        })
    });
    refused(&fake, 4, "less than a kilobyte a second");
    // Silence in the middle.
    let (fake, source, digest) = registry();
    let (layer, _) = layers(&source, &digest)[0].clone();
    fake.rule(move |seen, state| {
        seen.is("GET", &layer)
            .then(|| state.answer(seen, "").cut(1000, Then::Stall))
    });
    refused(&fake, 4, "the connection broke");
}

#[test]
fn a_layer_that_lies_elsewhere_is_not_fetched_from_there() {
    let (fake, source, digest) = registry();
    let raw = fs::read_to_string(source.root.join("blobs/sha256").join(&digest[7..])).unwrap();
    let with = raw.replacen(
        "\"layers\":[{",
        &format!("\"layers\":[{{\"urls\":[\"http://{}/x\"],", fake.host),
        1,
    );
    assert_ne!(raw, with);
    let name = Digest::of(with.as_bytes()).to_string();
    let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
    for reference in ["1", &name] {
        let mut manifests = fake.state.manifests.lock().unwrap();
        manifests.insert(
            ("team/a".to_owned(), reference.to_owned()),
            (media_type.clone(), with.clone().into_bytes()),
        );
    }
    refused(&fake, 1, "urls");
    assert_eq!(fake.count("GET", "/x"), 0);
}

#[test]
fn a_registry_that_gives_a_layer_byte_by_byte_is_not_asked_for_each() {
    let (fake, source, digest) = registry();
    let (layer, size) = layers(&source, &digest)[0].clone();
    fake.rule(move |seen, state| {
        seen.is("GET", &layer).then(|| {
            let mut reply = state.answer(seen, "");
            let from = seen.header("range").trim_start_matches("bytes=").trim_end_matches('-');
            let from: u64 = from.parse().unwrap_or(0);
            reply.body.truncate(1);
            Reply::new(206, reply.body).with("Content-Range", format!("bytes {from}-{from}/{size}"))
        })
    });
    refused(&fake, 4, "a part ends early");
    assert!(fake.count("GET", "/blobs/") < 12, "{}", fake.count("GET", "/blobs/"));
}

#[test]
fn small_answers_have_a_deadline() {
    let drip = |fake: &Fake, part: &'static str| {
        fake.rule(move |seen, state| {
            seen.is("GET", part).then(|| Reply {
                pace: Some(Duration::from_millis(20)),
                ..state.answer(seen, "")
            })
        });
    };
    let (fake, ..) = registry();
    drip(&fake, "/manifests/");
    refused(&fake, 4, "is not there after");
    // An error whose words do not come is the error that it is.
    let (fake, ..) = registry();
    fake.rule(|seen, _| {
        seen.is("GET", "/manifests/").then(|| Reply {
            pace: Some(Duration::from_millis(200)),
            ..Reply::new(403, vec![b' '; 60_000])
        })
    });
    refused_within(&fake, SHORT, 1, "answers 403");
}

#[test]
fn what_an_earlier_process_has_in_full_is_taken_when_it_is_right_and_fetched_when_not() {
    let (fake, source, digest) = registry();
    let (layer, size) = layers(&source, &digest)[0].clone();
    let right = fs::read(source.root.join("blobs/sha256").join(&layer[7..])).unwrap();
    let wrong = vec![0; usize::try_from(size).unwrap()];
    for (bytes, fetches, asks) in [(wrong, 1, 0), (right, 0, 1)] {
        let gantry = store_of(&[&fake], "");
        gantry.ok(["images", "ls"]);
        fs::create_dir_all(gantry.root.join("partial")).unwrap();
        fs::write(gantry.root.join("partial").join(&layer[7..]), bytes).unwrap();
        let before = (fake.count("GET", &layer), fake.count("HEAD", &layer));
        assert_eq!(gantry.ok(["pull", &fake.name("team/a:1")]).trim(), digest);
        let after = (fake.count("GET", &layer), fake.count("HEAD", &layer));
        assert_eq!((after.0 - before.0, after.1 - before.1), (fetches, asks));
        assert!(partials(&gantry).is_empty());
    }
}

#[test]
fn a_layer_that_the_disk_has_no_room_for_is_not_begun() {
    let (fake, source, digest) = registry();
    let (layer, size) = layers(&source, &digest)[0].clone();
    let raw = fs::read_to_string(source.root.join("blobs/sha256").join(&digest[7..])).unwrap();
    let with = raw.replacen(&format!("\"size\":{size}"), "\"size\":1000000000000000", 1);
    assert_ne!(raw, with);
    let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
    for reference in ["1", &Digest::of(with.as_bytes()).to_string()] {
        let mut manifests = fake.state.manifests.lock().unwrap();
        let document = (media_type.clone(), with.clone().into_bytes());
        manifests.insert(("team/a".to_owned(), reference.to_owned()), document);
    }
    let gantry = store_of(&[&fake], "");
    let done = gantry.gantry(["pull", &fake.name("team/a:1")]);
    assert_ne!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("the disk has room for"), "{}", done.stderr);
    assert_eq!(fake.count("GET", &layer), 0);
}

#[test]
fn an_upload_that_nobody_takes_is_given_up() {
    let fake = Fake::start();
    let gantry = store_of(&[&fake], "[transfer]\nstall = \"1s\"\n");
    image(&gantry, "a:1", &[(1, 16_000_000)]);
    // Its layer is more than all buffers on the way hold.
    fake.early(|seen, _| {
        let is_large = seen
            .header("content-length")
            .parse::<u64>()
            .is_ok_and(|length| length > 1_000_000);
        is_large.then(|| Reply::nothing().then(Then::Stall))
    });
    let done = gantry.gantry(["push", "a:1", &fake.name("team/a:1")]);
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(
        done.stderr.contains("nothing of the upload is taken"),
        "{}",
        done.stderr
    );
}
