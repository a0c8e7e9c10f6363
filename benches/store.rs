//! What the number of images in the store, and of layers in an image, costs: a start, a build of no change, a listing, a
//! collection, a plan of an eviction; and what the import profile brings to a start from the disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench prints its table and fails by panicking"
)]

mod harness;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use gantry::archive::layer::LayerWriter;
use gantry::oci::{media_type, Descriptor, DiffId, Digest, ImageConfig, ImageConfigBody, Manifest, RootFs};
use gantry::store::Store;
use harness::{call, copy_all, function, in_scratch, take_turns, Gantry, Measure, Options, Report, Turn, DEGRADED};
use rustix::fs::{fadvise, syncfs, Advice};

/// Images in the store: a first one, a worker's, and five times what a worker's cache is meant to hold.
const IMAGES: [usize; 3] = [1, 100, MANY];
const MANY: usize = 1000;
/// Layers of an image.
const LAYERS: [usize; 2] = [2, 64];
/// Images that nothing leads to before a collection.
const GARBAGE: usize = 100;

fn main() {
    let mut report = Report::new("store", Options::read());
    in_scratch(|scratch| measure(scratch, &mut report));
    report.finish();
}

fn measure(scratch: &Path, report: &mut Report) {
    let gantries = Gantry::all(scratch);
    for gantry in &gantries {
        gantry.share_downloads(&gantries[0]);
        call(build(gantry, scratch));
    }
    layers(&gantries, report);
    let many = images(&gantries, scratch, report);
    collect(&gantries, &many, report);
    for (gantry, root) in gantries.iter().zip(&many) {
        evict(gantry, root, scratch, report);
    }
    from_the_disk(&gantries, scratch, report);
}

/// One image and one function in stores of few and of many images; returns the stores with the most.
fn images(gantries: &[Gantry], scratch: &Path, report: &mut Report) -> Vec<PathBuf> {
    let stores: Vec<Vec<PathBuf>> = IMAGES
        .iter()
        .map(|images| gantries.iter().map(|gantry| filled(gantry, scratch, *images)).collect())
        .collect();
    let start = [&["run"][..], &DEGRADED, &["store:0"]].concat();
    let source = source(scratch).display().to_string();
    let commands: [(&str, &[&str]); 5] = [
        ("run", &start),
        ("build, nothing changed", &["build", "--tag", "store:0", &source]),
        ("images ls", &["images", "ls"]),
        ("cache gc --dry-run", &["cache", "gc", "--dry-run"]),
        ("cache gc", &["cache", "gc"]),
    ];
    for (what, words) in commands {
        let turns: Vec<Turn<'_>> = stores
            .iter()
            .flat_map(|roots| gantries.iter().zip(roots))
            .map(|(gantry, root)| Turn::new(&gantry.name, move |_| gantry.command_on(root, words)))
            .collect();
        let times = take_turns(2, report.rounds(40), &turns);
        for (images, times) in IMAGES.iter().zip(times.chunks(gantries.len())) {
            report.row(&format!("{what}, {images} images"), Measure::WallMs, times);
        }
    }
    stores.into_iter().last().unwrap_or_default()
}

/// A copy of the store of a gantry that has so many images.
fn filled(gantry: &Gantry, scratch: &Path, images: usize) -> PathBuf {
    let root = scratch.join(format!("store-{}-{images}", gantry.name));
    copy_all(&gantry.root, &root);
    (1..images).for_each(|number| drop(small_image(&root, number)));
    root
}

fn run<'a>(gantry: &'a Gantry, image: &'a str) -> Turn<'a> {
    Turn::new(&gantry.name, move |_| {
        gantry.command([&["run"][..], &DEGRADED, &[image]].concat())
    })
}

/// A start of the same program from images of few and of many layers.
fn layers(gantries: &[Gantry], report: &mut Report) {
    let images = LAYERS.map(|count| format!("layers:{count}"));
    for gantry in gantries {
        let store = Store::open(&gantry.root).unwrap();
        let built = store.names().find(&"store:0".parse().unwrap()).unwrap().unwrap();
        let built = store.images().open(&built).unwrap();
        for (count, name) in LAYERS.iter().zip(&images) {
            let mut config = built.config.clone();
            config.config.entrypoint = Some(["/usr/bin/python3", "-c", "pass"].map(str::to_owned).to_vec());
            (config.config.cmd, config.config.working_dir) = (None, None);
            let mut layers = built.manifest.layers.clone();
            layers.truncate(2);
            config.rootfs.diff_ids.truncate(2);
            config.history.clear();
            for number in 2..*count {
                let (layer, diff_id) = small_layer(&store, &format!("usr/share/layer-{number}"), "one of many");
                layers.push(layer);
                config.rootfs.diff_ids.push(diff_id);
            }
            put(&store, &config, layers, name);
        }
    }
    let turns: Vec<_> = images
        .iter()
        .flat_map(|image| gantries.iter().map(|gantry| run(gantry, image)))
        .collect();
    let times = take_turns(2, report.rounds(40), &turns);
    for (image, times) in images.iter().zip(times.chunks(gantries.len())) {
        report.row(&format!("run, python -c pass, {image}"), Measure::WallMs, times);
    }
}

