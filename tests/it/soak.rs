//! Everything at once on one store, and SIGKILL at any moment. For how long and how often, the environment says:
//! `GANTRY_SOAK_SECONDS`, `GANTRY_KILLS`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::wait::send;
use crate::common::{done, function, shared, tree, Done, Gantry, DEGRADED};
use crate::registry::fake::Fake;
use crate::registry::images::{configure, image, partials};

/// No command takes so long, however busy the machine is.
const WATCHDOG: Duration = Duration::from_secs(600);

/// A store with a base and a function on it, that knows a registry with a few images.
struct Place {
    fake: Fake,
    gantry: Gantry,
    functions: Vec<tempfile::TempDir>,
    digests: Vec<String>,
}

const IMAGES: usize = 4;

impl Place {
    fn new() -> Self {
        let (fake, source) = (Fake::start(), Gantry::new());
        let mut digests = Vec::new();
        for number in 0..IMAGES {
            let layers = [(1, 200_000), (10 + number as u64, 400_000), (20 + number as u64, 1000)];
            let digest = image(&source, &format!("p{number}:1"), &layers);
            fake.hold(&source.root, &digest, &format!("team/p{number}"), "1");
            digests.push(digest);
        }
        let gantry = Gantry::new();
        configure(
            &gantry,
            &format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", fake.host),
        );
        let (of_base, layout) = (function("print(1)\n", None), tempfile::tempdir().unwrap());
        shared().build(of_base.path(), "soak-base:1");
        let layout = format!("oci:{}:x", layout.path().display());
        shared().ok(["push", "soak-base:1", &layout]);
        gantry.ok(["pull", &layout, "--tag", "base:1"]);
        let functions = (0..3)
            .map(|number| function(&format!("print('f{number}')\n"), None))
            .collect();
        let place = Self {
            fake,
            gantry,
            functions,
            digests,
        };
        assert_eq!(done(place.command(&place.build(0, "run:1")).output().unwrap()).code, 0);
        place
    }

    fn command(&self, args: &[String]) -> Command {
        let mut command = self.gantry.command();
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn build(&self, number: usize, name: &str) -> Vec<String> {
        let directory = self.functions[number % self.functions.len()].path().to_str().unwrap();
        words(&[
            "build",
            directory,
            "--base",
            "base:1",
            "--tag",
            name,
            "--allow-degraded",
            DEGRADED,
        ])
    }

    fn run(&self) -> Vec<String> {
        words(&["run", "--allow-degraded", DEGRADED, "run:1"])
    }

    fn pull(&self, number: usize) -> Vec<String> {
        words(&["pull", &self.fake.name(&format!("team/p{}:1", number % IMAGES))])
    }
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Numbers by chance, from a seed that a failure names.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % most
    }
}

