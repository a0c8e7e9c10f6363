//! What is in use is left alone, whoever is at work meanwhile, and what comes at that moment notices.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;
use crate::oci::DiffId;
use crate::store::tests::{add_layer, collect, examples, store};
use crate::store::{Count, Image, Keep, Key, Memo, Roots, Step, Store};

/// A layer of both images, and one of each.
fn two(store: &Store) -> [Image; 2] {
    ["a", "b"].map(|name| {
        let own: &[(&str, usize)] = &[(name, 10)];
        let image = examples::image(store, &[&[("shared", 10)], own]);
        store.images().settle(&image).unwrap();
        store
            .names()
            .set(&format!("{name}:1").parse().unwrap(), &image.digest)
            .unwrap();
        image
    })
}

fn doomed(images: &[&Image]) -> Doomed {
    Doomed {
        images: images.iter().map(|image| (image.digest, None)).collect(),
        ..Doomed::default()
    }
}

/// Evicts by an inventory that is taken now.
fn evict(store: &Store, doomed: &Doomed) -> Result<Evicted, StoreError> {
    store.evict(&store.inventory(Count::Noted)?, doomed)
}

fn is_whole(store: &Store, image: &Image) -> bool {
    let trees = image.config.rootfs.diff_ids.iter();
    trees
        .map(|diff_id| store.trees().path(diff_id))
        .all(|path| path.exists())
        && image
            .blobs()
            .iter()
            .all(|blob| store.blobs().size(&blob.digest).is_some())
        && store.images().snapshot(&image.digest).unwrap().is_some()
}

#[test]
fn what_another_image_needs_stays_and_the_rest_goes_without_a_trace() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    store.images().note_origin(&a.digest, "a.example/team").unwrap();
    let evicted = evict(&store, &doomed(&[&a])).unwrap();
    assert_eq!((evicted.images, evicted.bytes > 0), (vec![a.digest], true));
    assert!(is_whole(&store, &b) && !is_whole(&store, &a));
    assert_eq!(store.names().list().unwrap().len(), 1);
    let index = fs::read_to_string(store.root().join("index.json")).unwrap();
    assert!(index.contains("b:1") && !index.contains("a:1"));
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    // Nothing of it is left for a collection.
    let report = collect(&store, Keep::Memoised, false);
    assert_eq!(
        (report.blobs, report.layers, report.snapshots, report.leases),
        (0, 0, 0, 0)
    );
    assert!(!store.root().join(origins::name(&a.digest)).exists());
}

#[test]
fn an_image_that_is_in_use_or_pinned_or_was_used_since_it_was_chosen_stays() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    let lease = store.locks().lease(&a.digest).unwrap();
    store.images().pin(&b.digest).unwrap();
    assert!(evict(&store, &doomed(&[&a, &b])).unwrap().images.is_empty());
    drop(lease);
    store.images().unpin(&b.digest).unwrap();
    // It was chosen before its last use.
    assert!(evict(&store, &doomed(&[&a])).unwrap().images.is_empty());
    assert!(is_whole(&store, &a) && is_whole(&store, &b));
    let used = fs::metadata(store.root().join("leases").join(a.digest.hex())).unwrap();
    let now = Doomed {
        images: vec![(a.digest, used.modified().ok())],
        ..Doomed::default()
    };
    assert_eq!(evict(&store, &now).unwrap().images, [a.digest]);
}

