//! Each step that makes something durable fails, and is where the process is killed, in every command that takes it: the
//! store is whole after it, the next try gives the same digests, and nothing is left.
//!
//! `src/store/disk/fault.rs` has the steps; a step that no scene reaches fails the test. In each scene the first,
//! the second and the last time of each step are tried; `GANTRY_FAULTS=all` tries every time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::common::{done, function, shared, tiny, tool, tree, Done, Gantry, DEGRADED};
use crate::registry::fake::{Fake, Reply};
use crate::registry::images::{configure, image};

const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";
/// EIO and ENOSPC.
const ERRORS: [&str; 2] = ["5", ENOSPC];
/// A full disk, on which an eviction follows.
const ENOSPC: &str = "28";

/// A command on a store that something is in.
struct Scene {
    name: &'static str,
    /// What the store has before.
    template: Gantry,
    args: Vec<String>,
    /// What makes it good when it did not come to its end; most commands do that themselves.
    again: fn(&Gantry, &[String]),
    /// Whether it fails anyway.
    fails: bool,
    /// Whether something is wrong before.
    is_damaged: bool,
    /// Whether its time allows for few tries.
    is_slow: bool,
}

/// A store of its own with what `template` has, and the same files where nobody writes into them.
fn copy_of(template: &Gantry) -> Gantry {
    let gantry = Gantry::new();
    if template.root.exists() {
        tool(Command::new("cp").arg("-al").arg(&template.root).arg(&gantry.root));
        for folder in ["journal", "locks", "leases", "partial", "unnamed"] {
            let (from, to) = (template.root.join(folder), gantry.root.join(folder));
            fs::remove_dir_all(&to).unwrap();
            tool(Command::new("cp").arg("-a").arg(&from).arg(&to));
        }
    }
    tool(Command::new("cp").arg("-aT").arg(&template.home).arg(&gantry.home));
    gantry
}

/// A build has the same digest whenever it is done.
const EPOCH: (&str, &str) = ("SOURCE_DATE_EPOCH", "1");

fn again(gantry: &Gantry, args: &[String]) {
    let mut command = gantry.command();
    let done = done(command.args(args).env(EPOCH.0, EPOCH.1).output().unwrap());
    assert_eq!(done.code, 0, "again: {}", done.stderr);
}

impl Scene {
    fn new(name: &'static str, template: Gantry, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self {
            name,
            template,
            args,
            again,
            fails: false,
            is_damaged: false,
            is_slow: false,
        }
    }

    fn run(&self, gantry: &Gantry, fault: &str) -> Done {
        done(
            gantry
                .command()
                .args(&self.args)
                .env("GANTRY_FAULT", fault)
                .env(EPOCH.0, EPOCH.1)
                .output()
                .unwrap(),
        )
    }

    /// The steps that the command takes, and how often; and what is in the store afterwards.
    fn census(&self) -> (BTreeMap<String, usize>, BTreeSet<PathBuf>) {
        let gantry = copy_of(&self.template);
        let trace = gantry.home.join("trace");
        let done = self.run(&gantry, &format!("trace:{}", trace.display()));
        assert_eq!(done.code != 0, self.fails, "{}: {}", self.name, done.stderr);
        let mut steps = BTreeMap::new();
        for step in fs::read_to_string(&trace).unwrap().lines() {
            *steps.entry(step.to_owned()).or_default() += 1;
        }
        if self.fails {
            (self.again)(&gantry, &self.args);
        }
        (steps, left(&gantry))
    }

    /// Whether `path` may be gone after a failure of the kind `how`: it is made again by whoever needs it.
    fn may_lack(&self, path: &Path, how: &str) -> bool {
        // A repair that did not end has dropped a damaged layer, whose blob is there: the next run unpacks it.
        let of_runs = path.starts_with("layers") || path.starts_with("snapshots");
        // What a full disk takes back is what builds remember.
        (self.name == "check" && of_runs) || (how == ENOSPC && path.starts_with("memo"))
    }

    /// Fails at the time `number` of `step` in the way `how`, and makes it good.
    fn try_one(&self, step: &str, number: usize, how: &str, whole: &BTreeSet<PathBuf>) {
        let gantry = copy_of(&self.template);
        let what = format!("{}: {step}:{number}:{how}", self.name);
        let done = self.run(&gantry, &format!("{step}:{number}:{how}"));
        // An error may be of no consequence: a stamp that stays is swept later.
        let is_expected = match how {
            // Threads do not take steps in the same order each time.
            "kill" => done.code == 137 || (done.code == 0 && (number > 0 || self.is_slow)),
            _ => (0..=4).contains(&done.code) || done.code == 125,
        };
        assert!(is_expected, "{what}: exit code {}: {}", done.code, done.stderr);
        if self.is_damaged {
            gantry.ok(["cache", "check", "--repair"]);
        }
        let checked = gantry.gantry(["cache", "check"]);
        assert_eq!(checked.code, 0, "{what}: {}{}", checked.stdout, checked.stderr);
        assert!(
            fs::read_dir(gantry.root.join("tmp")).unwrap().next().is_none(),
            "{what}"
        );
        (self.again)(&gantry, &self.args);
        let now = left(&gantry);
        let over: Vec<_> = now.difference(whole).collect();
        assert!(over.is_empty(), "{what}: left over: {over:?}");
        let lost: Vec<_> = whole
            .difference(&now)
            .filter(|path| !self.may_lack(path, how))
            .collect();
        assert!(lost.is_empty(), "{what}: lost: {lost:?}");
    }
}

