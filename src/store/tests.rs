//! The store's promises: nothing half there, nothing lost, the second try gives the same.

mod durability;
pub(crate) mod examples;

use std::collections::BTreeMap;

use super::trees::folder::LayerFolder;
use super::*;
use crate::archive::layer::LayerWriter;
use crate::oci::{Descriptor, DiffId, Digest, ImageConfig, ImageConfigBody, Manifest, RootFs};
use crate::policy::ExtractionLimits;
use crate::sys::fault;

pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(&scratch.path().join("store")).unwrap();
    (scratch, store)
}

pub(in crate::store) fn folder<'a>(store: &'a Store, diff_id: &'a DiffId) -> LayerFolder<'a> {
    LayerFolder::of(&store.disk, diff_id)
}

pub(crate) fn add_layer(store: &Store, text: &str) -> Result<(Descriptor, DiffId), StoreError> {
    let mut blob = store.blobs().writer()?;
    let mut staging = store.trees().stage()?;
    let mut writer = LayerWriter::new(&mut blob, Some(&mut staging), 0);
    writer.file("etc/a", 0o644, text.as_bytes()).unwrap();
    writer.symlink("etc/b", "a").unwrap();
    let written = writer.finish().unwrap();
    let descriptor = Descriptor::new(crate::oci::media_type::LAYER_GZIP, written.digest, written.size);
    blob.commit_expecting(&descriptor)?;
    staging.commit(&written.diff_id, &written.digest)?;
    Ok((descriptor, written.diff_id))
}

pub(crate) fn config_of(diff_ids: Vec<DiffId>) -> ImageConfig {
    ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        created: None,
        config: ImageConfigBody::default(),
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids,
        },
        history: Vec::new(),
    }
}

pub(crate) fn add_image(store: &Store, text: &str) -> Result<Digest, StoreError> {
    let (layer, diff_id) = add_layer(store, text)?;
    let config = config_of(vec![diff_id]);
    let (digest, size) = store.images().put_config(&config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::new(crate::oci::media_type::CONFIG, digest, size),
        layers: vec![layer],
        annotations: BTreeMap::new(),
    };
    let digest = store.images().put_manifest(&manifest)?;
    store.images().prepare(&store.images().open(&digest)?)?;
    store.names().set(&"image:1".parse().unwrap(), &digest)?;
    Ok(digest)
}

pub(crate) fn gc_rules(keep: Keep) -> Rules<'static> {
    Rules {
        keep,
        unused_since: None,
        max_bytes: None,
        tools: &[],
        now: crate::sys::clock::now(),
    }
}

pub(crate) fn collect(store: &Store, keep: Keep, dry_run: bool) -> GarbageReport {
    let mut waiting = || panic!("nobody is there");
    let report = match dry_run {
        true => store.find_garbage(gc_rules(keep), Patience::default(), &mut waiting),
        false => store.remove_garbage(gc_rules(keep), Patience::default(), &mut waiting),
    };
    report.unwrap()
}

/// The lines of the store's header, which describe what is on the disk.
fn header() -> String {
    let lines = include_str!("mod.rs").lines();
    lines.take_while(|line| line.starts_with("//!")).collect()
}

#[test]
fn the_header_describes_every_directory_of_a_store() {
    let (_scratch, store) = store();
    let digest = add_image(&store, "x").unwrap();
    store.trees().scaffold().unwrap();
    store.downloads().put(b"x").unwrap();
    let _lease = store.locks().lease(&digest).unwrap();
    for folder in [store.tool("uv-1"), store.root().join("journal")] {
        fs::create_dir_all(folder).unwrap();
    }
    let header = header();
    for entry in fs::read_dir(store.root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let described = [format!("//!   {name}"), format!(", {name}"), format!("; {name}")];
        assert!(
            described.iter().any(|text| header.contains(text)),
            "{name} is not described"
        );
    }
}

