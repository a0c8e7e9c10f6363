//! Images of many layers, each of them small.

use super::*;
use crate::archive::tar_reader::TarError;
use crate::oci::media_type;
use crate::store::tests::examples::{image, image_that_says, put};
use crate::store::tests::{add_layer, store};

fn limit(result: Result<Snapshot, StoreError>) -> (&'static str, u64) {
    match result {
        Err(StoreError::Layer {
            source: TarError::Limit { what, limit },
            ..
        }) => (what, limit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_layers_of_an_image_share_its_limits() {
    let limits = ExtractionLimits {
        bytes: 1000,
        image_entries: 10,
        ..Default::default()
    };
    let (_scratch, store) = store();
    let within = |layers: &[&[(&str, usize)]]| Snapshot::prepare(&store.disk, &image(&store, layers), &limits);

    assert!(within(&[&[("a", 500)], &[("b", 500)]]).is_ok());
    let bytes = ("the unpacked size of the image's layers", 1000);
    assert_eq!(limit(within(&[&[("c", 400)], &[("d", 400)], &[("e", 400)]])), bytes);
    // What other images have unpacked counts all the same, and once.
    assert_eq!(limit(within(&[&[("a", 500)], &[("b", 500)], &[("f", 1)]])), bytes);
    assert!(within(&[&[("a", 500)], &[("g", 400)], &[("a", 500)]]).is_ok());
    // An image all of whose layers are there takes nothing.
    assert!(within(&[&[("a", 500)], &[("b", 500)], &[("g", 400)]]).is_ok());

    // Directories no entry speaks of, and whiteouts, are files too.
    let files = ("the number of files of the image's layers", 10);
    assert_eq!(limit(within(&[&[("1/2/3/4/5/6", 0)], &[("1/2/3/4/5/7", 0)]])), files);
    assert_eq!(limit(within(&[&[("1/2/3/4/5/6/7/8/9/0/1", 0)]])), files);
    assert_eq!(limit(within(&[&[("1/2/3/4/5/6/7/8/9/0/.wh.1", 0)]])), files);
    assert!(within(&[&[("1/2/3/4/5/6/7/8/9/0", 0)]]).is_ok());
}

#[test]
fn another_blob_of_the_same_layer_is_read_once() {
    let (_scratch, store) = store();
    // What was written together belongs together: nothing is read.
    let (first, diff_id) = add_layer(&store, "x").unwrap();
    let mut bytes = fs::read(store.blobs().path(&first.digest)).unwrap();
    fs::remove_file(store.blobs().path(&first.digest)).unwrap();
    let limits = ExtractionLimits::default();
    store.trees().unpack(&first, &diff_id, &limits).unwrap();

    // An empty member more: another blob of the same layer.
    bytes.extend(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0");
    let second = put(&store, &bytes);
    let image = image_that_says(&store, vec![(second.clone(), diff_id)]);
    store.images().prepare(&image).unwrap();
    fs::remove_file(store.blobs().path(&second.digest)).unwrap();
    store.images().prepare(&image).unwrap();

    // A third that is not there cannot be known.
    bytes.push(0);
    let third = Descriptor::new(media_type::LAYER_GZIP, Digest::of(&bytes), bytes.len() as u64);
    let unknown = store.trees().unpack(&third, &diff_id, &limits);
    assert!(
        matches!(unknown, Err(StoreError::NoBlob { digest }) if digest == third.digest),
        "{unknown:?}"
    );
}
