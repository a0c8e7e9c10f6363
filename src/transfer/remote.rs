//! A repository that images are fetched from: of the registry that was named, or of the next one that has the same path.
//!
//! Each request is made of the registries in their order until one answers; where the first is silent the next is asked as
//! well. A blob that breaks off goes on at its next byte, at the same registry or at another one: what it is called is the
//! digest of its bytes, so it does not matter whose they are. Manifests and configurations go through the store, so that of
//! many processes that pull one image one asks for them.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Ledger};
use super::circuit::{note_failure, note_success};
use super::peer::{Reach, Source};
use super::persist::{pause_before_retry, persist, sleep, Standing};
use super::registries::Registries;
use super::small::read_document;
use super::TransferError;
use crate::oci::{media_type, Descriptor, Digest, Reference, MAX_DOCUMENT_BYTES};
use crate::progress::Progress;
use crate::registry::{document_type, Access, BlobBody, Failure, Found, RegistryError, Repository, Step};
use crate::store::{Download, Store, StoreError, Task};

/// A connection that brought this much before it broke was worth it.
const WORTH_IT: u64 = 1 << 20;
/// The fewest bytes a second that a registry is worth waiting for, over the time that it may be silent.
const SLOWEST: u64 = 1 << 10;
/// Tags that are named in an error.
const MOST_TAGS: usize = 10;

/// What is asked of a repository, in a thread of its own.
type Work<T> = dyn Fn(&Repository) -> Result<T, RegistryError> + Send + Sync;

/// A repository, as it is asked for at one or several registries.
pub struct Remote<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
    /// As it was typed.
    reference: Reference,
    candidates: Vec<Candidate>,
    /// Indices of the candidates, whoever is asked first first.
    order: Mutex<Vec<usize>>,
    ledger: Ledger,
    hedge: Duration,
    stall: Duration,
    at_once: usize,
    /// How often a blob was not what it is called.
    wrong: Mutex<HashMap<Digest, u32>>,
    /// Who gave the blob that was read last.
    givers: Mutex<HashMap<Digest, usize>>,
}