/// Waits for the end of `child`, which comes.
fn watched(mut child: Child, what: &str) -> Done {
    let begun = Instant::now();
    // What it says fits into a pipe.
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > WATCHDOG {
            send(&child, Signal::KILL);
            panic!("{what} hangs: {}", done(child.wait_with_output().unwrap()).stderr);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    done(child.wait_with_output().unwrap())
}

/// The refusals that are clean: a collection, or a repair, gives up when others are at work all the time.
fn is_clean_refusal(args: &[String], done: &Done) -> bool {
    done.code == 4 && args[0] == "cache" && done.stderr.contains("builds or other commands are using it")
}

#[test]
fn sixteen_processes_pull_run_build_collect_and_check_on_one_store() {
    let seconds = std::env::var("GANTRY_SOAK_SECONDS").map_or(10, |text| text.parse().unwrap());
    let place = Place::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    let counts = Mutex::new(std::collections::BTreeMap::<String, [usize; 2]>::new());
    std::thread::scope(|scope| {
        for worker in 0..16 {
            let (place, counts) = (&place, &counts);
            scope.spawn(move || {
                let mut chance = Chance::new(worker + 1);
                let own = format!("own{worker}:1");
                let mut has_own = false;
                while Instant::now() < until {
                    let number = chance.below(IMAGES);
                    let args = match chance.below(12) {
                        0..=2 => place.pull(number),
                        3 | 4 => place.run(),
                        5 => place.build(number, &own),
                        6 if has_own => words(&["images", "rm", &own]),
                        6 => words(&["copy", &place.pull(number)[1], &own]),
                        7 | 8 => words(&["cache", "gc", "--wait", "1s"]),
                        9 => words(&["cache", "check", "--sample", "20%"]),
                        10 => words(&["cache", "check"]),
                        _ => words(&["images", "ls"]),
                    };
                    let done = watched(place.command(&args).spawn().unwrap(), &format!("{args:?}"));
                    let is_refused = is_clean_refusal(&args, &done);
                    assert!(
                        done.code == 0 || is_refused,
                        "{args:?}: {}: {}{}",
                        done.code,
                        done.stdout,
                        done.stderr
                    );
                    match (args[0].as_str(), args[1].as_str()) {
                        ("build" | "copy", _) => has_own = true,
                        ("images", "rm") => has_own = false,
                        ("pull", _) => assert_eq!(done.stdout.trim(), place.digests[number]),
                        ("run", _) => assert_eq!(done.stdout, "f0\n"),
                        _ => {}
                    }
                    let kind = if args[0] == "cache" {
                        args[1].clone()
                    } else {
                        args[0].clone()
                    };
                    counts.lock().unwrap().entry(kind).or_default()[usize::from(is_refused)] += 1;
                }
            });
        }
    });
    eprintln!("done and refused in {seconds} s: {:?}", counts.into_inner().unwrap());
    let checked = place.gantry.ok(["cache", "check"]);
    assert!(checked.ends_with("nothing is wrong\n"), "{checked}");
    is_clean(&place.gantry);
}

/// Nothing is left of processes that have ended.
fn is_clean(gantry: &Gantry) {
    gantry.ok(["cache", "gc"]);
    assert!(partials(gantry).is_empty());
    let left = tree(&gantry.root.join("tmp"));
    assert!(left.is_empty(), "{left:?}");
    let locks: Vec<_> = fs::read_dir(gantry.root.join("locks"))
        .unwrap()
        .map(|lock| lock.unwrap().file_name())
        .collect();
    // The collection takes these two itself.
    assert!(
        locks.iter().all(|name| name == "collector" || name == "index"),
        "{locks:?}"
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(gantry.root.to_str().unwrap()), "{mounts}");
}

/// The processes that have the store open, or came from a command that did: their environment names it.
fn processes_of(gantry: &Gantry) -> Vec<String> {
    let root = format!("GANTRY_ROOT={}", gantry.root.display());
    let holds = |process: &Path| {
        let is_named = |file: &str| {
            fs::read(process.join(file)).is_ok_and(|text| text.windows(root.len()).any(|part| part == root.as_bytes()))
        };
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        is_named("environ") || mounts.contains(gantry.root.to_str().unwrap())
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit())
    });
    let held = all.filter(|entry| holds(&entry.path()));
    held.map(|entry| {
        format!(
            "{} {}",
            entry.file_name().to_string_lossy(),
            fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default()
        )
    })
    .collect()
}

#[test]
fn whatever_is_killed_at_whatever_moment_leaves_nothing() {
    let rounds = std::env::var("GANTRY_KILLS").map_or(20, |text| text.parse().unwrap());
    let place = Place::new();
    let mut chance = Chance::new(std::env::var("GANTRY_SEED").map_or(1, |text| text.parse().unwrap()));
    let mut killed = std::collections::BTreeMap::<&str, usize>::new();
    // How long each takes when it is left alone, as it was last.
    let mut times = std::collections::BTreeMap::<&str, Duration>::new();
    for round in 0..rounds {
        let number = chance.below(IMAGES);
        let (kind, args) = match chance.below(4) {
            0 => ("pull", place.pull(number)),
            1 => ("build", place.build(round, "own:1")),
            2 => ("run", place.run()),
            _ => ("gc", words(&["cache", "gc"])),
        };
        // There is something to pull, to build and to collect.
        let prepare = |gantry: &Gantry| {
            let names = gantry.ok(["images", "ls", "-q"]);
            for name in names.lines().filter(|name| name.contains("team/p") || *name == "own:1") {
                gantry.ok(["images", "rm", name]);
            }
            if kind == "pull" {
                gantry.ok(["cache", "gc", "--all"]);
            }
        };
        prepare(&place.gantry);
        if !times.contains_key(kind) {
            let begun = Instant::now();
            let done = watched(place.command(&args).spawn().unwrap(), kind);
            assert_eq!(done.code, 0, "{}", done.stderr);
            times.insert(kind, begun.elapsed());
            prepare(&place.gantry);
        }
        let most = usize::try_from(times[kind].as_micros()).unwrap().max(1);
        let child = place.command(&args).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(chance.below(most) as u64));
        send(&child, Signal::KILL);
        let ended = done(child.wait_with_output().unwrap());
        *killed.entry(kind).or_default() += usize::from(ended.code == 137);
        crate::common::wait::eventually("processes stay", || {
            let left = processes_of(&place.gantry);
            crate::common::wait::is_so(left.is_empty(), left)
        });
        if round % 5 == 4 || round + 1 == rounds {
            let checked = place.gantry.gantry(["cache", "check"]);
            assert_eq!(
                checked.code, 0,
                "round {round}, {args:?}: {}{}",
                checked.stdout, checked.stderr
            );
        }
        is_clean(&place.gantry);
    }
    eprintln!("killed before their end, of {rounds}: {killed:?}");
    for number in 0..IMAGES {
        assert_eq!(place.gantry.ok(place.pull(number)).trim(), place.digests[number]);
    }
    assert!(place.gantry.ok(["cache", "check"]).ends_with("nothing is wrong\n"));
}
