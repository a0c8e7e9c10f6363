//! How long builds take: of changed code, of no change, from an empty store whose downloads are there, and of a base.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench prints its table and fails by panicking"
)]

mod harness;

use std::path::{Path, PathBuf};
use std::{fs, process};

use harness::{call, function, in_scratch, take_turns, Gantry, Measure, Options, Report, Turn};
use serde_json::Value;

fn main() {
    let mut report = Report::new("build", Options::read());
    in_scratch(|scratch| measure(scratch, &mut report));
    report.finish();
}

fn measure(scratch: &Path, report: &mut Report) {
    let gantries = Gantry::all(scratch);
    let two = function(&scratch.join("two"), "print(1)\n", "numpy==1.26.4\nscipy==1.11.4\n");
    for gantry in &gantries {
        gantry.share_downloads(&gantries[0]);
        call(build(gantry, &gantry.root, &two));
    }
    cold(&gantries, scratch, &two, report);
    base(&gantries, scratch, report);
    warm(&gantries, scratch, report);
}

fn build(gantry: &Gantry, root: &Path, source: &Path) -> process::Command {
    let mut command = gantry.command_on(root, ["build", "--tag", "bench:1"]);
    command.arg(source);
    command
}

/// Only the code changed, and nothing changed.
fn warm(gantries: &[Gantry], scratch: &Path, report: &mut Report) {
    let sources: Vec<PathBuf> = gantries
        .iter()
        .map(|gantry| {
            function(
                &scratch.join(format!("code-{}", gantry.name)),
                "print(0)\n",
                "numpy==1.26.4\n",
            )
        })
        .collect();
    let both = || gantries.iter().zip(&sources);
    for (gantry, source) in both() {
        call(build(gantry, &gantry.root, source));
    }
    let rounds = report.rounds(20);
    let changed: Vec<Turn<'_>> = both()
        .map(|(gantry, source)| {
            let change =
                move |round| fs::write(source.join("user_function.py"), format!("print({round}, 1)\n")).unwrap();
            Turn::new(&gantry.name, |_| build(gantry, &gantry.root, source)).before(change)
        })
        .collect();
    report.row(
        "build, only the code changed",
        Measure::WallMs,
        &take_turns(2, rounds, &changed),
    );
    let same: Vec<Turn<'_>> = both()
        .map(|(gantry, source)| Turn::new(&gantry.name, |_| build(gantry, &gantry.root, source)))
        .collect();
    report.row("build, nothing changed", Measure::WallMs, &take_turns(2, rounds, &same));
}

/// numpy and scipy from an empty store whose downloads are there; with and without the base.
fn cold(gantries: &[Gantry], scratch: &Path, two: &Path, report: &mut Report) {
    let rounds = report.rounds(3).min(5);
    // A store of its own for each round: ext4 is slow to make files for a minute after many were removed.
    let store = |gantry: &Gantry, kind: &str, round: usize| scratch.join(format!("{kind}-{}-{round}", gantry.name));
    let turns: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            let command = move |round| build(gantry, &store(gantry, "cold", round), two);
            Turn::new(&gantry.name, command).before(move |round| {
                gantry.with_downloads(&store(gantry, "cold", round));
            })
        })
        .collect();
    report.row(
        "build numpy + scipy, empty store",
        Measure::WallS,
        &take_turns(0, rounds, &turns),
    );
    let turns: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            let command = move |round| build(gantry, &store(gantry, "based", round), two);
            Turn::new(&gantry.name, command).before(move |round| {
                let root = gantry.with_downloads(&store(gantry, "based", round));
                call(gantry.command_on(&root, ["base", "build"]));
            })
        })
        .collect();
    let times = take_turns(0, rounds, &turns);
    report.row("build numpy + scipy, only the base there", Measure::WallS, &times);
    report.row("build numpy + scipy, only the base there", Measure::CpuS, &times);
}

/// The base itself: with the bytecode of its standard library, and the bytecode alone.
fn base(gantries: &[Gantry], scratch: &Path, report: &mut Report) {
    let rounds = report.rounds(3).min(5);
    let store = |gantry: &Gantry, round: usize| scratch.join(format!("base-{}-{round}", gantry.name));
    let whole: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            let command = move |round| gantry.command_on(&store(gantry, round), ["base", "build"]);
            Turn::new(&gantry.name, command).before(move |round| {
                gantry.with_downloads(&store(gantry, round));
            })
        })
        .collect();
    report.row(
        "base after download, with its bytecode",
        Measure::CpuS,
        &take_turns(0, rounds, &whole),
    );
    // After all of them, for the reason above.
    let bytecode: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            let command = move |round| gantry.command_on(&store(gantry, round), ["base", "build"]);
            Turn::new(&gantry.name, command).before(move |round| {
                let memos = store(gantry, round).join("memo/bytecode");
                fs::remove_dir_all(&memos).unwrap();
                fs::create_dir(&memos).unwrap();
            })
        })
        .collect();
    report.row(
        "bytecode of the standard library",
        Measure::CpuS,
        &take_turns(0, rounds, &bytecode),
    );
    let path = scratch.join("base.json");
    let mut again = gantries[0].command_on(&store(&gantries[0], 0), ["base", "build", "--report"]);
    again.arg(&path);
    call(again);
    let document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (what, key) in [
        ("base without bytecode, unpacked", "unpacked_bytes"),
        ("base without bytecode, packed", "size"),
    ] {
        report.number(
            what,
            &gantries[0].name,
            "MB",
            document["layers"][0][key].as_f64().unwrap_or_default() / 1e6,
        );
    }
}
