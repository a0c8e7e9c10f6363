//! Reads documents of a place, and believes nothing of them but what their digests say.

use std::fs::File;

use super::peer::Source;
use super::TransferError;
use crate::oci::{Descriptor, Digest, ParseImageError, MAX_DOCUMENT_BYTES};
use crate::store::{check_descriptor, StoreError};

/// A document of at most 4 MiB that is what its descriptor says, but for a size that is only hearsay.
pub(super) fn read_verified(
    from: &dyn Source,
    document: &'static str,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, TransferError> {
    let path = from.place(&descriptor.digest);
    let size = descriptor.size;
    if size > MAX_DOCUMENT_BYTES {
        let source = ParseImageError::TooLarge { document, size };
        return Err(TransferError::Document { path, source });
    }
    let bytes = from.read(descriptor)?;
    let size = match from.is_size_hearsay(descriptor) {
        true => descriptor.size,
        false => bytes.len() as u64,
    };
    check_descriptor(descriptor, Digest::of(&bytes), size)?;
    Ok(bytes)
}

/// Refuses a file of a blob that has another length. One whose length cannot be told is found wrong when it is read.
pub(super) fn check_length(file: &File, blob: &Descriptor) -> Result<(), TransferError> {
    let got = file.metadata().map_or(blob.size, |found| found.len());
    if got != blob.size {
        return Err(StoreError::Size {
            digest: blob.digest,
            expected: blob.size,
            got,
        }
        .into());
    }
    Ok(())
}
