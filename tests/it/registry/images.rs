//! Images for registries, and stores that know them.

use std::fs;

use gantry::oci::{media_type, Descriptor, DiffId, Digest, ImageConfigBody, Manifest};

use super::fake::Fake;
use crate::common::images::config_of;
pub use crate::common::images::image;
use crate::common::Gantry;

/// The tar of one file of zeros.
pub fn tar(name: &str, size: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size as u64);
    tar.append_data(&mut header, name, &vec![0; size][..]).unwrap();
    tar.into_inner().unwrap()
}

/// Puts an image of these layers there: media type, blob and diff id.
pub fn hold(fake: &Fake, layers: Vec<(&str, Vec<u8>, DiffId)>) {
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    let mut blobs = fake.state.blobs.lock().unwrap();
    for (name, blob, diff_id) in layers {
        let digest = Digest::of(&blob);
        descriptors.push(Descriptor::new(name, digest, blob.len() as u64));
        diff_ids.push(diff_id);
        blobs.insert(digest.to_string(), blob);
    }
    let config = config_of(diff_ids, &ImageConfigBody::default());
    let config = serde_json::to_vec(&config).unwrap();
    let digest = Digest::of(&config);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        config: Descriptor::new(media_type::CONFIG, digest, config.len() as u64),
        layers: descriptors,
        annotations: Default::default(),
    };
    blobs.insert(digest.to_string(), config);
    let raw = serde_json::to_vec(&manifest).unwrap();
    let mut manifests = fake.state.manifests.lock().unwrap();
    for name in ["1".to_owned(), Digest::of(&raw).to_string()] {
        let document = (media_type::MANIFEST.to_owned(), raw.clone());
        manifests.insert(("team/a".to_owned(), name), document);
    }
}

/// The layers of an image of a store, as registries call them.
pub fn layers(gantry: &Gantry, digest: &str) -> Vec<(String, u64)> {
    let raw = fs::read(gantry.root.join("blobs/sha256").join(&digest[7..])).unwrap();
    let manifest: Manifest = serde_json::from_slice(&raw).unwrap();
    let layer = |layer: &Descriptor| (layer.digest.to_string(), layer.size);
    manifest.layers.iter().map(layer).collect()
}

/// Nobody is overtaken because the machine is busy.
pub const PATIENT: &str = "[transfer]\nhedge = \"20s\"\n";

/// An empty store whose configuration knows `fakes`, in their order, with `more` behind it. It is patient with several unless
/// that says how it is.
pub fn store_of(fakes: &[&Fake], more: &str) -> Gantry {
    let gantry = Gantry::new();
    let registry = |fake: &&Fake| format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", fake.host);
    let all: String = fakes.iter().map(registry).collect();
    let is_patient = fakes.len() > 1 && !more.contains("[transfer]");
    configure(
        &gantry,
        &format!("{all}{more}{}", if is_patient { PATIENT } else { "" }),
    );
    gantry
}

pub fn configure(gantry: &Gantry, text: &str) {
    let folder = gantry.home.join(".config/gantry");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), text).unwrap();
}

/// What is left in `partial/`.
pub fn partials(gantry: &Gantry) -> Vec<u64> {
    let entries = fs::read_dir(gantry.root.join("partial")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
}
