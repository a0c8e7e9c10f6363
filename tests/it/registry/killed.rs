//! SIGKILL at each step that makes something durable, and at each request: the next try succeeds, and nothing that is half
//! written stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use gantry::oci::{Digest, Manifest};
use serde_json::Value;

use super::fake::{Fake, Reply, Then};
use super::images::{configure, image, partials, store_of};
use crate::common::port::ClosedPort;
use crate::common::wait::{eventually, is_so};
use crate::common::{done, tree, Gantry};

/// The calls by which a file gets its name or loses it, or is changed in its place.
const STEPS: &str = "rename,renameat,renameat2,link,linkat,unlink,unlinkat,ftruncate,pwrite64";

/// One layer at a time, so that one thread takes the steps of all of them.
const IN_TURN: &str = "[transfer]\ndownloads = 1\nuploads = 1\n";

/// Runs `command`, and kills it before the `number`th step of one of its threads; whether it came to that.
fn killed_at(command: &Command, number: usize, input: Stdio) -> bool {
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-qq", "-o", "/dev/null", &format!("--trace={STEPS}")])
        .arg(format!("--inject={STEPS}:signal=SIGKILL:when={number}"))
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(input);
    let done = done(traced.output().unwrap());
    match done.code {
        137 => true,
        0 => false,
        code => panic!("step {number}: exit code {code}: {}", done.stderr),
    }
}

/// Does `one` for each step until there is none left, and expects `least` of them.
fn at_each_step(least: usize, one: impl Fn(usize) -> bool) {
    let steps = (1..).take_while(|number| one(*number)).count();
    eprintln!("killed before each of {steps} steps");
    assert!(steps >= least, "only {steps} steps");
}

/// Nothing is left of a try that was killed, and what is called by a digest has it.
fn is_whole(gantry: &Gantry) {
    gantry.ok(["cache", "gc"]);
    assert!(partials(gantry).is_empty());
    blobs_are_right(&gantry.root);
}

fn blobs_are_right(layout: &Path) {
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let got = Digest::of(&fs::read(&path).unwrap()).to_string();
        assert_eq!(got[7..], *path.file_name().unwrap().to_str().unwrap());
    }
}

/// A registry with an image of two layers under `team/a:1`, and its digest.
fn registry() -> (Fake, Gantry, String) {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 300_000), (2, 1000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    (fake, source, digest)
}

fn entry(host: &str, more: &str) -> String {
    format!("[[registry]]\nhost = \"{host}\"\nplain_http = true\n{more}\n")
}

#[test]
fn a_pull_that_is_killed_at_any_step_is_made_good_by_the_next() {
    let (fake, _source, digest) = registry();
    // The first registry is away, which the store's processes tell each other, and pulls of the second are counted.
    let dead = ClosedPort::new();
    let entries = entry(&dead.host, "") + &entry(&fake.host, "pulls_per_minute = 1000");
    at_each_step(15, |number| {
        let gantry = Gantry::new();
        configure(&gantry, &format!("{entries}{IN_TURN}"));
        let reference = format!("{}/team/a:1", dead.host);
        let mut pull = gantry.command();
        pull.args(["pull", &reference]);
        let is_killed = killed_at(&pull, number, Stdio::null());
        let known = gantry.gantry(["registries", "--json"]);
        assert_eq!((known.code, known.stderr.as_str()), (0, ""), "step {number}");
        assert_eq!(gantry.ok(["pull", &reference]).trim(), digest, "step {number}");
        is_whole(&gantry);
        is_killed
    });
}

#[test]
fn a_copy_that_is_killed_at_any_step_leaves_a_whole_place_or_none() {
    let (fake, _source, digest) = registry();
    let gantry = store_of(&[&fake], IN_TURN);
    for (place, least) in [("oci", 8), ("oci-archive", 2)] {
        let names = |folder: &Path| -> BTreeSet<String> {
            let all = tree(folder).into_iter();
            all.map(|path| path.strip_prefix(folder).unwrap().display().to_string())
                .collect()
        };
        let copy_to = |folder: &Path| {
            let mut command = gantry.command();
            let to = format!("{place}:{}:1", folder.join("it").display());
            command.args(["copy", &fake.name("team/a:1"), &to]);
            (command, to)
        };
        let whole = tempfile::tempdir().unwrap();
        assert_eq!(done(copy_to(whole.path()).0.output().unwrap()).code, 0);
        at_each_step(least, |number| {
            let folder = tempfile::tempdir().unwrap();
            let (mut command, to) = copy_to(folder.path());
            let is_killed = killed_at(&command, number, Stdio::null());
            let again = done(command.output().unwrap());
            assert_eq!(
                (again.code, again.stdout.trim()),
                (0, digest.as_str()),
                "{}",
                again.stderr
            );
            assert_eq!(names(folder.path()), names(whole.path()), "{place}, step {number}");
            if place == "oci" {
                blobs_are_right(&folder.path().join("it"));
            }
            let other = Gantry::new();
            assert_eq!(other.ok(["pull", &to, "--tag", "back:1"]).trim(), digest);
            is_killed
        });
    }
    is_whole(&gantry);
}

