//! Which image of an index a name means.

use std::io::{self, Read};

use super::peer::Referrer;
use super::TransferError;
use crate::oci::{companion_tags, is_companion_tag, parse_artifact, Descriptor, Digest, MAX_DOCUMENT_BYTES, REF_NAME};
use crate::store::{check_descriptor, StoreError};

/// The image called `name`; without a name, the only image. An error is what is there instead.
pub(super) fn choose(images: &[Descriptor], name: Option<&str>) -> Result<Descriptor, String> {
    let images = || images.iter().filter(|entry| !is_companion(entry) || name.is_some());
    let names: Vec<&str> = images().filter_map(name_of).collect();
    let mut matching = images().filter(|found| name.is_none() || name_of(found) == name);
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => {
            let there = match names.is_empty() {
                true => "no image there has a name".to_owned(),
                false => format!("there are {}", quoted(&names)),
            };
            Err(format!("none is called {:?}; {there}", name.unwrap_or_default()))
        }
        (Some(_), Some(_)) => Err(format!("there are several, name one of {}", quoted(&names))),
    }
}

/// Names that somebody else wrote, none of which a terminal takes for a command.
fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
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

/// An entry of an index, and what its manifest refers to.
#[derive(Debug)]
pub(super) struct Listed {
    entry: Descriptor,
    subject: Subject,
}

#[derive(Debug)]
enum Subject {
    /// That one, or nothing.
    Known(Option<Digest>),
    /// The manifest is there, and not what its entry says.
    Damaged,
}

/// What the manifests refer to that an index lists. It may list what is not there, such as images of other machines.
pub(super) fn subjects<'r>(entries: Vec<Descriptor>, open: &Open<'_, 'r>) -> Vec<Listed> {
    let listed = |entry: Descriptor| Listed {
        subject: subject(&entry, open),
        entry,
    };
    entries.into_iter().map(listed).collect()
}

fn subject<'r>(entry: &Descriptor, open: &Open<'_, 'r>) -> Subject {
    let mut reader = match open(entry) {
        Ok(reader) => reader.take(MAX_DOCUMENT_BYTES + 1),
        Err(error) if is_absent(&error) => return Subject::Known(None),
        Err(_) => return Subject::Damaged,
    };
    let mut raw = Vec::new();
    let is_whole =
        reader.read_to_end(&mut raw).is_ok() && check_descriptor(entry, Digest::of(&raw), raw.len() as u64).is_ok();
    match is_whole {
        true => Subject::Known(parse_artifact(&raw).ok().and_then(|artifact| artifact.subject)),
        false => Subject::Damaged,
    }
}

/// Whether a file is not there.
fn is_absent(error: &TransferError) -> bool {
    match error {
        TransferError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        TransferError::Store(StoreError::NoBlob { .. }) => true,
        _ => false,
    }
}

/// The entries of an index whose manifests refer to `image`. Also those of artifacts that cannot be read: one of them may, and
/// whoever reads it finds out what is wrong.
pub(super) fn referrers_in(listed: &[Listed], image: &Digest) -> Vec<Descriptor> {
    let refers = listed.iter().filter(|one| match one.subject {
        Subject::Known(subject) => subject == Some(*image),
        Subject::Damaged => one.entry.artifact_type.is_some() && name_of(&one.entry).is_none(),
    });
    refers.map(|one| one.entry.clone()).collect()
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
