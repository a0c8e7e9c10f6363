//! Images move: pull, push, copy, save, load. One loop between two places, with what a name means at each.
//!
//! Where a name of a registry is typed, `pull` and `copy` mean the image in the registry; `push` and `save` send an image of
//! the store, whatever it is called, and `push` without a destination to where its name says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::bare_names::{not_a_place, nothing_to_pull, refuse_host};
use super::cache_room::keep_limits;
use super::images::{show, ImagesError};
use crate::oci::{Descriptor, Digest, Place, Reference};
use crate::progress::{Progress, Silent};
use crate::store::{check_name, Store};
use crate::sys::replace::Replacement;
use crate::transfer::{
    copy_image, copy_image_with, copy_unpacked, ensure_copied, name_of, ArchiveSource, ArchiveTarget, Asked, Brought,
    Companions, Destination, Failover, Layout, Nearby, Reach, Registries, Remote, RemoteTarget, Source, TransferError,
};

/// What images move with.
pub struct Transport<'a> {
    /// The store.
    pub store: &'a Store,
    /// The registries of this machine.
    pub registries: &'a Registries,
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// What becomes of what refers to an image that is copied between places outside the store, which keeps none of it.
    pub companions: Companions,
    /// The registries that are asked.
    pub asked: Asked,
    /// Is told of each image that came into the store, before that keeps its limits.
    pub came: Option<&'a (dyn Fn(&Digest) + Sync)>,
    /// Where it was pushed, if that is not where it was to be.
    instead: Mutex<Option<Place>>,
}

impl<'a> Transport<'a> {
    /// Between `store` and other places.
    pub fn new(store: &'a Store, registries: &'a Registries, progress: &'a dyn Progress) -> Self {
        Self {
            store,
            registries,
            progress,
            companions: Companions::Along,
            asked: Asked::default(),
            came: None,
            instead: Mutex::default(),
        }
    }

