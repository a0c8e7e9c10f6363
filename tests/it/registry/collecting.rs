//! A collection of garbage beside pulls that do not end: what they bring stays, and all else goes.

use std::fs;
use std::io;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::fake::{Fake, Reply, Then};
use super::images::{image, layers, store_of};
use crate::common::wait::{eventually, held_at, is_so};
use crate::common::{done, holder_of, tool, Gantry};

struct Scene {
    fake: Fake,
    gantry: Gantry,
    /// Blobs of the image `team/a:1`.
    first: String,
    second: String,
    /// Whether the registry gives a part of the second and says nothing more.
    stalls: Arc<AtomicBool>,
}

impl Scene {
    fn new() -> Self {
        let (fake, maker) = (Fake::start(), Gantry::new());
        let digest = image(&maker, "a:1", &[(1, 100_000), (2, 300_000)]);
        fake.hold(&maker.root, &digest, "team/a", "1");
        let [(first, _), (second, _)] = layers(&maker, &digest).try_into().unwrap();
        let stalls = Arc::new(AtomicBool::new(true));
        let (of_rule, is_second) = (Arc::clone(&stalls), second.clone());
        let blob = fake.state.blobs.lock().unwrap()[&second].clone();
        fake.rule(move |seen, _| {
            let stalls = seen.is("GET", &is_second) && of_rule.load(Ordering::SeqCst);
            stalls.then(|| Reply::new(200, blob.clone()).cut(1000, Then::Stall))
        });
        let gantry = store_of(&[&fake], "");
        Self {
            fake,
            gantry,
            first,
            second,
            stalls,
        }
    }

    fn pull(&self) -> Child {
        let mut command = self.gantry.command();
        command.args(["pull", &self.fake.name("team/a:1")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn has_first(&self) -> bool {
        self.gantry.root.join("blobs/sha256").join(&self.first[7..]).exists()
    }

    /// Bytes of each layer that is under way. There may be no store yet, and one may be done at this moment.
    fn partials(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.gantry.root.join("partial")).into_iter().flatten();
        let length = |entry: io::Result<fs::DirEntry>| Some(entry.unwrap().metadata().ok()?.len());
        entries.filter_map(length).collect()
    }

    /// A pull that has the first layer and waits for the second.
    fn stalled_pull(&self) -> Child {
        let mut pull = self.pull();
        eventually("the pull is not half there", || {
            assert_eq!(pull.try_wait().unwrap(), None, "it has ended");
            let partials = self.partials();
            is_so(self.has_first() && partials == [1000], partials)
        });
        pull
    }
}

#[test]
fn a_pull_whose_registry_says_nothing_keeps_what_it_brings_and_nothing_else_from_a_collection() {
    let scene = Scene::new();
    let gantry = &scene.gantry;
    let old = image(gantry, "old:1", &[(77, 50_000)]);
    let (blob, _) = layers(gantry, &old).remove(0);
    gantry.ok(["images", "rm", "old:1"]);
    let mut pull = scene.stalled_pull();
    for dry_run in [true, false] {
        let mut args = vec!["cache", "gc", "--wait", "0s"];
        args.extend(dry_run.then_some("--dry-run"));
        let collected = gantry.gantry(args);
        let told = format!("{} {}", collected.stdout, collected.stderr);
        assert_eq!(collected.code, 4, "{told}");
        let begin = if dry_run { "Would remove " } else { "Removed " };
        assert!(
            collected.stdout.starts_with(begin) && collected.stdout.contains(", 1 layer, "),
            "{told}"
        );
        let who = format!("hint: process {} (gantry pull) uses the store", pull.id());
        assert!(collected.stderr.contains(&who), "{told}");
        assert_eq!(gantry.root.join("blobs/sha256").join(&blob[7..]).exists(), dry_run);
        assert!(scene.has_first() && scene.partials() == [1000], "{told}");
    }
    pull.kill().unwrap();
    pull.wait().unwrap();
    scene.stalls.store(false, Ordering::SeqCst);
    let pulled = done(scene.pull().wait_with_output().unwrap());
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    // It went on where it was.
    assert_eq!(scene.fake.count("GET", &scene.first), 1);
}

#[test]
fn a_pull_that_begins_while_a_collection_takes_what_it_wants_comes_whole() {
    let scene = Scene::new();
    let gantry = &scene.gantry;
    let mut pull = scene.stalled_pull();
    pull.kill().unwrap();
    pull.wait().unwrap();
    // What it has left is garbage, and the collection stands still before it takes the first of it.
    let mut user = holder_of(&gantry.root.join("locks/collector"), "LOCK_SH");
    let pipe = gantry.home.join("pipe");
    tool(std::process::Command::new("mkfifo").arg(&pipe));
    let mut collection = gantry.command();
    collection
        .args(["cache", "gc", "--wait", "0s"])
        .env("GANTRY_FAULT", format!("Evicted:0:hold={}", pipe.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut collection = collection.spawn().unwrap();
    let held = held_at(&pipe, &mut collection);
    scene.stalls.store(false, Ordering::SeqCst);
    let asked = scene.fake.count("GET", &scene.second);
    let pull = scene.pull();
    eventually("the pull does not begin", || {
        let now = scene.fake.count("GET", &scene.second);
        is_so(now > asked, now)
    });
    drop(held);
    let collected = done(collection.wait_with_output().unwrap());
    let pulled = done(pull.wait_with_output().unwrap());
    user.kill().unwrap();
    user.wait().unwrap();
    assert_eq!(
        (collected.code, pulled.code),
        (4, 0),
        "{} {}",
        collected.stderr,
        pulled.stderr
    );
    gantry.ok(["cache", "check"]);
    let name = scene.fake.name("team/a:1");
    assert_eq!(gantry.ok(["images", "ls", "-q"]).trim(), name);
    gantry.ok(["save", &name, gantry.home.join("a.tar").to_str().unwrap()]);
}
