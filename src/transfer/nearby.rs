//! A repository whose blobs are taken from the store of this machine where they are there.

use std::io::Read;
use std::path::PathBuf;

use super::peer::{Reach, Referrer, Source};
use super::remote::Remote;
use super::TransferError;
use crate::oci::{Descriptor, Digest};
use crate::store::Store;

/// A repository, and what of it this machine has.
pub struct Nearby<'a> {
    /// The store.
    pub store: &'a Store,
    /// The repository.
    pub remote: &'a Remote<'a>,
}

impl Source for Nearby<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        self.open_at(blob, 0)
    }

    /// The repository has to show that it has what the store gives in its place: nobody gets a layer of this store by naming it.
    fn open_at(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + '_>, TransferError> {
        if !self.store.blobs().has(blob)? {
            return self.remote.open_at(blob, from);
        }
        self.remote.prove(blob)?;
        Source::open_at(self.store, blob, from)
    }

    fn read(&self, document: &Descriptor) -> Result<Vec<u8>, TransferError> {
        self.remote.read(document)
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
        self.remote.gives_again(blob, error)
    }

    fn referrers(&self, image: &Digest) -> Result<Vec<Descriptor>, TransferError> {
        self.remote.referrers(image)
    }

    fn companions(&self, image: &Digest) -> Result<Vec<Referrer>, TransferError> {
        self.remote.companions(image)
    }
}
