//! Every command that may take long ends by a signal as who sent it expects: with 128 and its number, without an error of what
//! the signal took away, and without leaving anything behind.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use rustix::process::Signal;

use crate::common::images::image;
use crate::common::wait::{eventually, held_at, is_so, send};
use crate::common::{function, holder_of, tool, tree, Gantry, DEGRADED};
use crate::registry::fake::{Fake, Reply, Then};
use crate::registry::images::store_of;

/// Images of the registry.
const IMAGES: u64 = 20;
/// Bytes of the layer of each: it comes in three parts when the registry is slow.
const LAYER: usize = 3000;
/// From this image on a slow registry gives only a part of a layer.
const STALLS: u64 = 9;

struct Scene {
    fake: Fake,
    gantry: Gantry,
    is_slow: Arc<AtomicBool>,
}

impl Scene {
    fn new() -> Self {
        let (fake, maker, mut late) = (Fake::start(), Gantry::new(), Vec::new());
        for number in 1..=IMAGES {
            let digest = image(&maker, &format!("a:{number}"), &[(number, LAYER)]);
            fake.hold(&maker.root, &digest, "team/a", &number.to_string());
            if number >= STALLS {
                late.push(crate::registry::images::layers(&maker, &digest)[0].0.clone());
            }
        }
        let blobs = fake.state.blobs.lock().unwrap().clone();
        let is_slow = Arc::new(AtomicBool::new(false));
        let slow = Arc::clone(&is_slow);
        fake.rule(move |seen, _| {
            let digest = seen.path.rsplit('/').next().unwrap().to_owned();
            let bytes = blobs
                .get(&digest)
                .filter(|_| slow.load(Ordering::SeqCst) && seen.method == "GET")?;
            let mut reply = Reply::new(200, bytes.clone());
            reply.rate = Some(100_000);
            Some(match late.contains(&digest) {
                true => reply.cut(1000, Then::Stall),
                false => reply,
            })
        });
        let gantry = store_of(&[&fake], "");
        Self { fake, gantry, is_slow }
    }

