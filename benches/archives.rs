//! How long archives take: wheels into layers against gzip, an image from a layout (gzip and zstd), and its layers alone,
//! against tar and umoci, and images to and from one file against tar.
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
use std::{fs, process};

use harness::{call, function, in_scratch, is_installed, shell, take_turns, Gantry, Measure, Options, Report, Turn};
use serde_json::Value;

fn main() {
    let mut report = Report::new("archives", Options::read());
    in_scratch(|scratch| measure(scratch, &mut report));
    report.finish();
}

fn measure(scratch: &Path, report: &mut Report) {
    let gantries = Gantry::all(scratch);
    let requirements = "numpy==1.26.4\nscipy==1.11.4\npandas==2.1.4\n";
    let three = function(&scratch.join("three"), "print(1)\n", requirements);
    let layout = scratch.join("layout");
    for (number, gantry) in gantries.iter().enumerate() {
        gantry.share_downloads(&gantries[0]);
        call(build(gantry, &three));
        if number == 0 {
            gantry.call(["push", "three:1", &format!("oci:{}:x", layout.display())]);
        }
    }
    write(&gantries, scratch, &three, &layout, report);
    read(&gantries, scratch, &layout, "gzip", report);
    if is_installed("skopeo") {
        let packed = scratch.join("layout-zstd");
        let (from, to) = (
            format!("oci:{}:x", layout.display()),
            format!("oci:{}:x", packed.display()),
        );
        let mut copy = process::Command::new("skopeo");
        copy.args([
            "copy",
            "--insecure-policy",
            "--quiet",
            "--dest-compress-format",
            "zstd",
            &from,
            &to,
        ]);
        call(copy);
        read(&gantries, scratch, &packed, "zstd", report);
    }
    one_file(&gantries, scratch, &layout, report);
}

fn build(gantry: &Gantry, source: &Path) -> process::Command {
    let mut command = gantry.command(["build", "--tag", "three:1"]);
    command.arg(source);
    command
}

/// The paths of the layers of the image `x` of a layout.
fn layers_of(layout: &Path) -> Vec<String> {
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &Value| {
        let digest = digest.as_str().unwrap_or_default();
        layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    };
    let index = read(&layout.join("index.json"));
    let manifest = read(&blob(&index["manifests"][0]["digest"]));
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| blob(&layer["digest"]).display().to_string())
        .collect()
}

/// Wheels into blobs and trees, against `gzip -6` of the tars that come out.
fn write(gantries: &[Gantry], scratch: &Path, three: &Path, layout: &Path, report: &mut Report) {
    let path = scratch.join("report.json");
    let mut again = build(&gantries[0], three);
    again.arg("--report").arg(&path);
    call(again);
    let document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let of_wheels: Vec<&str> = document["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|layer| {
            layer["reason"]
                .as_str()
                .is_some_and(|reason| reason.starts_with("wheel"))
        })
        .filter_map(|layer| layer["digest"].as_str()?.strip_prefix("sha256:"))
        .collect();
    assert!(!of_wheels.is_empty(), "the report names no layer of a wheel");
    let packed: Vec<String> = layers_of(layout)
        .into_iter()
        .filter(|layer| of_wheels.iter().any(|digest| layer.ends_with(digest)))
        .collect();
    let tar = scratch.join("wheels.tar");
    call(shell(&format!(
        "cat {} | gzip -dc >{}",
        packed.join(" "),
        tar.display()
    )));
    let mut turns: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            Turn::new(&gantry.name, |_| build(gantry, three)).before(|_| {
                let memos = gantry.root.join("memo/wheel");
                fs::remove_dir_all(&memos).unwrap();
                fs::create_dir(&memos).unwrap();
            })
        })
        .collect();
    let line = format!("gzip -6 -c {} >/dev/null", tar.display());
    turns.push(Turn::new("gzip -6", move |_| shell(&line)));
    let times = take_turns(0, report.rounds(3).min(5), &turns);
    report.row("wheels of numpy, scipy, pandas -> layers", Measure::CpuS, &times);
    report.row("wheels of numpy, scipy, pandas -> layers", Measure::WallS, &times);
}

