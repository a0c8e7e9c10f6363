//! Images of many layers, each of them small.

use std::collections::BTreeMap;

use super::*;
use crate::archive::tar_reader::TarError;
use crate::oci::Manifest;
use crate::oci::{media_type, Compression};
use crate::store::tests::{add_layer, config_of, store};

pub(crate) fn tar(files: &[(&str, usize)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, size) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(*size as u64);
        tar.append_data(&mut header, path, &vec![b'x'; *size][..]).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn put(store: &Store, blob: &[u8]) -> Descriptor {
    let digest = store.put_blob(blob).unwrap();
    let media_type = match Compression::of_bytes(blob) {
        Compression::Plain => media_type::LAYER_TAR,
        Compression::Gzip => media_type::LAYER_GZIP,
        Compression::Zstd => media_type::LAYER_ZSTD,
    };
    Descriptor::new(media_type, digest, blob.len() as u64)
}

/// An image with a layer of these files for each of `layers`.
pub(crate) fn image(store: &Store, layers: &[&[(&str, usize)]]) -> Image {
    let tars: Vec<_> = layers.iter().map(|files| tar(files)).collect();
    image_that_says(
        store,
        tars.iter()
            .map(|bytes| (put(store, bytes), DiffId::of(bytes)))
            .collect(),
    )
}

/// An image of these blobs that says these diff ids.
pub(crate) fn image_that_says(store: &Store, layers: Vec<(Descriptor, DiffId)>) -> Image {
    let (descriptors, diff_ids) = layers.into_iter().unzip();
    let config = config_of(diff_ids);
    let (config, size) = store.put_config(&config).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::new(media_type::CONFIG, config, size),
        layers: descriptors,
        annotations: BTreeMap::new(),
    };
    let digest = store.put_manifest(&manifest).unwrap();
    store.open_image(&digest).unwrap()
}

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
    let within = |layers: &[&[(&str, usize)]]| store.snapshot_within(&image(&store, layers), &limits);

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
    let mut bytes = fs::read(store.blob_path(&first.digest)).unwrap();
    fs::remove_file(store.blob_path(&first.digest)).unwrap();
    let limits = ExtractionLimits::default();
    store.ensure_unpacked(&first, &diff_id, &limits).unwrap();

    // An empty member more: another blob of the same layer.
    bytes.extend(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0");
    let second = put(&store, &bytes);
    let image = image_that_says(&store, vec![(second.clone(), diff_id)]);
    store.ensure_snapshot(&image).unwrap();
    fs::remove_file(store.blob_path(&second.digest)).unwrap();
    store.ensure_snapshot(&image).unwrap();

    // A third that is not there cannot be known.
    bytes.push(0);
    let third = Descriptor::new(media_type::LAYER_GZIP, Digest::of(&bytes), bytes.len() as u64);
    let unknown = store.ensure_unpacked(&third, &diff_id, &limits);
    assert!(
        matches!(unknown, Err(StoreError::NoBlob { digest }) if digest == third.digest),
        "{unknown:?}"
    );
}
