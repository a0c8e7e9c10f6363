//! Images of the store: listing, naming, and moving them in and out as layouts and archives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde::Serialize;

use crate::oci::{Descriptor, Digest, Place, Reference};
use crate::policy::{one_line, Kind};
use crate::store::{check_name, Image, Store, StoreError};
use crate::sys::replace::Replacement;
use crate::transfer::{copy_image, name_of, ArchiveSource, ArchiveTarget, Destination, Layout, Source, TransferError};

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
    /// An image of the store, where one from elsewhere was asked for.
    #[error("pull {reference}: a bare name is an image of this store; one comes in from oci:DIR[:TAG] or oci-archive:FILE[:NAME], and from no registry in this version")]
    NothingToPull {
        /// As typed.
        reference: String,
    },
    /// A name of the store, where a place outside was asked for.
    #[error("push to {name}: a bare name is in this store, and `gantry copy IMAGE {name}` gives it; an image goes out to oci:DIR[:TAG] or oci-archive:FILE[:NAME]")]
    NotAPlace {
        /// As typed.
        name: String,
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
            Self::Unknown { .. }
            | Self::Registry { .. }
            | Self::HasNames { .. }
            | Self::NothingToPull { .. }
            | Self::NotAPlace { .. }
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

/// Forgets a name, whatever state its image is in; or an image without a name, by its digest.
///
/// # Errors
///
/// [`ImagesError::HasNames`] for the digest of an image that has names: which of them is meant?
pub fn remove(store: &Store, reference: &Reference, removal: Removal) -> Result<(), ImagesError> {
    let is_name = !matches!(reference, Reference::Digest { .. });
    let known = match removal {
        _ if !is_name => false,
        Removal::Rehearsed => store.names().has(reference)?,
        Removal::Done => store.names().remove(reference)?,
    };
    if known {
        return Ok(());
    }
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
    let was_kept = match removal {
        Removal::Rehearsed => store.names().unnamed()?.contains(&digest),
        Removal::Done => store.names().forget_unnamed(&digest)?,
    };
    was_kept.then_some(()).ok_or_else(unknown)
}

/// Copies an image of a layout or an archive into the store, under `tag` or the name that it has there.
///
/// # Errors
///
/// [`ImagesError::NothingToPull`] for an image of the store; else as [`copy`].
pub fn pull(store: &Store, source: &Place, tag: Option<&Reference>) -> Result<Copied, ImagesError> {
    if let Place::Image(reference @ (Reference::Local { .. } | Reference::Digest { .. })) = source {
        return Err(ImagesError::NothingToPull {
            reference: reference.to_string(),
        });
    }
    copy(store, source, tag.map(|tag| Place::Image(tag.clone())).as_ref())
}

/// Copies an image into a layout or an archive.
///
/// # Errors
///
/// [`ImagesError::NotAPlace`] for a destination that is a name of the store; else as [`copy`].
pub fn push(store: &Store, source: &Place, destination: &Place) -> Result<Copied, ImagesError> {
    if let Place::Image(name @ (Reference::Local { .. } | Reference::Digest { .. })) = destination {
        return Err(ImagesError::NotAPlace { name: name.to_string() });
    }
    copy(store, source, Some(destination))
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The image.
    pub digest: Digest,
    /// The name that it has in the store from now on; none when it went elsewhere.
    pub name: Option<Reference>,
}

/// Copies an image from one place to another. Without a destination the image of a layout or an archive
/// gets the name in the store that it has there.
///
/// # Errors
///
/// [`ImagesError`]. A name is checked before anything is copied: an image without a name could be neither run nor removed.
/// So are registries, which this version cannot reach, whatever the store calls by that name.
pub fn copy(store: &Store, source: &Place, destination: Option<&Place>) -> Result<Copied, ImagesError> {
    for place in [Some(source), destination].into_iter().flatten() {
        if let Place::Image(Reference::Registry { .. }) = place {
            return Err(ImagesError::Registry {
                reference: place.to_string(),
            });
        }
    }
    if let Some(Place::Image(name @ (Reference::Local { .. } | Reference::Digest { .. }))) = destination {
        check_name(name)?;
    }
    match source {
        Place::Image(Reference::Layout { dir, tag }) => {
            let from = Layout::new(store, dir);
            let found = from.find(tag.as_deref())?;
            let name = tag.as_deref().or(name_of(&found));
            let from = Found {
                store,
                from: &from,
                image: &found,
                name,
            };
            from.copy(destination, || own_name(source, name))
        }
        Place::Archive { file, name } => {
            let archive = open_archive(store, file)?;
            let found = archive.find(name.as_deref()).map_err(|error| in_archive(file, error))?;
            let name = name.as_deref().or(name_of(&found));
            let from = Found {
                store,
                from: &archive,
                image: &found,
                name,
            };
            from.copy(destination, || own_name(source, name))
        }
        Place::Image(reference) => {
            let image = show(store, reference)?;
            let name = written_name(store, reference);
            let from = Found {
                store,
                from: store,
                image: &image.descriptor(),
                name: name.as_deref(),
            };
            match destination {
                Some(Place::Image(
                    name @ (Reference::Local { .. } | Reference::Registry { .. } | Reference::Digest { .. }),
                )) => keep(store, &image.digest, name),
                None => Err(ImagesError::NothingToPull {
                    reference: reference.to_string(),
                }),
                Some(Place::Image(Reference::Layout { .. }) | Place::Archive { .. }) => {
                    from.copy(destination, || Ok(reference.clone()))
                }
            }
        }
    }
}

/// An image that was found at some place.
struct Found<'a> {
    store: &'a Store,
    from: &'a dyn Source,
    image: &'a Descriptor,
    /// What it is called there.
    name: Option<&'a str>,
}