#[test]
fn every_durable_step_may_fail_and_the_next_try_gives_the_same() {
    let (_clean_scratch, clean) = store();
    let expected = add_image(&clean, "x").unwrap();
    let listing = |store: &Store| {
        let mut found = Vec::new();
        let mut pending = vec![store.root().to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(store.root()).unwrap().to_owned());
                if path.is_dir() && !path.is_symlink() {
                    pending.push(path);
                }
            }
        }
        found.sort();
        found
    };
    use fault::Step;
    for step in [
        Step::Name,
        Step::Index,
        Step::IndexMark,
        Step::Snapshot,
        Step::Document,
        Step::ContentStamp,
        Step::Blob,
        Step::Tree,
        Step::Origin,
        Step::Scratch,
    ] {
        for after in 0.. {
            let (_scratch, store) = store();
            fault::FAIL.set(Some((step, after)));
            let failed = add_image(&store, "x").is_err();
            fault::FAIL.set(None);
            assert!(
                fs::read_dir(store.root().join("tmp")).unwrap().next().is_none(),
                "{step:?} {after} left something"
            );
            if !failed {
                assert!(after > 0, "{step:?} is never reached");
                break;
            }
            assert_eq!(add_image(&store, "x").unwrap(), expected, "{step:?} {after}");
            assert_eq!(listing(&store), listing(&clean), "{step:?} {after}");
        }
    }
}

#[test]
fn unpacking_a_blob_gives_the_tree_that_was_written_with_it() {
    let (_scratch, store) = store();
    let (layer, diff_id) = add_layer(&store, "x").unwrap();
    let tree = folder(&store, &diff_id).trusted_tree().unwrap();
    let first = (
        fs::read(tree.join("etc/a")).unwrap(),
        fs::read_link(tree.join("etc/b")).unwrap(),
    );
    fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    let again = store
        .trees()
        .unpack(&layer, &diff_id, &ExtractionLimits::default())
        .unwrap();
    assert_eq!(
        first,
        (
            fs::read(again.join("etc/a")).unwrap(),
            fs::read_link(again.join("etc/b")).unwrap()
        )
    );
}

#[test]
fn refuses_a_layer_whose_diff_id_or_digest_differs() {
    let (_scratch, store) = store();
    let (layer, diff_id) = add_layer(&store, "x").unwrap();
    let other = DiffId::of(b"other");
    let unpack =
        |layer: &Descriptor, diff_id: &DiffId| store.trees().unpack(layer, diff_id, &ExtractionLimits::default());
    assert!(
        matches!(unpack(&layer, &other), Err(StoreError::DiffId { expected, got, .. }) if expected == other && got == diff_id)
    );
    fs::remove_dir_all(folder(&store, &diff_id).path()).unwrap();
    let mut bytes = fs::read(store.blobs().path(&layer.digest)).unwrap();
    bytes.push(0);
    fs::write(store.blobs().path(&layer.digest), &bytes).unwrap();
    let longer = Descriptor {
        size: layer.size + 1,
        ..layer.clone()
    };
    assert!(unpack(&longer, &diff_id).is_err());
    assert!(fs::read_dir(store.root().join("tmp")).unwrap().next().is_none());
}

#[test]
fn links_in_a_layer_never_lead_out_of_it() {
    let (scratch, store) = store();
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "etc", &outside).unwrap();
    let mut file = tar::Header::new_gnu();
    file.set_size(4);
    file.set_mode(0o644);
    tar.append_data(&mut file, "etc/passwd", &b"evil"[..]).unwrap();
    let bytes = tar.into_inner().unwrap();
    let digest = store.blobs().put(&bytes).unwrap();
    let layer = Descriptor::new(crate::oci::media_type::LAYER_TAR, digest, bytes.len() as u64);
    let unpacked = store
        .trees()
        .unpack(&layer, &DiffId::of(&bytes), &ExtractionLimits::default());
    assert!(matches!(unpacked, Err(StoreError::Layer { .. })), "{unpacked:?}");
    assert!(fs::read_dir(&outside).unwrap().next().is_none());
}

