//! What the number of images in the store costs: a start, a build of no change, a listing, a look for garbage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench prints its table and fails by panicking"
)]

mod harness;

use std::fs;
use std::path::Path;

use harness::{call, function, in_scratch, take_turns, Gantry, Measure, Options, Report, Turn, DEGRADED};

/// Images in the store: a first one, a developer's, and what a worker's cache is meant to hold.
const IMAGES: [usize; 3] = [1, 50, 200];

fn main() {
    let mut report = Report::new("store", Options::read());
    in_scratch(|scratch| measure(scratch, &mut report));
    report.finish();
}

fn measure(scratch: &Path, report: &mut Report) {
    let gantries = Gantry::all(scratch);
    for gantry in &gantries {
        gantry.share_downloads(&gantries[0]);
        call(build(gantry, scratch, 0));
    }
    let run = [&["run"][..], &DEGRADED, &["store:0"]].concat();
    let mut there = 1;
    for images in IMAGES {
        for gantry in &gantries {
            (there..images).for_each(|number| {
                call(build(gantry, scratch, number));
            });
        }
        there = images;
        let rounds = report.rounds(20);
        let mut row = |what: &str, turns: &[Turn<'_>]| {
            let times = take_turns(2, rounds, turns);
            report.row(&format!("{what}, {images} images"), Measure::WallMs, &times);
        };
        let turns = |words: &'static [&'static str]| -> Vec<Turn<'_>> {
            gantries
                .iter()
                .map(|gantry| Turn::new(&gantry.name, move |_| gantry.command(words)))
                .collect()
        };
        let starts: Vec<_> = gantries
            .iter()
            .map(|gantry| Turn::new(&gantry.name, |_| gantry.command(&run)))
            .collect();
        row("run", &starts);
        let builds: Vec<_> = gantries
            .iter()
            .map(|gantry| Turn::new(&gantry.name, |_| build(gantry, scratch, 0)))
            .collect();
        row("build, nothing changed", &builds);
        row("images ls", &turns(&["images", "ls"]));
        row("cache gc --dry-run", &turns(&["cache", "gc", "--dry-run"]));
    }
}

/// Builds the image of this number; only its code differs from the others'.
fn build(gantry: &Gantry, scratch: &Path, number: usize) -> std::process::Command {
    let source = scratch.join(format!("function-{number}"));
    if !source.exists() {
        function(&source, &format!("number = {number}\n"), "");
        fs::write(source.join("data.txt"), number.to_string()).unwrap();
    }
    let mut command = gantry.command(["build", "--tag", &format!("store:{number}")]);
    command.arg(source);
    command
}