impl Found<'_> {
    /// Copies it to `destination`, else into the store under the name that `own_name` gives.
    fn copy(
        &self,
        destination: Option<&Place>,
        own_name: impl FnOnce() -> Result<Reference, ImagesError>,
    ) -> Result<Copied, ImagesError> {
        let elsewhere = |digest| Copied { digest, name: None };
        let name = match destination {
            Some(Place::Image(Reference::Layout { dir, tag })) => {
                let to = Layout::new(self.store, dir);
                return Ok(elsewhere(copy_image(self.from, self.image, &to, tag.as_deref())?));
            }
            Some(Place::Archive { file, name }) => {
                let name = name.as_deref().or(self.name);
                let copy = |to: &dyn Destination| Ok(copy_image(self.from, self.image, to, name)?);
                return write_archive(self.store, file, copy).map(elsewhere);
            }
            Some(Place::Image(name)) => name.clone(),
            None => own_name()?,
        };
        let digest = copy_image(self.from, self.image, self.store, None)?;
        keep(self.store, &digest, &name)
    }
}

/// Writes an archive, complete or not there.
fn write_archive(
    store: &Store,
    file: &Path,
    fill: impl FnOnce(&dyn Destination) -> Result<Digest, ImagesError>,
) -> Result<Digest, ImagesError> {
    let error = |source| ImagesError::File {
        action: "write",
        path: file.display().to_string(),
        source,
    };
    // Nothing stays beside it when we are stopped.
    let temporary = store.beside(file)?;
    let mut out = Replacement::create(temporary.path().to_owned()).map_err(error)?;
    let digest = fill(&ArchiveTarget::new(BufWriter::new(&mut out)))?;
    out.place(file).map_err(error)?;
    Ok(digest)
}

fn open_archive(store: &Store, file: &Path) -> Result<ArchiveSource, ImagesError> {
    let archive = File::open(file).map_err(|source| ImagesError::File {
        action: "open",
        path: file.display().to_string(),
        source,
    })?;
    ArchiveSource::read(store, BufReader::new(archive)).map_err(|error| in_archive(file, error))
}

fn in_archive(file: &Path, source: TransferError) -> ImagesError {
    ImagesError::Archive {
        path: file.display().to_string(),
        source,
    }
}

/// Unpacks an image of the store and names it.
fn keep(store: &Store, digest: &Digest, name: &Reference) -> Result<Copied, ImagesError> {
    store.images().prepare(&store.images().open(digest)?)?;
    store.names().set(name, digest)?;
    Ok(Copied {
        digest: *digest,
        name: Some(name.clone()),
    })
}