#[test]
fn a_partial_download_goes_on_where_it_stopped() {
    let (_scratch, store) = store();
    let (digest, size) = (Digest::of(b"hello world"), 11);
    let mut partial = store.downloads().partial(&digest, Task::silent("tests")).unwrap();
    partial.append(b"hello ").unwrap();
    drop(partial);
    assert!(store.downloads().find(&digest, size).is_none());
    let mut partial = store.downloads().partial(&digest, Task::silent("tests")).unwrap();
    assert_eq!(partial.len(), 6);
    partial.append(b"world").unwrap();
    partial.commit(size).unwrap();
    assert!(store.downloads().find(&digest, size).is_some());
    assert!(fs::read_dir(store.root().join("partial")).unwrap().next().is_none());

    let mut wrong = store
        .downloads()
        .partial(&Digest::of(b"other"), Task::silent("tests"))
        .unwrap();
    wrong.append(b"wrong").unwrap();
    assert!(matches!(wrong.commit(5), Err(StoreError::Digest { .. })));
    assert!(
        fs::read_dir(store.root().join("partial")).unwrap().next().is_none(),
        "wrong bytes are not resumed"
    );
}

#[test]
fn sweep_takes_what_the_dead_left_and_nothing_else() {
    let (_scratch, store) = store();
    let alive = store.scratch().unwrap();
    let dead = store.root().join("tmp/dead");
    fs::create_dir_all(dead.join("deep")).unwrap();
    assert_eq!(store.sweep().unwrap(), 1);
    assert!(alive.path().exists() && !dead.exists());
}

#[test]
fn sweeping_never_fails_for_what_others_make_and_drop_meanwhile() {
    let (_scratch, store) = store();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sweepers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut removed = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        removed += store.sweep().unwrap();
                    }
                    removed
                })
            })
            .collect();
        let makers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let scratch = store.scratch().unwrap();
                        fs::write(scratch.path().join("file"), b"x").unwrap();
                        fs::create_dir(scratch.path().join("directory")).unwrap();
                        assert!(scratch.path().join("file").exists(), "a live one was swept");
                    }
                })
            })
            .collect();
        let made: Vec<_> = makers.into_iter().map(|maker| maker.join()).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let _swept: u64 = sweepers.into_iter().map(|sweeper| sweeper.join().unwrap()).sum();
        made.into_iter().for_each(|made| made.unwrap());
    });
    store.sweep().unwrap();
    assert!(fs::read_dir(store.root().join("tmp")).unwrap().next().is_none());
}

#[test]
fn garbage_is_what_no_name_leads_to() {
    let (_scratch, store) = store();
    let digest = add_image(&store, "x").unwrap();
    assert_eq!(collect(&store, Keep::ImagesOnly, false).blobs, 0);
    let lease = store.locks().lease(&digest).unwrap();
    assert!(store.names().remove(&"image:1".parse().unwrap()).unwrap());
    assert_eq!(collect(&store, Keep::ImagesOnly, false).blobs, 0, "it is in use");
    drop(lease);
    let dry = collect(&store, Keep::ImagesOnly, true);
    assert_eq!((dry.blobs, dry.layers, dry.snapshots), (3, 1, 1));
    assert_eq!(collect(&store, Keep::ImagesOnly, false).blobs, 3);
    assert!(store.names().find(&"image:1".parse().unwrap()).unwrap().is_none());
}

#[test]
fn names_of_the_store_and_of_registries_do_not_meet() {
    let (_scratch, store) = store();
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    for (name, digest) in [
        ("a:1", one),
        ("localhost/a:1", two),
        ("localhost/a/b:1", one),
        ("example.org:5000/a:x", two),
    ] {
        store.names().set(&name.parse().unwrap(), &digest).unwrap();
    }
    let names: Vec<String> = store
        .names()
        .list()
        .unwrap()
        .iter()
        .map(|(reference, _)| reference.to_string())
        .collect();
    assert_eq!(
        names,
        ["a:1", "example.org:5000/a:x", "localhost/a/b:1", "localhost/a:1"]
    );
    assert_eq!(
        store.names().find(&"localhost/a:1".parse().unwrap()).unwrap(),
        Some(two)
    );
}

