//! SIGKILL at random moments: nothing of a run survives, nothing of a build stays half-written.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::wait::{eventually, is_so, send, stop};
use crate::common::{example, function, shared, tree, Gantry, DEGRADED};

/// Processes, by the marker in their command line or by being our sandbox's init.
fn processes(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(command) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(marker) {
            found.push(format!("{} {command}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

fn mounts() -> BTreeSet<String> {
    fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// A small generator (xorshift), so that a failing sequence can be run again with its seed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
        eprintln!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A daemon that left its session, ignores everything it may ignore and holds the output open.
const DAEMON: &str = "import os, signal, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        for s in range(1, 32):\n            try: signal.signal(s, signal.SIG_IGN)\n            except OSError: pass\n        while True: time.sleep(1)\nprint('up', flush=True)\nwhile True: time.sleep(1)\n";

/// A run of the daemon that carries `marker` in its command line.
fn daemon(gantry: &Gantry, timeout: &str, output: &std::path::Path, marker: &str) -> std::process::Child {
    let mut command = gantry.command();
    command.args(["run", "--allow-degraded", DEGRADED, "--timeout", timeout]);
    command.args(["--output", output.to_str().unwrap(), "death:run", "--", marker]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Everything that runs may leave in a store.
fn files_of_runs(gantry: &Gantry) -> BTreeSet<PathBuf> {
    tree(&gantry.root)
        .into_iter()
        .filter(|path| is_of_a_run(path))
        .collect()
}

#[test]
fn three_hundred_kills_of_a_run_leave_nothing() {
    let marker = format!("gantry-death-{}", std::process::id());
    let gantry = &Gantry::with_function(DAEMON, "death:run");
    // The snapshot exists before the first kill, so what is compared below is only what runs leave.
    assert_eq!(gantry.run(&["--timeout", "1s", "death:run"]).code, 124);
    let before = files_of_runs(gantry);
    let mounts_before = mounts();
    let mut random = Random::new();
    let mut killed_early = 0;
    // The moments cover set-up, start and run, however fast this machine is just now.
    let scratch = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut child = daemon(gantry, "60s", scratch.path(), &marker);
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0u8; 2]).unwrap();
    let mut window = 2 * started.elapsed().as_micros() as u64;
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..300 {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = daemon(gantry, "60s", scratch.path(), &marker);
        std::thread::sleep(Duration::from_micros(random.below(window)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let early = output.stdout.is_empty();
        killed_early += usize::from(early);
        // Half of them early: other tests come and go, and a start takes longer or shorter.
        window = if early {
            window * 11 / 10
        } else {
            (window * 10 / 11).max(1000)
        };
        eventually("processes are left", || {
            let left = processes(&marker);
            is_so(left.is_empty(), &left)
        });
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
    eprintln!("{killed_early} of 300 were killed before the function printed");
    assert!(
        (30..270).contains(&killed_early),
        "the moments do not cover a run: {killed_early}"
    );
    assert_eq!(mounts(), mounts_before);
    assert_eq!(gantry.run(&["--timeout", "100ms", "death:run"]).code, 124);
    let after = files_of_runs(gantry);
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "files are left: {new:?}");
    assert_eq!(cgroups(), Vec::<PathBuf>::new());
}

#[test]
fn a_stopped_gantry_does_not_stop_the_clock() {
    let gantry = shared();
    gantry.build(function(DAEMON, None).path(), "death:run");
    let mut random = Random::new();
    let scratch = tempfile::tempdir().unwrap();
    let runs: Vec<_> = (0..20)
        .map(|number| {
            let marker = format!("gantry-stop-{}-{number}", std::process::id());
            loop {
                let mut child = daemon(gantry, "1s", &scratch.path().join(number.to_string()), &marker);
                std::thread::sleep(Duration::from_micros(random.below(120_000)));
                if stop(&child) {
                    return (child, marker);
                }
                // We did not come to it for a second.
                assert_eq!(child.wait().unwrap().code(), Some(124));
            }
        })
        .collect();
    for (mut child, marker) in runs {
        // While gantry is stopped, the init keeps the time.
        eventually("a function outlives its limit", || {
            let mut left = processes(&marker);
            left.retain(|command| !command.contains("--allow-degraded"));
            is_so(left.is_empty(), &left)
        });
        assert!(child.try_wait().unwrap().is_none(), "it is stopped, not gone");
        send(&child, Signal::CONT);
        assert_eq!(child.wait().unwrap().code(), Some(124));
    }
    assert_eq!(cgroups(), Vec::<PathBuf>::new());
}

/// Cgroups of runs, where this machine lets us make any. Other tests of this file may be running some.
fn cgroups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    eventually("cgroups are left", || {
        found = tree(std::path::Path::new("/sys/fs/cgroup"));
        found.retain(|path| path.is_dir() && path.to_string_lossy().contains("/gantry-run-"));
        is_so(found.is_empty(), &found)
    });
    found
}

/// Other tests of this file share the store; a run writes nowhere but here.
fn is_of_a_run(path: &std::path::Path) -> bool {
    let text = path.to_string_lossy();
    ![
        "/blobs/",
        "/layers/",
        "/refs/",
        "/memo/",
        "/snapshots/",
        "/downloads/",
        "/journal",
        "/origins/",
        "/profiles/",
    ]
    .iter()
    .any(|part| text.contains(part))
        && !text.ends_with("/index.json")
}

#[test]
fn kills_of_a_build_leave_a_store_that_the_next_build_completes() {
    let clean = Gantry::with_downloads();
    let epoch = ("SOURCE_DATE_EPOCH", "1700000000");
    let build = |gantry: &Gantry| {
        let mut command = gantry.command();
        command
            .env(epoch.0, epoch.1)
            .args(["build", example("beam").to_str().unwrap(), "--tag", "beam:1"]);
        command
    };
    let started = Instant::now();
    let reference = crate::common::done(build(&clean).output().unwrap());
    assert_eq!(reference.code, 0, "{}", reference.stderr);
    let whole = started.elapsed().as_micros() as u64;

    let gantry = Gantry::with_downloads();
    let mut random = Random::new();
    for _ in 0..12 {
        let mut child = build(&gantry)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.below(whole)));
        child.kill().unwrap();
        child.wait().unwrap();
        // Nothing that is named is half there: every blob has the digest it is called by.
        for path in tree(&gantry.root.join("blobs/sha256")) {
            let bytes = fs::read(&path).unwrap();
            if path.file_name().unwrap().len() == 64 {
                assert_eq!(
                    gantry::oci::Digest::of(&bytes).hex(),
                    path.file_name().unwrap().to_str().unwrap()
                );
            }
        }
    }
    let finished = crate::common::done(build(&gantry).output().unwrap());
    assert_eq!(
        (finished.code, &finished.stdout),
        (0, &reference.stdout),
        "{}",
        finished.stderr
    );
    let names = |gantry: &Gantry| {
        tree(&gantry.root.join("blobs"))
            .into_iter()
            .chain(tree(&gantry.root.join("tmp")))
            .map(|path| path.strip_prefix(&gantry.root).unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    let (clean, interrupted) = (names(&clean), names(&gantry));
    assert_eq!(clean, interrupted, "the interrupted store holds other files");
}

#[test]
fn ctrl_c_ends_a_build_and_leaves_nothing() {
    let gantry = Gantry::with_downloads();
    let mut child = gantry
        .command()
        .args(["build", example("beam").to_str().unwrap(), "--tag", "beam:1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the build makes nothing", || {
        // The file that the store itself begins with comes before that.
        let made = tree(&gantry.root.join("tmp"));
        is_so(made.iter().any(|path| path.is_dir()), made)
    });
    // Stopped at its first file, so that it is not done before the signal is sent, however fast it is.
    assert!(stop(&child), "a build ends with its first file");
    send(&child, Signal::INT);
    send(&child, Signal::CONT);
    let code = child.wait().unwrap();
    assert_eq!(code.code(), Some(130));
    let left: Vec<_> = tree(&gantry.root.join("tmp"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_terminated_run_reports_it_was_killed() {
    let gantry = shared();
    gantry.build(
        function("import time\nprint('up', flush=True)\ntime.sleep(60)\n", None).path(),
        "death:term",
    );
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let mut child = gantry
        .command()
        .args([
            "run",
            "--allow-degraded",
            DEGRADED,
            "--report",
            report.to_str().unwrap(),
            "death:term",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0u8; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    let outcome: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!((&outcome["status"], &outcome["signal"]), (&"killed".into(), &15.into()));
}

/// Leaves so many files that taking them out takes longer than anything else of the run.
const MANY: &str = "for n in range(6000): open(f'/output/{n:0200}', 'w').write('x')\nprint('done', flush=True)\n";

/// A run of [`MANY`] that is stopped while it takes files out into `directory`, with some of them there and some not.
fn taking(gantry: &Gantry, directory: &std::path::Path, report: &std::path::Path) -> std::process::Child {
    loop {
        let mut command = gantry.command();
        command.args(["run", "--allow-degraded", DEGRADED, "--output"]);
        command.arg(directory).arg("--report").arg(report).arg("death:many");
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        // The files are copied into a directory inside `directory` first.
        let copied = || {
            let inside = tree(directory)
                .into_iter()
                .filter(|path| path.parent() != Some(directory));
            inside.count()
        };
        eventually("nothing is taken out", || {
            is_so(copied() > 0 || child.try_wait().unwrap().is_some(), "nothing is copied")
        });
        if child.try_wait().unwrap().is_none() && stop(&child) && (1..6000).contains(&copied()) {
            return child;
        }
        // It was faster than we looked.
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(directory).unwrap();
        fs::create_dir(directory).unwrap();
    }
}

#[test]
fn a_run_that_is_terminated_while_its_files_are_taken_out_leaves_the_directory_alone() {
    // What the tries before leave is swept by the next of them and by no other command.
    let gantry = &Gantry::with_function(MANY, "death:many");
    let scratch = tempfile::tempdir().unwrap();
    let (directory, report) = (scratch.path().join("out"), scratch.path().join("outcome.json"));
    fs::create_dir(&directory).unwrap();
    let mut child = taking(gantry, &directory, &report);
    send(&child, Signal::TERM);
    send(&child, Signal::CONT);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(tree(&directory), Vec::<PathBuf>::new());
    let outcome: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!((&outcome["status"], &outcome["signal"]), (&"killed".into(), &15.into()));
    // The positive twin: left alone, it takes all of them.
    let done = gantry.run(&["--output", directory.to_str().unwrap(), "death:many"]);
    assert_eq!(
        (done.code, fs::read_dir(&directory).unwrap().count()),
        (0, 6000),
        "{}",
        done.stderr
    );
}

#[test]
fn what_was_taken_out_by_a_killed_gantry_is_swept_by_the_next_command() {
    let gantry = &Gantry::with_function(MANY, "death:many");
    for next in [&["images", "ls"][..], &["cache", "gc"], &["run", "no-such:1"]] {
        let scratch = tempfile::tempdir().unwrap();
        let (directory, report) = (scratch.path().join("out"), scratch.path().join("outcome.json"));
        fs::create_dir(&directory).unwrap();
        fs::write(&report, "of an earlier run").unwrap();
        let mut child = taking(gantry, &directory, &report);
        child.kill().unwrap();
        child.wait().unwrap();
        let staged = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().file_name();
        assert!(staged.to_str().unwrap().starts_with(".gantry-"), "{staged:?}");
        let _ = gantry.gantry(next);
        assert_eq!(
            tree(scratch.path()),
            [directory],
            "after {next:?}: nothing is left, no outcome stands for it"
        );
    }
}

#[test]
fn a_run_that_is_terminated_while_its_image_is_unpacked_leaves_nothing() {
    let gantry = Gantry::with_downloads();
    gantry.build(&example("hello"), "hello:1");
    let mut random = Random::new();
    let (mut rounds, mut tries) = (0, 0);
    while rounds < 6 {
        tries += 1;
        assert!(
            tries <= 200,
            "of 200 runs {rounds} were stopped before all was unpacked"
        );
        for part in ["layers", "snapshots"] {
            let part = gantry.root.join(part);
            fs::remove_dir_all(&part).unwrap();
            fs::create_dir(part).unwrap();
        }
        let report = gantry.home.join("outcome.json");
        let _ = fs::remove_file(&report);
        let mut command = gantry.command();
        command.args([
            "run",
            "--allow-degraded",
            DEGRADED,
            "--report",
            report.to_str().unwrap(),
            "hello:1",
        ]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        // The image has a few thousand files.
        let some = 10 + random.below(1000) as usize;
        eventually("nothing is unpacked", || {
            let there = tree(&gantry.root.join("tmp")).len() + tree(&gantry.root.join("layers")).len();
            is_so(there >= some, there)
        });
        if !stop(&child) || !tree(&gantry.root.join("snapshots")).is_empty() {
            // It has unpacked all before we looked.
            send(&child, Signal::CONT);
            assert_eq!(child.wait().unwrap().code(), Some(0));
            continue;
        }
        rounds += 1;
        send(&child, Signal::TERM);
        send(&child, Signal::CONT);
        assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
        let outcome: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        assert_eq!(
            (&outcome["status"], &outcome["cache"]),
            (&"killed".into(), &"miss".into())
        );
        assert_eq!(tree(&gantry.root.join("tmp")), Vec::<PathBuf>::new());
    }
    assert_eq!(gantry.run(&["hello:1"]).code, 0, "it is unpacked by the next run");
}