/// What is in a store after a collection, and what its names mean.
fn left(gantry: &Gantry) -> BTreeSet<PathBuf> {
    gantry.ok(["cache", "gc"]);
    let below = |path: PathBuf| path.strip_prefix(&gantry.root).unwrap().to_owned();
    let mut left: BTreeSet<PathBuf> = tree(&gantry.root).into_iter().map(below).collect();
    left.retain(|path| {
        !["journal", "registries", "profiles"]
            .iter()
            .any(|folder| path.starts_with(folder))
    });
    // How large a layer is is noted by whoever counts it first.
    left.retain(|path| !(path.starts_with("layers") && path.ends_with("size")));
    left.extend(gantry.ok(["images", "ls", "-q"]).lines().map(PathBuf::from));
    let index = fs::read_to_string(gantry.root.join("index.json")).unwrap();
    left.insert(index.into());
    left
}

fn set_boot(path: &Path) {
    let mut document: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    document["boot"] = OTHER_BOOT.into();
    replace(path, document.to_string().as_bytes());
}

/// Writes a file anew, so that others who link to the old one keep it.
fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

fn layers(gantry: &Gantry) -> Vec<PathBuf> {
    let entries = fs::read_dir(gantry.root.join("layers")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A store that knows the registry `fake`, one layer after the other.
fn knows(fake: &Fake) -> Gantry {
    let gantry = Gantry::new();
    let entry = format!(
        "[[registry]]\nhost = \"{}\"\nplain_http = true\npulls_per_minute = 1000\n",
        fake.host
    );
    configure(&gantry, &format!("{entry}[transfer]\ndownloads = 1\nuploads = 1\n"));
    gantry
}

/// Every scene but those that build and run.
fn scenes(fake: &Fake, source: &Gantry) -> Vec<Scene> {
    let digest = image(source, "a:1", &[(1, 300_000), (2, 1000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    fake.hold(&source.root, &digest, "team/bad", "1");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(source.root.join("blobs/sha256").join(&digest[7..])).unwrap()).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    fake.rule(move |seen, _| {
        (seen.method == "GET" && seen.is("GET", "team/bad/blobs") && seen.path.ends_with(&layer))
            .then(|| Reply::new(200, vec![7; 1000]))
    });
    let archive = source.home.join("a.tar");
    source.ok(["save", "a:1", archive.to_str().unwrap()]);
    let (name, bad) = (fake.name("team/a:1"), fake.name("team/bad:1"));
    let pinned = fake.name(&format!("team/a@{digest}"));
    let pulled = || {
        let gantry = knows(fake);
        gantry.ok(["pull", &name]);
        gantry
    };
    let of_two = |names: &[&str]| {
        let gantry = Gantry::new();
        tiny(&gantry, names);
        gantry
    };
    let garbage = || {
        let gantry = pulled();
        tiny(&gantry, &["b:1", "c:1"]);
        gantry.ok(["images", "rm", &name, "b:1"]);
        fs::write(gantry.root.join("partial").join("0".repeat(64)), "part").unwrap();
        gantry
    };
    let of_another_boot = |damage: bool| {
        let gantry = pulled();
        for layer in layers(&gantry) {
            set_boot(&layer.join("stamp.json"));
            if damage {
                for file in tree(&layer.join("fs")).into_iter().filter(|path| path.is_file()) {
                    replace(&file, b"");
                }
            }
        }
        for snapshot in tree(&gantry.root.join("snapshots")) {
            set_boot(&snapshot);
        }
        gantry
    };
    let damaged_blob = || {
        let gantry = pulled();
        for stamp in tree(&gantry.root.join("stamps")) {
            replace(&stamp, OTHER_BOOT.as_bytes());
            let blob = stamp.file_name().unwrap().to_str().unwrap().replace("blob-", "");
            let blob = gantry.root.join("blobs/sha256").join(blob);
            let mut bytes = fs::read(&blob).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            replace(&blob, &bytes);
        }
        gantry
    };
    let unnamed = || {
        let gantry = knows(fake);
        gantry.ok(["pull", &pinned]);
        gantry
    };
    let damaged = || {
        let gantry = pulled();
        for layer in layers(&gantry) {
            replace(&layer.join("meta.json"), b"{}");
        }
        gantry
    };
    let gone = |gantry: &Gantry, args: &[String]| {
        // Removed before the error, or not: it is removed by now.
        if gantry.ok(["images", "ls", "-q"]).lines().any(|name| *name == args[2]) {
            again(gantry, args);
        }
    };
    vec![
        Scene::new("a new store", Gantry::new(), &["images", "ls"]),
        Scene::new("pull", knows(fake), &["pull", &name]),
        Scene::new("pull by digest", knows(fake), &["pull", &pinned]),
        Scene {
            fails: true,
            again: |gantry, args| {
                let good = args[1].replace("team/bad", "team/a");
                again(gantry, &["pull".to_owned(), good]);
            },
            ..Scene::new("pull of wrong bytes", knows(fake), &["pull", &bad])
        },
        Scene::new(
            "pull over what another boot wrote",
            of_another_boot(false),
            &["pull", &name],
        ),
        Scene {
            is_damaged: true,
            ..Scene::new(
                "pull over layers that a power loss damaged",
                of_another_boot(true),
                &["pull", &name],
            )
        },
        Scene {
            is_damaged: true,
            ..Scene::new(
                "pull over blobs that a power loss damaged",
                damaged_blob(),
                &["pull", &name],
            )
        },
        Scene::new("load", Gantry::new(), &["load", archive.to_str().unwrap()]),
        Scene::new("copy", knows(fake), &["copy", &name, "b:1"]),
        Scene::new("tag", of_two(&["a:1"]), &["copy", "a:1", "b:1"]),
        Scene::new("tag of an image without a name", unnamed(), &["copy", &digest, "b:1"]),
        Scene {
            again: gone,
            ..Scene::new("rm", of_two(&["a:1", "b:1"]), &["images", "rm", "a:1"])
        },
        Scene::new("gc", garbage(), &["cache", "gc", "--all"]),
        Scene {
            again: |gantry, args| {
                let done = gantry.gantry(args);
                assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
            },
            is_damaged: true,
            ..Scene::new("check", damaged(), &["cache", "check", "--repair"])
        },
    ]
}

/// The scenes with a base: build, and run of what was built.
fn built_scenes(fake: &Fake) -> Vec<Scene> {
    let (of_base, place) = (function("print(1)\n", None), tempfile::tempdir().unwrap());
    shared().build(of_base.path(), "faults-base:1");
    let layout = format!("oci:{}", place.path().display());
    shared().ok(["push", "faults-base:1", &format!("{layout}:x")]);
    let template = knows(fake);
    template.ok(["pull", &format!("{layout}:x"), "--tag", "base:1"]);
    let directory = template.home.join("function");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("user_function.py"), "print('built')\n").unwrap();
    let built = copy_of(&template);
    let build = [
        "build",
        directory.to_str().unwrap(),
        "--base",
        "base:1",
        "--tag",
        "f:1",
        "--allow-degraded",
        DEGRADED,
    ];
    built.ok(build);
    let _ = fs::remove_dir_all(built.root.join("scaffold"));
    for snapshot in tree(&built.root.join("snapshots")) {
        fs::remove_file(snapshot).unwrap();
    }
    let mut build = Scene::new("build", template, &build);
    let mut run = Scene::new("run", built, &["run", "--allow-degraded", DEGRADED, "f:1"]);
    (build.is_slow, run.is_slow) = (true, true);
    vec![build, run]
}

/// The names of all steps, from the code.
fn steps() -> BTreeSet<String> {
    let code = include_str!("../../src/store/disk/fault.rs");
    let body = code
        .split("pub(crate) enum Step {")
        .nth(1)
        .unwrap()
        .split("\n}")
        .next()
        .unwrap();
    let lines = body.lines().map(str::trim).filter(|line| !line.starts_with("///"));
    lines
        .filter_map(|line| line.strip_suffix(','))
        .map(str::to_owned)
        .collect()
}

/// Works through `tries` with two threads.
fn work(tries: Vec<(&Scene, String, usize, &str)>, whole: &BTreeMap<&str, BTreeSet<PathBuf>>) {
    let tries = Mutex::new(tries);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| loop {
                let next = tries.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
                let Some((scene, step, number, how)) = next else { return };
                scene.try_one(&step, number, how, &whole[scene.name]);
            });
        }
    });
}