struct Candidate {
    repository: Repository,
    /// Given up for the rest of this image.
    is_gone: AtomicBool,
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
        let (host, name) = of_registry(reference)?;
        let hosts = registries.candidates(store, host);
        let candidate = |host: &String| {
            let client = registries
                .client(host)
                .map_err(|error| failed(reference, vec![error]))?;
            Ok::<_, TransferError>(Candidate {
                repository: client.repository(name),
                is_gone: AtomicBool::new(false),
            })
        };
        let candidates = hosts.iter().map(candidate).collect::<Result<Vec<_>, _>>()?;
        let rules = registries.rules();
        Ok(Self {
            store,
            progress,
            reference: reference.clone(),
            order: Mutex::new((0..candidates.len()).collect()),
            candidates,
            ledger: Ledger::default(),
            hedge: rules.hedge,
            stall: rules.stall,
            at_once: rules.downloads,
            wrong: Mutex::default(),
            givers: Mutex::default(),
        })
    }

    /// Who was asked so far.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.ledger.attempts()
    }

    /// What the reference means.
    ///
    /// # Errors
    ///
    /// [`TransferError::Registry`] with what each registry said.
    pub fn find(&self) -> Result<Descriptor, TransferError> {
        if let Some(digest) = self.reference.digest() {
            let raw = self.manifest(digest)?;
            return Ok(Descriptor::new(&document_type(&raw), *digest, raw.len() as u64));
        }
        let tag = self.reference.tag_or_latest().to_owned();
        let found = self.ask_first(Arc::new(move |repository: &Repository| repository.resolve(&tag)));
        let found = found.map_err(|error| match error.is_not_found() {
            true => self.no_tag(error),
            false => error,
        });
        match found? {
            Found::Said(descriptor) => Ok(descriptor),
            Found::Read(descriptor, raw) => {
                self.store.blobs().put(&raw)?;
                Ok(descriptor)
            }
        }
    }

    /// The error of a tag that nobody knows, with the tags that there are, as far as they can be had.
    fn no_tag(&self, error: TransferError) -> TransferError {
        let tags = self
            .ask(&|repository| repository.tags())
            .map(|(_, tags)| tags)
            .unwrap_or_default();
        if tags.is_empty() {
            return error;
        }
        TransferError::NoTag {
            reference: self.reference.to_string(),
            tags: tags.into_iter().take(MOST_TAGS).collect(),
        }
    }

    /// Those that are asked, the first first.
    fn order(&self) -> Vec<usize> {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = |index: &usize| {
            self.candidate(*index)
                .is_some_and(|one| !one.is_gone.load(Ordering::Relaxed))
        };
        let there: Vec<usize> = order.iter().copied().filter(is_there).collect();
        // All were given up: nobody knows better than to ask them again.
        if there.is_empty() {
            order.clone()
        } else {
            there
        }
    }

    fn candidate(&self, index: usize) -> Option<&Candidate> {
        self.candidates.get(index)
    }

    /// Whoever answered when the first was silent is asked first from now on.
    fn prefer(&self, index: usize) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.sort_by_key(|other| *other != index);
    }

    fn standing(&self, index: usize) -> Standing {
        match self.order().iter().any(|other| *other != index) {
            true => Standing::OneOfSeveral,
            false => Standing::Last,
        }
    }

    /// What `work` comes to at the first registry that answers, and which that is.
    fn ask<T>(&self, work: &dyn Fn(&Repository) -> Result<T, RegistryError>) -> Result<(usize, T), TransferError> {
        let mut failures = Vec::new();
        let order = self.order();
        for (at, index) in order.iter().enumerate() {
            let Some(candidate) = self.candidate(*index) else {
                continue;
            };
            let standing = if at + 1 == order.len() {
                Standing::Last
            } else {
                Standing::OneOfSeveral
            };
            self.ledger.begins(candidate.repository.host());
            match persist(standing, || work(&candidate.repository)) {
                Ok(value) => {
                    self.succeeds(*index);
                    return Ok((*index, value));
                }
                Err(error) => {
                    self.give_up(*index, &error);
                    let is_fatal = error.step() == Step::Fatal;
                    failures.push(error);
                    if is_fatal {
                        break;
                    }
                }
            }
        }
        Err(failed(&self.reference, failures))
    }

    /// As [`ask`](Self::ask), but whoever is silent for too long is not waited for: the next one is asked as well, and the
    /// first answer counts.
    fn ask_first<T: Send + 'static>(&self, work: Arc<Work<T>>) -> Result<T, TransferError> {
        let order = self.order();
        if order.len() < 2 || self.hedge.is_zero() {
            return self.ask(&|repository| work(repository)).map(|(_, value)| value);
        }
        let (tell, told) = mpsc::channel();
        let mut waiting = order.iter().copied();
        let (mut silent, mut failures) = (Vec::new(), Vec::new());
        loop {
            if let Some(index) = waiting.next() {
                let Some(candidate) = self.candidate(index) else {
                    continue;
                };
                self.ledger.begins(candidate.repository.host());
                let (repository, own, tell_of_it) = (candidate.repository.clone(), Arc::clone(&work), tell.clone());
                // Left behind when another one is faster: it ends by the time that a registry may be silent.
                let asked = std::thread::Builder::new().spawn(move || {
                    let _ = tell_of_it.send((index, own(&repository)));
                });
                if asked.is_err() {
                    let _ = tell.send((index, work(&candidate.repository)));
                }
                silent.push(index);
            }
            let is_last = waiting.len() == 0;
            let patience = if is_last { self.stall * 2 } else { self.hedge };
            match told.recv_timeout(patience) {
                Ok((index, Ok(value))) => {
                    silent.retain(|other| *other != index);
                    failures.iter().for_each(|(other, error)| self.give_up(*other, error));
                    self.succeeds(index);
                    for other in &silent {
                        self.was_silent(*other);
                    }
                    self.prefer(index);
                    return Ok(value);
                }
                Ok((index, Err(error))) => {
                    silent.retain(|other| *other != index);
                    failures.push((index, error));
                }
                Err(_) if !is_last => continue,
                Err(_) => silent.clear(),
            }
            if is_last && silent.is_empty() {
                break;
            }
        }
        // Once more, and with patience, when that can mend it.
        if failures.iter().any(|(_, error)| error.step() == Step::Retry) {
            return self.ask(&|repository| work(repository)).map(|(_, value)| value);
        }
        failures.iter().for_each(|(index, error)| self.give_up(*index, error));
        Err(failed(
            &self.reference,
            failures.into_iter().map(|(_, error)| error).collect(),
        ))
    }

    fn succeeds(&self, index: usize) {
        let Some(candidate) = self.candidate(index) else { return };
        let host = candidate.repository.host();
        if self.ledger.succeeds(host) {
            note_success(self.store, host);
        }
    }

    fn was_silent(&self, index: usize) {
        let Some(candidate) = self.candidate(index) else { return };
        let ms = self.hedge.as_millis();
        let why = format!("no answer within {ms} ms, and another registry was faster");
        self.ledger.gives_up(candidate.repository.host(), "timeout", why);
    }

    /// Notes why a registry did not do it. One that is away, or does not know us, is not asked again for this image.
    fn give_up(&self, index: usize, error: &RegistryError) {
        let Some(candidate) = self.candidate(index) else { return };
        let host = candidate.repository.host();
        self.ledger.fails(host, error);
        let failure = error.failure();
        if failure.is_outage() {
            note_failure(self.store, host, error.word());
        }
        let is_about_it = !matches!(failure, Failure::NotFound | Failure::WrongBytes | Failure::TooLarge);
        candidate.is_gone.store(is_about_it, Ordering::Relaxed);
        if self.standing(index) == Standing::OneOfSeveral && failure != Failure::NotFound {
            self.progress.warn(&format!("{error}; asking the next registry"));
        }
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
                let (_, raw) = self.ask_first(Arc::new(move |repository: &Repository| repository.manifest(&own)))?;
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
            let raw = read_document(&mut RemoteBlob::new(self, document, 0), &self.place(&document.digest))?;
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
        Ok(Box::new(RemoteBlob::new(self, blob, from)))
    }

    fn read(&self, document: &Descriptor) -> Result<Vec<u8>, TransferError> {
        let name = document.media_type.as_str();
        match media_type::is_manifest(name) || media_type::is_index(name) {
            true => self.manifest(&document.digest),
            false => self.config(document),
        }
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        let first = self.order().first().and_then(|index| self.candidate(*index));
        let host = first.map(|candidate| candidate.repository.host()).unwrap_or_default();
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
        self.ask(&|repository| repository.prove_blob(blob, Access::Pull))
            .map(drop)
    }

    fn gives_again(&self, blob: &Descriptor, error: &TransferError) -> bool {
        let TransferError::Store(StoreError::Digest { .. } | StoreError::Size { .. }) = error else {
            return false;
        };
        let giver = self
            .givers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&blob.digest)
            .copied();
        let Some(candidate) = giver.and_then(|index| self.candidate(index)) else {
            return false;
        };
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let count = wrong.entry(blob.digest).or_default();
        *count += 1;
        // The first time what an earlier process left may be at fault; and each registry gets one more try.
        if count.is_multiple_of(2) {
            let why = candidate.repository.wrong_blob(&blob.digest, error.to_string());
            self.ledger.fails(candidate.repository.host(), &why);
            let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            order.sort_by_key(|other| Some(*other) == giver);
        }
        (*count as usize) < 2 * self.candidates.len()
    }
}

