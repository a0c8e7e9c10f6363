//! Images of the store: listing, naming, and moving them in and out as layouts and archives.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde::Serialize;

use crate::oci::{Digest, Reference};
use crate::policy::{one_line, Kind};
use crate::store::{check_name, Image, Store, StoreError};
use crate::transfer::{copy_image, name_of, ArchiveSource, ArchiveTarget, Layout, TransferError};

/// One named image.
#[derive(Debug, Serialize)]
pub struct ImageSummary {
    /// Its name.
    pub reference: String,
    /// Its manifest; none when the name is damaged.
    pub digest: Option<Digest>,
    /// Bytes of its blobs.
    pub size: Option<u64>,
    /// Layers.
    pub layers: Option<usize>,
    /// When it was made.
    pub created: Option<String>,
    /// Why nothing more can be said of it.
    pub damaged: Option<String>,
}

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// Not in the store.
    #[error("find {reference}: no such image in the store")]
    Unknown {
        /// As typed.
        reference: String,
    },
    /// A registry.
    #[error("reach {reference}: this version moves images through layouts (oci:DIR) and archives, not registries")]
    Registry {
        /// As typed.
        reference: String,
    },
    /// A name in an archive that this store cannot keep.
    #[error("name the image of the archive: {name:?} is no reference; give one with --tag")]
    Name {
        /// In the archive.
        name: String,
    },
    /// A name in a layout that this store cannot keep.
    #[error("name the image of {layout}: {reason}; give one: `gantry copy {layout} NAME`")]
    Unnamed {
        /// The layout, as typed.
        layout: String,
        /// What it is called there.
        reason: String,
    },
    /// Reading or writing a file.
    #[error("{action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// On the way from one place to another.
    #[error("{0}")]
    Transfer(#[from] TransferError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl ImagesError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Transfer(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Unknown { .. }
            | Self::Registry { .. }
            | Self::Name { .. }
            | Self::Unnamed { .. }
            | Self::File { .. } => Kind::Failed,
        }
    }
}

/// The image a name of the store means.
pub fn show(store: &Store, reference: &Reference) -> Result<Image, ImagesError> {
    let digest = store.names().find(reference)?.ok_or_else(|| ImagesError::Unknown {
        reference: reference.to_string(),
    })?;
    Ok(store.images().open(&digest)?)
}

/// Every named image, those that are damaged as well.
pub fn list(store: &Store) -> Result<Vec<ImageSummary>, ImagesError> {
    let summary = |(reference, digest): (Reference, Option<Digest>)| {
        let image = match digest {
            Some(digest) => store.images().open(&digest).map_err(|error| one_line(&error)),
            None => Err("the name is damaged".to_owned()),
        };
        let damaged = image.as_ref().err().cloned();
        let image = image.ok();
        ImageSummary {
            reference: reference.to_string(),
            digest,
            size: image
                .as_ref()
                .map(|image| image.blobs().iter().map(|blob| blob.size).sum()),
            layers: image.as_ref().map(|image| image.manifest.layers.len()),
            created: image.and_then(|image| image.config.created),
            damaged,
        }
    };
    Ok(store.names().list()?.into_iter().map(summary).collect())
}

/// Whether a removal is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is.
    Done,
    /// It is only checked that there is something to remove.
    Rehearsed,
}

/// Forgets a name, whatever state its image is in.
pub fn remove(store: &Store, reference: &Reference, removal: Removal) -> Result<(), ImagesError> {
    let known = match removal {
        Removal::Rehearsed => store.names().has(reference)?,
        Removal::Done => store.names().remove(reference)?,
    };
    known.then_some(()).ok_or_else(|| ImagesError::Unknown {
        reference: reference.to_string(),
    })
}