/// An image of a layout into an empty store, and its layers out of the blobs that are in a store, against tar and umoci
/// unpacking them. They neither copy the blobs nor hash them, so the second compares the same work.
fn read(gantries: &[Gantry], scratch: &Path, layout: &Path, packing: &str, report: &mut Report) {
    let reference = format!("oci:{}:x", layout.display());
    let reference = reference.as_str();
    let into_empty = gantries.iter().map(|gantry| {
        Turn::new(&gantry.name, move |round| {
            let store = scratch.join(format!("read-{packing}-{}-{round}", gantry.name));
            gantry.command_on(&store, ["copy", reference, "three:1"])
        })
    });
    let out_of_blobs = gantries.iter().map(|gantry| {
        let store = scratch.join(format!("blobs-{packing}-{}", gantry.name));
        call(gantry.command_on(&store, ["copy", reference, "three:1"]));
        let root = store.clone();
        Turn::new(&gantry.name, move |_| {
            gantry.command_on(&store, ["cache", "warm", "three:1"])
        })
        .before(move |round| {
            // They stay on the disk: ext4 is slow for minutes where much was removed.
            let away = root.with_extension(format!("away-{round}"));
            fs::rename(root.join("layers"), away).unwrap();
            fs::create_dir(root.join("layers")).unwrap();
            fs::remove_dir_all(root.join("snapshots")).unwrap();
            fs::create_dir(root.join("snapshots")).unwrap();
        })
    });
    let rows: [(String, Vec<Turn<'_>>); 2] = [
        (format!("image of a layout, {packing} -> store"), into_empty.collect()),
        (format!("blobs of a store, {packing} -> trees"), out_of_blobs.collect()),
    ];
    for (number, (what, mut turns)) in rows.into_iter().enumerate() {
        turns.extend(unpackers(scratch, layout, packing, number));
        let times = take_turns(0, report.rounds(5).min(7), &turns);
        report.row(&what, Measure::CpuS, &times);
        report.row(&what, Measure::WallS, &times);
        if let Some(ours) = times.first() {
            let packed: u64 = layers_of(layout)
                .iter()
                .filter_map(|layer| fs::metadata(layer).ok())
                .map(|found| found.len())
                .sum();
            let seconds = ours.wall.iter().copied().fold(f64::INFINITY, f64::min);
            report.number(&what, "gantry, packed", "MB/s", packed as f64 / 1e6 / seconds);
        }
    }
}

/// The peers that unpack the layers of a layout, for the row of that `number`.
fn unpackers<'a>(scratch: &'a Path, layout: &Path, packing: &'a str, number: usize) -> Vec<Turn<'a>> {
    let mut turns = Vec::new();
    let layers = layers_of(layout);
    if packing == "gzip" || is_installed("zstd") {
        turns.push(Turn::new(&format!("tar {packing}"), move |round| {
            let directory = scratch.join(format!("tar-{packing}-{number}-{round}"));
            // One layer after the other, as each may replace what those before it made; tar starts the unpacker beside it.
            let unpack = layers
                .iter()
                .map(|layer| format!("tar --{packing} --no-same-owner -C {} -xf {layer}", directory.display()));
            let unpack: Vec<String> = unpack.collect();
            shell(&format!("set -e; mkdir {}; {}", directory.display(), unpack.join("; ")))
        }));
    }
    // That of Debian 12 reads no zstd.
    if packing == "gzip" && is_installed("umoci") {
        let image = format!("{}:x", layout.display());
        turns.push(Turn::new("umoci unpack", move |round| {
            let mut command = process::Command::new("umoci");
            command.args(["unpack", "--rootless", "--image", &image]);
            command.arg(scratch.join(format!("umoci-{number}-{round}")));
            command
        }));
    }
    turns
}

/// `save` and `load`, against tar of the layout's directory.
fn one_file(gantries: &[Gantry], scratch: &Path, layout: &Path, report: &mut Report) {
    let file = |gantry: &Gantry| scratch.join(format!("{}.tar", gantry.name)).display().to_string();
    let mut turns: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            Turn::new(&gantry.name, move |_| {
                gantry.command(["save", "three:1", &file(gantry)])
            })
        })
        .collect();
    let whole = scratch.join("whole.tar");
    let line = format!("tar -C {} -cf {} .", layout.display(), whole.display());
    turns.push(Turn::new("tar -c", move |_| shell(&line)));
    report.row(
        "save",
        Measure::WallMs,
        &take_turns(1, report.rounds(5).min(10), &turns),
    );
    let store = |gantry: &Gantry, round: usize| scratch.join(format!("load-{}-{round}", gantry.name));
    let mut turns: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            Turn::new(&gantry.name, move |round| {
                gantry.command_on(&store(gantry, round), ["load", &file(gantry)])
            })
        })
        .collect();
    let layers = layers_of(layout);
    turns.push(Turn::new("tar -x, twice", move |round| {
        // The file, and then the layers: after `load` an image can be run.
        let directory = scratch.join(format!("whole-{round}"));
        let unpack = layers.iter().map(|layer| {
            format!(
                "gzip -dc <{layer} | tar --no-same-owner -C {}/root -xf -",
                directory.display()
            )
        });
        let unpack: Vec<String> = unpack.collect();
        shell(&format!(
            "set -e; mkdir -p {0}/root; tar -C {0} -xf {1}; {2}",
            directory.display(),
            whole.display(),
            unpack.join("; ")
        ))
    }));
    report.row(
        "load into an empty store",
        Measure::WallMs,
        &take_turns(0, report.rounds(3).min(5), &turns),
    );
}
