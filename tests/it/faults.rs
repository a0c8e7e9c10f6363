//! Each step that makes something durable fails, and is where the process is killed, in every command that takes it: the
//! store is whole after it, the next try gives the same digests, and nothing is left.
//!
//! `src/sys/fault.rs` has the steps; a step that no scene reaches fails the test. In each scene the first,
//! the second and the last time of each step are tried; `GANTRY_FAULTS=all` tries every time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::common::{done, function, shared, tiny, tool, tree, Done, Gantry, DEGRADED};
use crate::registry::fake::{Fake, Reply};
use crate::registry::images::{configure, image};

/// The outcome of a run, in the directory it is started in.
const REPORT: &str = "outcome.json";
const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";
/// EIO and ENOSPC.
const ERRORS: [&str; 2] = ["5", ENOSPC];
/// A full disk, on which an eviction follows.
const ENOSPC: &str = "28";

/// Steps without which everything goes on as if they had been taken: what stays is swept later, what is not noted is looked at
/// again, and nobody fails for the sake of a statistic.
const OF_NO_CONSEQUENCE: [&str; 9] = [
    "ImageOrigin",
    "ImageOriginRemoved",
    "JournalLine",
    "JournalSums",
    "PartialRemoved",
    "Reservation",
    "RoomTaken",
    "ScratchRemoved",
    "StampRemoved",
];

