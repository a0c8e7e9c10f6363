//! A repository whose blobs are taken from the store of this machine where they are there, and as they should be.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::peer::{Reach, Referrer, Source, StandIn};
use super::remote::Remote;
use super::TransferError;
use crate::oci::{Descriptor, Digest};
use crate::progress::Progress;
use crate::store::{Store, StoreError};

/// A repository, and what of it this machine has.
pub struct Nearby<'a> {
    store: &'a Store,
    remote: &'a Remote<'a>,
    progress: &'a dyn Progress,
    /// What the store does not have as it should, and the repository is asked for.
    damaged: Mutex<BTreeSet<Digest>>,
}

impl<'a> Nearby<'a> {
    /// The repository, with `store` before it.
    pub fn new(store: &'a Store, remote: &'a Remote<'a>, progress: &'a dyn Progress) -> Self {
        Self {
            store,
            remote,
            progress,
            damaged: Mutex::default(),
        }
    }

    /// Whether the store has a blob that was not found damaged.
    fn has(&self, blob: &Descriptor) -> Result<bool, TransferError> {
        Ok(!self.damaged().contains(&blob.digest) && self.store.blobs().has(blob)?)
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Nearby<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        self.open_at(blob, 0)
    }

    /// The repository has to show that it has what the store gives in its place: nobody gets a layer of this store by naming it.
    fn open_at(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + '_>, TransferError> {
        if !self.has(blob)? {
            return self.remote.open_at(blob, from);
        }
        self.remote.prove(blob)?;
        match Source::open_at(self.store, blob, from) {
            // Collected meanwhile.
            Err(TransferError::Store(StoreError::NoBlob { .. })) => self.remote.open_at(blob, from),
            opened => opened,
        }
    }

    fn read(&self, document: &Descriptor) -> Result<Vec<u8>, TransferError> {
        self.remote.read(document)
    }

    fn is_size_hearsay(&self, document: &Descriptor) -> bool {
        self.remote.is_size_hearsay(document)
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.remote.place(digest)
    }

    fn reach(&self) -> Reach {
        self.remote.reach()
    }

    fn at_once(&self) -> usize {
        self.remote.at_once()
    }

    fn prove(&self, blob: &Descriptor) -> Result<(), TransferError> {
        self.remote.prove(blob)
    }

    fn gives_again(&self, blob: &Descriptor, error: &TransferError) -> bool {
        let is_wrong = matches!(
            error,
            TransferError::Store(StoreError::Digest { .. } | StoreError::Size { .. })
        );
        if !is_wrong || !self.has(blob).unwrap_or_default() {
            return self.remote.gives_again(blob, error);
        }
        self.damaged().insert(blob.digest);
        self.progress.warn(&format!(
            "{} is damaged in this machine's store and is fetched; `gantry cache check` looks at all of them",
            blob.digest
        ));
        true
    }

    fn referrers(&self, image: &Digest) -> Result<Vec<Descriptor>, TransferError> {
        self.remote.referrers(image)
    }

    fn companions(&self, image: &Digest) -> Result<Vec<Referrer>, TransferError> {
        self.remote.companions(image)
    }

    fn stand_in(&self) -> Option<StandIn> {
        self.remote.stand_in()
    }
}