#[test]
fn an_image_that_comes_while_another_goes_notices_what_it_lost() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    // Of `b` everything is there, and nothing leads to it yet: as after its blobs came.
    store.names().remove(&"b:1".parse().unwrap()).unwrap();
    fs::remove_file(store.root().join("snapshots").join(format!("{}.json", b.digest.hex()))).unwrap();
    evict(&store, &doomed(&[&a])).unwrap();
    let lease = store.locks().lease(&b.digest).unwrap();
    assert!(matches!(store.images().settle(&b), Err(error) if error.is_lost()));
    // Brought again, it is safe from then on, as its lease is seen and its documents are.
    let again = examples::image(&store, &[&[("shared", 10)], &[("b", 10)]]);
    assert_eq!(again.digest, b.digest);
    let c = examples::image(&store, &[&[("shared", 10)]]);
    store.images().settle(&c).unwrap();
    store.names().set(&"c:1".parse().unwrap(), &c.digest).unwrap();
    store.images().settle(&b).unwrap();
    assert_eq!(evict(&store, &doomed(&[&c])).unwrap().images, [c.digest]);
    assert!(is_whole(&store, &b));
    drop(lease);
}

#[derive(Debug, Serialize, Deserialize)]
struct Layer(Digest, DiffId);

impl Memo for Layer {
    const FOLDER: &'static str = "test";

    fn roots(&self) -> Roots {
        Roots {
            blobs: vec![self.0],
            layers: vec![self.1],
            downloads: Vec::new(),
        }
    }
}

#[test]
fn what_builds_remember_stays_while_one_is_at_work() {
    let (_scratch, store) = store();
    let (layer, diff_id) = add_layer(&store, "x").unwrap();
    let key = Key::of(Step::CodeLayer).with("x").finish();
    store.memos().put(&key, &Layer(layer.digest, diff_id)).unwrap();
    let inventory = store.inventory(Count::Noted).unwrap();
    let [remembered] = inventory.remembered.as_slice() else {
        panic!("{:?}", inventory.remembered)
    };
    let all = Doomed {
        remembered: vec![remembered.file.clone()],
        ..Doomed::default()
    };
    let building = store.locks().building().unwrap();
    assert!(store.locks().is_building().unwrap());
    assert!(evict(&store, &all).unwrap().remembered.is_empty());
    assert!(store.blobs().has(&layer).unwrap());
    drop(building);
    assert!(!store.locks().is_building().unwrap());
    assert_eq!(evict(&store, &all).unwrap().remembered.len(), 1);
    assert!(!store.blobs().has(&layer).unwrap() && !store.trees().path(&diff_id).exists());
}

#[test]
fn what_is_noted_of_sizes_is_what_every_file_comes_to() {
    let (_scratch, store) = store();
    two(&store);
    // Once to note, and once to believe what is noted.
    store.inventory(Count::Noted).unwrap();
    let noted = store.inventory(Count::Noted).unwrap();
    let exact = store.inventory(Count::Exact).unwrap();
    assert_eq!(
        (noted.total, &noted.parts, &noted.folders),
        (exact.total, &exact.parts, &exact.folders)
    );
    assert!(exact.total > 0 && exact.images.len() == 2);
    let used = |inventory: &Inventory| inventory.images.iter().map(|image| image.uses).collect::<Vec<_>>();
    assert_eq!(used(&exact), [0, 0]);
    for _ in 0..20 {
        store.locks().lease(&exact.images[0].digest).unwrap();
    }
    assert_eq!(used(&store.inventory(Count::Nothing).unwrap()), [16, 0]);
    let used = store.inventory(Count::Nothing).unwrap().images[0].used.unwrap();
    let age = crate::sys::clock::now().duration_since(used).unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{age:?}");
}

/// A file that nobody may read; the tests run as a user without rights.
struct Unreadable(std::path::PathBuf);

impl Unreadable {
    fn make(path: std::path::PathBuf) -> Self {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        Self(path)
    }

    fn mend(self) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o644)).unwrap();
    }
}

