//! Runs the targets of `gantry::fuzzing` for a bounded time, without nightly Rust and without libFuzzer.
//!
//! Each target first gets every file of `corpus/<target>`, then mutations of them. When the program was built with
//! coverage counters (`scripts/fuzz` does), an input that reaches something new is kept and mutated further; without,
//! only the corpus is mutated. One seed gives one sequence of inputs. A panic, a run of more than ten seconds or the
//! death of the process leaves its input in `artifacts/<target>`.

mod coverage;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{exit, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry::fuzzing::{Mutator, TARGETS};

/// A run that takes longer is a finding: the largest honest input of this size takes milliseconds.
const SLOW: Duration = Duration::from_secs(10);
/// Inputs kept for mutation; more would rarely be chosen.
const MOST_KEPT: usize = 2000;

struct Options {
    seconds: u64,
    runs: u64,
    seed: u64,
    targets: Vec<String>,
    /// In the child that runs one target.
    alone: bool,
    /// Runs this file once.
    replay: Option<PathBuf>,
}

fn main() {
    let options = read_options();
    let chosen = TARGETS
        .iter()
        .filter(|(name, _)| options.targets.is_empty() || options.targets.iter().any(|target| target == name));
    let mut failed = false;
    for (name, target) in chosen {
        if let Some(file) = &options.replay {
            target(&fs::read(file).expect("read the file to replay"));
            println!("{name}: {} passes", file.display());
        } else if options.alone {
            fuzz(name, *target, &options);
        } else {
            failed |= !in_child(name, &options);
        }
    }
    exit(i32::from(failed));
}

fn read_options() -> Options {
    let mut options = Options {
        seconds: 30,
        runs: u64::MAX,
        seed: 1,
        targets: Vec::new(),
        alone: false,
        replay: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse().ok()).expect("a number");
        match argument.as_str() {
            "--seconds" => options.seconds = number(),
            "--runs" => options.runs = number(),
            "--seed" => options.seed = number(),
            "--alone" => options.alone = true,
            "--replay" => options.replay = arguments.next().map(PathBuf::from),
            name if TARGETS.iter().any(|(target, _)| *target == name) => options.targets.push(argument),
            other => {
                eprintln!("unknown argument {other}: --seconds N, --runs N, --seed N, --replay FILE, or a target");
                exit(2);
            }
        }
    }
    options
}

fn here(folder: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target)
}

/// One target in a process of its own: it may die of a full stack or of memory.
fn in_child(name: &str, options: &Options) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"));
    child.args([
        "--alone",
        "--seconds",
        &options.seconds.to_string(),
        "--runs",
        &options.runs.to_string(),
    ]);
    child.args(["--seed", &options.seed.to_string(), name]);
    let status = child.status().expect("run this program again");
    if !status.success() {
        eprintln!(
            "{name}: FAILED ({status}); its last input is {}",
            here("artifacts", name).join("last").display()
        );
    }
    status.success()
}

fn fuzz(name: &str, target: fn(&[u8]), options: &Options) {
    let artifacts = here("artifacts", name);
    fs::create_dir_all(&artifacts).expect("make the folder of findings");
    let last = fs::File::create(artifacts.join("last")).expect("make the file of the last input");
    let started = Instant::now();
    // Milliseconds from `started` to the beginning of this run.
    let begun = Arc::new(AtomicU64::new(0));
    watch(name.to_owned(), started, Arc::clone(&begun));
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let mut seen = coverage::Seen::default();
    let mut mutator = Mutator::new(options.seed, name);
    let mut pending = seeds(name);
    let (mut runs, mut kept) = (0, 0);
    while runs < options.runs && started.elapsed().as_secs() < options.seconds {
        let (input, is_seed) = match pending.pop_first() {
            Some((_, input)) => (input, true),
            None => (mutator.next(&corpus), false),
        };
        last.set_len(input.len() as u64)
            .and_then(|()| last.write_all_at(&input, 0))
            .expect("keep the last input");
        begun.store(started.elapsed().as_millis() as u64, Ordering::Relaxed);
        coverage::reset();
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let finding = artifacts.join(format!("crash-{}-{runs}", options.seed));
            fs::write(&finding, &input).expect("keep the finding");
            eprintln!("{name}: a panic after {runs} runs; its input is {}", finding.display());
            exit(1);
        }
        runs += 1;
        let is_new = seen.add();
        if is_seed || (is_new && corpus.len() < MOST_KEPT) {
            kept += u64::from(!is_seed);
            corpus.push(input);
        }
    }
    begun.store(u64::MAX, Ordering::Relaxed);
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{name:14} {runs:>9} runs in {seconds:5.1} s, {} edges, {kept} inputs kept",
        seen.edges()
    );
    let _ = fs::remove_file(artifacts.join("last"));
    let _ = fs::remove_dir(&artifacts);
}

/// Ends the process when one run takes too long.
fn watch(name: String, started: Instant, begun: Arc<AtomicU64>) {
    std::thread::spawn(move || loop {
        std::thread::sleep(Duration::from_secs(1));
        let run = begun.load(Ordering::Relaxed);
        if run != u64::MAX && started.elapsed() > Duration::from_millis(run) + SLOW {
            eprintln!("{name}: one run takes over {} s", SLOW.as_secs());
            exit(1);
        }
    });
}

/// The committed inputs, by name.
fn seeds(target: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = here("corpus", target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files
        .map(|file| file.expect("list the corpus").path())
        .map(|path| (path.clone(), fs::read(&path).expect("read the corpus")))
        .collect()
}
