//! How long it takes until an image of numpy, scipy and pandas can run that a registry has: against the tools people would
//! use, and fifty pulls at once beside one. The registry is docker-registry on this machine, without TLS.
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
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{
    call, function, in_scratch, is_installed, shell, take_turns, Gantry, Measure, Options, Registry, Report, Turn,
};
use serde_json::Value;

/// Processes that start on one image at once.
const MANY: usize = 50;

fn main() {
    let mut report = Report::new("registry", Options::read());
    in_scratch(|scratch| {
        if is_installed("docker-registry") {
            measure(scratch, &mut report);
        }
    });
    report.finish();
}

fn measure(scratch: &Path, report: &mut Report) {
    let registry = Registry::start(&scratch.join("registry"));
    let (config, name) = (registry.config(), registry.name("sci:1"));
    let reference = name.as_str();
    let gantries = Gantry::all(scratch);
    let source = function(
        &scratch.join("function"),
        "print(1)\n",
        "numpy==1.26.4\nscipy==1.11.4\npandas==2.2.2\n",
    );
    let first = &gantries[0];
    let mut build = first.command(["build", "--tag", "sci:1"]);
    build.arg(&source);
    let digest = call(build);
    let mut push = first.command(["push", "sci:1", reference]);
    push.env("GANTRY_CONFIG", &config);
    call(push);
    let layers = layers(&first.root, &digest);
    let packed: u64 = layers.iter().map(|layer| fs::metadata(layer).unwrap().len()).sum();
    report.number("layers of the image, packed", "image", "MB", packed as f64 / 1e6);

    let pull = |gantry: &Gantry, root: &Path| {
        let mut command = gantry.command_on(root, ["pull", "-q", reference]);
        command.env("GANTRY_CONFIG", &config);
        command
    };
    // A place of its own for each round: ext4 is slow to make files for a minute after many were removed.
    let place = |who: &str, round: usize| scratch.join(format!("pull-{who}-{round}"));
    let quoted = |path: PathBuf| format!("'{}'", path.display());
    let skopeo =
        |to: &str| format!("skopeo --insecure-policy copy -q --src-tls-verify=false docker://{reference} oci:{to}:x");
    let lines = layers
        .iter()
        .map(|layer| format!("tar -xzf '{}' -C \"$0\"", layer.display()));
    let unpack = lines.collect::<Vec<_>>().join(" && ");
    let mut turns: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| Turn::new(&gantry.name, |round| pull(gantry, &place(&gantry.name, round))))
        .collect();
    if is_installed("skopeo") && is_installed("umoci") {
        turns.push(Turn::new("skopeo + umoci", |round| {
            let to = quoted(place("skopeo", round));
            let bundle = quoted(place("umoci", round));
            shell(&format!(
                "{} && umoci unpack --rootless --image {to}:x {bundle}",
                skopeo(&to)
            ))
        }));
    }
    if let Some(driver) = driver_of_podman(scratch, reference) {
        let pull = move |round| podman(&place("podman", round), driver, reference);
        turns.push(Turn::new(&format!("podman ({driver})"), pull));
    }
    turns.push(Turn::new("tar -xzf alone", |round| {
        let mut command = shell(&format!("mkdir \"$0\" && {unpack}"));
        command.arg(place("tar", round));
        command
    }));
    let rounds = report.rounds(3);
    let times = take_turns(1, rounds, &turns);
    report.row("pull and unpack, empty store", Measure::WallMs, &times);
    report.row("pull and unpack, empty store", Measure::CpuS, &times);
    // What belongs to a subordinate id only its owner's namespace can remove.
    // It may leave a process behind, which would keep a pipe open.
    if is_installed("podman") {
        let quiet = ">/dev/null 2>&1 </dev/null";
        let all = format!("{}/*podman*", scratch.display());
        let _ = shell(&format!("timeout 120 podman unshare rm -rf {all} {quiet}")).status();
    }

    let many = |what: &str| {
        format!("for i in $(seq {MANY}); do {what} & p=\"$p $!\"; done; for i in $p; do wait $i || exit 1; done")
    };
    let gantry = "\"$0\" pull -q \"$1\" >/dev/null";
    for (what, line) in [("one pull", gantry.to_owned()), ("fifty pulls at once", many(gantry))] {
        let turns: Vec<Turn<'_>> = gantries
            .iter()
            .map(|gantry| {
                let line = line.clone();
                Turn::new(&gantry.name, move |round| {
                    let alone = pull(gantry, &place(&format!("{}-{what}", gantry.name), round));
                    let mut command = shell(&line);
                    command.arg(alone.get_program()).arg(reference);
                    for (name, value) in alone.get_envs() {
                        command.env(name, value.unwrap_or_default());
                    }
                    command
                })
            })
            .collect();
        report.row(
            &format!("{what}, empty store"),
            Measure::WallMs,
            &take_turns(0, rounds, &turns),
        );
    }
    // What fifty processes cost that do nothing.
    let starts: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            let line = many("\"$0\" --version >/dev/null");
            Turn::new(&gantry.name, move |_| {
                let mut command = shell(&line);
                command.arg(gantry.command(["--version"]).get_program());
                command
            })
        })
        .collect();
    report.row("fifty starts at once", Measure::WallMs, &take_turns(1, rounds, &starts));

    let mut count = |who: &str, command: Command| {
        let before = registry.requests();
        call(command);
        report.number("requests of a pull", who, "", (registry.requests() - before) as f64);
    };
    count("gantry", pull(first, &place("counted", 0)));
    if is_installed("skopeo") {
        count("skopeo", shell(&skopeo(&quoted(place("counted-skopeo", 0)))));
    }
}

/// The blobs of the layers of an image of the store `root`, in their order.
fn layers(root: &Path, digest: &str) -> Vec<PathBuf> {
    let blob = |digest: &str| root.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let manifest: Value = serde_json::from_slice(&fs::read(blob(digest)).unwrap()).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| blob(layer["digest"].as_str().unwrap())).collect()
}

fn podman(place: &Path, driver: &str, reference: &str) -> Command {
    let mut command = Command::new("podman");
    for (option, folder) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
        command.arg(option).arg(place.join(folder));
    }
    command.args([
        "--storage-driver",
        driver,
        "pull",
        "-q",
        "--tls-verify=false",
        reference,
    ]);
    command
}

/// With which storage podman can pull as this user, who may have no range of subordinate ids, if it can at all. The other one
/// writes every layer with all that is below it: ten times the bytes, which take minutes to write and to remove.
fn driver_of_podman(scratch: &Path, reference: &str) -> Option<&'static str> {
    if !is_installed("podman") {
        return None;
    }
    ["overlay", "vfs"].into_iter().find(|driver| {
        let place = scratch.join(format!("podman-{driver}"));
        let tried = podman(&place, driver, reference).output().unwrap();
        if !tried.status.success() {
            let said = String::from_utf8_lossy(&tried.stderr);
            eprintln!("podman does not pull as this user with {driver}: {said}");
        }
        tried.status.success()
    })
}
