//! A repository that images are fetched from: of the registry that was named, or of the next one that has the same path.
//!
//! Each request is made of the registries in their order until one answers; where the first is silent the next is asked as
//! well. A blob that breaks off goes on at its next byte, at the same registry or at another one: what it is called is the
//! digest of its bytes, so it does not matter whose they are. Manifests and configurations go through the store, so that of
//! many processes that pull one image one asks for them.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::attempt::Asked;
use super::candidates::{Candidates, Subject};
use super::error::TOO_MANY_REFERRERS;
use super::no_registry::{find_no_registry, find_suspect};
use super::peer::{Reach, Referrer, Source, StandIn};
use super::registries::Registries;
use super::remote_blob::RemoteBlob;
use super::shared_tag::ask_once;
use super::small::read_document;
use super::TransferError;
use crate::oci::{
    companion_tags, fallback_tag, media_type, parse_referrers, Descriptor, Digest, Reference, MAX_DOCUMENT_BYTES,
    MAX_REFERRERS,
};
use crate::progress::Progress;
use crate::registry::{document_type, Access, Contents, Found, Listing, RegistryError, Repository};
use crate::store::{Download, Store, StoreError, Task};

/// Tags that are named in an error.
const MOST_TAGS: usize = 10;

/// A repository, as it is asked for at one or several registries.
pub struct Remote<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
    /// As it was typed.
    reference: Reference,
    candidates: Candidates<'a>,
    at_once: usize,
    /// How often a blob was not what it is called.
    wrong: Mutex<HashMap<Digest, u32>>,
    /// Whether the registries list no referrers, which the first question shows.
    lists_none: AtomicBool,
    /// Who answered, of another registry than the one that was typed, what each says for itself.
    stand_in: Mutex<Option<StandIn>>,
    /// What the tag of the reference was said to mean.
    said: Mutex<Option<Digest>>,
    /// The host that said what the reference means, where this process asked.
    answered: Mutex<Option<String>>,
    /// Who gave the blob that was read last.
    givers: Mutex<HashMap<Digest, usize>>,
}

impl<'a> Remote<'a> {
    /// The repository of `reference`. Nothing is asked of anybody yet.
    ///
    /// # Errors
    ///
    /// [`TransferError::NotFound`] for a reference that is of no registry.
    pub fn new(
        store: &'a Store,
        registries: &Registries,
        reference: &Reference,
        progress: &'a dyn Progress,
    ) -> Result<Self, TransferError> {
        Ok(Self {
            store,
            progress,
            reference: reference.clone(),
            candidates: Candidates::new(store, registries, reference, progress)?,
            at_once: registries.rules().downloads,
            lists_none: AtomicBool::new(false),
            wrong: Mutex::default(),
            stand_in: Mutex::default(),
            said: Mutex::default(),
            answered: Mutex::default(),
            givers: Mutex::default(),
        })
    }

    /// Notes whom it asks from now on in `asked`.
    #[must_use]
    pub fn told_to(self, asked: &Asked) -> Self {
        asked.add(self.candidates.ledger());
        self
    }

