//! Images unpacked by gantry and by `umoci unpack --rootless`: the same names, kinds, permissions, targets of links and
//! contents; and the places where they differ, each with its reason.

mod generator;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry::oci::Digest;

use self::generator::Generator;
use crate::common::{example, shared, tool, Gantry};
use crate::hostile::draft::{archive_of, entry, honest, pack, spoiled, Draft, GZIP, TAR, ZSTD};

/// A file with its permissions, size and digest, a link with its target, a directory with its permissions.
type Tree = BTreeMap<PathBuf, String>;

/// Directories that a sandbox mounts on, which a bundle brings whatever the image has there, and the file it writes.
const OF_THE_BUNDLE: [&str; 11] = [
    "dev",
    "etc",
    "etc/hosts",
    "input",
    "output",
    "proc",
    "run",
    "run/secrets",
    "sys",
    "tmp",
    "",
];

fn tree_of(root: &Path) -> Tree {
    let describe = |path: PathBuf| {
        let found = path.symlink_metadata().unwrap();
        let mode = found.permissions().mode() & 0o7777;
        let what = match () {
            () if found.is_dir() => format!("directory {mode:o}"),
            () if found.is_symlink() => format!("link to {:?}", fs::read_link(&path).unwrap()),
            () if found.is_file() => format!(
                "file {mode:o} {} {}",
                found.len(),
                Digest::of(&fs::read(&path).unwrap_or_default())
            ),
            () => format!("neither file nor directory {mode:o}"),
        };
        (path.strip_prefix(root).unwrap().to_owned(), what)
    };
    crate::common::tree(root).into_iter().map(describe).collect()
}

/// The image `x` of a layout as umoci unpacks it.
fn theirs(layout: &Path, bundle: &Path) -> Tree {
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--rootless", "--image", &format!("{}:x", layout.display())]);
    tool(umoci.arg(bundle));
    let tree = tree_of(&bundle.join("rootfs"));
    // umoci makes directories it cannot remove as a user either; the scratch directory must.
    tool(Command::new("chmod").args(["-R", "u+rwX"]).arg(bundle));
    tree
}

fn ours(gantry: &Gantry, image: &str, bundle: &Path) -> Tree {
    gantry.ok(["bundle", "--unpack", image, bundle.to_str().unwrap()]);
    tree_of(&bundle.join("rootfs"))
}

/// What differs, without what the bundle brings.
fn differences(ours: &Tree, theirs: &Tree) -> Vec<String> {
    let names = ours
        .keys()
        .chain(theirs.keys())
        .filter(|name| !OF_THE_BUNDLE.iter().any(|of| name.as_path() == Path::new(of)));
    let differs = |name: &&PathBuf| ours.get(*name) != theirs.get(*name);
    let mut wrong: Vec<String> = names
        .filter(differs)
        .map(|name| format!("{}: {:?}, umoci {:?}", name.display(), ours.get(name), theirs.get(name)))
        .collect();
    wrong.sort();
    wrong.dedup();
    wrong
}

/// Does `work` for each, on two threads.
fn in_pairs<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let all = || {
        while let Some(item) = items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            work(item);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(all);
        all();
    });
}

