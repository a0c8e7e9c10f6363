//! Copies a layer that lies on this machine into the store and unpacks it in the same pass.
//!
//! The blob gets its name when its digest is right, and then its files, when they are those of the diff id. What is refused
//! while a blob is read was read from bytes that are not verified yet, so the blob's own error comes first.

use std::io::{self, Read, Write};

use super::peer::Incoming;
use super::TransferError;
use crate::oci::Descriptor;
use crate::store::{io_error, ArrivingImage, BlobWriter, Store, StoreError};

/// What is read at a time.
const CHUNK: usize = 256 << 10;

/// Copies a layer and unpacks it for `image`. A layer that may need more memory than one beside others has is copied only.
pub(super) fn copy_and_unpack(
    store: &Store,
    image: &ArrivingImage<'_>,
    layer: &Descriptor,
    incoming: &mut Incoming<'_>,
) -> Result<(), TransferError> {
    let mut copied = CopiedBlob {
        writer: store.blobs().writer()?,
        store,
        layer,
        incoming,
        chunk: vec![0; CHUNK],
        next: 0,
        end: 0,
        failed: None,
    };
    let unpacked = image.unpack(layer, &mut copied);
    copied.drain()?;
    copied.writer.commit_expecting(layer)?;
    match unpacked {
        Ok(unpacked) => Ok(unpacked.commit()?),
        // It is unpacked from its blob, one at a time, and refused then if it is.
        Err(StoreError::Layer { .. }) if image.may_need_more(layer) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A blob that is written while it is read.
struct CopiedBlob<'i, 'a> {
    writer: BlobWriter,
    store: &'i Store,
    layer: &'i Descriptor,
    incoming: &'i mut Incoming<'a>,
    chunk: Vec<u8>,
    /// What was not given yet of `chunk`.
    next: usize,
    end: usize,
    failed: Option<TransferError>,
}

impl CopiedBlob<'_, '_> {
    /// Writes what comes next; whether there was something.
    fn advance(&mut self) -> Result<bool, TransferError> {
        (self.next, self.end) = (0, 0);
        let count = self.incoming.read_next(&mut self.chunk)?;
        let written = self.writer.write_all(self.chunk.get(..count).unwrap_or_default());
        written.map_err(|source| io_error("write", &self.store.blobs().path(&self.layer.digest))(source))?;
        self.end = count;
        Ok(count > 0)
    }

    /// Writes all that is still to come.
    ///
    /// # Errors
    /// Also the one that ended an earlier reading.
    fn drain(&mut self) -> Result<(), TransferError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        while self.advance()? {}
        Ok(())
    }
}

impl Read for CopiedBlob<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.next == self.end && self.failed.is_none() {
            if let Err(error) = self.advance() {
                self.failed = Some(error);
            }
        }
        if self.failed.is_some() {
            return Err(io::Error::other("the rest of it cannot be read or written"));
        }
        let mut rest = self.chunk.get(self.next..self.end).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.next += count;
        Ok(count)
    }
}