/// Host and repository of a reference.
pub(super) fn of_registry(reference: &Reference) -> Result<(&str, &str), TransferError> {
    match reference {
        Reference::Registry { host, repository, .. } => Ok((host, repository)),
        Reference::Local { .. } | Reference::Digest { .. } | Reference::Layout { .. } => Err(TransferError::NotFound {
            path: reference.to_string().into(),
            reason: "it is no image of a registry".to_owned(),
        }),
    }
}

fn failed(reference: &Reference, failures: Vec<RegistryError>) -> TransferError {
    TransferError::Registry {
        reference: reference.to_string(),
        failures,
    }
}

/// A blob that is read from the registries, at whatever byte the one before broke off.
struct RemoteBlob<'a> {
    remote: &'a Remote<'a>,
    blob: Descriptor,
    at: u64,
    body: Option<(usize, BlobBody)>,
    /// Where the connection that is open now began.
    since: u64,
    /// Connections in a row that broke without having brought much.
    broken: u32,
    /// When it was last looked how fast it is, and what had come by then.
    looked: (Instant, u64),
}

impl<'a> RemoteBlob<'a> {
    fn new(remote: &'a Remote<'a>, blob: &Descriptor, at: u64) -> Self {
        Self {
            remote,
            blob: blob.clone(),
            at,
            body: None,
            since: at,
            broken: 0,
            looked: (Instant::now(), at),
        }
    }