/// Copies an image from a name or a layout to another; returns its digest. Without a destination a layout's image gets the
/// name in the store that it has in the layout.
///
/// # Errors
///
/// [`ImagesError`]. A name is checked before anything is copied: an image without a name could be neither run nor removed.
pub fn copy(store: &Store, source: &Reference, destination: Option<&Reference>) -> Result<Digest, ImagesError> {
    if let Some(name @ (Reference::Registry { .. } | Reference::Local { .. })) = destination {
        check_name(name)?;
    }
    match (source, destination) {
        (Reference::Layout { dir, tag }, Some(Reference::Layout { dir: target, tag: name })) => {
            let from = Layout::new(store, dir);
            let to = Layout::new(store, target);
            Ok(copy_image(&from, &from.find(tag.as_deref())?, &to, name.as_deref())?)
        }
        (Reference::Layout { dir, tag }, name) => {
            let from = Layout::new(store, dir);
            let found = from.find(tag.as_deref())?;
            let name = match name {
                Some(name) => name.clone(),
                None => own_name(source, tag.as_deref().or(name_of(&found)))?,
            };
            let digest = copy_image(&from, &found, store, None)?;
            keep(store, &digest, &name)
        }
        (_, Some(Reference::Layout { dir, tag })) => {
            let image = find(store, source)?;
            let to = Layout::new(store, dir);
            Ok(copy_image(store, &image.descriptor(), &to, tag.as_deref())?)
        }
        (_, Some(name)) => {
            let image = find(store, source)?;
            keep(store, &image.digest, name)
        }
        (_, None) => {
            let image = find(store, source)?;
            store.images().prepare(&image)?;
            Ok(image.digest)
        }
    }
}

/// The image a name of the store means; another host's image is not here yet.
fn find(store: &Store, reference: &Reference) -> Result<Image, ImagesError> {
    match show(store, reference) {
        Err(ImagesError::Unknown { reference: text }) if matches!(reference, Reference::Registry { .. }) => {
            Err(ImagesError::Registry { reference: text })
        }
        other => other,
    }
}

/// Unpacks an image of the store and names it.
fn keep(store: &Store, digest: &Digest, name: &Reference) -> Result<Digest, ImagesError> {
    store.images().prepare(&store.images().open(digest)?)?;
    store.names().set(name, digest)?;
    Ok(*digest)
}

/// The name in this store of the image that the layout `source` calls `name`.
fn own_name(source: &Reference, name: Option<&str>) -> Result<Reference, ImagesError> {
    let unnamed = |reason| ImagesError::Unnamed {
        layout: source.to_string(),
        reason,
    };
    let name = name.ok_or_else(|| unnamed("it has none there".to_owned()))?;
    match name.parse() {
        Ok(name @ Reference::Local { .. }) => Ok(name),
        _ => Err(unnamed(format!("it is {name:?} there, which is no bare name"))),
    }
}

/// Writes an image as an OCI archive; returns its digest.
///
/// # Errors
///
/// [`ImagesError`]; what was written by then is no archive.
pub fn save(store: &Store, reference: &Reference, out: impl Write + Send) -> Result<Digest, ImagesError> {
    let image = show(store, reference)?;
    // The name as typed, with the tag it means: what `podman load` and others will call it.
    let name = match reference {
        Reference::Local { name, .. } => format!("{name}:{}", reference.tag_or_latest()),
        _ => reference.to_string(),
    };
    Ok(copy_image(
        store,
        &image.descriptor(),
        &ArchiveTarget::new(out),
        Some(&name),
    )?)
}

/// Reads an OCI archive; its images get their names in it, or `tag`. An image with several names is copied once.
///
/// # Errors
///
/// [`ImagesError`]; names that were given by then stay.
pub fn load(store: &Store, reader: impl Read, tag: Option<&Reference>) -> Result<Vec<(String, Digest)>, ImagesError> {
    tag.map_or(Ok(()), check_name)?;
    let archive = ArchiveSource::read(store, reader)?;
    let mut copied = BTreeMap::new();
    for image in archive.images() {
        let key = (image.digest, image.size, image.media_type.as_str());
        if let std::collections::btree_map::Entry::Vacant(entry) = copied.entry(key) {
            entry.insert(copy_image(&archive, image, store, None)?);
        }
    }
    let mut loaded = Vec::new();
    for image in archive.images() {
        let Some(digest) = copied.get(&(image.digest, image.size, image.media_type.as_str())) else {
            continue;
        };
        let reference = match (tag, name_of(image)) {
            (Some(tag), _) => tag.clone(),
            (None, name) => {
                let name = name.unwrap_or_default();
                name.parse().map_err(|_| ImagesError::Name { name: name.to_owned() })?
            }
        };
        keep(store, digest, &reference)?;
        loaded.push((reference.to_string(), *digest));
    }
    Ok(loaded)
}