/// A command on a store that something is in.
struct Scene {
    name: &'static str,
    /// What the store has before.
    template: Gantry,
    args: Vec<String>,
    /// What makes it good when it did not come to its end; most commands do that themselves.
    again: fn(&Gantry, &[String]),
    /// What it ends with when no step fails.
    usual: i32,
    /// Whether something is wrong before.
    is_damaged: bool,
    /// Whether its time allows for few tries.
    is_slow: bool,
    /// The name of an image that goes by it, as the store has a limit.
    evicts: Option<String>,
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
    let command = command.args(args).current_dir(&gantry.home);
    let done = done(command.env(EPOCH.0, EPOCH.1).output().unwrap());
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
            usual: 0,
            is_damaged: false,
            is_slow: false,
            evicts: None,
        }
    }

    fn run(&self, gantry: &Gantry, fault: &str) -> Done {
        done(
            gantry
                .command()
                .args(&self.args)
                .current_dir(&gantry.home)
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
        assert_eq!(done.code, self.usual, "{}: {}", self.name, done.stderr);
        let mut steps = BTreeMap::new();
        for step in fs::read_to_string(&trace).unwrap().lines() {
            *steps.entry(step.to_owned()).or_default() += 1;
        }
        if self.usual != 0 {
            (self.again)(&gantry, &self.args);
        }
        let left = left(&gantry);
        if let Some(name) = &self.evicts {
            let images = gantry.ok(["images", "ls", "-q"]);
            assert!(!images.is_empty() && !images.contains(name), "{}: {images}", self.name);
        }
        (steps, left)
    }

    /// Whether `path` may be gone after a failure of the kind `how`: it is made again by whoever needs it.
    fn may_lack(&self, path: &Path, how: &str) -> bool {
        // A repair that did not end has dropped a damaged layer, whose blob is there: the next run unpacks it.
        let of_runs = path.starts_with("layers") || path.starts_with("snapshots");
        // What a full disk takes back is what builds remember, and one tree for many layers is made where there is room.
        (self.name == "check" && of_runs) || (how == ENOSPC && (path.starts_with("memo") || path.starts_with("merged")))
    }

    /// Whether a command may end with `code` when `step` fails in the way `how`.
    fn may_answer(&self, step: &str, how: &str, code: i32) -> bool {
        let failed = if self.name == "run" { 125 } else { 1 };
        // What is known of registries is noted by the way, but for the one that somebody prefers.
        let is_by_the_way = step == "Note" && self.name != "prefer";
        if is_by_the_way || OF_NO_CONSEQUENCE.contains(&step) {
            return code == self.usual;
        }
        // A full disk makes room once; scratch may be for what is noted by the way, as a new stamp is; limits are kept by the next
        // command, and a repair says of each thing what became of it.
        let by_the_way = step == "Scratch" || self.name == "pull over what another boot wrote";
        let is_made_good = how == ENOSPC || by_the_way || self.evicts.is_some() || self.is_damaged;
        code == failed || (is_made_good && code == self.usual)
    }

    /// Fails at the time `number` of `step` in the way `how`, and makes it good.
    fn try_one(&self, step: &str, number: usize, how: &str, whole: &BTreeSet<PathBuf>) {
        let gantry = copy_of(&self.template);
        let what = format!("{}: {step}:{number}:{how}", self.name);
        let done = self.run(&gantry, &format!("{step}:{number}:{how}"));
        let is_expected = match how {
            // Threads do not take steps in the same order each time.
            "kill" => done.code == 137 || (done.code == 0 && (number > 0 || self.is_slow)),
            _ => self.may_answer(step, how, done.code),
        };
        assert!(
            is_expected,
            "{what}: exit code {}: {}{}",
            done.code, done.stdout, done.stderr
        );
        if how != "kill" && done.code != self.usual {
            let said = format!("{}{}", done.stdout, done.stderr);
            assert!(said.contains(&format!("(os error {how})")), "{what}: {said}");
        }
        if how == ENOSPC && self.name == "run" && done.code != 0 {
            let outcome = fs::read_to_string(gantry.home.join(REPORT)).unwrap();
            assert!(outcome.contains("\"code\":\"store_full\""), "{what}: {outcome}");
        }
        if self.is_damaged {
            gantry.ok(["cache", "check", "--repair"]);
        }
        let checked = gantry.gantry(["cache", "check"]);
        assert_eq!(checked.code, 0, "{what}: {}{}", checked.stdout, checked.stderr);
        assert!(
            fs::read_dir(gantry.root.join("tmp")).unwrap().next().is_none(),
            "{what}"
        );
        if self.evicts.is_some() {
            // Half of an eviction is garbage. Until it is collected it takes room, and another image could go for that.
            gantry.ok(["cache", "gc"]);
        }
        (self.again)(&gantry, &self.args);
        let now = left(&gantry);
        if step.starts_with("Journal") {
            journal_is_whole(&gantry, &what);
        }
        // On a full disk, where a limit says that images may go, others go; or none, as the second try of a pull knows what it
        // unpacks to and may fit beside them. The collection has kept the limit.
        let goes_elsewhere = self.evicts.is_some() && how == ENOSPC;
        let over: Vec<_> = now.difference(whole).filter(|_| !goes_elsewhere).collect();
        assert!(over.is_empty(), "{what}: left over: {over:?}");
        let lost: Vec<_> = whole
            .difference(&now)
            .filter(|path| !goes_elsewhere && !self.may_lack(path, how))
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

/// The image was used last so many minutes ago.
fn used_before(gantry: &Gantry, digest: &str, minutes: u64) {
    let lease = gantry.root.join("leases").join(&digest[7..]);
    let time = SystemTime::now() - Duration::from_secs(60 * minutes);
    fs::File::open(lease).unwrap().set_modified(time).unwrap();
}

/// The journal has whole lines alone, and its sums are what a fold from the beginning gives.
fn journal_is_whole(gantry: &Gantry, what: &str) {
    let folder = gantry.root.join("journal");
    let days = tree(&folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    for day in days {
        let text = fs::read_to_string(&day).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{what}: {text}");
        text.lines()
            .for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
    }
    let sums = || {
        gantry.ok(["cache", "stats"]);
        assert!(!folder.join(".fold.json").exists(), "{what}");
        // A journal without a line comes to nothing.
        let sums = fs::read(folder.join("fold.json")).ok()?;
        Some(serde_json::from_slice::<serde_json::Value>(&sums).unwrap())
    };
    let resumed = sums();
    if resumed.is_some() {
        fs::remove_file(folder.join("fold.json")).unwrap();
    }
    assert_eq!(resumed, sums(), "{what}");
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
    for (number, other) in ["c", "d"].into_iter().enumerate() {
        let own = [(3 + number as u64, 300_000), (2, 1000)];
        let digest = image(source, &format!("{other}:1"), &own);
        fake.hold(&source.root, &digest, &format!("team/{other}"), "1");
    }
    let of_many: Vec<(u64, usize)> = (10..38).map(|seed| (seed, 1000)).collect();
    let many = image(source, "many:1", &of_many);
    fake.hold(&source.root, &many, "team/many", "1");
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
    let pinned_before = || {
        let gantry = pulled();
        gantry.ok(["cache", "pin", &name]);
        gantry
    };
    let preferred = || {
        let gantry = knows(fake);
        gantry.ok(["registries", "prefer", &fake.host, "--for", "1h"]);
        gantry
    };
    let old = fake.name("team/c:1");
    // Images of 300 KB, and as much unpacked, that were used in the order of `names`, and a limit of as many bytes more than they
    // take.
    let limited = |names: &[&str], more: i64| {
        let gantry = knows(fake);
        for (number, name) in (1..).zip(names) {
            let digest = gantry.ok(["pull", &fake.name(&format!("team/{name}:1"))]);
            used_before(&gantry, digest.trim(), 60 - number);
        }
        let stats: serde_json::Value = serde_json::from_str(&gantry.ok(["cache", "stats", "--json"])).unwrap();
        let config = gantry.home.join(".config/gantry/config.toml");
        let most = stats["physical"].as_i64().unwrap() + more;
        let limit = format!("[cache]\nmax_bytes = {most}\nlow_water = 100\n");
        fs::write(&config, fs::read_to_string(&config).unwrap() + &limit).unwrap();
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
        Scene {
            is_slow: true,
            ..Scene::new("pull of many layers", knows(fake), &["pull", &fake.name("team/many:1")])
        },
        Scene::new("pull by digest", knows(fake), &["pull", &pinned]),
        Scene {
            usual: 1,
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
            evicts: Some(old.clone()),
            // It is expected to unpack to three times its size.
            ..Scene::new(
                "pull for which an image goes",
                limited(&["c", "d"], 1_100_000),
                &["pull", &name],
            )
        },
        Scene {
            evicts: Some(old.clone()),
            is_slow: true,
            ..Scene::new(
                "pull after which an image goes",
                limited(&["c"], 100_000),
                &["pull", &name],
            )
        },
        Scene {
            is_slow: true,
            evicts: Some(old),
            ..Scene::new("gc of images", limited(&["c", "d", "a"], -100_000), &["cache", "gc"])
        },
        Scene::new("pin", pulled(), &["cache", "pin", &name]),
        Scene::new("unpin", pinned_before(), &["cache", "unpin", &name]),
        Scene::new("stats", pulled(), &["cache", "stats"]),
        Scene::new(
            "prefer",
            knows(fake),
            &["registries", "prefer", &fake.host, "--for", "1h"],
        ),
        Scene::new("prefer none", preferred(), &["registries", "prefer", "--off"]),
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
    let full = copy_of(&built);
    full.ok(["images", "rm", "f:1"]);
    let mut gc = Scene::new("gc to a size", full, &["cache", "gc", "--max-size", "1B"]);
    let args = ["run", "--allow-degraded", DEGRADED, "--report", REPORT, "f:1"];
    let mut run = Scene::new("run", built, &args);
    (build.is_slow, run.is_slow, gc.is_slow) = (true, true, true);
    vec![build, run, gc]
}

/// The names of all steps, from the code.
fn steps() -> BTreeSet<String> {
    let code = include_str!("../../src/sys/fault.rs");
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