#[test]
fn what_cannot_be_read_may_need_anything_so_nothing_goes() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    let blob = |digest: &Digest| store.root().join("blobs/sha256").join(digest.hex());
    let name = store.root().join("refs/_local/b/1");
    for path in [blob(&b.digest), blob(&b.manifest.config.digest), name] {
        let before = store.inventory(Count::Noted).unwrap();
        let unreadable = Unreadable::make(path.clone());
        assert!(
            matches!(evict(&store, &doomed(&[&a])), Err(StoreError::Io { .. })),
            "{path:?}"
        );
        // By an inventory that is older than the trouble: documents that it has read are not read again.
        if path.starts_with(store.root().join("refs")) {
            assert!(
                matches!(store.evict(&before, &doomed(&[&a])), Err(StoreError::Io { .. })),
                "{path:?}"
            );
        }
        let rules = crate::store::tests::gc_rules(Keep::Memoised);
        let collected = store.remove_garbage(rules, crate::store::Patience::default(), &mut || ());
        assert!(matches!(collected, Err(StoreError::Io { .. })), "{path:?}");
        unreadable.mend();
        assert!(is_whole(&store, &a) && is_whole(&store, &b));
    }
    // What is damaged by its content needs nothing that anybody could tell.
    fs::write(blob(&b.digest), "{}").unwrap();
    let _ = fs::remove_file(store.root().join("leases").join(a.digest.hex()));
    assert_eq!(evict(&store, &doomed(&[&a])).unwrap().images, [a.digest]);
}

#[test]
fn an_image_that_somebody_brings_again_is_in_use() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    store.names().remove(&"a:1".parse().unwrap()).unwrap();
    let chosen = store.inventory(Count::Noted).unwrap();
    assert!(chosen.nameless.iter().any(|image| image.digest == a.digest));
    let bringing = store
        .reserve(Default::default(), &BTreeSet::from([a.digest.hex()]))
        .unwrap();
    let now = store.inventory(Count::Noted).unwrap();
    assert!(now.nameless.is_empty(), "{:?}", now.nameless);
    assert!(now
        .images
        .iter()
        .any(|image| image.digest == a.digest && image.is_in_use));
    // By an older choice, too.
    assert!(store.evict(&chosen, &doomed(&[&a, &b])).unwrap().images == [b.digest] && is_whole(&store, &a));
    drop(bringing);
    assert_eq!(evict(&store, &doomed(&[&a])).unwrap().images, [a.digest]);
}

#[test]
fn what_another_process_took_meanwhile_does_not_go_twice() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    let chosen = store.inventory(Count::Noted).unwrap();
    let both = doomed(&[&a, &b]);
    assert_eq!(store.evict(&chosen, &doomed(&[&a])).unwrap().images, [a.digest]);
    assert_eq!(store.evict(&chosen, &both).unwrap().images, [b.digest]);
    let again = store.evict(&chosen, &both).unwrap();
    assert_eq!((again.images, again.bytes), (vec![], 0));
    assert_eq!(fs::read_dir(store.root().join("leases")).unwrap().count(), 0);
}

#[test]
fn an_image_with_a_name_that_somebody_brings_again_is_in_use_too() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    let _bringing = store
        .reserve(Default::default(), &BTreeSet::from([a.digest.hex()]))
        .unwrap();
    // Whoever chooses what goes knows it, and chooses another one.
    let inventory = store.inventory(Count::Noted).unwrap();
    let in_use: Vec<Digest> = inventory
        .images
        .iter()
        .filter(|image| image.is_in_use)
        .map(|image| image.digest)
        .collect();
    assert_eq!(in_use, [a.digest]);
    assert_eq!(evict(&store, &doomed(&[&a, &b])).unwrap().images, [b.digest]);
}

