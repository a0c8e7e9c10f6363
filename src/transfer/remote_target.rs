//! A repository that an image is pushed to: what is there is not sent again, what lies in another repository of the registry
//! is taken over there, the rest is uploaded, and the manifest comes last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::attempt::{Asked, Ledger};
use super::candidates::of_registry;
use super::circuit::{note_failure, note_refusal, note_success};
use super::connections::Connections;
use super::fallback::list_referrer;
use super::peer::{Destination, Documents, Incoming, Keeps, Kept, Reach, Written};
use super::persist::{pause_before_retry, persist, sleep, Standing};
use super::poured::{Bytes, Held, OpenBytes, Poured};
use super::pushed::{note_pushed, Expected, SMALL};
use super::registries::{matches_pattern, Registries};
use super::TransferError;
use crate::oci::{parse_artifact, Descriptor, Digest, Reference};
use crate::progress::Progress;
use crate::registry::{Contents, Failure, Mounted, Pushes, RegistryError, Repository, Upload};
use crate::store::{Store, StoreError};

/// One request of an upload where a registry takes no large ones. The smallest limit that is known is this one.
const CHUNK: u64 = 4 << 20;
/// An upload that got so much further before it broke was worth it.
const WORTH_IT: u64 = 1 << 20;
/// Times that an upload goes on elsewhere because the registry has other bytes of it than it said.
const MOST_WRONG: u32 = 2;
/// Names of the store that are looked at for other repositories with a layer.
const MOST_NAMES: usize = 200;

/// A repository that an image is pushed to.
pub struct RemoteTarget<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
    repository: Repository,
    /// As it was typed.
    reference: Reference,
    host: String,
    /// Whether the configuration has it.
    is_listed: bool,
    name: String,
    /// Under which the manifest is written.
    tag: Option<String>,
    chunk: Option<u64>,
    is_immutable: bool,
    at_once: usize,
    connections: Connections,
    ledger: Ledger,
    /// Which repositories of the registry have which layers, as far as names of the store say; made at the first question.
    elsewhere: Mutex<Option<HashMap<Digest, String>>>,
    /// What the repository has of the image before it is asked.
    expected: Mutex<Arc<Expected>>,
}

impl<'a> RemoteTarget<'a> {
    /// The repository of `reference`. Nothing is asked of it yet.
    ///
    /// # Errors
    ///
    /// [`TransferError::PullOnly`] when nothing is pushed there.
    pub fn new(
        store: &'a Store,
        registries: &Registries,
        reference: &Reference,
        progress: &'a dyn Progress,
    ) -> Result<Self, TransferError> {
        let (host, name) = of_registry(reference)?;
        registries.may_push(host)?;
        let client = registries.client(host).map_err(|error| failed(reference, error))?;
        let entry = registries.entry(host);
        Ok(Self {
            store,
            progress,
            repository: client.repository(name),
            reference: reference.clone(),
            host: host.to_owned(),
            is_listed: registries.is_known(host),
            name: name.to_owned(),
            // A digest beside a tag says which image it has to be.
            tag: match reference {
                Reference::Registry { tag: Some(tag), .. } => Some(tag.clone()),
                _ if reference.digest().is_some() => None,
                _ => Some(reference.tag_or_latest().to_owned()),
            },
            chunk: entry.chunk.map(|bytes| bytes.0),
            is_immutable: entry.immutable.iter().any(|pattern| matches_pattern(pattern, name)),
            at_once: registries.rules().uploads,
            connections: registries.connections(store, host),
            ledger: Ledger::default(),
            elsewhere: Mutex::default(),
            expected: Mutex::default(),
        })
    }

    /// Notes whom it asks from now on in `asked`.
    #[must_use]
    pub fn told_to(self, asked: &Asked) -> Self {
        asked.add(&self.ledger);
        self
    }

    /// What is there under the tag or digest, as the registry says without sending it; of both, under the tag if it is that.
    ///
    /// # Errors
    ///
    /// When that cannot be known.
    pub fn find(&self) -> Result<Option<Digest>, TransferError> {
        let digest = self.reference.digest().map(ToString::to_string);
        let name = self.tag.as_deref().or(digest.as_deref()).unwrap_or("latest");
        // Also for who may only read: nothing may be sent at all.
        let there = self.ask(|| Contents::of(&self.repository).find(name))?;
        let there = there.map(|descriptor| descriptor.digest);
        let is_wanted = |there: &Digest| self.reference.digest().is_none_or(|wanted| wanted == there);
        Ok(there.filter(is_wanted))
    }

