//! After a power loss: what the disk lost is noticed once, made again when it can be, and never used.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::archive::layer::LayerWriter;
use crate::oci::{media_type, Descriptor, DiffId, Digest};
use crate::policy::ExtractionLimits;
use crate::store::content::whole::sweep_stamps;
use crate::store::disk::stamp::Stamp;
use crate::store::tests::{add_image, add_layer, collect, folder, store};
use crate::store::trees::folder::LayerStamp;
use crate::store::{Keep, Key, Memo, Roots, Step};

/// An image written in an earlier boot, looked at after the next one.
struct Restarted {
    _scratch: tempfile::TempDir,
    earlier: Store,
    store: Store,
    image: Digest,
    diff_id: DiffId,
    layer: Descriptor,
}

fn restarted() -> Restarted {
    let (_scratch, made) = store();
    let earlier = made.after_boot("first");
    let image = add_image(&earlier, "what it is").unwrap();
    let opened = earlier.images().open(&image).unwrap();
    Restarted {
        _scratch,
        store: made.after_boot("second"),
        earlier,
        image,
        diff_id: opened.config.rootfs.diff_ids[0],
        layer: opened.manifest.layers[0].clone(),
    }
}

impl Restarted {
    fn tree(&self) -> PathBuf {
        self.store.trees().path(&self.diff_id)
    }

    fn boot(&self) -> Option<Stamp> {
        folder(&self.store, &self.diff_id).stamp().map(|stamp| stamp.boot)
    }

    /// What a run does; whether it got by without unpacking.
    fn run(&self, store: &Store) -> bool {
        assert!(
            store.images().snapshot(&self.image).unwrap().is_none(),
            "it is trusted unread"
        );
        let inode = || {
            let found = fs::metadata(self.tree()).ok();
            found.map(|found| std::os::unix::fs::MetadataExt::ino(&found))
        };
        let before = inode();
        store.images().restore(&self.image).unwrap();
        assert!(store.images().snapshot(&self.image).unwrap().is_some());
        inode() == before
    }

    fn is_intact(&self) {
        assert_eq!(fs::read_to_string(self.tree().join("etc/a")).unwrap(), "what it is");
        assert_eq!(fs::read_link(self.tree().join("etc/b")).unwrap(), Path::new("a"));
        assert_eq!(fs::read_dir(self.tree().join("etc")).unwrap().count(), 2);
        assert!(fs::read_dir(self.store.root().join("tmp")).unwrap().next().is_none());
    }
}

#[test]
fn an_intact_tree_of_another_boot_is_read_once_and_never_again() {
    let made = restarted();
    assert!(
        folder(&made.store, &made.diff_id).trusted_tree().is_none(),
        "it is trusted unread"
    );
    assert!(made.run(&made.store));
    assert_eq!(made.boot(), Some(Stamp::durable()));
    made.is_intact();
    // Nobody looks any more, in whichever boot: what was read back is on the disk.
    fs::write(made.tree().join("etc/a"), b"").unwrap();
    assert!(made.store.images().snapshot(&made.image).unwrap().is_some());
    let third = made.store.after_boot("third");
    assert!(made.run(&third));
    assert!(folder(&third, &made.diff_id).trusted_tree().is_some());
}

#[test]
fn an_image_without_its_documents_runs_when_its_layers_are_whole() {
    let made = restarted();
    fs::remove_file(made.store.blobs().path(&made.image)).unwrap();
    assert!(made.run(&made.store));
}

#[test]
fn a_tree_of_this_boot_is_not_read() {
    let made = restarted();
    fs::write(made.tree().join("etc/a"), b"").unwrap();
    assert!(made.earlier.images().snapshot(&made.image).unwrap().is_some());
}