#[test]
fn what_nobody_keeps_and_what_nothing_needs_is_told_and_goes() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    store.names().remove(&"a:1".parse().unwrap()).unwrap();
    let orphan = store.blobs().put(b"left by a pull that failed").unwrap();
    let (layer, diff_id) = add_layer(&store, "left").unwrap();
    fs::write(store.root().join("partial").join(orphan.hex()), "half").unwrap();
    let coming = store.blobs().put(b"of a pull under way").unwrap();
    let under_way = store
        .reserve(Default::default(), &std::collections::BTreeSet::from([coming.hex()]))
        .unwrap();
    let inventory = store.inventory(Count::Noted).unwrap();
    let nameless: Vec<Digest> = inventory.nameless.iter().map(|image| image.digest).collect();
    let loose: BTreeSet<PathBuf> = inventory.loose.iter().map(|one| one.file.clone()).collect();
    assert_eq!((nameless, inventory.images.len()), (vec![a.digest], 1));
    let blob = |digest: &Digest| Path::new("blobs/sha256").join(digest.hex());
    let expected = [
        blob(&orphan),
        blob(&layer.digest),
        Path::new("layers").join(diff_id.hex()),
        Path::new("partial").join(orphan.hex()),
    ];
    assert_eq!(loose, BTreeSet::from(expected));
    let all = Doomed {
        images: inventory
            .nameless
            .iter()
            .map(|image| (image.digest, image.used))
            .collect(),
        loose: loose.iter().cloned().collect(),
        ..Doomed::default()
    };
    // What nothing leads to may be what a build has just made.
    let building = store.locks().building().unwrap();
    assert!(store
        .evict(
            &inventory,
            &Doomed {
                images: Vec::new(),
                ..all.clone()
            }
        )
        .unwrap()
        .loose
        .is_empty());
    drop(building);
    let evicted = store.evict(&inventory, &all).unwrap();
    assert_eq!((evicted.images, evicted.loose.len()), (vec![a.digest], 4));
    assert!(is_whole(&store, &b) && !is_whole(&store, &a));
    assert!(store.blobs().size(&coming).is_some());
    drop(under_way);
    let report = collect(&store, Keep::Memoised, false);
    assert_eq!(
        (report.blobs, report.layers, report.snapshots, report.partials),
        (1, 0, 0, 0)
    );
}

#[test]
fn what_needs_a_part_since_the_inventory_was_taken_keeps_it() {
    let (_scratch, store) = store();
    let [a, _] = two(&store);
    let (layer, diff_id) = add_layer(&store, "left").unwrap();
    let inventory = store.inventory(Count::Noted).unwrap();
    // Meanwhile somebody makes an image of what was loose.
    let late = examples::image_that_says(&store, vec![(layer.clone(), diff_id)]);
    store.images().settle(&late).unwrap();
    store.names().set(&"late:1".parse().unwrap(), &late.digest).unwrap();
    let all = Doomed {
        images: vec![(a.digest, None)],
        loose: inventory.loose.iter().map(|one| one.file.clone()).collect(),
        ..Doomed::default()
    };
    let evicted = store.evict(&inventory, &all).unwrap();
    assert_eq!((evicted.images, evicted.loose), (vec![a.digest], Vec::new()));
    assert!(is_whole(&store, &late));
}

#[test]
fn an_origin_is_taken_back_when_the_registry_has_the_image_no_more() {
    let (_scratch, store) = store();
    let [a, _] = two(&store);
    let images = store.images();
    images.note_origin(&a.digest, "a.example/team").unwrap();
    images.note_origin(&a.digest, "b.example/team").unwrap();
    images.forget_origin(&a.digest, "a.example/team").unwrap();
    images.forget_origin(&a.digest, "c.example/team").unwrap();
    assert_eq!(
        images.origins(&a.digest).into_iter().collect::<Vec<_>>(),
        ["b.example/team"]
    );
    images.forget_origin(&a.digest, "b.example/team").unwrap();
    assert!(images.origins(&a.digest).is_empty());
}