/// The name in this store of the image that `source`, a layout or an archive, calls `name`.
fn own_name(source: &Place, name: Option<&str>) -> Result<Reference, ImagesError> {
    let unnamed = |reason| ImagesError::Unnamed {
        place: source.to_string(),
        reason,
    };
    let name = name.ok_or_else(|| unnamed("it has none there".to_owned()))?;
    match name.parse() {
        Ok(name @ Reference::Local { .. }) => Ok(name),
        _ => Err(unnamed(format!("it is {name:?} there, which is no bare name"))),
    }
}

/// The name of an image in an archive: as typed, with the tag it means. That is what `podman load` and others will call it.
/// An image that was named by its digest has none.
fn written_name(store: &Store, reference: &Reference) -> Option<String> {
    // Digits that may begin a digest are a name when an image is called so.
    let is_name =
        reference.digest().is_none() && (reference.id().is_none() || store.names().has(reference).is_ok_and(|has| has));
    is_name.then(|| reference.with_tag())
}

/// Writes an image as an OCI archive; returns its digest.
///
/// # Errors
///
/// [`ImagesError`]; what was written by then is no archive.
pub fn save(store: &Store, reference: &Reference, out: impl Write + Send) -> Result<Digest, ImagesError> {
    save_to(store, reference, &ArchiveTarget::new(out))
}

/// Writes an image as an OCI archive into `file`, complete or not there; returns its digest.
///
/// # Errors
///
/// [`ImagesError`]; what was there stays.
pub fn save_file(store: &Store, reference: &Reference, file: &Path) -> Result<Digest, ImagesError> {
    write_archive(store, file, |to| save_to(store, reference, to))
}

fn save_to(store: &Store, reference: &Reference, to: &dyn Destination) -> Result<Digest, ImagesError> {
    let image = show(store, reference)?;
    let name = written_name(store, reference);
    Ok(copy_image(store, &image.descriptor(), to, name.as_deref())?)
}

/// Reads an OCI archive; its images get their names in it, or `tag`. An image with several names is copied once.
///
/// # Errors
///
/// [`ImagesError`]; names that were given by then stay.
pub fn load(store: &Store, reader: impl Read, tag: Option<&Reference>) -> Result<Vec<(String, Digest)>, ImagesError> {
    tag.map_or(Ok(()), check_name)?;
    let archive = ArchiveSource::read(store, reader).map_err(|error| in_archive(Path::new("standard input"), error))?;
    name_images(store, &archive, tag)
}

/// Reads the OCI archive `file`, as [`load`].
///
/// # Errors
///
/// As [`load`].
pub fn load_file(store: &Store, file: &Path, tag: Option<&Reference>) -> Result<Vec<(String, Digest)>, ImagesError> {
    tag.map_or(Ok(()), check_name)?;
    name_images(store, &open_archive(store, file)?, tag)
}

fn name_images(
    store: &Store,
    archive: &ArchiveSource,
    tag: Option<&Reference>,
) -> Result<Vec<(String, Digest)>, ImagesError> {
    let mut copied = BTreeMap::new();
    for image in archive.images() {
        let key = (image.digest, image.size, image.media_type.as_str());
        if let std::collections::btree_map::Entry::Vacant(entry) = copied.entry(key) {
            entry.insert(copy_image(archive, image, store, None)?);
        }
    }
    let mut loaded = Vec::new();
    for image in archive.images() {
        let Some(digest) = copied.get(&(image.digest, image.size, image.media_type.as_str())) else {
            continue;
        };
        let reference = match (tag, name_of(image)) {
            (Some(tag), _) => tag.clone(),
            (None, Some(name)) => name.parse().map_err(|_| ImagesError::Name { name: name.to_owned() })?,
            (None, None) => {
                store.images().prepare(&store.images().open(digest)?)?;
                store.names().keep_unnamed(digest)?;
                loaded.push((digest.to_string(), *digest));
                continue;
            }
        };
        keep(store, digest, &reference)?;
        loaded.push((reference.to_string(), *digest));
    }
    Ok(loaded)
}