#[test]
fn a_damaged_tree_is_unpacked_again_and_looked_at_again_after_the_next_boot() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 8] = [
        ("truncated", |tree| fs::write(tree.join("etc/a"), b"what").unwrap()),
        ("other bytes", |tree| {
            fs::write(tree.join("etc/a"), b"what it iz").unwrap()
        }),
        ("missing", |tree| fs::remove_file(tree.join("etc/a")).unwrap()),
        ("extra file", |tree| fs::write(tree.join("etc/c"), b"").unwrap()),
        ("extra directory", |tree| fs::create_dir(tree.join("etc/c")).unwrap()),
        ("mode", |tree| {
            fs::set_permissions(tree.join("etc/a"), fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("other target", |tree| {
            fs::remove_file(tree.join("etc/b")).unwrap();
            std::os::unix::fs::symlink("c", tree.join("etc/b")).unwrap();
        }),
        ("a link in place of a directory", |tree| {
            fs::rename(tree.join("etc"), tree.join("../etc")).unwrap();
            std::os::unix::fs::symlink("../etc", tree.join("etc")).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let made = restarted();
        damage(&made.tree());
        assert!(!made.run(&made.store), "{what}");
        made.is_intact();
        assert_eq!(made.boot(), Some(made.store.disk.boot().clone()), "{what}");

        damage(&made.tree());
        assert!(!made.run(&made.store.after_boot("third")), "{what}, again");
        made.is_intact();
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Number(i32);

impl Memo for Number {
    const FOLDER: &'static str = "number";

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

#[test]
fn documents_that_are_empty_are_made_again() {
    for name in ["stamp.json", "meta.json"] {
        let made = restarted();
        fs::write(folder(&made.store, &made.diff_id).path().join(name), b"").unwrap();
        assert!(!made.run(&made.store), "{name}");
        made.is_intact();
    }
    let made = restarted();
    fs::write(
        made.store.root().join(format!("snapshots/{}.json", made.image.hex())),
        b"",
    )
    .unwrap();
    assert!(made.run(&made.store));

    let key = Key::of(Step::WheelLayer).with("key").finish();
    made.store.memos().put(&key, &Number(1)).unwrap();
    fs::write(made.store.root().join(format!("memo/number/{}.json", key.hex())), b"").unwrap();
    assert!(made.store.memos().find::<Number>(&key).unwrap().is_none());
    collect(&made.store, Keep::Memoised, false);
}

#[test]
fn a_layer_of_an_older_gantry_is_unpacked_again() {
    let made = restarted();
    let folder = folder(&made.store, &made.diff_id).path();
    fs::remove_file(folder.join("stamp.json")).unwrap();
    fs::write(
        folder.join("meta.json"),
        br#"{"schema":1,"unpacked_bytes":1,"entries":3}"#,
    )
    .unwrap();
    fs::write(made.tree().join("etc/a"), b"").unwrap();
    let limits = ExtractionLimits::default();
    made.store.trees().unpack(&made.layer, &made.diff_id, &limits).unwrap();
    made.is_intact();
}

/// Lists the layer of `made` anew, by `files`, in a listing of `schema`.
fn listed_as(made: &Restarted, schema: u32, files: &str) {
    let folder = folder(&made.store, &made.diff_id);
    let listing = format!(
        "{{\"schema\":{schema},\"opaque\":false,\"entries\":{{\n\
         \"etc\":{{\"mode\":493}},\n\
         \"etc/a\":{{\"mode\":420,\"size\":10,{files}}},\n\
         \"etc/b\":{{\"target\":\"a\"}}}}}}"
    );
    let stamp = LayerStamp {
        meta: Digest::of(listing.as_bytes()),
        ..folder.stamp().unwrap()
    };
    fs::write(folder.path().join("meta.json"), listing).unwrap();
    fs::write(folder.path().join("stamp.json"), serde_json::to_vec(&stamp).unwrap()).unwrap();
}

fn schema(made: &Restarted) -> serde_json::Value {
    let listing = fs::read(folder(&made.store, &made.diff_id).path().join("meta.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&listing).unwrap()["schema"].clone()
}

#[test]
fn a_tree_that_an_older_gantry_listed_by_sha256_stays_until_it_is_damaged() {
    let by_sha256 = format!("\"sha256\":\"{}\"", Digest::of(b"what it is"));
    let made = restarted();
    listed_as(&made, 2, &by_sha256);
    assert!(made.run(&made.store));
    assert_eq!((made.boot(), schema(&made)), (Some(Stamp::durable()), 2.into()));

    let made = restarted();
    listed_as(&made, 2, &by_sha256);
    fs::write(made.tree().join("etc/a"), b"what it iz").unwrap();
    assert!(!made.run(&made.store));
    made.is_intact();
    assert_eq!(schema(&made), 3);
    assert!(made.run(&made.store.after_boot("third")));
}

#[test]
fn a_tree_that_a_newer_gantry_listed_is_unpacked_again_after_a_boot_and_once() {
    let made = restarted();
    listed_as(&made, 4, "\"another\":\"hash\"");
    assert!(made.earlier.images().snapshot(&made.image).unwrap().is_some());
    assert!(!made.run(&made.store));
    made.is_intact();
    assert_eq!(schema(&made), 3);
    assert!(made.run(&made.store.after_boot("third")));
}

#[test]
fn a_damaged_blob_is_removed_and_made_again() {
    let made = restarted();
    let path = made.store.blobs().path(&made.layer.digest);
    let sound = fs::read(&path).unwrap();
    fs::write(&path, vec![0; sound.len()]).unwrap();
    assert!(!made.store.blobs().has(&made.layer).unwrap());
    assert!(!path.exists());
    let (layer, diff_id) = add_layer(&made.store, "what it is").unwrap();
    assert_eq!((&layer, diff_id), (&made.layer, made.diff_id));
    assert_eq!(fs::read(&path).unwrap(), sound);
    assert!(made.store.blobs().has(&layer).unwrap());

    // Once it is known to be on the disk it is not read again, and the stamp goes with it.
    let third = made.store.after_boot("third");
    assert!(third.blobs().has(&layer).unwrap());
    fs::write(&path, vec![0; sound.len()]).unwrap();
    assert!(third.after_boot("fourth").blobs().has(&layer).unwrap());
    fs::remove_file(&path).unwrap();
    sweep_stamps(&third.disk);
    assert!(fs::read_dir(third.root().join("stamps")).unwrap().next().is_none());
}

#[test]
fn a_blob_that_another_boot_wrote_is_hashed_while_it_is_unpacked_and_one_of_this_boot_is_not() {
    let made = restarted();
    let (blob, limits) = (made.store.blobs().path(&made.layer.digest), ExtractionLimits::default());
    // The time in the header of gzip: another blob, which inflates to the same layer.
    let mut bytes = fs::read(&blob).unwrap();
    bytes[4] ^= 1;
    fs::write(&blob, bytes).unwrap();
    for (store, is_hashed) in [(&made.earlier, false), (&made.store, true)] {
        fs::remove_dir_all(folder(store, &made.diff_id).path()).unwrap();
        match store.trees().unpack(&made.layer, &made.diff_id, &limits) {
            Ok(_) => assert!(!is_hashed),
            Err(StoreError::LayerLost { digest, .. }) => assert!(is_hashed && digest == made.layer.digest),
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(blob.exists(), !is_hashed);
    }
}

#[test]
fn a_layer_without_tree_and_blob_is_an_error_that_names_it() {
    for damage in [
        |path: &Path| fs::write(path, b"").unwrap(),
        |path: &Path| {
            fs::remove_file(path).unwrap();
        },
    ] {
        let made = restarted();
        fs::write(made.tree().join("etc/a"), b"").unwrap();
        let path = made.store.blobs().path(&made.layer.digest);
        damage(&path);
        let error = made
            .store
            .images()
            .prepare(&made.store.images().open(&made.image).unwrap())
            .unwrap_err();
        let expected = (made.diff_id, made.layer.digest);
        assert!(
            matches!(&error, StoreError::LayerLost { diff_id, digest } if (*diff_id, *digest) == expected),
            "{error:?}"
        );
        assert!(error.to_string().contains("build the image again"));
        assert!(!path.exists());
        add_image(&made.store, "what it is").unwrap();
        made.is_intact();
    }
}

#[test]
fn an_opaque_root_that_a_power_loss_took_is_noticed() {
    let (_scratch, store) = store();
    let earlier = store.after_boot("first");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(0);
    tar.append_data(&mut header, ".wh..wh..opq", &b""[..]).unwrap();
    let bytes = tar.into_inner().unwrap();
    let (digest, diff_id) = (earlier.blobs().put(&bytes).unwrap(), DiffId::of(&bytes));
    let layer = Descriptor::new(media_type::LAYER_TAR, digest, bytes.len() as u64);
    let limits = ExtractionLimits::default();
    let tree = earlier.trees().unpack(&layer, &diff_id, &limits).unwrap();
    rustix::fs::removexattr(&tree, "user.overlay.opaque").unwrap();
    store
        .after_boot("second")
        .trees()
        .unpack(&layer, &diff_id, &limits)
        .unwrap();
    let mut value = [0u8; 1];
    assert_eq!(rustix::fs::getxattr(&tree, "user.overlay.opaque", &mut value), Ok(1));
}

#[test]
fn what_a_foreign_layer_says_is_the_same_when_it_is_read_back() {
    let (_scratch, store) = store();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, path: &str, link: Option<&str>, contents: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(contents.len() as u64);
        match link {
            Some(link) => tar.append_link(&mut header, path, link).unwrap(),
            None => tar.append_data(&mut header, path, contents).unwrap(),
        }
    };
    add(tar::EntryType::Regular, "a", None, b"first");
    add(tar::EntryType::Regular, "a", None, b"second");
    add(tar::EntryType::Link, "b", Some("a"), b"");
    add(tar::EntryType::Symlink, "c", Some("../a"), b"");
    add(tar::EntryType::Directory, "d", None, b"");
    add(tar::EntryType::Regular, "d/.wh..wh..opq", None, b"");
    add(tar::EntryType::Regular, ".wh.e", None, b"");
    add(tar::EntryType::Regular, "\u{e9} \"quoted\"\n", None, b"x");
    // A name whose file has another one, and two names that changed their files.
    add(tar::EntryType::Regular, "f", None, b"first");
    add(tar::EntryType::Link, "g", Some("f"), b"");
    add(tar::EntryType::Regular, "f", None, b"second");
    add(tar::EntryType::Regular, "h", None, b"second");
    add(tar::EntryType::Regular, "i", None, b"first");
    add(tar::EntryType::Link, "h", Some("i"), b"");
    add(tar::EntryType::Regular, "j", None, b"first");
    add(tar::EntryType::Symlink, "j", Some("f"), b"");
    let bytes = tar.into_inner().unwrap();
    let earlier = store.after_boot("first");
    let layer = Descriptor::new(
        media_type::LAYER_TAR,
        earlier.blobs().put(&bytes).unwrap(),
        bytes.len() as u64,
    );
    let diff_id = DiffId::of(&bytes);
    let limits = ExtractionLimits::default();
    let tree = earlier.trees().unpack(&layer, &diff_id, &limits).unwrap();
    let meta: serde_json::Value =
        serde_json::from_slice(&fs::read(tree.parent().unwrap().join("meta.json")).unwrap()).unwrap();
    let blake3 = "cd85637651ec7a557bddd61c5ddd1df21ad8bbbaf6c3c098482b3ed1c1014964";
    let expected = serde_json::json!({"mode": 0o755, "size": 6, "blake3": blake3});
    assert_eq!((&meta["entries"]["a"], &meta["entries"]["b"]), (&expected, &expected));
    assert_eq!(meta["entries"]["c"], serde_json::json!({"target": "../a"}));
    assert_eq!(meta["entries"]["d"], serde_json::json!({"mode": 0o755, "opaque": true}));
    assert_eq!(meta["entries"]["e"], serde_json::json!({"whiteout": true}));
    let size = |name: &str| meta["entries"][name]["size"].as_u64();
    assert_eq!(
        ["f", "g", "h", "i", "j"].map(size),
        [Some(6), Some(5), Some(5), Some(5), None]
    );

    fs::remove_file(store.blobs().path(&layer.digest)).unwrap();
    let second = store.after_boot("second");
    second.trees().unpack(&layer, &diff_id, &limits).unwrap();
    assert_eq!(folder(&second, &diff_id).stamp().unwrap().boot, Stamp::durable());
}

#[test]
fn a_build_takes_the_place_of_a_damaged_tree() {
    let made = restarted();
    fs::write(made.tree().join("etc/a"), b"").unwrap();
    add_layer(&made.store, "what it is").unwrap();
    made.is_intact();
    assert_eq!(made.boot(), Some(made.store.disk.boot().clone()));

    // One that is whole stays: somebody may be using it.
    let third = made.store.after_boot("third");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&made.tree());
    let mut staging = third.trees().stage().unwrap();
    let mut writer = LayerWriter::new(io::sink(), Some(&mut staging), 0);
    writer.file("etc/a", 0o644, b"what it is").unwrap();
    writer.symlink("etc/b", "a").unwrap();
    let written = writer.finish().unwrap();
    staging.commit(&written.diff_id, &written.digest).unwrap();
    assert_eq!(inode(&made.tree()), before);
    assert_eq!(made.boot(), Some(Stamp::durable()));
}

#[test]
fn a_damaged_download_is_not_found() {
    let (_scratch, store) = store();
    let digest = store.after_boot("first").downloads().put(b"wheel").unwrap();
    assert!(store.downloads().find(&digest, 5).is_some());
    let other = store.after_boot("first").downloads().put(b"other").unwrap();
    fs::write(store.root().join("downloads").join(other.hex()), b"\0\0\0\0\0").unwrap();
    assert!(store.downloads().find(&other, 5).is_none());
    store.downloads().put(b"other").unwrap();
    assert!(store.downloads().find(&other, 5).is_some());
}