    fn name(&self, number: u64) -> String {
        self.fake.name(&format!("team/a:{number}"))
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.gantry.command();
        let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts `args` at a slow registry and returns when `count` more blobs are asked for.
    fn amid_blobs(&self, args: &[&str], count: usize) -> Child {
        self.is_slow.store(true, Ordering::SeqCst);
        let before = self.fake.count("GET", "/blobs/");
        let mut child = self.start(args);
        eventually("no blob is asked for", || {
            assert_eq!(child.try_wait().unwrap(), None, "{args:?} has ended");
            let asked = self.fake.count("GET", "/blobs/") - before;
            is_so(asked >= count, asked)
        });
        child
    }

    /// Expects that `child` ends by the signal and says nothing of what failed meanwhile.
    fn ends_by(&self, mut child: Child, signal: Signal, code: i32, what: &str) {
        // Its input stays open until it has ended, and nobody reads what it writes.
        let _input = child.stdin.take();
        send(&child, signal);
        let status = child.wait().unwrap();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{what}: {stderr}");
        let is_quiet = !stderr.contains("error") && !stderr.contains("failed");
        assert!(is_quiet, "{what}: {stderr}");
        let left = tree(&self.gantry.root.join("tmp"));
        assert!(left.is_empty(), "{what}: {left:?}");
    }

    fn list(&self, line: impl Fn(String) -> String) -> String {
        let path = self.gantry.home.join("list");
        let lines: Vec<String> = (1..=IMAGES).map(|number| line(self.name(number))).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn what_brings_images_ends_by_a_signal_without_an_error_of_its_own() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        for what in ["warm", "copy --all-from", "copy", "pull", "check --repair", "run"] {
            let scene = Scene::new();
            let late = scene.name(STALLS);
            let archive = format!("oci-archive:{}", scene.gantry.home.join("archive.tar").display());
            let child = match what {
                "warm" => {
                    let list = scene.list(|name| name);
                    scene.amid_blobs(&["cache", "warm", "--jobs", "1", "--from", &list], 6)
                }
                "copy --all-from" => {
                    let list = scene.list(|name| format!("{name} b:{}", name.rsplit_once(':').unwrap().1));
                    scene.amid_blobs(&["copy", "--all-from", &list], 9)
                }
                "copy" => scene.amid_blobs(&["copy", &late, &archive], 1),
                "pull" => scene.amid_blobs(&["pull", &late], 1),
                "run" => scene.amid_blobs(&["run", "--allow-degraded", DEGRADED, &late], 1),
                _ => {
                    for number in 1..=STALLS {
                        scene.gantry.ok(["pull", &scene.name(number)]);
                    }
                    for blob in tree(&scene.gantry.root.join("blobs/sha256")) {
                        if blob.metadata().unwrap().len() > 2000 {
                            fs::remove_file(blob).unwrap();
                        }
                    }
                    scene.amid_blobs(&["cache", "check", "--repair"], 3)
                }
            };
            scene.ends_by(child, signal, code, what);
        }
    }
}

/// A process that holds a lock of the store and does nothing.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `child` has said `word` on standard error.
fn says(child: &mut Child, word: &str) {
    let (stderr, mut said) = (child.stderr.as_mut().unwrap(), Vec::new());
    while !String::from_utf8_lossy(&said).contains(word) {
        let mut byte = [0];
        let read = stderr.read(&mut byte).unwrap();
        assert_eq!(read, 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
}

#[test]
fn whatever_a_command_waits_for_a_signal_ends_it() {
    let signals = [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)];
    let commands = [
        "push",
        "registries tags",
        "save",
        "load",
        "gc",
        "check --repair",
        "build",
    ];
    for (what, (signal, code)) in commands.into_iter().zip(signals.into_iter().cycle()) {
        let scene = Scene::new();
        let gantry = &scene.gantry;
        // More than a pipe takes.
        image(gantry, "own:1", &[(IMAGES + 1, 1_000_000)]);
        let hold = |how: &str| Holder(holder_of(&gantry.root.join("locks/collector"), how));
        let mut holder = None;
        let (remote, function) = (scene.name(1), function("print(1)\n", None));
        let stalled = |args: &[&str]| {
            scene.fake.early(|_, _| Some(Reply::nothing().then(Then::Stall)));
            let child = scene.start(args);
            eventually("nobody asks", || is_so(!scene.fake.seen().is_empty(), ()));
            child
        };
        let child = match what {
            "push" => stalled(&["push", "own:1", &remote]),
            "registries tags" => stalled(&["registries", "tags", remote.rsplit_once(':').unwrap().0]),
            "save" => {
                let mut child = scene.start(&["save", "own:1", "-"]);
                child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
                child
            }
            "load" => {
                let archive = gantry.home.join("own.tar");
                gantry.ok(["save", "own:1", archive.to_str().unwrap()]);
                let whole = fs::read(archive).unwrap();
                let mut child = scene.start(&["load", "-"]);
                child
                    .stdin
                    .as_mut()
                    .unwrap()
                    .write_all(&whole[..whole.len() / 2])
                    .unwrap();
                child
            }
            "gc" => {
                holder = Some(hold("LOCK_SH"));
                scene.start(&["cache", "gc", "--wait", "5m"])
            }
            "check --repair" => {
                holder = Some(hold("LOCK_SH"));
                let digest = "0".repeat(64);
                fs::write(gantry.root.join("downloads").join(digest), "x").unwrap();
                scene.start(&["cache", "check", "--repair", "--wait", "5m"])
            }
            _ => {
                holder = Some(hold("LOCK_EX"));
                scene.start(&["build", function.path().to_str().unwrap()])
            }
        };
        let mut child = child;
        if holder.is_some() {
            says(&mut child, "Waiting for ");
        }
        scene.ends_by(child, signal, code, what);
    }
}

#[test]
fn what_fails_as_a_signal_ends_a_command_is_no_failure_in_the_journal() {
    let scene = Scene::new();
    let pipe = scene.gantry.home.join("pipe");
    tool(std::process::Command::new("mkfifo").arg(&pipe));
    let mut command = scene.gantry.command();
    command
        .args(["pull", &scene.name(1)])
        .env("GANTRY_FAULT", format!("Bytes:0:hold={}", pipe.display()))
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let held = held_at(&pipe, &mut child);
    send(&child, Signal::TERM);
    eventually("its scratch stays", || {
        let left = tree(&scene.gantry.root.join("tmp"));
        is_so(left.is_empty(), left)
    });
    // It goes on, and has no place for what it unpacks.
    drop(held);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(143), "{ended:?}");
    for day in fs::read_dir(scene.gantry.root.join("journal")).unwrap() {
        let lines = fs::read_to_string(day.unwrap().path()).unwrap();
        assert!(!lines.contains("failed"), "{lines}");
    }
}