#[test]
fn a_store_is_whole_whichever_step_fails_or_is_the_last_and_every_step_is_reached() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let mut scenes = scenes(&fake, &source);
    scenes.extend(built_scenes(&fake));
    let is_all = std::env::var("GANTRY_FAULTS").is_ok_and(|all| all == "all");
    let (mut tries, mut whole, mut reached) = (Vec::new(), BTreeMap::new(), BTreeMap::<String, Vec<String>>::new());
    for scene in &scenes {
        let (counted, left) = scene.census();
        whole.insert(scene.name, left);
        for (step, count) in counted {
            reached
                .entry(step.clone())
                .or_default()
                .push(format!("{} ({count})", scene.name));
            let mut numbers: Vec<usize> = (0..count).collect();
            if !is_all {
                numbers.retain(|number| {
                    if scene.is_slow {
                        *number == 0
                    } else {
                        [0, 1, count - 1].contains(number)
                    }
                });
            }
            for number in numbers {
                for how in ["kill"].into_iter().chain(ERRORS) {
                    // EIO and ENOSPC differ in what is said.
                    let is_same = how == ERRORS[0] && (scene.is_slow || number > 0);
                    if is_all || !is_same {
                        tries.push((scene, step.clone(), number, how));
                    }
                }
            }
        }
    }
    for (step, scenes) in &reached {
        eprintln!("{step}: {}", scenes.join(", "));
    }
    let reached: BTreeSet<String> = reached.into_keys().collect();
    assert_eq!(reached, steps(), "a step is not reached");
    eprintln!("{} tries", tries.len());
    work(tries, &whole);
}