#[test]
fn a_damaged_name_is_an_error_until_it_is_given_again_or_removed() {
    let (_scratch, store) = store();
    let digest = add_image(&store, "x").unwrap();
    let name: crate::oci::Reference = "image:1".parse().unwrap();
    let path = store.root().join("refs/_local/image/1");
    for damage in ["", "sha256:00", "\0\0\0\0"] {
        fs::write(&path, damage).unwrap();
        assert!(
            matches!(store.names().find(&name), Err(StoreError::DamagedName { reference }) if reference == "image:1"),
            "{damage:?}"
        );
        assert_eq!(store.names().list().unwrap(), [(name.clone(), None)]);
        store.names().set(&name, &digest).unwrap();
        assert_eq!(store.names().find(&name).unwrap(), Some(digest));
        fs::write(&path, damage).unwrap();
        assert!(store.names().has(&name).unwrap() && store.names().remove(&name).unwrap());
        assert!(!store.names().has(&name).unwrap() && !store.names().remove(&name).unwrap());
    }
}

#[test]
fn a_damaged_index_is_written_anew() {
    let (_scratch, store) = store();
    add_image(&store, "x").unwrap();
    let path = store.root().join("index.json");
    let sound = fs::read(&path).unwrap();
    for damage in [&b""[..], &sound[..sound.len() / 2], &vec![0; sound.len()]] {
        fs::write(&path, damage).unwrap();
        store.names().mend_index().unwrap();
        assert_eq!(fs::read(&path).unwrap(), sound);
    }
}

#[test]
fn a_name_with_a_digest_is_neither_given_nor_removed() {
    let (_scratch, store) = store();
    let digest = Digest::of(b"1");
    let latest: crate::oci::Reference = "example.org/a".parse().unwrap();
    store.names().set(&latest, &digest).unwrap();
    let pinned = format!("example.org/a@{digest}").parse().unwrap();
    let is_refused = |result: Result<(), StoreError>| matches!(result, Err(StoreError::PinnedName { .. }));
    assert!(is_refused(store.names().set(&pinned, &Digest::of(b"2"))));
    assert!(is_refused(store.names().remove(&pinned).map(drop)));
    assert!(is_refused(store.names().has(&pinned).map(drop)));
    assert_eq!(store.names().find(&latest).unwrap(), Some(digest));
}

#[test]
fn naming_an_image_again_offers_it_to_other_tools_again() {
    let (_scratch, store) = store();
    let digest = add_image(&store, "x").unwrap();
    let name = "image:1".parse().unwrap();
    let path = store.root().join("index.json");
    let sound = fs::read(&path).unwrap();
    // Lost an entry; has the name for another image; has another name for the image; in other words.
    let text = String::from_utf8(sound.clone()).unwrap();
    let other = text.replace(&digest.to_string(), &Digest::of(b"other").to_string());
    let empty = "{\"manifests\":[],\"schemaVersion\":2}".to_owned();
    for index in [
        empty,
        other,
        text.replace("image:1", "image:2"),
        text.replace(':', ": "),
    ] {
        assert_ne!(index.as_bytes(), sound);
        fs::write(&path, index).unwrap();
        store.names().ensure(&name, &digest).unwrap();
        assert_eq!(fs::read(&path).unwrap(), sound);
    }
    // What is right is not written again.
    let latest = "example.org/image".parse().unwrap();
    store.names().ensure(&latest, &digest).unwrap();
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
    let before = inode();
    store.names().ensure(&name, &digest).unwrap();
    store.names().ensure(&latest, &digest).unwrap();
    assert_eq!(inode(), before);

    fs::write(store.root().join("refs/_local/image/1"), "damaged").unwrap();
    store.names().ensure(&name, &digest).unwrap();
    assert_eq!(store.names().find(&name).unwrap(), Some(digest));
}

