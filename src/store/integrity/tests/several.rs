//! Trees of several layers: looked at as the layers are, and taken with those whose files they have.

use super::*;
use crate::store::merged_name;
use crate::store::tests::examples;

/// An image of many layers, under a name, and the tree that stands for most of them.
fn of_many_layers(store: &Store, name: &str, top: &str) -> (Digest, PathBuf) {
    let names: Vec<String> = (0..30).map(|number| format!("many/{number}")).collect();
    let mut layers: Vec<[(&str, usize); 1]> = names.iter().map(|name| [(name.as_str(), 10)]).collect();
    layers.push([(top, 10)]);
    let layers: Vec<&[(&str, usize)]> = layers.iter().map(|layer| layer.as_slice()).collect();
    let image = examples::image(store, &layers);
    store.images().prepare(&image).unwrap();
    store.names().set(&name.parse().unwrap(), &image.digest).unwrap();
    let merged = merged_name(&image.config.rootfs.diff_ids).unwrap();
    (image.digest, store.root().join("merged").join(merged))
}

/// What another process holds that runs an image.
struct InUse(fs::File);

fn in_use(store: &Store, image: &Digest) -> InUse {
    let lease = fs::File::create(store.root().join("leases").join(image.hex())).unwrap();
    rustix::fs::flock(&lease, rustix::fs::FlockOperation::LockShared).unwrap();
    InUse(lease)
}

impl Drop for InUse {
    fn drop(&mut self) {
        // A program that another test starts at this moment has a copy.
        rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock).unwrap();
    }
}

fn mend(store: &Store, findings: &mut [Finding]) {
    let mut waiting = || panic!("nobody is there");
    let integrity = store.integrity();
    integrity
        .mend(findings, Patience::default(), &Silent, &mut waiting)
        .unwrap();
}

#[test]
fn a_damaged_tree_of_several_layers_goes_alone_and_is_made_again() {
    let (_scratch, store) = store();
    let (image, merged) = of_many_layers(&store, "a:1", "top");
    let looked = store.integrity().look(None, &Silent).unwrap();
    assert!(looked.findings.is_empty(), "{:?}", looked.findings);
    assert_eq!((looked.looked.merged, looked.looked.layers), (1, 31));

    fs::remove_file(merged.join("fs/many/3")).unwrap();
    let mut findings = store.integrity().look(None, &Silent).unwrap().findings;
    let [found] = findings.as_slice() else {
        panic!("{findings:?}")
    };
    assert_eq!(
        (found.what, found.images.as_slice()),
        (Part::Merged, &["a:1".to_owned()][..])
    );
    assert_eq!(
        (found.expected.as_str(), found.got.as_str()),
        ("many/3 as in its layer", "nothing")
    );

    // A run has its files open.
    let lease = in_use(&store, &image);
    mend(&store, &mut findings);
    assert_eq!(findings[0].state, State::Kept);
    assert!(merged.exists());
    drop(lease);
    findings[0].state = State::Found;
    mend(&store, &mut findings);
    assert_eq!(findings[0].state, State::Removed);
    // Its image runs on, of one layer each, until somebody makes it again.
    let snapshot = store.images().snapshot(&image).unwrap().unwrap();
    assert!(!merged.exists() && store.images().trees(&snapshot).len() == 31);
    store.images().restore(&image).unwrap();
    assert!(merged.join("fs/many/3").exists() && store.integrity().look(None, &Silent).unwrap().findings.is_empty());
}

#[test]
fn a_damaged_layer_goes_with_the_trees_that_have_its_files_and_no_others() {
    let (_scratch, store) = store();
    let (image, merged) = of_many_layers(&store, "a:1", "top");
    let (other, same) = of_many_layers(&store, "b:1", "other");
    assert_eq!(merged, same);
    let layers = store.images().open(&image).unwrap().config.rootfs.diff_ids;
    let tree = |layer: &DiffId| store.trees().path(layer);

    // The one on top is not in it, and the image that is in use has not got it.
    let lease = in_use(&store, &other);
    fs::write(tree(&layers[30]).join("top"), "damaged").unwrap();
    let mut findings = store.integrity().look(None, &Silent).unwrap().findings;
    mend(&store, &mut findings);
    assert!(merged.exists() && !tree(&layers[30]).exists());
    store.images().restore(&image).unwrap();

    fs::write(tree(&layers[3]).join("many/3"), "damaged").unwrap();
    let mut findings = store.integrity().look(None, &Silent).unwrap().findings;
    assert_eq!(findings.len(), 1, "its file in the tree is the same one: {findings:?}");
    mend(&store, &mut findings);
    assert!(
        merged.exists() && findings[0].state == State::Kept,
        "another image has it in use"
    );
    drop(lease);
    findings[0].state = State::Found;
    mend(&store, &mut findings);
    assert!(!merged.exists() && !tree(&layers[3]).exists());
    for digest in [image, other] {
        store.images().restore(&digest).unwrap();
    }
    assert_eq!(fs::read(merged.join("fs/many/3")).unwrap(), b"xxxxxxxxxx");
    assert!(store.integrity().look(None, &Silent).unwrap().findings.is_empty());
}

#[test]
fn a_damaged_layer_takes_its_trees_along_where_no_snapshot_says_which() {
    let (_scratch, store) = store();
    let (image, merged) = of_many_layers(&store, "a:1", "top");
    drop(store.locks().lease(&image).unwrap());
    let layers = store.images().open(&image).unwrap().config.rootfs.diff_ids;
    fs::write(store.trees().path(&layers[3]).join("many/3"), "damaged").unwrap();
    fs::write(
        store.root().join("snapshots").join(format!("{}.json", image.hex())),
        "{",
    )
    .unwrap();
    let mut findings = store.integrity().look(None, &Silent).unwrap().findings;
    // Somebody runs it all the same, who read the snapshot before.
    let lease = in_use(&store, &image);
    mend(&store, &mut findings);
    assert!(merged.exists() && store.trees().path(&layers[3]).exists());
    drop(lease);
    let mut findings = store.integrity().look(None, &Silent).unwrap().findings;
    mend(&store, &mut findings);
    assert!(!merged.exists());
    store.images().restore(&image).unwrap();
    assert_eq!(fs::read(merged.join("fs/many/3")).unwrap(), b"xxxxxxxxxx");
    assert!(store.integrity().look(None, &Silent).unwrap().findings.is_empty());
}
