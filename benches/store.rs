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

use gantry::archive::layer::LayerWriter;
use gantry::oci::{media_type, Descriptor, ImageConfig, ImageConfigBody, Manifest, RootFs};
use harness::{call, function, in_scratch, take_turns, Gantry, Measure, Options, Report, Turn, DEGRADED};

/// Images of a store that is five times as large as a worker's is meant to be.
const MANY: usize = 1000;
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
    for gantry in &gantries {
        evict(gantry, scratch, report);
    }
}

/// A store of small images that share layers, and what it takes to see what is too much in it.
fn evict(gantry: &Gantry, scratch: &Path, report: &mut Report) {
    let root = scratch.join(format!("many-{}", gantry.name));
    (0..MANY).for_each(|number| small_image(&root, number));
    let config = scratch.join("many.toml");
    fs::write(&config, "[cache]\nmax_bytes = \"64K\"\n").unwrap();
    let rounds = report.rounds(10);
    for words in [
        &["cache", "gc", "--dry-run"][..],
        &["cache", "stats", "--json"],
        &["cache", "ls", "--json"],
    ] {
        let turn = Turn::new(&gantry.name, |_| {
            let mut command = gantry.command_on(&root, words);
            command.env("GANTRY_CONFIG", &config);
            command
        });
        let times = take_turns(2, rounds, &[turn]);
        report.row(
            &format!("{}, a plan for {MANY} images", words.join(" ")),
            Measure::WallMs,
            &times,
        );
    }
}

/// An image of three layers, of which others share two.
fn small_image(root: &Path, number: usize) {
    let store = gantry::store::Store::open(root).unwrap();
    let layers = [
        "base".to_owned(),
        format!("group {}", number % 50),
        format!("code {number}"),
    ];
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in &layers {
        let (mut blob, mut staging) = (store.blobs().writer().unwrap(), store.trees().stage().unwrap());
        let mut writer = LayerWriter::new(&mut blob, Some(&mut staging), 0);
        writer.file("file", 0o644, layer.as_bytes()).unwrap();
        let written = writer.finish().unwrap();
        blob.commit().unwrap();
        staging.commit(&written.diff_id, &written.digest).unwrap();
        descriptors.push(Descriptor::new(media_type::LAYER_GZIP, written.digest, written.size));
        diff_ids.push(written.diff_id);
    }
    let config = ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        created: None,
        config: ImageConfigBody::default(),
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids,
        },
        history: Vec::new(),
    };
    let (config, size) = store.images().put_config(&config).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        config: Descriptor::new(media_type::CONFIG, config, size),
        layers: descriptors,
        annotations: Default::default(),
    };
    let digest = store.images().put_manifest(&manifest).unwrap();
    let _lease = store.locks().lease(&digest).unwrap();
    store.images().prepare(&store.images().open(&digest).unwrap()).unwrap();
    store
        .names()
        .set(&format!("many:{number}").parse().unwrap(), &digest)
        .unwrap();
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