    /// What the reference means.
    ///
    /// # Errors
    ///
    /// [`TransferError::Registry`] with what each registry said.
    pub fn find(&self) -> Result<Descriptor, TransferError> {
        if let Some(digest) = self.reference.digest() {
            let raw = self.manifest(digest).map_err(|error| self.unless_no_registry(error))?;
            return Ok(Descriptor::new(&document_type(&raw), *digest, raw.len() as u64));
        }
        let question = format!("{} at {}", self.reference, self.candidates.hosts().join(", "));
        let found = ask_once(self.store, self.progress, &question, || self.resolve())?;
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.digest);
        Ok(found)
    }

    /// What the tag of the reference means, as the registries say now.
    fn resolve(&self) -> Result<Descriptor, TransferError> {
        let tag = self.reference.tag_or_latest().to_owned();
        let work = Arc::new(move |repository: &Repository| Contents::of(repository).resolve(&tag));
        let found = self.candidates.ask_first(Subject::Tag, work);
        let found = found.map_err(|error| match error.is_not_found() {
            true => self.no_tag(error),
            false => self.unless_no_registry(error),
        });
        let (index, found) = found?;
        self.is_answered_by(index);
        match found {
            Found::Said(descriptor) => Ok(descriptor),
            Found::Read(descriptor, raw) => {
                self.store.blobs().put(&raw)?;
                Ok(descriptor)
            }
        }
    }

    /// The host that said what the reference means; none when another process or the store did.
    pub fn answered_by(&self) -> Option<String> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_answered_by(&self, index: usize) {
        let host = self.candidates.answered(index).map(str::to_owned);
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = host;
    }

    /// Asks what each registry says for itself.
    fn ask<T>(&self, work: &dyn Fn(&Repository) -> Result<T, RegistryError>) -> Result<T, TransferError> {
        let (index, found) = self.candidates.ask(Subject::Tag, work)?;
        if let Some(stand_in) = self.candidates.stand_in(index) {
            *self.stand_in.lock().unwrap_or_else(PoisonError::into_inner) = Some(stand_in);
        }
        Ok(found)
    }

    /// What a tag means that may not be there.
    fn named(&self, tag: &str) -> Result<Option<Descriptor>, TransferError> {
        self.ask(&|repository| Contents::of(repository).find(tag))
    }

    /// What the list under the fallback tag has, and how many entries of it cannot be read.
    fn listed_by_tag(&self, image: &Digest) -> Result<(Vec<Descriptor>, usize), TransferError> {
        let tag = fallback_tag(image);
        let Some(list) = self.named(&tag)? else {
            return Ok((Vec::new(), 0));
        };
        let listed = parse_referrers(&self.manifest(&list.digest)?);
        // Some tools call images so.
        Ok(listed.unwrap_or_else(|error| {
            let text = format!("the tag {tag} is no list of what refers to {image} ({error}), so none is copied");
            self.progress.warn(&text);
            (Vec::new(), 0)
        }))
    }

    /// `error`, or that its host is no registry.
    fn unless_no_registry(&self, error: TransferError) -> TransferError {
        let found = find_suspect(&error).and_then(|suspect| {
            let mut all = (0..self.candidates.count()).filter_map(|index| self.candidates.repository(index));
            let asked = all.find(|one| one.host() == suspect.host)?;
            find_no_registry(asked.registry(), suspect.reference, suspect.answer)
        });
        found.unwrap_or(error)
    }

    /// The error of a tag that nobody knows, with the tags that there are, as far as they can be had by one try: they are for
    /// people, and it says nothing of a registry that it does not list them.
    fn no_tag(&self, error: TransferError) -> TransferError {
        let Some(first) = self.candidates.first() else {
            return error;
        };
        let reference = self.reference.to_string();
        let unknown = match Listing::of(first).some_tags() {
            Ok(tags) if tags.is_empty() => return error,
            Ok(tags) => {
                let tags = tags.into_iter().take(MOST_TAGS).collect();
                return TransferError::NoTag { reference, tags };
            }
            Err(unknown) => unknown,
        };
        match find_no_registry(first.registry(), &reference, &unknown) {
            Some(stranger) => stranger,
            None if unknown.is_not_found() => TransferError::NoRepository {
                reference,
                host: first.host().to_owned(),
                repository: first.name().to_owned(),
            },
            None => error,
        }
    }

    fn blob(&self, blob: &Descriptor, from: u64) -> RemoteBlob<'_> {
        let digest = blob.digest;
        RemoteBlob::new(&self.candidates, blob, from, move |index| {
            let mut givers = self.givers.lock().unwrap_or_else(PoisonError::into_inner);
            givers.insert(digest, index);
        })
    }

    /// The manifest or index of a digest, fetched once for all processes that want it.
    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, TransferError> {
        let does = format!("fetches manifest {digest}");
        let task = Task {
            does: &does,
            progress: self.progress,
        };
        match self.store.blobs().claim(digest, None, task)? {
            Download::Whole(_) => Ok(self.store.blobs().read_document(digest, MAX_DOCUMENT_BYTES)?),
            Download::Partial(mut partial) => {
                partial.restart()?;
                let own = *digest;
                let work = Arc::new(move |repository: &Repository| Contents::of(repository).manifest(&own));
                let (index, (_, raw)) = self.candidates.fetch_first(work)?;
                if self.reference.digest() == Some(digest) {
                    self.is_answered_by(index);
                }
                partial.append(&raw)?;
                partial.commit(raw.len() as u64)?;
                Ok(raw)
            }
        }
    }

    /// A configuration, fetched once for all processes that want it.
    fn config(&self, document: &Descriptor) -> Result<Vec<u8>, TransferError> {
        let does = format!("fetches image config {}", document.digest);
        let task = Task {
            does: &does,
            progress: self.progress,
        };
        let mut partial = match self.store.blobs().claim(&document.digest, Some(document.size), task)? {
            Download::Whole(_) => {
                self.prove(document)?;
                return Ok(self.store.blobs().read(document)?);
            }
            Download::Partial(partial) => partial,
        };
        loop {
            partial.restart()?;
            let raw = read_document(&mut self.blob(document, 0), &self.place(&document.digest))?;
            let got = Digest::of(&raw);
            if got == document.digest {
                partial.append(&raw)?;
                partial.commit(raw.len() as u64)?;
                return Ok(raw);
            }
            let wrong = TransferError::Store(StoreError::Digest {
                expected: document.digest,
                got,
            });
            if !self.gives_again(document, &wrong) {
                return Err(wrong);
            }
        }
    }
}

