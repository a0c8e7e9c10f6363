//! Images that are made without a base; they hold no program.

use gantry::archive::layer::LayerWriter;
use gantry::oci::{media_type, Descriptor, DiffId, ImageConfig, ImageConfigBody, Manifest, RootFs};
use gantry::store::Store;

use super::Gantry;

/// Bytes that do not compress, others for each seed; zeros for 0.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    if seed == 0 {
        return vec![0; size];
    }
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// An image with a layer for each pair of seed and size, which is that many bytes of [`noise`] in a file; layers of one seed are
/// the same. Returns its digest.
pub fn image(gantry: &Gantry, name: &str, layers: &[(u64, usize)]) -> String {
    let file = |(seed, size): &(u64, usize)| (format!("data/{seed}"), noise(*seed, *size));
    let files: Vec<_> = layers.iter().map(file).collect();
    image_of(gantry, name, &files, &ImageConfigBody::default())
}

/// An image with a layer for each file, which is its path and its contents, that is run as `body` says.
pub fn image_of(gantry: &Gantry, name: &str, files: &[(String, Vec<u8>)], body: &ImageConfigBody) -> String {
    let store = Store::open(&gantry.root).unwrap();
    let (layers, diff_ids) = files.iter().map(|file| layer(&store, file)).unzip();
    let (config, size) = store.images().put_config(&config_of(diff_ids, body)).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        config: Descriptor::new(media_type::CONFIG, config, size),
        layers,
        annotations: Default::default(),
    };
    let digest = store.images().put_manifest(&manifest).unwrap();
    // It is used now.
    let _lease = store.locks().lease(&digest).unwrap();
    store.images().prepare(&store.images().open(&digest).unwrap()).unwrap();
    store.names().set(&name.parse().unwrap(), &digest).unwrap();
    digest.to_string()
}

fn layer(store: &Store, (path, contents): &(String, Vec<u8>)) -> (Descriptor, DiffId) {
    let (mut blob, mut staging) = (store.blobs().writer().unwrap(), store.trees().stage().unwrap());
    let mut writer = LayerWriter::new(&mut blob, Some(&mut staging), 0);
    writer.file(path, 0o644, contents).unwrap();
    let written = writer.finish().unwrap();
    blob.commit().unwrap();
    staging.commit(&written.diff_id, &written.digest).unwrap();
    let descriptor = Descriptor::new(media_type::LAYER_GZIP, written.digest, written.size);
    (descriptor, written.diff_id)
}

/// The configuration of an image of these layers that is run as `body` says.
pub fn config_of(diff_ids: Vec<DiffId>, body: &ImageConfigBody) -> ImageConfig {
    ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        created: None,
        config: body.clone(),
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids,
        },
        history: Vec::new(),
    }
}
