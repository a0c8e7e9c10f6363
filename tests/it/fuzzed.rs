//! Every reader of strangers' bytes on the committed corpus and on a bounded number of changes of it, the same in each run.
//! `scripts/fuzz` goes on from here, with coverage and for as long as one likes.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gantry::fuzzing::{Mutator, Target, TARGETS};

/// Changed inputs for each target: all of them take a few seconds in a debug build.
const ROUNDS: usize = 1500;
/// No honest input of this size takes a hundredth of it.
const SLOW: Duration = Duration::from_secs(20);

fn corpus(target: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.map(|file| file.unwrap().path());
    files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// Leaves an input that makes the target panic where `scripts/fuzz --replay` takes it.
fn try_one(name: &str, read: fn(&[u8]), input: &[u8]) {
    let started = Instant::now();
    let is_good = catch_unwind(AssertUnwindSafe(|| read(input))).is_ok() && started.elapsed() < SLOW;
    if !is_good {
        let finding = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("finding-{name}"));
        fs::write(&finding, input).unwrap();
        panic!(
            "{name}: {:?}, and its input is {}",
            started.elapsed(),
            finding.display()
        );
    }
}

fn try_all((name, read): &Target) {
    let committed = corpus(name);
    assert!(!committed.is_empty(), "fuzz/corpus/{name} is empty");
    committed.values().for_each(|input| try_one(name, *read, input));
    let seeds: Vec<Vec<u8>> = committed.into_values().collect();
    let mut mutator = Mutator::new(1, name);
    for _ in 0..ROUNDS {
        try_one(name, *read, &mutator.next(&seeds));
    }
}

#[test]
fn no_reader_panics_on_the_corpus_or_what_is_near_it() {
    let next = AtomicUsize::new(0);
    let all = || {
        while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
            try_all(target);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(all);
        all();
    });
}

#[test]
fn every_folder_of_the_corpus_has_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}