/// A collection that finds something, in `stores`.
fn collect(gantries: &[Gantry], stores: &[PathBuf], report: &mut Report) {
    let turns: Vec<_> = gantries
        .iter()
        .zip(stores)
        .map(|(gantry, root)| {
            Turn::new(&gantry.name, move |_| gantry.command_on(root, ["cache", "gc"])).before(move |_| {
                let store = Store::open(root).unwrap();
                for number in MANY..MANY + GARBAGE {
                    let name = small_image(root, number).parse().unwrap();
                    assert!(store.names().remove(&name).unwrap());
                }
            })
        })
        .collect();
    let times = take_turns(1, report.rounds(10), &turns);
    let what = format!("cache gc, {GARBAGE} of {} images are garbage", MANY + GARBAGE);
    report.row(&what, Measure::WallMs, &times);
}

/// What it takes to see what is too much in the store `root`.
fn evict(gantry: &Gantry, root: &Path, scratch: &Path, report: &mut Report) {
    let config = scratch.join("many.toml");
    fs::write(&config, "[cache]\nmax_bytes = \"64K\"\n").unwrap();
    let rounds = report.rounds(10);
    for words in [
        &["cache", "gc", "--dry-run"][..],
        &["cache", "stats", "--json"],
        &["cache", "ls", "--json"],
    ] {
        let turn = Turn::new(&gantry.name, |_| {
            let mut command = gantry.command_on(root, words);
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

/// A function that imports numpy, while nothing of the store is in memory: without the import profile of its image, and with it.
fn from_the_disk(gantries: &[Gantry], scratch: &Path, report: &mut Report) {
    let source = function(&scratch.join("cold"), "import numpy\n", "numpy==1.26.4\n");
    let roots: Vec<PathBuf> = gantries
        .iter()
        .map(|gantry| {
            // Of a store of its own each file is its own, too.
            let root = gantry.with_downloads(&scratch.join(format!("cold-{}", gantry.name)));
            let mut build = gantry.command_on(&root, ["build", "--tag", "cold:1"]);
            build.arg(&source);
            call(build);
            root
        })
        .collect();
    for (what, with_profile) in [("without a profile", false), ("with the import profile", true)] {
        let turns: Vec<Turn<'_>> = gantries
            .iter()
            .zip(&roots)
            .map(|(gantry, root)| {
                let words = [&["run"][..], &DEGRADED, &["cold:1"]].concat();
                Turn::new(&gantry.name, move |_| gantry.command_on(root, &words)).before(move |_| {
                    if !with_profile {
                        let _ = fs::remove_dir_all(root.join("profiles"));
                    }
                    let_go(&root.join("layers"));
                })
            })
            .collect();
        let times = take_turns(1, report.rounds(10), &turns);
        report.row(&format!("run of numpy from the disk, {what}"), Measure::WallMs, &times);
    }
}

/// Lets go of what is in memory of the files below `folder`.
fn let_go(folder: &Path) {
    // What is not written yet stays.
    syncfs(File::open(folder).unwrap()).unwrap();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                fadvise(File::open(entry.path()).unwrap(), 0, None, Advice::DontNeed).unwrap();
            }
        }
    }
}

/// An image of three layers, of which others share two; its name.
fn small_image(root: &Path, number: usize) -> String {
    let store = Store::open(root).unwrap();
    let texts = [
        "base".to_owned(),
        format!("group {}", number % 50),
        format!("code {number}"),
    ];
    let (descriptors, diff_ids) = texts.iter().map(|text| small_layer(&store, "file", text)).unzip();
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
    let name = format!("many:{number}");
    put(&store, &config, descriptors, &name);
    name
}

/// A layer of one file.
fn small_layer(store: &Store, path: &str, text: &str) -> (Descriptor, DiffId) {
    let (mut blob, mut staging) = (store.blobs().writer().unwrap(), store.trees().stage().unwrap());
    let mut writer = LayerWriter::new(&mut blob, Some(&mut staging), 0);
    writer.file(path, 0o644, text.as_bytes()).unwrap();
    let written = writer.finish().unwrap();
    blob.commit().unwrap();
    staging.commit(&written.diff_id, &written.digest).unwrap();
    (
        Descriptor::new(media_type::LAYER_GZIP, written.digest, written.size),
        written.diff_id,
    )
}

/// Makes an image of layers that are there, and gives it a name.
fn put(store: &Store, config: &ImageConfig, layers: Vec<Descriptor>, name: &str) -> Digest {
    let (config, size) = store.images().put_config(config).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        config: Descriptor::new(media_type::CONFIG, config, size),
        layers,
        annotations: Default::default(),
    };
    let digest = store.images().put_manifest(&manifest).unwrap();
    let _lease = store.locks().lease(&digest).unwrap();
    store.images().prepare(&store.images().open(&digest).unwrap()).unwrap();
    store.names().set(&name.parse().unwrap(), &digest).unwrap();
    digest
}

/// Builds the function that is run.
fn build(gantry: &Gantry, scratch: &Path) -> std::process::Command {
    let mut command = gantry.command(["build", "--tag", "store:0"]);
    command.arg(source(scratch));
    command
}

fn source(scratch: &Path) -> PathBuf {
    let source = scratch.join("function");
    match source.exists() {
        true => source,
        false => function(&source, "number = 0\n", ""),
    }
}
