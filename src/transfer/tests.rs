//! What is copied is the image that was named, and only by who has it.

use std::fs;
use std::path::Path;

use super::local::find_copied;
use super::{copy_image, Layout, TransferError};
use crate::oci::{DiffId, Digest};
use crate::progress::Silent;
use crate::store::tests::examples::{image, image_that_says, put, tar};
use crate::store::tests::store;
use crate::store::{Image, Store, StoreError};

/// Copies an image of the store into a layout.
pub(super) fn push(store: &Store, image: &Image, layout: &Path, name: Option<&str>) -> Result<(), TransferError> {
    copy_image(store, &image.descriptor(), &Layout::new(store, layout), name, &Silent).map(drop)
}

pub(super) fn pull(store: &Store, layout: &Path, name: Option<&str>) -> Result<Image, TransferError> {
    let layout = Layout::new(store, layout);
    let digest = copy_image(&layout, &layout.find(name)?, store, None, &Silent)?;
    Ok(store.images().open(&digest)?)
}

fn find(store: &Store, layout: &Path, name: Option<&str>) -> Result<Option<Image>, TransferError> {
    Ok(find_copied(store, &Layout::new(store, layout).find(name)?)?)
}

#[test]
fn an_image_gets_no_layer_of_another_by_naming_its_diff_id() {
    let (scratch, store) = store();
    let secret = image(&store, &[&[("secret", 9)]]);
    store.images().prepare(&secret).unwrap();
    let wanted = secret.config.rootfs.diff_ids[0];

    // Another store makes the layout: a harmless blob, and the other image's diff id.
    let attacker = Store::open(&scratch.path().join("attacker")).unwrap();
    let benign = tar(&[("benign", 1)]);
    let lie = image_that_says(&attacker, vec![(put(&attacker, &benign), wanted)]);
    let layout = scratch.path().join("layout");
    push(&attacker, &lie, &layout, None).unwrap();
    for _again in 0..2 {
        let imported = pull(&store, &layout, None).unwrap();
        let refused = store.images().prepare(&imported);
        assert!(
            matches!(refused, Err(StoreError::DiffId { digest, expected, got })
                if digest == Digest::of(&benign) && expected == wanted && got == DiffId::of(&benign)),
            "{refused:?}"
        );
        assert!(store.images().snapshot(&imported.digest).unwrap().is_none());
    }
    // Nor does the tree of the first image suffer from it.
    assert!(store.trees().path(&wanted).join("secret").exists());
    assert!(store.images().snapshot(&secret.digest).unwrap().is_some());
}

#[test]
fn a_layout_without_its_blobs_is_not_filled_from_the_store() {
    let (scratch, store) = store();
    let secret = image(&store, &[&[("secret", 9)]]);
    store.images().prepare(&secret).unwrap();
    let layout = scratch.path().join("layout");
    push(&store, &secret, &layout, None).unwrap();
    let blob = layout.join("blobs/sha256").join(secret.manifest.layers[0].digest.hex());
    let sound = fs::read(&blob).unwrap();

    fs::write(&blob, vec![0; sound.len()]).unwrap();
    let refused = pull(&store, &layout, None);
    assert!(
        matches!(refused, Err(TransferError::Store(StoreError::Digest { expected, .. })) if expected == Digest::of(&sound)),
        "{refused:?}"
    );
    fs::remove_file(&blob).unwrap();
    // The very same image was made here; that is another question.
    let found = find(&store, &layout, None).unwrap();
    assert_eq!(found.map(|image| image.digest), Some(secret.digest));
    let refused = pull(&store, &layout, None);
    assert!(
        matches!(&refused, Err(TransferError::Io { action: "open", path, .. }) if *path == blob),
        "{refused:?}"
    );
    fs::write(&blob, &sound).unwrap();
    pull(&store, &layout, None).unwrap();

    // Another manifest of the same layers is another image: it was never imported.
    let other = image_that_says(
        &store,
        vec![(secret.manifest.layers[0].clone(), secret.config.rootfs.diff_ids[0]); 2],
    );
    push(&store, &other, &layout, Some("other")).unwrap();
    assert!(find(&store, &layout, Some("other")).unwrap().is_none());
    fs::remove_file(&blob).unwrap();
    assert!(pull(&store, &layout, Some("other")).is_err());
}

#[test]
fn an_image_goes_from_layout_to_layout_as_it_is() {
    let (scratch, store) = store();
    let image = image(&store, &[&[("a", 9)], &[("b", 5000)]]);
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    push(&store, &image, &one, Some("a")).unwrap();
    let from = Layout::new(&store, &one);
    let copied = copy_image(
        &from,
        &from.find(Some("a")).unwrap(),
        &Layout::new(&store, &two),
        Some("a"),
        &Silent,
    )
    .unwrap();
    assert_eq!(copied, image.digest);
    for name in ["index.json", "oci-layout"] {
        assert_eq!(
            fs::read(one.join(name)).unwrap(),
            fs::read(two.join(name)).unwrap(),
            "{name}"
        );
    }
    for blob in image.blobs() {
        let path = Path::new("blobs/sha256").join(blob.digest.hex());
        assert_eq!(fs::read(one.join(&path)).unwrap(), fs::read(two.join(&path)).unwrap());
    }
}
