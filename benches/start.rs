//! How long a run of next to nothing takes, against bubblewrap on the same root (which has no seccomp filter, no Landlock
//! and no read-back there).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench prints its table and fails by panicking"
)]

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{call, function, in_scratch, is_installed, take_turns, Gantry, Measure, Options, Report, Turn, DEGRADED};
use serde_json::Value;

fn main() {
    let mut report = Report::new("start", Options::read());
    in_scratch(|scratch| measure(scratch, &mut report));
    report.finish();
}

fn measure(scratch: &Path, report: &mut Report) {
    let gantries = Gantry::all(scratch);
    let source = function(&scratch.join("function"), "pass\n", "");
    let layout = scratch.join("layout");
    for (number, gantry) in gantries.iter().enumerate() {
        gantry.share_downloads(&gantries[0]);
        let build = gantry.command(["build", "--tag", "start:1", "--base", "python-3.11-slim"]);
        call(with(build, &[&source.to_string_lossy()]));
        if number == 0 {
            gantry.call(["push", "start:1", &format!("oci:{}:x", layout.display())]);
        }
    }
    let bundle = scratch.join("bundle");
    let image = format!("{}:x", layout.display());
    call(with(
        Command::new("umoci"),
        &["unpack", "--rootless", "--image", &image, &bundle.to_string_lossy()],
    ));
    for (name, words) in [
        ("true", &["/usr/bin/true"][..]),
        ("python -c pass", &["/usr/bin/python3", "-c", "pass"]),
    ] {
        let tag = format!("{}:bench", name.split(' ').next().unwrap_or_default());
        set_command(&image, words);
        let run = [&["run"][..], &DEGRADED, &[tag.as_str()]].concat();
        let native = [&["run", "--runtime", "native"][..], &DEGRADED, &[tag.as_str()]].concat();
        let mut turns = Vec::new();
        for gantry in &gantries {
            gantry.call(["copy", &format!("oci:{image}"), &tag]);
            turns.push(Turn::new(&gantry.name, |_| gantry.command(&run)));
        }
        turns.push(Turn::new("native", |_| gantries[0].command(&native)));
        if is_installed("bwrap") {
            turns.push(Turn::new("bubblewrap", |_| bubblewrap(&bundle.join("rootfs"), words)));
        }
        report.row(
            &format!("run {name}"),
            Measure::WallMs,
            &take_turns(3, report.rounds(40), &turns),
        );
        phases(&gantries[0], &run, scratch, name, report);
    }
    filter(&gantries[0], report);
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// Makes `words` the command of the image, and nothing else of it gantry's.
fn set_command(image: &str, words: &[&str]) {
    let clear = [
        "--clear",
        "config.cmd",
        "--clear",
        "config.entrypoint",
        "--clear",
        "config.labels",
    ];
    let set: Vec<&str> = words.iter().flat_map(|word| ["--config.cmd", *word]).collect();
    for options in [&clear[..], &set] {
        call(with(
            with(Command::new("umoci"), &["config", "--image", image]),
            options,
        ));
    }
}

fn bubblewrap(root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("bwrap");
    command
        .args(["--unshare-all", "--die-with-parent", "--ro-bind"])
        .arg(root)
        .arg("/");
    command.args([
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/output",
    ]);
    command.args(words);
    command
}

/// What one run says of its own phases.
fn phases(gantry: &Gantry, run: &[&str], scratch: &Path, name: &str, report: &mut Report) {
    let path = scratch.join("outcome.json");
    call(with(gantry.command(run), &[]));
    let mut words = run.to_vec();
    let text = path.to_string_lossy();
    words.splice(1..1, ["--report", &text]);
    gantry.call(&words);
    let outcome: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (phase, value) in outcome["phases_ms"].as_object().into_iter().flatten() {
        if let Some(value) = value.as_f64().filter(|value| *value > 0.0) {
            report.number(&format!("  run {name}: {phase}"), &gantry.name, "ms", value);
        }
    }
}

/// How long installing the seccomp filter takes, as the doctor measures it.
fn filter(gantry: &Gantry, report: &mut Report) {
    // Its code says whether every promise holds here; the measurement is there either way.
    let done = gantry.command(["doctor", "--json"]).output().unwrap();
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    let evidence = found["promises"]["seccomp"]["evidence"].as_str().unwrap_or_default();
    let microseconds = evidence
        .split("installed in ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok());
    if let Some(microseconds) = microseconds {
        report.number("seccomp filter, installed in", &gantry.name, "us", microseconds);
    }
}
