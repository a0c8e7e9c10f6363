//! Many processes pull into one store at once.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use gantry::oci::Manifest;

use super::fake::Fake;
use super::images::{image, layers, partials, store_of};
use super::real::Registry;
use crate::common::wait::{eventually, is_so};
use crate::common::{done, Done, Gantry};

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What each of them said, once all are done. The time for that is bounded.
fn all_done(mut children: Vec<Child>) -> Vec<Done> {
    eventually("some processes do not end", || {
        let at_work = |child: &mut Child| child.try_wait().unwrap().is_none().then_some(child.id());
        let ids: Vec<u32> = children.iter_mut().filter_map(at_work).collect();
        is_so(ids.is_empty(), ids)
    });
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
    outputs.map(done).collect()
}

#[test]
fn fifty_that_pull_one_image_ask_for_each_blob_once() {
    let registry = Registry::start();
    let source = registry.store();
    let digest = image(
        &source,
        "a:1",
        &[(1, 20_000_000), (2, 5_000_000), (3, 1000), (4, 100_000)],
    );
    let remote = format!("{}/team/a:1", registry.host);
    registry.ok(&source, &["push", "a:1", &remote]);
    let one = registry.store();
    let started = Instant::now();
    registry.ok(&one, &["pull", &remote]);
    eprintln!("one pull of 25 MB: {:?}", started.elapsed());

    let raw = fs::read(source.root.join("blobs/sha256").join(&digest[7..])).unwrap();
    let manifest: Manifest = serde_json::from_slice(&raw).unwrap();
    let config = format!("/blobs/{}", manifest.config.digest);
    let layers: Vec<String> = layers(&source, &digest)
        .into_iter()
        .map(|(layer, _)| format!("/blobs/{layer}"))
        .collect();
    let all = [&layers[..], &[config, format!("/manifests/{digest}")]].concat();
    let count = |method: &str| -> Vec<usize> { all.iter().map(|path| registry.count(method, path)).collect() };
    // It counts when the registry has written it down.
    let all_are_got = |times: usize| {
        eventually("not all is written down", || {
            let got = count("GET");
            is_so(got.iter().all(|count| *count >= times), got)
        });
        count("GET")
    };
    let (got, looked) = (all_are_got(1), count("HEAD"));

    let gantry = registry.store();
    let started = Instant::now();
    let children = (0..50).map(|_| start(registry.command(&gantry).args(["pull", &remote])));
    for pulled in all_done(children.collect()) {
        assert_eq!(
            (pulled.code, pulled.stdout.trim()),
            (0, digest.as_str()),
            "{}",
            pulled.stderr
        );
    }
    eprintln!("fifty pulls of it at once: {:?}", started.elapsed());
    for (path, (before, now)) in all.iter().zip(got.iter().zip(all_are_got(2))) {
        assert_eq!(now - before, 1, "{path}");
    }
    // Who waits for another's pull of the image itself has nothing to show.
    assert_eq!(count("HEAD"), looked);
    assert!(partials(&gantry).is_empty());
}

#[test]
fn fifty_processes_that_pull_images_with_shared_layers_in_any_order_all_finish() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let seeds = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    let images: Vec<(String, String)> = (0..50)
        .map(|turn| {
            // Each order once, forwards and backwards, and each with a layer of its own.
            let mut order = seeds;
            order.rotate_left(turn % seeds.len());
            if turn % 2 == 1 {
                order.reverse();
            }
            let mut layers: Vec<(u64, usize)> = order.iter().map(|seed| (*seed, 30_000)).collect();
            layers.insert(turn % 5, (100 + turn as u64, 1000));
            let digest = image(&source, &format!("i{turn}:1"), &layers);
            let repository = format!("team/i{turn}");
            fake.hold(&source.root, &digest, &repository, "1");
            (format!("{repository}:1"), digest)
        })
        .collect();
    let gantry = store_of(&[&fake], "");
    let children = images
        .iter()
        .map(|(name, _)| start(gantry.command().args(["pull", &fake.name(name)])));
    for (pulled, (name, digest)) in all_done(children.collect()).iter().zip(&images) {
        assert_eq!(
            (pulled.code, pulled.stdout.trim()),
            (0, digest.as_str()),
            "{name}: {}",
            pulled.stderr
        );
    }
    for (layer, _) in layers(&source, &images[0].1) {
        assert_eq!(fake.count("GET", &layer), 1, "{layer}");
    }
    assert!(partials(&gantry).is_empty());
    assert_eq!(gantry.ok(["images", "ls", "-q"]).lines().count(), images.len());
}

#[test]
fn of_many_that_ask_for_a_tag_one_asks_for_all_that_wait() {
    const MANY: usize = 12;
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 1000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    // The first question is answered when all others wait for it.
    let (let_go, gate) = channel::<()>();
    let mut is_first = true;
    fake.rule(move |seen, _| {
        if seen.is("HEAD", "/manifests/1") && std::mem::take(&mut is_first) {
            let _ = gate.recv_timeout(Duration::from_secs(300));
        }
        None
    });
    let gantry = store_of(&[&fake], "");
    let scratch = tempfile::tempdir().unwrap();
    let said = |number: usize| scratch.path().join(number.to_string());
    let begin = |number: usize| {
        let mut command = gantry.command();
        command.args(["pull", &fake.name("team/a:1")]).stdout(Stdio::piped());
        command.stderr(fs::File::create(said(number)).unwrap()).spawn().unwrap()
    };
    let children = (0..MANY).map(begin).collect();
    eventually("not all of them wait", || {
        let waits = |number: &usize| fs::read_to_string(said(*number)).unwrap().contains("that asks what");
        let count = (0..MANY).filter(waits).count();
        is_so(count == MANY - 1, count)
    });
    let_go.send(()).unwrap();
    for (number, pulled) in all_done(children).iter().enumerate() {
        let text = fs::read_to_string(said(number)).unwrap();
        assert_eq!((pulled.code, pulled.stdout.trim()), (0, digest.as_str()), "{text}");
    }
    // That one, and one for all that waited meanwhile.
    assert_eq!(fake.count("HEAD", "/manifests/1"), 2);
}
