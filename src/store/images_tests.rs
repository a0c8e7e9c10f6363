//! Images of many layers, each of them small.

use std::collections::BTreeMap;

use super::*;
use crate::archive::tar_reader::TarError;
use crate::oci::{media_type, RootFs};
use crate::store::tests::store;

/// An image with a layer of these files for each of `layers`.
fn image(store: &Store, layers: &[&[(&str, usize)]]) -> Image {
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for files in layers {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, size) in *files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(*size as u64);
            tar.append_data(&mut header, path, &vec![b'x'; *size][..]).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        let digest = store.put_blob(&bytes).unwrap();
        descriptors.push(Descriptor::new(media_type::LAYER_TAR, digest, bytes.len() as u64));
        diff_ids.push(DiffId::of(&bytes));
    }
    let config = ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        created: None,
        config: ImageConfigBody::default(),
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids,
        },
        history: Vec::new(),
    };
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
        entries: 10,
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
