//! Images of a few small files, made in memory.

use std::collections::BTreeMap;

use super::config_of;
use crate::oci::{media_type, Compression, Descriptor, DiffId, Manifest};
use crate::store::{Image, Store};

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
    let digest = store.blobs().put(blob).unwrap();
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
    let (config, size) = store.images().put_config(&config).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::new(media_type::CONFIG, config, size),
        layers: descriptors,
        annotations: BTreeMap::new(),
    };
    let digest = store.images().put_manifest(&manifest).unwrap();
    store.images().open(&digest).unwrap()
}