    /// Where the image was pushed, when another registry is preferred over the one that was named.
    pub fn instead(&self) -> Option<Place> {
        self.instead.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The place of the registry that is preferred now over the one that `place` names.
    fn instead_of(&self, place: &Place) -> Option<Place> {
        let Place::Image(Reference::Registry {
            host,
            repository,
            tag,
            digest,
        }) = place
        else {
            return None;
        };
        let preferred = self.registries.preferred_over(self.store, host, self.progress)?;
        let end = preferred.end();
        let instead = Place::Image(Reference::Registry {
            host: preferred.host,
            repository: repository.clone(),
            tag: tag.clone(),
            digest: *digest,
        });
        let text = format!("{place} goes to {instead} alone: that registry is preferred until {end}");
        self.progress.warn(&text);
        *self.instead.lock().unwrap_or_else(PoisonError::into_inner) = Some(instead.clone());
        Some(instead)
    }
}

/// Where an image goes.
#[derive(Clone, Copy)]
enum Target<'a> {
    /// Into the store, under a name, or the one that it has where it comes from.
    Store(Option<&'a Reference>),
    /// To where a place says: a name with a host is a registry.
    Place(&'a Place),
}

/// Copies an image of a registry, a layout or an archive into the store, under `tag` or the name that it has there.
///
/// # Errors
///
/// [`ImagesError::NothingToPull`] for an image of the store; else as [`copy`].
pub fn pull(transport: &Transport<'_>, source: &Place, tag: Option<&Reference>) -> Result<Copied, ImagesError> {
    if let Place::Image(reference @ (Reference::Local { .. } | Reference::Digest { .. })) = source {
        return Err(nothing_to_pull(transport.registries, reference));
    }
    copy_to(transport, source, Target::Store(tag))
}

/// Copies an image of the store to a registry, a layout or an archive; without a destination to the registry that its name
/// is of. What is for a registry of the configuration goes to the one that is preferred, if one is.
///
/// # Errors
///
/// [`ImagesError::NotAPlace`] for a destination that is a name of the store; else as [`copy`].
pub fn push(transport: &Transport<'_>, source: &Reference, destination: Option<&Place>) -> Result<Copied, ImagesError> {
    let own = Place::Image(source.clone());
    let destination = destination.unwrap_or(&own);
    let instead = transport.instead_of(destination);
    if let Some(Place::Image(Reference::Registry { host, .. })) = &instead {
        transport.registries.may_push_instead(host)?;
    }
    let destination = instead.as_ref().unwrap_or(destination);
    if let Place::Image(name @ (Reference::Local { .. } | Reference::Digest { .. })) = destination {
        refuse_host(transport.registries, "push to", source, name)?;
        return Err(not_a_place(transport.registries, source, name));
    }
    if matches!(source, Reference::Layout { .. }) {
        return copy(transport, &own, destination);
    }
    from_store(transport, source, Target::Place(destination))
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The image.
    pub digest: Digest,
    /// The name that it has in the store from now on; none when it went elsewhere.
    pub name: Option<Reference>,
    /// The registry that said what a name of a registry means, when it is another one than that of the name.
    pub from: Option<String>,
}

/// Copies an image from one place to another.
///
/// # Errors
///
/// [`ImagesError`]. A name is checked before anything is copied: an image without a name could be neither run nor removed.
pub fn copy(transport: &Transport<'_>, source: &Place, destination: &Place) -> Result<Copied, ImagesError> {
    copy_to(transport, source, Target::Place(destination))
}

fn copy_to(transport: &Transport<'_>, source: &Place, target: Target<'_>) -> Result<Copied, ImagesError> {
    match target {
        Target::Store(Some(name)) => check_name(name)?,
        Target::Place(Place::Image(name @ (Reference::Local { .. } | Reference::Digest { .. }))) => {
            refuse_host(transport.registries, "copy to", source, name)?;
            check_name(name)?;
        }
        // A host that is only pulled from refuses before anything is fetched.
        Target::Place(Place::Image(Reference::Registry { host, .. })) => {
            transport.registries.may_push(host)?;
        }
        Target::Store(None) | Target::Place(_) => {}
    }
    let store = transport.store;
    let copy_found = |from: &dyn Source, image: &Descriptor, name: Option<&str>| {
        let found = Found {
            transport,
            from,
            image,
            name,
            origin: None,
        };
        found.copy(target, || own_name(source, name))
    };
    match source {
        Place::Image(Reference::Layout { dir, tag }) => {
            let from = Layout::new(store, dir);
            let found = from.find(tag.as_deref())?;
            let name = tag.as_deref().or(name_of(&found));
            copy_found(&from, &found, name)
        }
        Place::Archive { file, name } => {
            let archive = open_archive(store, file)?;
            let found = archive.find(name.as_deref()).map_err(|error| in_archive(file, error))?;
            let name = name.as_deref().or(name_of(&found));
            copy_found(&archive, &found, name)
        }
        Place::Image(reference @ Reference::Registry { .. }) => from_registry(transport, reference, target),
        Place::Image(reference @ (Reference::Local { .. } | Reference::Digest { .. })) => {
            from_store(transport, reference, target)
        }
    }
}

fn from_registry(transport: &Transport<'_>, reference: &Reference, target: Target<'_>) -> Result<Copied, ImagesError> {
    let Transport {
        store,
        registries,
        progress,
        ..
    } = transport;
    // What another registry says of a tag is not what is copied, and the destination may be that other registry.
    let registries = match target {
        Target::Place(Place::Image(Reference::Registry { .. })) => {
            (*registries).clone().with_failover(Failover::Forbidden)
        }
        Target::Place(_) | Target::Store(_) => (*registries).clone(),
    };
    let remote = Remote::new(store, &registries, reference, *progress)?.told_to(&transport.asked);
    progress.step("Pulling", &reference.to_string());
    let name = reference.digest().is_none().then(|| reference.with_tag());
    let found = remote.find().map_err(ImagesError::from);
    if matches!(&found, Err(ImagesError::Transfer(error)) if error.is_not_found()) {
        forget_origin(store, reference);
    }
    found.and_then(|image| {
        let nearby = Nearby::new(store, &remote, *progress);
        // What comes into the store is fetched by it; what goes past it need not come from far.
        let from: &dyn Source = match target {
            Target::Place(
                Place::Image(Reference::Registry { .. } | Reference::Layout { .. }) | Place::Archive { .. },
            ) => &nearby,
            Target::Place(_) | Target::Store(_) => &remote,
        };
        let from = Found {
            transport,
            from,
            image: &image,
            name: name.as_deref(),
            origin: Some(reference),
        };
        let copied = from.copy(target, || Ok(reference.clone()))?;
        // Also of what went past the store, if that has it as well.
        note_origin(store, &copied.digest, reference);
        let from = remote.answered_by().filter(|host| !is_of(reference, host));
        Ok(Copied { from, ..copied })
    })
}

/// Whether `reference` is of the registry `named`.
fn is_of(reference: &Reference, named: &str) -> bool {
    matches!(reference, Reference::Registry { host, .. } if host == named)
}

/// Notes that a registry has an image, if the store has it as well: it can be fetched again. Without the note the image is
/// only the last to be evicted.
fn note_origin(store: &Store, digest: &Digest, reference: &Reference) {
    if let (Reference::Registry { host, repository, .. }, Some(_)) = (reference, store.blobs().size(digest)) {
        let _ = store.images().note_origin(digest, &format!("{host}/{repository}"));
    }
}

/// Notes that a registry has no such image: neither the one of the digest, nor the one that the store calls so. As far as
/// anybody knows it cannot be fetched again then.
fn forget_origin(store: &Store, reference: &Reference) {
    let named = reference
        .digest()
        .copied()
        .or_else(|| store.names().find(reference).ok().flatten());
    if let (Reference::Registry { host, repository, .. }, Some(digest)) = (reference, named) {
        let _ = store.images().forget_origin(&digest, &format!("{host}/{repository}"));
    }
}

/// Tries to bring an image of which an eviction took a part as soon as it was there.
const TRIES: usize = 8;

/// Brings an image into the store and keeps it there as `name`. What an eviction took meanwhile of what the store had before is
/// brought again.
fn keep_brought(
    store: &Store,
    name: &Reference,
    bring: impl Fn() -> Result<Brought<Digest>, TransferError>,
) -> Result<Copied, ImagesError> {
    until_whole(|| {
        let brought = bring()?;
        keep(store, &brought.image, name)
    })
}

/// Does `work`, and again while an eviction takes a part of what it brings: what came by then is there.
fn until_whole<T>(work: impl Fn() -> Result<T, ImagesError>) -> Result<T, ImagesError> {
    let mut tried = 1;
    loop {
        match work() {
            Err(ImagesError::Store(error)) if error.is_lost() && tried < TRIES => {}
            Err(ImagesError::Transfer(error)) if error.is_lost() && tried < TRIES => {}
            other => return other,
        }
        tried += 1;
    }
}

fn from_store(transport: &Transport<'_>, reference: &Reference, target: Target<'_>) -> Result<Copied, ImagesError> {
    let store = transport.store;
    let image = show(store, reference)?;
    let name = written_name(store, reference);
    match target {
        Target::Place(Place::Image(name @ (Reference::Local { .. } | Reference::Digest { .. }))) => {
            keep(store, &image.digest, name)
        }
        Target::Store(_) => Err(nothing_to_pull(transport.registries, reference)),
        Target::Place(_) => {
            // No eviction takes it while it goes, which is no use of it.
            let _lease = store.locks().hold(&image.digest)?;
            let from = Found {
                transport,
                from: store,
                image: &image.descriptor(),
                name: name.as_deref(),
                origin: None,
            };
            from.copy(target, || Ok(reference.clone()))
        }
    }
}

/// An image that was found at some place.
struct Found<'a> {
    transport: &'a Transport<'a>,
    from: &'a dyn Source,
    image: &'a Descriptor,
    /// What it is called there.
    name: Option<&'a str>,
    /// The image of a registry that it is.
    origin: Option<&'a Reference>,
}

impl Found<'_> {
    /// Copies it to `target`; `own_name` gives its name in the store when there is no other.
    fn copy(
        &self,
        target: Target<'_>,
        own_name: impl FnOnce() -> Result<Reference, ImagesError>,
    ) -> Result<Copied, ImagesError> {
        let Transport {
            store,
            registries,
            progress,
            ..
        } = *self.transport;
        let elsewhere = |digest| Copied {
            digest,
            name: None,
            from: None,
        };
        let name = match target {
            Target::Place(Place::Image(Reference::Layout { dir, tag })) => {
                let to = Layout::new(store, dir);
                let copied = self.send(&to, tag.as_deref())?;
                return Ok(elsewhere(copied));
            }
            Target::Place(Place::Archive { file, name }) => {
                let name = name.as_deref().or(self.name);
                let copy = |to: &dyn Destination| Ok(self.send(to, name)?);
                return write_archive(store, file, copy).map(elsewhere);
            }
            Target::Place(Place::Image(reference @ Reference::Registry { .. })) => {
                let to = RemoteTarget::new(store, registries, reference, progress)?.told_to(&self.transport.asked);
                progress.step("Pushing", &reference.to_string());
                let digest = self.send(&to, None).map_err(|error| registries.explained(error))?;
                note_origin(store, &digest, reference);
                return Ok(elsewhere(digest));
            }
            Target::Place(Place::Image(name)) | Target::Store(Some(name)) => name.clone(),
            Target::Store(None) => own_name()?,
        };
        let copied = keep_brought(store, &name, || {
            let brought = match self.from.reach() {
                Reach::Here => copy_unpacked(store, self.from, self.image, progress),
                // What was pulled and unpacked before is not asked for again.
                Reach::Away => ensure_copied(store, self.from, self.image, progress).map(Brought::digest),
            }?;
            // Before it has its name: whoever takes it from then on knows where it can be fetched again.
            if let Some(origin) = self.origin {
                note_origin(store, &brought.image, origin);
            }
            if let Some(came) = self.transport.came {
                came(&brought.image);
            }
            Ok(brought)
        })?;
        if let Some(warning) = keep_limits(store, Some(&copied.digest)) {
            progress.warn(&warning);
        }
        Ok(copied)
    }

