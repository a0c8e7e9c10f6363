use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{mkfifoat, Mode, CWD};

use super::*;
use crate::oci::DiffId;
use crate::progress::Silent;
use crate::store::disk::locks::Waits;
use crate::store::tests::{add_image, store};
use crate::store::{Key, Memo, Roots, Step, Store};

mod several;

#[derive(serde::Serialize, serde::Deserialize)]
struct Remembered(Vec<Digest>);

impl Memo for Remembered {
    const FOLDER: &'static str = "remembered";

    fn roots(&self) -> Roots {
        Roots {
            blobs: self.0.clone(),
            ..Roots::default()
        }
    }
}

/// A store with one of each, and where they are.
struct Scene {
    _scratch: tempfile::TempDir,
    store: Store,
    manifest: Digest,
    layer: Digest,
    diff_id: DiffId,
    download: Digest,
}

impl Scene {
    fn new() -> Self {
        let (_scratch, store) = store();
        let manifest = add_image(&store, "what it is").unwrap();
        let image = store.images().open(&manifest).unwrap();
        let layer = image.manifest.layers[0].digest;
        store
            .memos()
            .put(&Key::of(Step::WheelLayer).with("a").finish(), &Remembered(vec![layer]))
            .unwrap();
        let download = store.downloads().put(b"wheel").unwrap();
        drop(store.locks().lease(&manifest).unwrap());
        Self {
            _scratch,
            manifest,
            layer,
            diff_id: image.config.rootfs.diff_ids[0],
            download,
            store,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        let name = name
            .replace("MANIFEST", &self.manifest.hex())
            .replace("DIFF", &self.diff_id.hex())
            .replace("LAYER", &self.layer.hex())
            .replace("DOWNLOAD", &self.download.hex());
        self.store.root().join(name)
    }

    fn memo(&self) -> PathBuf {
        let mut found = fs::read_dir(self.path("memo/remembered")).unwrap();
        found.next().unwrap().unwrap().path()
    }

    fn look(&self) -> Inspection {
        self.store.integrity().look(None, &Silent).unwrap()
    }

    fn findings(&self) -> Vec<(Part, String)> {
        let found = self.look().findings.into_iter();
        found.map(|finding| (finding.what, finding.which)).collect()
    }

    /// Removes what is wrong; what is left is right, but for the image, which comes back when it is made again.
    fn mends(&self, what: &str) {
        let mut findings = self.look().findings;
        let mut waiting = || panic!("nobody is there");
        self.store
            .integrity()
            .mend(&mut findings, Patience::default(), &Silent, &mut waiting)
            .unwrap();
        for left in self.look().findings {
            assert!(matches!(left.what, Part::Image), "{what}: {left:?}");
        }
        assert_eq!(add_image(&self.store, "what it is").unwrap(), self.manifest, "{what}");
        self.store
            .memos()
            .put(
                &Key::of(Step::WheelLayer).with("a").finish(),
                &Remembered(vec![self.layer]),
            )
            .unwrap();
        assert_eq!(self.findings(), [], "{what}");
        assert!(fs::read_dir(self.path("tmp")).unwrap().next().is_none(), "{what}");
    }
}

fn fifo(path: &Path) {
    let _ = fs::remove_file(path);
    mkfifoat(CWD, path, Mode::RWXU).unwrap();
}

#[test]
fn a_store_that_is_whole_has_no_findings_and_all_of_it_is_looked_at() {
    let scene = Scene::new();
    let looked = scene.look();
    assert!(looked.findings.is_empty(), "{:?}", looked.findings);
    let expected = Looked {
        blobs: 3,
        downloads: 1,
        layers: 1,
        merged: 0,
        names: 1,
        images: 1,
        snapshots: 1,
        memos: 1,
    };
    assert_eq!(looked.looked, expected);
    assert!(looked.bytes > 0);
    let sampled = scene.store.integrity().look(Some(Sample::Count(2)), &Silent).unwrap();
    let Looked {
        blobs,
        downloads,
        layers,
        ..
    } = sampled.looked;
    assert_eq!((blobs + downloads + layers, sampled.contents), (2, 5));
}

#[test]
fn whatever_is_damaged_is_named_and_mended() {
    type Damage = fn(&Scene);
    type Named = &'static [(Part, &'static str)];
    let damages: [(&str, Damage, Named); 31] = [
        (
            "another blob",
            |scene| fs::write(scene.path("blobs/sha256/LAYER"), "other").unwrap(),
            &[(Part::Blob, "blobs/sha256/LAYER"), (Part::Image, "sha256:MANIFEST")],
        ),
        (
            "a blob of the same size",
            |scene| {
                let path = scene.path("blobs/sha256/LAYER");
                let mut bytes = fs::read(&path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(path, bytes).unwrap();
            },
            &[(Part::Blob, "blobs/sha256/LAYER")],
        ),
        (
            "a blob is missing",
            |scene| fs::remove_file(scene.path("blobs/sha256/LAYER")).unwrap(),
            &[(Part::Image, "sha256:MANIFEST"), (Part::Memo, "memo/remembered/KEY")],
        ),
        (
            "a blob is a link to its bytes",
            |scene| {
                fs::rename(scene.path("blobs/sha256/LAYER"), scene.path("elsewhere")).unwrap();
                symlink(scene.path("elsewhere"), scene.path("blobs/sha256/LAYER")).unwrap();
            },
            &[
                (Part::Blob, "blobs/sha256/LAYER"),
                (Part::Image, "sha256:MANIFEST"),
                (Part::Memo, "memo/remembered/KEY"),
            ],
        ),
        (
            "a blob is a pipe",
            |scene| fifo(&scene.path("blobs/sha256/MANIFEST")),
            &[(Part::Blob, "blobs/sha256/MANIFEST"), (Part::Image, "sha256:MANIFEST")],
        ),
        (
            "something else among the blobs",
            |scene| fs::write(scene.path("blobs/sha256/README"), "").unwrap(),
            &[(Part::Blob, "blobs/sha256/README")],
        ),
        (
            "another download",
            |scene| fs::write(scene.path("downloads/DOWNLOAD"), "wheex").unwrap(),
            &[(Part::Download, "downloads/DOWNLOAD")],
        ),
        (
            "a file of a layer",
            |scene| fs::write(scene.path("layers/DIFF/fs/etc/a"), "what it iz").unwrap(),
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "a file of a layer is missing",
            |scene| fs::remove_file(scene.path("layers/DIFF/fs/etc/b")).unwrap(),
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "a file too many",
            |scene| fs::write(scene.path("layers/DIFF/fs/etc/c"), "").unwrap(),
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "another mode",
            |scene| {
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(scene.path("layers/DIFF/fs/etc/a"), mode).unwrap();
            },
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "a pipe in a layer",
            |scene| fifo(&scene.path("layers/DIFF/fs/etc/a")),
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "no listing",
            |scene| fs::remove_file(scene.path("layers/DIFF/meta.json")).unwrap(),
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "another listing",
            |scene| fs::write(scene.path("layers/DIFF/meta.json"), "{}").unwrap(),
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "a listing of a newer gantry",
            |scene| listed_as(scene, |listing| listing.replace(r#"{"schema":3,"#, r#"{"schema":4,"#)),
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "a pipe for a stamp",
            |scene| fifo(&scene.path("layers/DIFF/stamp.json")),
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "no tree",
            |scene| fs::rename(scene.path("layers/DIFF/fs"), scene.path("layers/DIFF/sf")).unwrap(),
            &[
                (Part::Layer, "layers/DIFF"),
                (Part::Snapshot, "snapshots/MANIFEST.json"),
            ],
        ),
        (
            "no layer",
            |scene| fs::rename(scene.path("layers/DIFF"), scene.path("gone")).unwrap(),
            &[(Part::Snapshot, "snapshots/MANIFEST.json")],
        ),
        (
            "a layer that is a link",
            |scene| {
                fs::rename(scene.path("layers/DIFF"), scene.path("elsewhere")).unwrap();
                symlink(scene.path("elsewhere"), scene.path("layers/DIFF")).unwrap();
            },
            &[(Part::Layer, "layers/DIFF")],
        ),
        (
            "no snapshot at all is none",
            |scene| fs::write(scene.path("snapshots/MANIFEST.json"), "").unwrap(),
            &[(Part::Snapshot, "snapshots/MANIFEST.json")],
        ),
        (
            "a snapshot without end",
            |scene| {
                let file = fs::File::create(scene.path("snapshots/MANIFEST.json")).unwrap();
                file.set_len(1 << 40).unwrap();
            },
            &[(Part::Snapshot, "snapshots/MANIFEST.json")],
        ),
        (
            "a name that says nothing",
            |scene| fs::write(scene.path("refs/_local/image/1"), "").unwrap(),
            &[(Part::Name, "image:1"), (Part::Index, "index.json")],
        ),
        (
            "a name that is a pipe",
            |scene| fifo(&scene.path("refs/_local/image/1")),
            &[(Part::Name, "image:1"), (Part::Index, "index.json")],
        ),
        (
            "a name of nothing",
            |scene| {
                fs::write(scene.path("refs/_local/image/1"), format!("{}\n", Digest::of(b"none"))).unwrap();
            },
            &[(Part::Image, "NONE"), (Part::Index, "index.json")],
        ),
        (
            "a note of nothing",
            |scene| fs::write(scene.path("unnamed").join(Digest::of(b"none").hex()), "").unwrap(),
            &[(Part::Unnamed, "unnamed/NONE")],
        ),
        (
            "an index of nothing",
            |scene| {
                fs::write(scene.path("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
            },
            &[(Part::Index, "index.json")],
        ),
        (
            "an index that is a pipe",
            |scene| fifo(&scene.path("index.json")),
            &[(Part::Index, "index.json")],
        ),
        (
            "a memo that cannot be read",
            |scene| fs::write(scene.memo(), "{").unwrap(),
            &[(Part::Memo, "memo/remembered/KEY")],
        ),
        (
            "a memo of a pipe",
            |scene| fifo(&scene.memo()),
            &[(Part::Memo, "memo/remembered/KEY")],
        ),
        (
            "a lease that is a directory",
            |scene| {
                fs::remove_file(scene.path("leases/MANIFEST")).unwrap();
                fs::create_dir(scene.path("leases/MANIFEST")).unwrap();
            },
            &[(Part::File, "leases/MANIFEST")],
        ),
        (
            "something in tmp that no sweep takes",
            |scene| fs::write(scene.path("tmp/x"), "").unwrap(),
            &[(Part::Leftover, "tmp/x")],
        ),
    ];
    for (what, damage, expected) in damages {
        let scene = Scene::new();
        let memo = scene.memo().file_name().unwrap().to_str().unwrap().to_owned();
        damage(&scene);
        let none = Digest::of(b"none");
        let named = |which: &str| {
            let which = which
                .replace("MANIFEST", &scene.manifest.hex())
                .replace("DIFF", &scene.diff_id.hex());
            let which = which
                .replace("LAYER", &scene.layer.hex())
                .replace("DOWNLOAD", &scene.download.hex());
            let which = which.replace("unnamed/NONE", &format!("unnamed/{}", none.hex()));
            which.replace("NONE", &none.to_string()).replace("KEY", &memo)
        };
        let mut expected: Vec<_> = expected.iter().map(|(part, which)| (*part, named(which))).collect();
        expected.sort();
        assert_eq!(scene.findings(), expected, "{what}");
        scene.mends(what);
    }
}

/// Writes the listing of the layer anew, and the digest of it in its stamp.
fn listed_as(scene: &Scene, edit: impl Fn(String) -> String) {
    let listing = edit(fs::read_to_string(scene.path("layers/DIFF/meta.json")).unwrap());
    fs::write(scene.path("layers/DIFF/meta.json"), &listing).unwrap();
    let stamp = fs::read(scene.path("layers/DIFF/stamp.json")).unwrap();
    let mut stamp: serde_json::Value = serde_json::from_slice(&stamp).unwrap();
    stamp["meta"] = serde_json::json!(Digest::of(listing.as_bytes()));
    fs::write(scene.path("layers/DIFF/stamp.json"), stamp.to_string()).unwrap();
}

/// As a gantry listed the layer that named files by SHA-256.
fn listed_by_sha256(scene: &Scene) {
    let listing = format!(
        "{{\"schema\":2,\"opaque\":false,\"entries\":{{\n\
         \"etc\":{{\"mode\":493}},\n\
         \"etc/a\":{{\"mode\":420,\"size\":10,\"sha256\":\"{}\"}},\n\
         \"etc/b\":{{\"target\":\"a\"}}}}}}",
        Digest::of(b"what it is")
    );
    listed_as(scene, |_| listing.clone());
}

#[test]
fn a_layer_that_an_older_gantry_listed_is_whole_or_damaged_by_that_listing_and_listed_anew_when_it_is_made_again() {
    let scene = Scene::new();
    listed_by_sha256(&scene);
    assert_eq!(scene.findings(), []);
    fs::write(scene.path("layers/DIFF/fs/etc/a"), "what it iz").unwrap();
    let found = scene.look().findings;
    let [one] = &found[..] else { panic!("{found:?}") };
    let words = |contents: &[u8]| format!("a file of 10 bytes, mode 644, {}", Digest::of(contents));
    assert_eq!(
        (one.what, &*one.expected, &*one.got),
        (
            Part::Layer,
            &*format!("etc/a, {}", words(b"what it is")),
            &*words(b"what it iz")
        )
    );
    scene.mends("damage");
    let listing = fs::read_to_string(scene.path("layers/DIFF/meta.json")).unwrap();
    let blake3 = "7778b5769c43a0e2c6793433596b01e8bdfba16f34177aea6678a37f3f59f525";
    assert!(
        listing.starts_with(r#"{"schema":3,"#) && listing.contains(&format!(r#""blake3":"{blake3}"#)),
        "{listing}"
    );
}

#[test]
fn a_layer_that_a_newer_gantry_listed_is_said_to_be_of_another_version() {
    let scene = Scene::new();
    listed_as(&scene, |listing| listing.replace(r#"{"schema":3,"#, r#"{"schema":4,"#));
    let found = scene.look().findings;
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        (one.what, &*one.expected, &*one.got),
        (
            Part::Layer,
            "meta.json that this version reads",
            "one of another version of gantry"
        )
    );
}

#[test]
fn what_a_run_holds_stays_and_says_so() {
    let scene = Scene::new();
    fs::write(scene.path("layers/DIFF/fs/etc/a"), "what it iz").unwrap();
    let mut findings = scene.look().findings;
    assert_eq!(findings[0].images, ["image:1"]);
    assert!(
        findings[0]
            .expected
            .starts_with("etc/a, a file of 10 bytes, mode 644, blake3:"),
        "{findings:?}"
    );
    let mend = |findings: &mut Vec<Finding>| {
        let mut waiting = || panic!("nobody is there");
        scene
            .store
            .integrity()
            .mend(findings, Patience::default(), &Silent, &mut waiting)
            .unwrap();
    };
    // A run is another process; here it is another thread.
    let (held, go) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let lease = scene.store.locks().lease(&scene.manifest).unwrap();
            held.wait();
            go.wait();
            drop(lease);
        });
        held.wait();
        mend(&mut findings);
        go.wait();
    });
    assert_eq!(findings[0].state, State::Kept);
    assert!(findings[0].remedy.as_ref().unwrap().contains("a run is using it"));
    assert!(scene.path("layers/DIFF/fs/etc/a").exists() && scene.path("snapshots/MANIFEST.json").exists());
    mend(&mut findings);
    assert_eq!(findings[0].state, State::Removed);
    assert!(!scene.path("layers/DIFF").exists() && !scene.path("snapshots/MANIFEST.json").exists());
    scene.mends("after the run");
}

static WAITS: AtomicBool = AtomicBool::new(false);

#[test]
fn what_goes_meanwhile_is_no_finding_and_only_what_looks_wrong_waits_for_the_collector() {
    let scene = Scene::new();
    let waits = Waits {
        told_after: Duration::ZERO,
        tell: |_| WAITS.store(true, Ordering::Relaxed),
        ..scene.store.disk.waits()
    };
    let disk = scene.store.disk.clone().waiting(waits);
    let mut waiting = || panic!("nobody is there");
    let alone = Locks::of(&disk)
        .collector_alone(Patience::default(), &mut waiting)
        .unwrap();
    assert_eq!(scene.findings(), []);
    fs::write(scene.path("blobs/sha256/LAYER"), "other").unwrap();
    std::thread::scope(|scope| {
        let look = scope.spawn(|| Integrity::of(&disk).look(None, &Silent).unwrap());
        while !WAITS.load(Ordering::Relaxed) {
            assert!(!look.is_finished(), "it does not look again");
            std::thread::yield_now();
        }
        fs::remove_file(scene.path("blobs/sha256/LAYER")).unwrap();
        drop(alone);
        let found = look.join().unwrap().findings;
        assert!(found.iter().all(|finding| finding.what != Part::Blob), "{found:?}");
    });
}

#[test]
fn what_others_have_mended_since_it_was_found_stays() {
    let scene = Scene::new();
    let (layer, snapshot) = (scene.path("blobs/sha256/LAYER"), scene.path("snapshots/MANIFEST.json"));
    let (sound, told) = (fs::read(&layer).unwrap(), fs::read(&snapshot).unwrap());
    fs::write(&layer, b"damaged").unwrap();
    fs::write(&snapshot, b"{").unwrap();
    fs::write(scene.path("downloads/DOWNLOAD"), b"still").unwrap();
    let mut findings = scene.look().findings;
    let kinds = |findings: &[Finding]| findings.iter().map(|one| (one.what, one.state)).collect::<Vec<_>>();
    // While the repair waits to be alone, another process brings them again.
    for (path, bytes) in [(&layer, &sound), (&snapshot, &told)] {
        fs::write(scene.path("new"), bytes).unwrap();
        fs::rename(scene.path("new"), path).unwrap();
    }
    let integrity = scene.store.integrity();
    integrity
        .mend(&mut findings, Patience::default(), &Silent, &mut || ())
        .unwrap();
    assert_eq!((fs::read(&layer).unwrap(), fs::read(&snapshot).unwrap()), (sound, told));
    assert!(!scene.path("downloads/DOWNLOAD").exists());
    let kinds = kinds(&findings);
    for expected in [
        (Part::Blob, State::Remade),
        (Part::Snapshot, State::Remade),
        (Part::Download, State::Removed),
    ] {
        assert!(kinds.contains(&expected), "{kinds:?}");
    }
}

#[test]
fn a_pinned_image_without_a_name_is_looked_at_by_its_digest() {
    let scene = Scene::new();
    scene.store.images().pin(&scene.manifest).unwrap();
    for (name, digest) in scene.store.names().list().unwrap() {
        assert_eq!(digest, Some(scene.manifest));
        scene.store.names().remove(&name).unwrap();
    }
    scene.store.names().forget_unnamed(&scene.manifest).unwrap();
    assert_eq!(scene.findings(), []);
    fs::remove_file(scene.path("blobs/sha256/LAYER")).unwrap();
    let found = scene.look();
    let called = scene.manifest.to_string();
    assert_eq!(found.images[&scene.manifest], std::slice::from_ref(&called));
    let finding = found.findings.iter().find(|one| one.what == Part::Image).unwrap();
    assert_eq!((&finding.which, &finding.images), (&called, &vec![called.clone()]));
}

#[test]
fn a_name_without_a_manifest_is_damage_though_it_may_run() {
    let scene = Scene::new();
    fs::remove_file(scene.path("blobs/sha256/MANIFEST")).unwrap();
    let digest = scene.manifest.to_string();
    let is_it = |one: &Finding| (one.what, &one.which) == (Part::Image, &digest);
    for (snapshot, got) in [
        (
            "is there",
            "nothing: it runs from its unpacked layers, and can be neither pushed, saved nor shown",
        ),
        ("went", "nothing"),
    ] {
        if snapshot == "went" {
            fs::remove_file(scene.path("snapshots/MANIFEST.json")).unwrap();
        }
        let findings = scene.look().findings;
        let finding = findings.iter().find(|one| is_it(one)).unwrap();
        assert_eq!(finding.got, got, "{snapshot}");
        let left = scene.store.integrity().dangling().unwrap();
        assert!(left.iter().any(is_it), "{snapshot}");
    }
}

#[test]
fn what_led_to_a_part_that_went_goes_as_well() {
    let scene = Scene::new();
    let names: Vec<_> = scene.store.names().list().unwrap();
    for (name, _) in names {
        assert!(scene.store.names().remove(&name).unwrap());
    }
    scene.store.names().keep_unnamed(&scene.manifest).unwrap();
    assert_eq!(scene.findings(), []);
    let blob = scene.path("blobs/sha256/LAYER");
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, bytes).unwrap();
    let mend = |scene: &Scene| {
        let mut findings = scene.look().findings;
        let mut waiting = || panic!("nobody is there");
        let integrity = scene.store.integrity();
        integrity.mend(&mut findings, Patience::default(), &Silent, &mut waiting)
    };
    // What cannot be removed keeps nothing else from it.
    let folder = scene.path("memo/remembered");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    mend(&scene).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let left: Vec<Part> = scene.look().findings.iter().map(|finding| finding.what).collect();
    // root removes it all the same.
    assert!(left.iter().all(|what| *what == Part::Memo), "{left:?}");
    assert!(!blob.exists() && !scene.path("unnamed/MANIFEST").exists());
    mend(&scene).unwrap();
    assert_eq!(scene.findings(), []);
}