#[test]
fn a_collector_tries_for_a_while_and_nobody_waits_for_it_meanwhile() {
    let (_scratch, store) = store();
    let patience = Patience {
        most: std::time::Duration::from_millis(20),
        between: std::time::Duration::from_millis(1),
    };
    let kept_out = store.locks().keep_collector_out().unwrap();
    let mut told = 0;
    let mut waiting = || {
        told += 1;
        // A blocked writer would stop this reader.
        drop(store.locks().keep_collector_out().unwrap());
    };
    let busy = store.remove_garbage(gc_rules(Keep::Memoised), patience, &mut waiting);
    assert!(
        matches!(&busy, Err(StoreError::Busy { path }) if *path == store.root()),
        "{busy:?}"
    );
    assert_eq!(told, 1);

    let mut kept_out = Some(kept_out);
    store
        .remove_garbage(gc_rules(Keep::Memoised), Patience::default(), &mut || {
            drop(kept_out.take())
        })
        .unwrap();
}

#[test]
fn a_download_that_nobody_is_at_is_garbage() {
    let (_scratch, store) = store();
    let (left, under_way) = (Digest::of(b"left"), Digest::of(b"under way"));
    store
        .downloads()
        .partial(&left, Task::silent("tests"))
        .unwrap()
        .append(b"le")
        .unwrap();
    let mut partial = store.downloads().partial(&under_way, Task::silent("tests")).unwrap();
    partial.append(b"under").unwrap();
    let report = collect(&store, Keep::Memoised, false);
    assert_eq!((report.partials, report.bytes), (1, 2));
    assert!(!store.root().join("partial").join(left.hex()).exists());
    assert!(store.root().join("partial").join(under_way.hex()).exists());
}

#[test]
fn an_image_whose_name_was_given_when_more_words_were_names_is_kept() {
    let (_scratch, store) = store();
    let digest = add_image(&store, "x").unwrap();
    for name in ["sif", "sha256", "docker-archive"] {
        let folder = store.root().join("refs/_local").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("1"), format!("{digest}\n")).unwrap();
    }
    assert!(store.names().remove(&"image:1".parse().unwrap()).unwrap());
    assert_eq!(collect(&store, Keep::ImagesOnly, false).blobs, 0);
    let names: Vec<String> = store
        .names()
        .list()
        .unwrap()
        .iter()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(names, ["docker-archive:1", "sha256:1", "sif:1"]);
}

#[test]
fn digits_that_begin_several_digests_mean_none_of_them() {
    let (_scratch, store) = store();
    let digest = add_image(&store, "x").unwrap();
    let hex = digest.hex();
    let find = |text: &str| store.names().find(&text.parse().unwrap());
    assert_eq!(find(&hex[..12]).unwrap(), Some(digest));
    assert_eq!(find(&format!("sha256:{}", &hex[..6])).unwrap(), Some(digest));
    // Another image, which is told apart by its last digit.
    let last = if hex.ends_with('0') { '1' } else { '0' };
    let other = format!("{}{last}", &hex[..63]);
    fs::write(store.root().join(format!("snapshots/{other}.json")), "{}").unwrap();
    let ambiguous = find(&hex[..12]);
    assert!(
        matches!(&ambiguous, Err(StoreError::Ambiguous { id, images }) if *id == hex[..12] && images.contains(&other)),
        "{ambiguous:?}"
    );
    assert_eq!(find(&hex).unwrap(), Some(digest));
    // A name that consists of such digits comes first.
    let name = hex[..12].parse().unwrap();
    let named = Digest::of(b"named");
    store.names().set(&name, &named).unwrap();
    assert_eq!(find(&hex[..12]).unwrap(), Some(named));
}