    fn connect(&mut self) -> Result<(), TransferError> {
        let at = self.at;
        let (index, body) = self.remote.ask(&|repository| repository.blob(&self.blob, at))?;
        self.remote
            .givers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.blob.digest, index);
        self.body = Some((index, body));
        self.since = at;
        self.looked = (Instant::now(), at);
        Ok(())
    }

    /// What is done about a connection that broke: another one, at once when another registry may have it.
    fn broke(&mut self, index: usize, error: &io::Error) -> Result<(), TransferError> {
        self.body = None;
        let brought = self.at - self.since;
        self.broken = if brought >= WORTH_IT { 1 } else { self.broken + 1 };
        let remote = self.remote;
        let Some(candidate) = remote.candidate(index) else {
            return Ok(());
        };
        let error = candidate.repository.broken_blob(&self.blob.digest, error);
        let standing = remote.standing(index);
        match pause_before_retry(&error, self.broken, standing) {
            Some(_) if standing == Standing::OneOfSeveral => Ok(()),
            Some(pause) => {
                sleep(pause);
                Ok(())
            }
            None if standing == Standing::OneOfSeveral => {
                remote.give_up(index, &error);
                self.broken = 0;
                Ok(())
            }
            None => {
                remote.give_up(index, &error);
                Err(failed(&remote.reference, vec![error]))
            }
        }
    }

    /// Whether what comes is too slow to be waited for.
    fn is_too_slow(&mut self) -> bool {
        let (when, had) = self.looked;
        if when.elapsed() < self.remote.stall {
            return false;
        }
        self.looked = (Instant::now(), self.at);
        self.at - had < SLOWEST.saturating_mul(when.elapsed().as_secs())
    }
}

impl Read for RemoteBlob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.at >= self.blob.size || buffer.is_empty() {
                return Ok(0);
            }
            if self.body.is_none() {
                self.connect().map_err(io::Error::other)?;
            }
            let Some((index, body)) = &mut self.body else { continue };
            let index = *index;
            let read = match body.read(buffer) {
                // A part that ends before the blob does.
                Ok(0) => {
                    self.body = None;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let trouble = match read {
                Ok(count) => {
                    self.at += count as u64;
                    if !self.is_too_slow() {
                        return Ok(count);
                    }
                    // What came is counted: it is given by the next call, so it must not be lost.
                    self.body = None;
                    let slow = io::Error::new(io::ErrorKind::TimedOut, "it sends less than a kilobyte a second");
                    self.broke(index, &slow).map_err(io::Error::other)?;
                    return Ok(count);
                }
                Err(error) => error,
            };
            self.broke(index, &trouble).map_err(io::Error::other)?;
        }
    }
}