impl Source for Remote<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        self.open_at(blob, 0)
    }

    fn open_at(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + '_>, TransferError> {
        Ok(Box::new(self.blob(blob, from)))
    }

    fn read(&self, document: &Descriptor) -> Result<Vec<u8>, TransferError> {
        let name = document.media_type.as_str();
        match media_type::is_manifest(name) || media_type::is_index(name) {
            true => self.manifest(&document.digest),
            false => self.config(document),
        }
    }

    /// One that is ill may say a wrong one, and another one have the manifest.
    fn is_size_hearsay(&self, document: &Descriptor) -> bool {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) == Some(document.digest)
    }

    fn referrers(&self, image: &Digest) -> Result<Vec<Descriptor>, TransferError> {
        let listed = match self.lists_none.load(Ordering::Relaxed) {
            true => None,
            false => self.ask(&|repository| Listing::of(repository).referrers(image))?,
        };
        self.lists_none.store(listed.is_none(), Ordering::Relaxed);
        let (all, left) = match listed {
            Some(listed) => listed,
            None => self.listed_by_tag(image)?,
        };
        if all.len() + left > MAX_REFERRERS {
            let (image, reason) = (*image, TOO_MANY_REFERRERS);
            return Err(TransferError::Referrers { image, reason });
        }
        if left > 0 {
            let text = format!("{left} referrers of {image} have other digests than SHA-256; left out");
            self.progress.warn(&text);
        }
        Ok(all)
    }

    fn companions(&self, image: &Digest) -> Result<Vec<Referrer>, TransferError> {
        let mut found = Vec::new();
        for tag in companion_tags(image) {
            if let Some(descriptor) = self.named(&tag)? {
                let tag = Some(tag);
                found.push(Referrer { descriptor, tag });
            }
        }
        Ok(found)
    }

    fn stand_in(&self) -> Option<StandIn> {
        self.stand_in.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        let host = self.candidates.first().map(Repository::host).unwrap_or_default();
        PathBuf::from(format!("{host}: {digest}"))
    }

    fn reach(&self) -> Reach {
        Reach::Away
    }

    fn at_once(&self) -> usize {
        self.at_once
    }

    /// One of the registries has to say that it has it: nobody gets a layer of this store by naming it in a manifest that
    /// no registry would have taken.
    fn prove(&self, blob: &Descriptor) -> Result<(), TransferError> {
        let blob = blob.clone();
        let work = Arc::new(move |repository: &Repository| Contents::of(repository).prove_blob(&blob, Access::Pull));
        self.candidates.ask_first(Subject::Digest, work).map(drop)
    }

    fn gives_again(&self, blob: &Descriptor, error: &TransferError) -> bool {
        let TransferError::Store(StoreError::Digest { .. } | StoreError::Size { .. }) = error else {
            return false;
        };
        let giver = {
            let givers = self.givers.lock().unwrap_or_else(PoisonError::into_inner);
            givers.get(&blob.digest).copied()
        };
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let count = wrong.entry(blob.digest).or_default();
        *count += 1;
        let Some(giver) = giver else {
            // What an earlier process left is at fault, and gone now.
            return *count == 1;
        };
        // The first time what an earlier process left may be at fault; and each registry gets one more try.
        if count.is_multiple_of(2) {
            self.candidates.gave_wrong(giver, &blob.digest, error.to_string());
        }
        (*count as usize) < 2 * self.candidates.count()
    }
}