    fn expected(&self) -> Arc<Expected> {
        Arc::clone(&self.expected.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn expect(&self, expected: Expected) {
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(expected);
    }

    fn ask<T>(&self, mut work: impl FnMut() -> Result<T, RegistryError>) -> Result<T, TransferError> {
        self.ledger.begins(&self.host);
        let stumbles = |error: &RegistryError| self.ledger.stumbles(&self.host, error);
        self.note(persist(Standing::Last, || work().inspect_err(stumbles)))
    }

    fn note<T>(&self, result: Result<T, RegistryError>) -> Result<T, TransferError> {
        match result {
            Ok(value) => {
                if self.ledger.succeeds(&self.host) {
                    note_success(self.store, &self.host);
                }
                Ok(value)
            }
            Err(error) => {
                self.ledger.fails(&self.host, &error);
                if error.failure().is_outage() {
                    note_failure(self.store, &self.host, error.word());
                } else if error.failure().is_refusal() && self.is_listed {
                    note_refusal(self.store, &self.host, error.word());
                }
                Err(failed(&self.reference, error))
            }
        }
    }

    /// Another repository of the registry that has the layer, if the names of this store lead to one.
    fn elsewhere(&self, digest: &Digest) -> Option<String> {
        let mut known = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(|| self.find_elsewhere());
        known.get(digest).cloned()
    }

    fn find_elsewhere(&self) -> HashMap<Digest, String> {
        let names = self.store.names().list().unwrap_or_default();
        let others = names.into_iter().filter_map(|(name, digest)| match name {
            Reference::Registry { host, repository, .. } => {
                (host == self.host && repository != self.name).then_some((repository, digest?))
            }
            _ => None,
        });
        let mut found = HashMap::new();
        for (repository, digest) in others.take(MOST_NAMES) {
            let Ok(image) = self.store.images().open(&digest) else {
                continue;
            };
            for layer in image.manifest.layers {
                found.entry(layer.digest).or_insert_with(|| repository.clone());
            }
        }
        found
    }

    /// Takes a layer over from another repository, or begins its upload; none when it is there then. To look for one that has
    /// a small layer would take longer than to send it.
    fn begin_upload(&self, layer: &Descriptor) -> Result<Option<Upload>, TransferError> {
        let digest = &layer.digest;
        let from = (layer.size > SMALL).then(|| self.elsewhere(digest)).flatten();
        if let Some(from) = from {
            match Pushes::to(&self.repository).mount(digest, &from) {
                Ok(Mounted::Done) => {
                    self.progress
                        .step("Mounting", &format!("layer {digest} of {}/{from}", self.host));
                    return Ok(None);
                }
                Ok(Mounted::Not(upload)) => return Ok(Some(upload)),
                // Who may not take it from there, or where mounts do not work, uploads it.
                Err(_) => {}
            }
        }
        self.ask(|| Pushes::to(&self.repository).begin_upload()).map(Some)
    }

    /// Uploads a blob, in one piece where the registry takes it so.
    fn upload(&self, blob: &Descriptor, mut upload: Upload, bytes: &mut dyn Bytes) -> Result<(), TransferError> {
        let mut chunk = self.chunk;
        let (mut at, mut tried, mut wrong, mut furthest) = (0, 0, 0, 0);
        loop {
            let began = at;
            let sent = self.send(blob, &mut upload, at, chunk, bytes);
            if let Some(error) = bytes.failure() {
                return Err(error);
            }
            let error = match sent {
                Ok(()) => {
                    self.ledger.moves(&self.host, blob.size);
                    return self.note(Ok(()));
                }
                Err(error) => error,
            };
            // Too large for one request (413), or for this registry's way of saying so (416).
            if at == 0 && chunk.is_none() && matches!(error.status(), Some(413 | 416)) {
                chunk = Some(CHUNK);
                upload = self.ask(|| Pushes::to(&self.repository).begin_upload())?;
                continue;
            }
            // One that says so before all of it was sent may end the connection, and its answer is lost.
            if error.failure() == Failure::Broken && blob.size > CHUNK {
                chunk = chunk.or(Some(CHUNK));
            }
            // What it said to have is not what it has: it is asked again, and in the end it gets all of it anew.
            let is_offset_wrong = (began > 0 || chunk.is_some()) && matches!(error.status(), Some(400 | 416));
            if is_offset_wrong && wrong < MOST_WRONG {
                wrong += 1;
                at = match error.status() {
                    Some(416) if wrong < MOST_WRONG => self.offset(blob, &mut upload),
                    _ => 0,
                };
                if at == 0 {
                    upload = self.ask(|| Pushes::to(&self.repository).begin_upload())?;
                }
                continue;
            }
            tried += 1;
            let Some(pause) = pause_before_retry(&error, tried, Standing::Last) else {
                return self.note(Err(error));
            };
            sleep(pause);
            // Its last answer may be what was lost.
            if self.ask(|| Contents::of(&self.repository).has_blob(blob))? {
                return Ok(());
            }
            at = self.offset(blob, &mut upload);
            if at == 0 {
                upload = self.ask(|| Pushes::to(&self.repository).begin_upload())?;
            }
            if at >= WORTH_IT.saturating_add(furthest) {
                (tried, furthest) = (0, at);
            }
        }
    }

    /// The byte at which an upload goes on; 0 for one that begins anew, as the registry does not know it any more, or says
    /// what cannot be.
    fn offset(&self, blob: &Descriptor, upload: &mut Upload) -> u64 {
        let said = Pushes::to(&self.repository).upload_offset(upload);
        said.ok().filter(|offset| *offset <= blob.size).unwrap_or_default()
    }

    fn send(
        &self,
        blob: &Descriptor,
        upload: &mut Upload,
        mut at: u64,
        chunk: Option<u64>,
        bytes: &mut dyn Bytes,
    ) -> Result<(), RegistryError> {
        let (digest, size, repository) = (&blob.digest, blob.size, &self.repository);
        let _connection = self.connections.wait(self.progress);
        if at == 0 && chunk.is_none_or(|chunk| chunk >= size) {
            let sending = &mut |open: &mut OpenBytes<'_>| Pushes::to(repository).put_blob(upload, digest, size, open);
            return bytes.pour(0, size, sending);
        }
        let least = upload.least_chunk;
        while at < size {
            let length = chunk.map_or(size - at, |chunk| chunk.max(least)).min(size - at);
            let mut has = at;
            bytes.pour(at, length, &mut |open| {
                has = Pushes::to(repository).put_chunk(upload, at, length, open)?;
                Ok(())
            })?;
            // Where it has no more than before, nothing is gained by sending the same again at once.
            if has <= at || has > size {
                let reason = format!("it has {has} bytes after a part from byte {at} on");
                return Err(Contents::of(repository).wrong_blob(digest, reason));
            }
            at = has;
        }
        Pushes::to(repository).end_upload(upload, digest, size)
    }
}

impl Destination for RemoteTarget<'_> {
    /// A tag that must not be moved is looked at before gigabytes are sent.
    fn begin(&self, image: &Documents) -> Result<(), TransferError> {
        let got = image.descriptor.digest;
        match self.reference.digest() {
            Some(expected) if *expected != got => {
                let expected = *expected;
                return Err(StoreError::Digest { expected, got }.into());
            }
            _ => self.check_tag(image)?,
        }
        self.expect(Expected::of(self.store, &self.repository.shown(), image));
        Ok(())
    }

    /// By the manifest that was pushed here last, where that answers for the layer; else the registry is asked for it.
    fn has(&self, layer: &Descriptor) -> Result<bool, TransferError> {
        // Asked for once, and without a word of what fails: the push does as well without an answer.
        let has_manifest = |manifest: &Digest| {
            self.ledger.begins(&self.host);
            let there = Contents::of(&self.repository).digest_of(&manifest.to_string());
            there.is_ok_and(|there| there.as_ref() == Some(manifest))
        };
        match self.expected().says(&layer.digest, has_manifest) {
            Some(is_there) => Ok(is_there),
            None => self.ask(|| Contents::of(&self.repository).has_blob(layer)),
        }
    }

    fn expects(&self, layer: &Descriptor) -> bool {
        self.expected().knows(&layer.digest)
    }

    /// A registry that misses a blob says so by 400 or 404 (MANIFEST_BLOB_UNKNOWN), and some by 422.
    fn doubts(&self, error: &TransferError) -> bool {
        let TransferError::Registry { failures, .. } = error else {
            return false;
        };
        let is_about_blobs = |failure: &RegistryError| matches!(failure.status(), Some(400 | 404 | 422));
        let refusal = failures.iter().find(|failure| is_about_blobs(failure));
        let Some(refusal) = refusal.filter(|_| self.expected().is_believed()) else {
            return false;
        };
        self.expect(Expected::default());
        self.ledger.withdraws(&self.host, refusal);
        true
    }

    fn at_once(&self, _: Reach) -> usize {
        self.at_once
    }

    fn keeps_referrers(&self) -> Option<&dyn Keeps> {
        Some(self)
    }

    fn put(&self, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError> {
        let Some(upload) = self.begin_upload(layer)? else {
            return Ok(());
        };
        self.progress.step("Pushing", &format!("layer {}", layer.digest));
        let mut poured = Poured {
            incoming,
            blob: layer,
            failure: None,
        };
        self.upload(layer, upload, &mut poured)
    }

    fn put_config(&self, image: &Documents) -> Result<(), TransferError> {
        let config = &image.manifest.config;
        if self.has(config)? {
            return Ok(());
        }
        let upload = self.ask(|| Pushes::to(&self.repository).begin_upload())?;
        self.upload(config, upload, &mut Held(&image.config_raw))
    }

    fn finish(&self, image: &Documents, _: Option<&str>) -> Result<(), TransferError> {
        let digest = image.descriptor.digest.to_string();
        // An image may refer to another one. A subject that is none of ours is the registry's to judge.
        let artifact = parse_artifact(&image.manifest_raw)
            .ok()
            .filter(|artifact| artifact.subject.is_some());
        let write = |reference: &str| match &artifact {
            None => self.ask(|| {
                Pushes::to(&self.repository).put_manifest(reference, &image.descriptor.media_type, &image.manifest_raw)
            }),
            Some(artifact) => {
                let written = Written {
                    descriptor: &image.descriptor,
                    raw: &image.manifest_raw,
                    artifact,
                    tag: None,
                    is_part: false,
                };
                self.write(reference, &written)
            }
        };
        match self.tag.as_deref() {
            None => write(&digest)?,
            Some(tag) if !self.is_immutable => write(tag)?,
            // Nothing at a registry writes a tag only where there is none. What can be done: the image is there before, the
            // tag is looked at as late as can be, and again when it is written.
            Some(tag) => {
                write(&digest)?;
                self.check_tag(image)?;
                write(tag)?;
                self.check_tag(image)?;
            }
        }
        note_pushed(self.store, &self.repository.shown(), image, &self.expected());
        Ok(())
    }
}

impl Keeps for RemoteTarget<'_> {
    /// Where the registry does not say that it lists a referrer itself, it is listed under the fallback tag.
    fn put_artifact(&self, written: &Written<'_>) -> Result<Kept, TransferError> {
        let digest = written.descriptor.digest;
        let there = match written.tag {
            Some(tag) => self.ask(|| Contents::of(&self.repository).digest_of(tag))?,
            None => None,
        };
        match there {
            Some(there) if there == digest => return Ok(Kept::There),
            Some(there) if self.is_immutable => return Ok(Kept::NotFor(there)),
            _ => self.write(written.tag.unwrap_or(&digest.to_string()), written)?,
        }
        Ok(there.map_or(Kept::There, Kept::InPlaceOf))
    }
}

impl RemoteTarget<'_> {
    /// Writes a manifest, and has it listed at what it refers to.
    fn write(&self, reference: &str, written: &Written<'_>) -> Result<(), TransferError> {
        let (kind, raw) = (written.descriptor.media_type.as_str(), written.raw);
        let Some(subject) = &written.artifact.subject else {
            return self.ask(|| Pushes::to(&self.repository).put_manifest(reference, kind, raw));
        };
        let is_listed = self.ask(|| Pushes::to(&self.repository).put_referrer(reference, kind, raw, subject))?;
        match is_listed {
            true => Ok(()),
            false => list_referrer(&self.repository, subject, written, &mut |work| self.ask(work)),
        }
    }

    /// Refuses to move a tag that the configuration says is not moved.
    fn check_tag(&self, image: &Documents) -> Result<(), TransferError> {
        let Some(tag) = self.tag.as_deref().filter(|_| self.is_immutable) else {
            return Ok(());
        };
        let there = self.ask(|| Contents::of(&self.repository).digest_of(tag))?;
        match there.filter(|there| *there != image.descriptor.digest) {
            Some(there) => Err(TransferError::Immutable {
                reference: self.reference.to_string(),
                there,
            }),
            None => Ok(()),
        }
    }
}

fn failed(reference: &Reference, error: RegistryError) -> TransferError {
    TransferError::Registry {
        reference: reference.to_string(),
        failures: vec![error],
    }
}