#[test]
fn a_tree_of_several_layers_goes_with_the_last_image_that_needs_it_and_frees_no_file_that_stays() {
    let (_scratch, store) = store();
    let names: Vec<String> = (0..30).map(|number| format!("many/{number}")).collect();
    let make = |name: &str, count: usize, top: &str| {
        let mut layers: Vec<[(&str, usize); 1]> = names.iter().take(count).map(|name| [(name.as_str(), 10)]).collect();
        layers.push([(top, 10)]);
        let layers: Vec<&[(&str, usize)]> = layers.iter().map(|layer| layer.as_slice()).collect();
        let image = examples::image(&store, &layers);
        store.images().settle(&image).unwrap();
        store.names().set(&name.parse().unwrap(), &image.digest).unwrap();
        image
    };
    let merged = |image: &Image| {
        let name = crate::store::merged_name(&image.config.rootfs.diff_ids).unwrap();
        store.root().join("merged").join(name)
    };
    let counted = |store: &Store| {
        // Which writes down what it has counted.
        let noted = store.inventory(Count::Noted).unwrap().total;
        let exact = store.inventory(Count::Exact).unwrap();
        let noted_again = store.inventory(Count::Noted).unwrap();
        assert!(noted <= exact.total);
        assert_eq!((exact.total, &exact.folders), (noted_again.total, &noted_again.folders));
        // A name is no part of what goes.
        exact.total - exact.folders["refs"]
    };
    let (a, b, c) = (make("a:1", 30, "a"), make("b:1", 30, "b"), make("c:1", 28, "c"));
    assert!(merged(&a) == merged(&b) && merged(&c) != merged(&a));
    // Nothing of it is garbage while one needs it, also one without a name that is in use.
    store.names().remove(&"b:1".parse().unwrap()).unwrap();
    let lease = store.locks().lease(&b.digest).unwrap();
    assert_eq!(collect(&store, Keep::ImagesOnly, false).merged, 0);
    let before = counted(&store);
    let evicted = evict(&store, &doomed(&[&a])).unwrap();
    assert_eq!(before - counted(&store), evicted.bytes, "what stays was counted");
    assert!(merged(&b).exists() && is_whole(&store, &b));
    drop(lease);

    // The files of its layers stay, as those of `c` are among them.
    let before = counted(&store);
    let now = Doomed {
        images: vec![(b.digest, Some(crate::sys::clock::now()))],
        ..Doomed::default()
    };
    let evicted = evict(&store, &now).unwrap();
    assert_eq!(evicted.images, [b.digest]);
    assert_eq!(before - counted(&store), evicted.bytes, "what stays was counted");
    assert!(!merged(&b).exists() && merged(&c).exists() && is_whole(&store, &c));

    // One that is left behind is garbage, and its files, which are also another's, take no room.
    fs::create_dir(store.root().join("merged/left")).unwrap();
    fs::hard_link(merged(&c).join("fs/many/3"), store.root().join("merged/left/file")).unwrap();
    let report = collect(&store, Keep::Memoised, false);
    assert_eq!((report.merged, report.bytes), (1, 0));
    store.names().remove(&"c:1".parse().unwrap()).unwrap();
    assert_eq!(collect(&store, Keep::ImagesOnly, false).merged, 1);
    assert_eq!(fs::read_dir(store.root().join("merged")).unwrap().count(), 0);
}

#[test]
fn an_eviction_that_ends_halfway_leaves_no_tree_of_layers_that_are_gone() {
    let names: Vec<String> = (0..30).map(|number| format!("many/{number}")).collect();
    let layers: Vec<[(&str, usize); 1]> = names.iter().map(|name| [(name.as_str(), 10)]).collect();
    let layers: Vec<&[(&str, usize)]> = layers.iter().map(|layer| layer.as_slice()).collect();
    let mut gone = 0;
    for after in (0..96).step_by(6) {
        let (_scratch, store) = store();
        let image = examples::image(&store, &layers);
        store.images().settle(&image).unwrap();
        fault::FAIL.set(Some((fault::Step::Evicted, after)));
        let evicted = evict(&store, &doomed(&[&image]));
        fault::FAIL.set(None);
        assert!(evicted.is_err(), "{after}");
        let trees = fs::read_dir(store.root().join("merged")).unwrap().count();
        let left = fs::read_dir(store.root().join("layers")).unwrap().count();
        assert!(trees == 0 || left == layers.len(), "{after}: {trees} {left}");
        gone += layers.len() - left;
    }
    assert!(gone > 0, "no layer went");
}
