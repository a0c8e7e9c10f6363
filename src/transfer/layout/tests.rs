//! Layouts that somebody prepared before something is copied into them.

use std::os::unix::fs::symlink;

use super::*;
use crate::store::tests::{add_image, store};
use crate::store::{Image, StoreError};
use crate::sys::fault;
use crate::transfer::tests::{pull, push};

/// A store with an image, and a layout that does not exist yet, with a file beside it.
fn places() -> (tempfile::TempDir, Store, Image, PathBuf, PathBuf) {
    let (scratch, store) = store();
    let image = store.images().open(&add_image(&store, "x").unwrap()).unwrap();
    let (layout, precious) = (scratch.path().join("layout"), scratch.path().join("precious"));
    fs::write(&precious, "precious").unwrap();
    (scratch, store, image, layout, precious)
}

fn tags(layout: &Path) -> Vec<String> {
    let index = parse_index(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let names = index.manifests.iter().map(|found| found.annotations[REF_NAME].clone());
    names.collect()
}

#[test]
fn an_export_keeps_other_images_and_leaves_nothing_else() {
    let (_scratch, store, image, layout, _) = places();
    for tag in ["a", "b", "a"] {
        push(&store, &image, &layout, Some(tag)).unwrap();
    }
    assert_eq!(tags(&layout), ["b", "a"]);
    let count = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!((count(&layout), count(&layout.join("blobs/sha256"))), (3, 3));
}

#[test]
fn an_export_never_writes_through_a_link() {
    for (link, is_refused) in [
        ("oci-layout", false),
        ("index.json", true),
        ("blobs", true),
        ("blobs/sha256", true),
    ] {
        let (scratch, store, image, layout, precious) = places();
        let elsewhere = scratch.path().join("elsewhere");
        fs::create_dir_all(elsewhere.join("sha256")).unwrap();
        let target = if link.starts_with("blobs") {
            &elsewhere
        } else {
            &precious
        };
        fs::create_dir_all(layout.join(link).parent().unwrap()).unwrap();
        symlink(target, layout.join(link)).unwrap();
        let exported = push(&store, &image, &layout, Some("a"));
        assert_eq!(fs::read(&precious).unwrap(), b"precious", "{link}");
        assert_eq!(fs::read_dir(elsewhere.join("sha256")).unwrap().count(), 0, "{link}");
        assert_eq!(exported.is_err(), is_refused, "{link}: {exported:?}");
        assert!(
            matches!(
                exported,
                Ok(()) | Err(TransferError::NotAFile { .. } | TransferError::NotADirectory { .. })
            ),
            "{link}: {exported:?}"
        );
    }
    // A blob that is a link to a file of the right size is replaced as well.
    let (_scratch, store, image, layout, precious) = places();
    push(&store, &image, &layout, Some("a")).unwrap();
    let blob = layout.join("blobs/sha256").join(image.digest.hex());
    fs::write(&precious, vec![0; image.manifest_raw.len()]).unwrap();
    fs::remove_file(&blob).unwrap();
    symlink(&precious, &blob).unwrap();
    push(&store, &image, &layout, Some("a")).unwrap();
    assert_eq!(fs::read(&precious).unwrap(), vec![0; image.manifest_raw.len()]);
    assert_eq!(fs::read(&blob).unwrap(), image.manifest_raw);
}

#[test]
fn an_export_refuses_a_layout_whose_index_cannot_be_read() {
    let (_scratch, store, image, layout, _) = places();
    push(&store, &image, &layout, Some("a")).unwrap();
    let index = layout.join("index.json");
    for text in ["", "{", "[]", r#"{"schemaVersion":1,"manifests":[]}"#] {
        fs::write(&index, text).unwrap();
        let refused = push(&store, &image, &layout, Some("b"));
        assert!(
            matches!(&refused, Err(TransferError::Document { path, .. }) if *path == index),
            "{refused:?}"
        );
        assert_eq!(fs::read_to_string(&index).unwrap(), text);
    }
    fs::remove_file(&index).unwrap();
    fs::create_dir(&index).unwrap();
    let refused = push(&store, &image, &layout, Some("b"));
    assert!(matches!(refused, Err(TransferError::NotAFile { .. })), "{refused:?}");
    // One that may not be opened is not one that is not there.
    fs::remove_dir(&index).unwrap();
    fs::write(&index, r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    fs::set_permissions(&index, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let refused = push(&store, &image, &layout, Some("b"));
    assert!(
        matches!(refused, Err(TransferError::Io { action: "open", .. })),
        "{refused:?}"
    );
}

/// What `work` returns when the disk or the quota is used up as soon as bytes of a blob are written.
fn without_room<T>(errno: Errno, work: impl FnOnce() -> T) -> T {
    fault::FAIL.set(Some((fault::Step::Bytes, 0)));
    fault::ERRNO.set(Some(errno));
    let result = work();
    fault::FAIL.set(None);
    fault::ERRNO.set(None);
    result
}

#[test]
fn an_import_without_room_names_the_file_of_the_store() {
    let (_scratch, store_of_others, image, layout, _) = places();
    push(&store_of_others, &image, &layout, Some("a")).unwrap();
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        let (_other_scratch, other) = store();
        let layer = other.blobs().path(&image.manifest.layers[0].digest);
        let failed = without_room(errno, || pull(&other, &layout, None));
        assert!(
            matches!(&failed, Err(TransferError::Store(StoreError::NoSpace { action: "write", path, .. })) if *path == layer),
            "{errno}: {failed:?}"
        );
        assert!(fs::read_dir(other.root().join("tmp")).unwrap().next().is_none());
    }
}

#[test]
fn an_export_without_room_names_the_file_of_the_layout() {
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        let (_scratch, store, image, layout, _) = places();
        let failed = without_room(errno, || push(&store, &image, &layout, Some("a")));
        assert!(
            matches!(&failed, Err(TransferError::Io { action: "write", path, .. }) if path.starts_with(&layout)),
            "{errno}: {failed:?}"
        );
    }
}

#[test]
fn writers_at_once_lose_no_entry() {
    let (_scratch, store, image, layout, _) = places();
    let names: Vec<String> = (0..16).map(|number| format!("n{number}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| push(&store, &image, &layout, Some(name)).unwrap());
        }
    });
    let mut there = tags(&layout);
    there.sort_by_key(|name| name[1..].parse::<u32>().unwrap());
    assert_eq!(there, names);
    assert_eq!(fs::read_dir(&layout).unwrap().count(), 3, "no lock file stays");
}

#[test]
fn an_export_refuses_a_layout_of_another_version() {
    let (_scratch, store, image, layout, _) = places();
    push(&store, &image, &layout, Some("a")).unwrap();
    let version = layout.join("oci-layout");
    fs::write(&version, r#"{"imageLayoutVersion":"9"}"#).unwrap();
    let refused = push(&store, &image, &layout, Some("b"));
    assert!(
        matches!(&refused, Err(TransferError::Document { path, .. }) if *path == version),
        "{refused:?}"
    );
    assert_eq!(tags(&layout), ["a"]);
}
