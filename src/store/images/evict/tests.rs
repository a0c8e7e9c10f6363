//! What is in use is left alone, whoever is at work meanwhile, and what comes at that moment notices.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;
use crate::oci::DiffId;
use crate::store::tests::{add_layer, collect, examples, store};
use crate::store::{Image, Keep, Key, Memo, Roots, Step, Store};

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
        remembered: Vec::new(),
    }
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
    let evicted = store.evict(&doomed(&[&a])).unwrap();
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
    assert!(store.evict(&doomed(&[&a, &b])).unwrap().images.is_empty());
    drop(lease);
    store.images().unpin(&b.digest).unwrap();
    // It was chosen before its last use.
    assert!(store.evict(&doomed(&[&a])).unwrap().images.is_empty());
    assert!(is_whole(&store, &a) && is_whole(&store, &b));
    let used = fs::metadata(store.root().join("leases").join(a.digest.hex())).unwrap();
    let now = Doomed {
        images: vec![(a.digest, used.modified().ok())],
        ..Doomed::default()
    };
    assert_eq!(store.evict(&now).unwrap().images, [a.digest]);
}

#[test]
fn an_image_that_comes_while_another_goes_notices_what_it_lost() {
    let (_scratch, store) = store();
    let [a, b] = two(&store);
    // Of `b` everything is there, and nothing leads to it yet: as after its blobs came.
    store.names().remove(&"b:1".parse().unwrap()).unwrap();
    fs::remove_file(store.root().join("snapshots").join(format!("{}.json", b.digest.hex()))).unwrap();
    store.evict(&doomed(&[&a])).unwrap();
    let lease = store.locks().lease(&b.digest).unwrap();
    assert!(matches!(store.images().settle(&b), Err(error) if error.is_lost()));
    // Brought again, it is safe from then on, as its lease is seen and its documents are.
    let again = examples::image(&store, &[&[("shared", 10)], &[("b", 10)]]);
    assert_eq!(again.digest, b.digest);
    let c = examples::image(&store, &[&[("shared", 10)]]);
    store.images().settle(&c).unwrap();
    store.names().set(&"c:1".parse().unwrap(), &c.digest).unwrap();
    store.images().settle(&b).unwrap();
    assert_eq!(store.evict(&doomed(&[&c])).unwrap().images, [c.digest]);
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
    assert!(store.evict(&all).unwrap().remembered.is_empty());
    assert!(store.blobs().has(&layer).unwrap());
    drop(building);
    assert!(!store.locks().is_building().unwrap());
    assert_eq!(store.evict(&all).unwrap().remembered.len(), 1);
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
