//! Images of the store: listing them, and taking their names away.

use serde::Serialize;

use crate::oci::{Digest, Reference};
use crate::policy::{one_line, Kind};
use crate::store::{Image, Store, StoreError};
use crate::transfer::TransferError;

/// One image that can be run.
#[derive(Debug, Serialize)]
pub struct ImageSummary {
    /// Its name; its digest when it has none.
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
    /// Names are removed, not images, and this digest is no name.
    #[error("remove {reference}: the image has names; remove those: `gantry images rm {names}`")]
    HasNames {
        /// As typed.
        reference: String,
        /// Its names.
        names: String,
    },
    /// A pin keeps an image also without a name.
    #[error("remove {reference}: the image is pinned, and stays until it is not: `gantry cache unpin {reference}`")]
    Pinned {
        /// As typed.
        reference: String,
    },
    /// An image of the store, where one from elsewhere was asked for.
    #[error("pull {reference}: a bare name is an image of this store; one comes in from HOST/REPOSITORY[:TAG], oci:DIR[:NAME] or oci-archive:FILE[:NAME]")]
    NothingToPull {
        /// As typed.
        reference: String,
        /// A registry of the configuration.
        registry: Option<String>,
    },
    /// An image that is called by a bare name goes out, and nobody said where to.
    #[error("push {reference}: the name is of this store alone and says no registry; an image goes out to HOST/REPOSITORY[:TAG], oci:DIR[:NAME] or oci-archive:FILE[:NAME]")]
    NoDestination {
        /// As typed.
        reference: String,
        /// A registry of the configuration.
        registry: Option<String>,
    },
    /// A name of the store, where a place outside was asked for.
    #[error("push to {name}: a bare name is in this store, and `gantry copy {reference} {name}` gives it; an image goes out to HOST/REPOSITORY[:TAG], oci:DIR[:NAME] or oci-archive:FILE[:NAME]")]
    NotAPlace {
        /// The image.
        reference: String,
        /// The destination, as typed.
        name: String,
        /// A registry of the configuration.
        registry: Option<String>,
    },
    /// A host alone, where a registry was thought of.
    #[error("{verb} {host}: it is a registry, and an image needs a repository there; type HOST/REPOSITORY[:TAG], such as {like}")]
    NoRepository {
        /// What was attempted.
        verb: &'static str,
        /// As typed.
        host: String,
        /// What to type.
        like: String,
    },
    /// A name in an archive that this store cannot keep.
    #[error("name the image of the archive: {name:?} is no reference; give one with --tag")]
    Name {
        /// In the archive.
        name: String,
    },
    /// A name in a layout or an archive that this store cannot keep.
    #[error("name the image of {place}: {reason}; give one: `gantry copy {place} NAME`")]
    Unnamed {
        /// The layout or archive, as typed.
        place: String,
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
    /// An archive that is refused.
    #[error("open archive {path}")]
    Archive {
        /// The file.
        path: String,
        /// Why.
        source: TransferError,
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
            Self::Transfer(error) | Self::Archive { source: error, .. } => error.kind(),
            Self::Store(error) => error.kind(),
            Self::NoRepository { .. } => Kind::Usage,
            Self::Unknown { .. }
            | Self::HasNames { .. }
            | Self::Pinned { .. }
            | Self::NothingToPull { .. }
            | Self::NotAPlace { .. }
            | Self::NoDestination { .. }
            | Self::Name { .. }
            | Self::Unnamed { .. }
            | Self::File { .. } => Kind::Failed,
        }
    }
}

/// The image a name of the store means.
///
/// # Errors
///
/// [`ImagesError`] when there is no such image, or several that begin with these digits.
pub fn show(store: &Store, reference: &Reference) -> Result<Image, ImagesError> {
    let digest = store.names().find(reference)?.ok_or_else(|| ImagesError::Unknown {
        reference: reference.to_string(),
    })?;
    Ok(store.images().open(&digest)?)
}

/// The names that the image `digest` has in the store.
///
/// # Errors
///
/// [`StoreError`] when the names cannot be read.
pub fn names_of(store: &Store, digest: &Digest) -> Result<Vec<String>, StoreError> {
    let names = store.names().list()?.into_iter();
    let names = names.filter(|(_, named)| named.as_ref() == Some(digest));
    Ok(names.map(|(name, _)| name.to_string()).collect())
}

/// Every named image, those that are damaged as well, and those without a name that are kept for a day.
///
/// # Errors
///
/// [`ImagesError`] when the store cannot be read. A damaged image is no error but marked in the result.
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
    let unnamed = store.names().unnamed()?.into_iter();
    let unnamed = unnamed.map(|digest| (Reference::of_digest(&digest), Some(digest)));
    Ok(store.names().list()?.into_iter().chain(unnamed).map(summary).collect())
}

/// Whether a removal is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is.
    Done,
    /// It is only checked that there is something to remove.
    Rehearsed,
}

/// The image whose name was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// None when the name was damaged.
    pub digest: Option<Digest>,
    /// Whether it stays because it is pinned.
    pub is_pinned: bool,
}

/// Forgets a name, whatever state its image is in; or an image without a name, by its digest. The pin of an image is not that
/// of a name, and stays.
///
/// # Errors
///
/// [`ImagesError::HasNames`] for the digest of an image that has names: which of them is meant? [`ImagesError::Pinned`] for
/// that of a pinned one.
pub fn remove(store: &Store, reference: &Reference, removal: Removal) -> Result<Removed, ImagesError> {
    let digest = store.names().find(reference).ok().flatten();
    if !forget_name(store, reference, removal)? {
        forget_unnamed(store, reference, removal)?;
    }
    // Whoever cannot be told so keeps it all the same.
    let is_pinned = digest.is_some_and(|digest| store.images().pinned().is_ok_and(|all| all.contains(&digest)));
    Ok(Removed { digest, is_pinned })
}

/// Forgets a name; whether there was one.
fn forget_name(store: &Store, reference: &Reference, removal: Removal) -> Result<bool, ImagesError> {
    Ok(match removal {
        _ if matches!(reference, Reference::Digest { .. }) => false,
        Removal::Rehearsed => store.names().has(reference)?,
        Removal::Done => store.names().remove(reference)?,
    })
}

fn forget_unnamed(store: &Store, reference: &Reference, removal: Removal) -> Result<(), ImagesError> {
    let unknown = || ImagesError::Unknown {
        reference: reference.to_string(),
    };
    let digest = match reference.id() {
        Some(_) => store.names().find(reference)?.ok_or_else(unknown)?,
        None => return Err(unknown()),
    };
    let names = names_of(store, &digest)?;
    if !names.is_empty() {
        return Err(ImagesError::HasNames {
            reference: reference.to_string(),
            names: names.join(" "),
        });
    }
    if store.images().pinned()?.contains(&digest) {
        return Err(ImagesError::Pinned {
            reference: reference.to_string(),
        });
    }
    let was_kept = match removal {
        Removal::Rehearsed => store.names().unnamed()?.contains(&digest),
        Removal::Done => store.names().forget_unnamed(&digest)?,
    };
    was_kept.then_some(()).ok_or_else(unknown)
}
