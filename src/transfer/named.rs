//! Which image of an index a name means.

use std::io::Read;

use super::peer::Referrer;
use super::TransferError;
use crate::oci::{companion_tags, is_companion_tag, parse_artifact, Descriptor, Digest, MAX_DOCUMENT_BYTES, REF_NAME};

/// The image called `name`; without a name, the only image. An error is what is there instead.
pub(super) fn choose(images: &[Descriptor], name: Option<&str>) -> Result<Descriptor, String> {
    let images = || images.iter().filter(|entry| !is_companion(entry) || name.is_some());
    let names: Vec<&str> = images().filter_map(name_of).collect();
    let mut matching = images().filter(|found| name.is_none() || name_of(found) == name);
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => Err(format!(
            "none is called {:?}; there are {names:?}",
            name.unwrap_or_default()
        )),
        (Some(_), Some(_)) => Err(format!("there are several, name one of {names:?}")),
    }
}

/// What an index calls the image of an entry.
pub fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}

/// Whether an entry of an index belongs to an image and is none to be named: signatures and the like.
pub(super) fn is_companion(entry: &Descriptor) -> bool {
    match name_of(entry) {
        Some(name) => is_companion_tag(name),
        None => entry.artifact_type.is_some(),
    }
}

/// Opens what an entry of an index describes.
type Open<'a, 'r> = dyn Fn(&Descriptor) -> Result<Box<dyn Read + 'r>, TransferError> + 'a;

/// The entries of an index whose manifests refer to `image`.
pub(super) fn referrers_in<'r>(
    entries: &[Descriptor],
    image: &Digest,
    open: &Open<'_, 'r>,
) -> Result<Vec<Descriptor>, TransferError> {
    let mut found = Vec::new();
    for entry in entries {
        let mut raw = Vec::new();
        let mut reader = match open(entry) {
            Ok(reader) => reader.take(MAX_DOCUMENT_BYTES + 1),
            // An index may name what is not there, such as images of other machines.
            Err(_) => continue,
        };
        let is_read = reader.read_to_end(&mut raw).is_ok();
        let subject = parse_artifact(&raw)
            .ok()
            .filter(|_| is_read)
            .and_then(|artifact| artifact.subject);
        if subject.as_ref() == Some(image) {
            found.push(entry.clone());
        }
    }
    Ok(found)
}

/// The entries of an index that belong to `image` by their names.
pub(super) fn companions_in(entries: &[Descriptor], image: &Digest) -> Vec<Referrer> {
    let tags = companion_tags(image);
    let named = entries.iter().filter_map(|entry| {
        let tag = tags.iter().find(|tag| name_of(entry) == Some(tag.as_str()))?;
        Some(Referrer {
            descriptor: entry.clone(),
            tag: Some(tag.clone()),
        })
    });
    named.collect()
}