    /// Copies it out of the store or past it.
    fn send(&self, to: &dyn Destination, name: Option<&str>) -> Result<Digest, TransferError> {
        let Transport {
            companions, progress, ..
        } = *self.transport;
        copy_image_with(companions, self.from, self.image, to, name, progress)
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
    let error = |source| ImagesError::File {
        action: "open",
        path: file.display().to_string(),
        source,
    };
    let archive = File::open(file).map_err(error)?;
    match archive.metadata().map_err(error)?.is_file() {
        true => ArchiveSource::read_file(store, &archive),
        false => ArchiveSource::read(store, BufReader::new(archive)),
    }
    .map_err(|error| in_archive(file, error))
}

fn in_archive(file: &Path, source: TransferError) -> ImagesError {
    ImagesError::Archive {
        path: file.display().to_string(),
        source,
    }
}

/// Unpacks an image of the store and names it. One that was pulled by its digest has no name, and is kept for a day.
fn keep(store: &Store, digest: &Digest, name: &Reference) -> Result<Copied, ImagesError> {
    // From here on no eviction takes it.
    let _lease = store.locks().lease(digest)?;
    store.images().settle(&store.images().open(digest)?)?;
    if name.digest().is_some() {
        store.names().keep_unnamed(digest)?;
        return Ok(Copied {
            digest: *digest,
            name: None,
            from: None,
        });
    }
    store.names().ensure(name, digest)?;
    Ok(Copied {
        digest: *digest,
        name: Some(name.clone()),
        from: None,
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
    let _lease = store.locks().hold(&image.digest)?;
    Ok(copy_image(store, &image.descriptor(), to, name.as_deref(), &Silent)?)
}

/// Reads an OCI archive; its images get their names in it, or `tag`. An image with several names is copied once. `progress` is
/// told when the store is over its limits then.
///
/// # Errors
///
/// [`ImagesError`]; names that were given by then stay.
pub fn load(
    store: &Store,
    reader: impl Read,
    tag: Option<&Reference>,
    progress: &dyn Progress,
) -> Result<Vec<(String, Digest)>, ImagesError> {
    tag.map_or(Ok(()), check_name)?;
    let archive = ArchiveSource::read(store, reader).map_err(|error| in_archive(Path::new("standard input"), error))?;
    let _kept_out = store.locks().keep_collector_out()?;
    let loaded = name_images(store, &archive, tag)?;
    drop(archive);
    Ok(kept_within_limits(store, loaded, progress))
}

/// Reads the OCI archive `file`, as [`load`].
///
/// # Errors
///
/// As [`load`].
pub fn load_file(
    store: &Store,
    file: &Path,
    tag: Option<&Reference>,
    progress: &dyn Progress,
) -> Result<Vec<(String, Digest)>, ImagesError> {
    tag.map_or(Ok(()), check_name)?;
    let archive = open_archive(store, file)?;
    let _kept_out = store.locks().keep_collector_out()?;
    let loaded = name_images(store, &archive, tag)?;
    drop(archive);
    Ok(kept_within_limits(store, loaded, progress))
}

/// Keeps the limits of the store after what was `loaded`, when nothing of the archive lies in scratch any more.
fn kept_within_limits(store: &Store, loaded: Vec<(String, Digest)>, progress: &dyn Progress) -> Vec<(String, Digest)> {
    let last = loaded.last();
    if let Some(warning) = last.and_then(|(_, digest)| keep_limits(store, Some(digest))) {
        progress.warn(&warning);
    }
    loaded
}

fn name_images(
    store: &Store,
    archive: &ArchiveSource,
    tag: Option<&Reference>,
) -> Result<Vec<(String, Digest)>, ImagesError> {
    let (mut copied, mut held, mut noted) = (BTreeMap::new(), Vec::new(), Vec::new());
    for image in archive.images() {
        let key = (image.digest, image.size, image.media_type.as_str());
        if let std::collections::btree_map::Entry::Vacant(entry) = copied.entry(key) {
            let (brought, lease) = until_whole(|| {
                let brought = copy_unpacked(store, archive, image, &Silent)?;
                // Room for the next one is made by what nobody keeps.
                let lease = store.locks().hold(&brought.image)?;
                Ok((brought, lease))
            })?;
            entry.insert(brought.image);
            held.push(lease);
            noted.push(brought);
        }
    }
    let bring = |image: &Descriptor| copy_unpacked(store, archive, image, &Silent);
    let mut loaded = Vec::new();
    for image in archive.images() {
        let Some(digest) = copied.get(&(image.digest, image.size, image.media_type.as_str())) else {
            continue;
        };
        let reference = match (tag, name_of(image)) {
            (Some(tag), _) => tag.clone(),
            (None, Some(name)) => name.parse().map_err(|_| ImagesError::Name { name: name.to_owned() })?,
            (None, None) => Reference::of_digest(digest),
        };
        match keep(store, digest, &reference) {
            Err(ImagesError::Store(error)) if error.is_lost() => {
                drop(keep_brought(store, &reference, || bring(image))?)
            }
            other => drop(other?),
        }
        loaded.push((reference.to_string(), *digest));
    }
    Ok(loaded)
}
