//! Images of the store: listing, and moving them in and out as layouts and archives.

use std::io::{Read, Write};

use serde::Serialize;

use crate::oci::{Digest, Reference};
use crate::policy::{one_line, Kind};
use crate::store::{check_name, ArchiveError, Image, LayoutError, Store, StoreError};

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
    /// A layout.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// An archive.
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl ImagesError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Layout(error) => error.kind(),
            Self::Archive(error) => error.kind(),
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
    let digest = store.find_ref(reference)?.ok_or_else(|| ImagesError::Unknown {
        reference: reference.to_string(),
    })?;
    Ok(store.open_image(&digest)?)
}

/// Every named image, those that are damaged as well.
pub fn list(store: &Store) -> Result<Vec<ImageSummary>, ImagesError> {
    let summary = |(reference, digest): (Reference, Option<Digest>)| {
        let image = match digest {
            Some(digest) => store.open_image(&digest).map_err(|error| one_line(&error)),
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
    Ok(store.refs()?.into_iter().map(summary).collect())
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
        Removal::Rehearsed => store.has_ref(reference)?,
        Removal::Done => store.remove_ref(reference)?,
    };
    known.then_some(()).ok_or_else(|| ImagesError::Unknown {
        reference: reference.to_string(),
    })
}

/// Copies an image; at least one side is the store. Returns its digest.
pub fn copy(store: &Store, source: &Reference, destination: Option<&Reference>) -> Result<Digest, ImagesError> {
    if let Some(name @ (Reference::Registry { .. } | Reference::Local { .. })) = destination {
        check_name(name)?;
    }
    // Before anything is copied: an image without a name could be neither run nor removed.
    let own_name = match (source, destination) {
        (Reference::Layout { dir, tag }, None) => Some(name_in_layout(store, source, dir, tag.as_deref())?),
        _ => None,
    };
    let image = match source {
        Reference::Layout { dir, tag } => store.import_layout(dir, tag.as_deref())?,
        _ => match show(store, source) {
            Err(ImagesError::Unknown { reference }) if matches!(source, Reference::Registry { .. }) => {
                return Err(ImagesError::Registry { reference });
            }
            other => other?,
        },
    };
    match destination.or(own_name.as_ref()) {
        Some(Reference::Layout { dir, tag }) => store.export_layout(&image, dir, tag.as_deref())?,
        Some(name) => {
            store.ensure_snapshot(&image)?;
            store.set_ref(name, &image.digest)?;
        }
        None => {
            store.ensure_snapshot(&image)?;
        }
    }
    Ok(image.digest)
}

/// The name of this store that a layout has for the image `source`: the tag that was typed, else what its only image is called.
fn name_in_layout(
    store: &Store,
    source: &Reference,
    dir: &std::path::Path,
    tag: Option<&str>,
) -> Result<Reference, ImagesError> {
    let unnamed = |reason| ImagesError::Unnamed {
        layout: source.to_string(),
        reason,
    };
    let name = match tag {
        Some(tag) => tag.to_owned(),
        None => store
            .layout_name(dir)?
            .ok_or_else(|| unnamed("it has none there".to_owned()))?,
    };
    match name.parse() {
        Ok(name @ Reference::Local { .. }) => Ok(name),
        _ => Err(unnamed(format!("it is {name:?} there, which is no bare name"))),
    }
}

/// Writes an image as an OCI archive.
pub fn save(store: &Store, reference: &Reference, out: impl Write) -> Result<Digest, ImagesError> {
    let image = show(store, reference)?;
    // The name as typed, with the tag it means: what `podman load` and others will call it.
    let name = match reference {
        Reference::Local { name, .. } => format!("{name}:{}", reference.tag_or_latest()),
        _ => reference.to_string(),
    };
    store.save_archive(&image, &name, out)?;
    Ok(image.digest)
}

/// Reads an OCI archive; its images get their names in it, or `tag`.
pub fn load(store: &Store, reader: impl Read, tag: Option<&Reference>) -> Result<Vec<(String, Digest)>, ImagesError> {
    tag.map_or(Ok(()), check_name)?;
    let mut loaded = Vec::new();
    for (name, digest) in store.load_archive(reader)? {
        let reference = match (tag, name) {
            (Some(tag), _) => tag.clone(),
            (None, Some(name)) => name.parse().map_err(|_| ImagesError::Name { name })?,
            (None, None) => return Err(ImagesError::Name { name: String::new() }),
        };
        store.ensure_snapshot(&store.open_image(&digest)?)?;
        store.set_ref(&reference, &digest)?;
        loaded.push((reference.to_string(), digest));
    }
    Ok(loaded)
}