#[test]
fn two_hundred_layers_are_unpacked_as_umoci_does() {
    const IMAGES: u64 = 10;
    const LAYERS: usize = 20;
    let (gantry, scratch) = (Gantry::new(), tempfile::tempdir().unwrap());
    in_pairs(&(1..=IMAGES).collect::<Vec<_>>(), |seed| {
        let mut generator = Generator::new(*seed);
        let tars: Vec<Vec<u8>> = (0..LAYERS).map(|_| generator.layer()).collect();
        let packings = [("gzip", GZIP), ("zstd", ZSTD), ("plain", TAR)];
        // umoci of Debian 12 reads no zstd: it gets the layer in gzip.
        let packed = |takes: &[&str]| {
            let pack = |(number, tar): (usize, &Vec<u8>)| {
                let (how, media_type) = packings[number % packings.len()];
                match takes.contains(&how) {
                    true => (media_type.to_owned(), pack(how, tar)),
                    false => (GZIP.to_owned(), pack("gzip", tar)),
                }
            };
            let layers = tars.iter().enumerate().map(pack).collect();
            Draft { layers, ..honest() }
        };
        let at = |name: &str| scratch.path().join(format!("{seed}-{name}"));
        packed(&["gzip", "zstd", "plain"]).write(&at("ours"));
        packed(&["gzip", "plain"]).write(&at("theirs"));
        let image = format!("generated:{seed}");
        gantry.ok(["copy", &format!("oci:{}:x", at("ours").display()), &image]);
        let ours = ours(&gantry, &image, &at("our-bundle"));
        let theirs = theirs(&at("theirs"), &at("their-bundle"));
        let wrong = differences(&ours, &theirs);
        assert!(
            wrong.is_empty(),
            "seed {seed}, {} differ:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        // What was generated is worth comparing.
        let count = |what: &str| theirs.values().filter(|found| found.starts_with(what)).count();
        println!(
            "seed {seed}: {} files, {} directories, {} links",
            count("file"),
            count("directory"),
            count("link")
        );
        assert!(count("file") > 60 && count("directory") > 30 && count("link") > 5);
    });
    tool(Command::new("chmod").args(["-R", "u+rwX"]).arg(scratch.path()));
}

#[test]
fn the_example_images_are_unpacked_as_umoci_does() {
    let (gantry, scratch) = (shared(), tempfile::tempdir().unwrap());
    let examples = ["hello", "beam", "ode", "series"];
    for name in examples {
        gantry.build(&example(name), &format!("differential-{name}:1"));
    }
    in_pairs(&examples, |name| {
        let at = |kind: &str| scratch.path().join(format!("{name}-{kind}"));
        let image = format!("differential-{name}:1");
        gantry.ok(["push", &image, &format!("oci:{}:x", at("layout").display())]);
        let (ours, theirs) = (ours(gantry, &image, &at("ours")), theirs(&at("layout"), &at("theirs")));
        let wrong = differences(&ours, &theirs);
        assert!(
            wrong.is_empty(),
            "{name}, {} differ:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        assert!(ours.len() > 500, "{name}: {}", ours.len());
    });
}

/// Where they differ: what it is and why, the layers, the path, what is there in gantry's tree and in umoci's.
type Exception = (
    &'static str,
    Vec<Vec<u8>>,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
);

fn exceptions() -> Vec<Exception> {
    let mode = |path: &[u8], kind, mode: &[u8; 8]| {
        let mode = *mode;
        spoiled(path, kind, b"", move |header| header[100..108].copy_from_slice(&mode))
    };
    let file = |path: &str| entry(path.as_bytes(), b'0', b"", b"");
    const EMPTY: &str = "0 sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let of = |mode: &str| -> Option<&'static str> { Some(format!("file {mode} {EMPTY}").leak()) };
    vec![
        (
            "set-id bits are dropped: nobody becomes another user in the sandbox, and outside of it they would be the caller's",
            vec![archive_of(&[mode(b"a", b'0', b"0004755\0")])],
            "a",
            of("755"),
            of("4755"),
        ),
        (
            "files can be read by their owner: a run is another user's process, and the listing of the tree reads them",
            vec![archive_of(&[mode(b"a", b'0', b"0000000\0")])],
            "a",
            of("400"),
            of("0"),
        ),
        (
            "directories can be entered by their owner: else nobody could remove the tree",
            vec![archive_of(&[mode(b"d/", b'5', b"0000555\0")])],
            "d",
            Some("directory 755"),
            Some("directory 555"),
        ),
        (
            "a directory that a layer has something in and does not list has 755: layers are unpacked apart from those below",
            vec![archive_of(&[mode(b"d/", b'5', b"0000700\0")]), archive_of(&[file("d/x")])],
            "d",
            Some("directory 755"),
            Some("directory 700"),
        ),
        (
            "devices below dev/ are left out: a user can make none, and the sandbox brings its own; umoci makes files of them",
            vec![archive_of(&[mode(b"dev/zero", b'3', b"0000666\0")])],
            "dev/zero",
            None,
            of("666"),
        ),
    ]
}

#[test]
fn where_gantry_and_umoci_differ_there_is_a_reason() {
    let (gantry, scratch) = (Gantry::new(), tempfile::tempdir().unwrap());
    for (number, (why, tars, path, in_ours, in_theirs)) in exceptions().into_iter().enumerate() {
        let at = |name: &str| scratch.path().join(format!("{number}-{name}"));
        let layers = tars.into_iter().map(|tar| (TAR.to_owned(), tar)).collect();
        Draft { layers, ..honest() }.write(&at("layout"));
        let image = format!("exception:{number}");
        gantry.ok(["copy", &format!("oci:{}:x", at("layout").display()), &image]);
        let found = |tree: Tree| tree.get(Path::new(path)).cloned();
        let both = (
            found(ours(&gantry, &image, &at("ours"))),
            found(theirs(&at("layout"), &at("theirs"))),
        );
        assert_eq!((both.0.as_deref(), both.1.as_deref()), (in_ours, in_theirs), "{why}");
    }
    // One is refused: a hard link to a file that a layer below has. No tool that makes layers writes one, as the file that is
    // linked to changes with it and so is in the layer; the trees of layers are apart, and a copy would be no link.
    let layers = [archive_of(&[file_of("a")]), archive_of(&[entry(b"b", b'1', b"", b"a")])];
    let layers = layers.into_iter().map(|tar| (TAR.to_owned(), tar)).collect();
    let layout = scratch.path().join("across");
    Draft { layers, ..honest() }.write(&layout);
    let done = gantry.gantry(["copy", &format!("oci:{}:x", layout.display()), "across:1"]);
    assert!(done.code == 1 && done.stderr.contains("\"b\""), "{}", done.stderr);
    assert!(theirs(&layout, &scratch.path().join("across-theirs")).contains_key(Path::new("b")));
}

fn file_of(path: &str) -> Vec<u8> {
    entry(path.as_bytes(), b'0', b"text", b"")
}