#[test]
fn credentials_and_the_registry_that_is_preferred_are_kept_whole_or_not_at_all() {
    let fake = Fake::start();
    fake.rule(|seen, _| {
        let is_known = seen.header("authorization").starts_with("Basic ");
        (!is_known).then(|| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"))
    });
    let scratch = tempfile::tempdir().unwrap();
    let password = scratch.path().join("password");
    fs::write(&password, "s3cret\n").unwrap();
    at_each_step(1, |number| {
        let gantry = store_of(&[&fake], "");
        let folder = gantry.home.join(".docker");
        fs::create_dir(&folder).unwrap();
        let kept = folder.join("config.json");
        fs::write(&kept, r#"{"auths":{"other.example":{"auth":"eDp5"}},"more":[1]}"#).unwrap();
        let mut command = gantry.command();
        command.args(["login", &fake.host, "--username", "me"]);
        let is_killed = killed_at(&command, number, File::open(&password).unwrap().into());
        let read = || serde_json::from_slice::<Value>(&fs::read(&kept).unwrap()).unwrap();
        assert_eq!(read()["auths"]["other.example"]["auth"], "eDp5");
        let again = done(command.stdin(File::open(&password).unwrap()).output().unwrap());
        assert_eq!(again.code, 0, "{}", again.stderr);
        assert_eq!(read()["auths"][&fake.host]["auth"], "bWU6czNjcmV0");
        assert_eq!(read()["auths"]["other.example"]["auth"], "eDp5");
        // No password is left beside it.
        assert_eq!(tree(&folder), [kept]);
        is_killed
    });
    at_each_step(1, |number| {
        let gantry = store_of(&[&fake], "");
        let mut command = gantry.command();
        command.args(["registries", "prefer", &fake.host, "--for", "1h"]);
        let is_killed = killed_at(&command, number, Stdio::null());
        let known = gantry.gantry(["registries", "--json"]);
        assert_eq!((known.code, known.stderr.as_str()), (0, ""), "step {number}");
        assert_eq!(done(command.output().unwrap()).code, 0);
        let known: Value = serde_json::from_str(&gantry.ok(["registries", "--json"])).unwrap();
        assert_eq!(known[0]["is_preferred"], true);
        is_killed
    });
}

#[test]
fn a_push_and_a_copy_that_are_killed_at_any_request_are_made_good_by_the_next() {
    let (from, source, digest) = registry();
    let raw = fs::read(source.root.join("blobs/sha256").join(&digest[7..])).unwrap();
    let manifest: Manifest = serde_json::from_slice(&raw).unwrap();
    // What was asked for is not done; or it is done, and the answer does not come.
    for (command, is_done) in [("push", true), ("copy", false)] {
        let mut number = 0;
        loop {
            number += 1;
            let to = Fake::start();
            let count = Arc::new(AtomicUsize::new(0));
            // Only for the one that is killed: a request that its end cuts off is not counted.
            let lives = Arc::new(AtomicBool::new(true));
            let of_rule = Arc::clone(&lives);
            let stalls = move || count.fetch_add(1, Ordering::Relaxed) + 1 == number && of_rule.load(Ordering::Relaxed);
            let host = to.host.clone();
            let silent = || Some(Reply::nothing().then(Then::Stall));
            match is_done {
                false => to.early(move |_, _| stalls().then(silent).flatten()),
                true => to.rule(move |seen, state| {
                    stalls()
                        .then(|| drop(state.answer(seen, &host)))
                        .and_then(|()| silent())
                }),
            }
            let gantry = if command == "push" { &source } else { &store_of(&[], "") };
            configure(
                gantry,
                &format!("{}{}{IN_TURN}", entry(&from.host, ""), entry(&to.host, "")),
            );
            let what = if command == "push" {
                "a:1"
            } else {
                &from.name("team/a:1")
            };
            let args = [command, what, &to.name("team/a:1")];
            let mut child = gantry.command();
            let child = child.args(args).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = child.spawn().unwrap();
            let mut is_over = false;
            eventually("it neither asks nor ends", || {
                is_over = child.try_wait().unwrap().is_some();
                is_so(is_over || to.state.seen_count() >= number, to.state.seen_count())
            });
            // It may have ended after its last request, which is none that stays unanswered.
            child.kill().unwrap();
            child.wait().unwrap();
            lives.store(false, Ordering::Relaxed);
            assert_eq!(gantry.ok(args).trim(), digest, "{command}, request {number}");
            assert_eq!(to.digest_of("team/a", "1").as_ref(), Some(&digest));
            let blobs = to.state.blobs.lock().unwrap();
            for part in manifest.layers.iter().chain([&manifest.config]) {
                assert_eq!(Digest::of(&blobs[&part.digest.to_string()]), part.digest);
            }
            if is_over {
                break;
            }
        }
        eprintln!("{command}: killed at each of {} requests", number - 1);
        assert!(number > 7, "{command}: {number} requests");
    }
}
