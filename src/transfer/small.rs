//! Reads documents, which are small, and says why a place cannot be read.

use std::io::{self, Read};
use std::path::Path;

use super::TransferError;
use crate::oci::MAX_DOCUMENT_BYTES;

/// The beginning of what `reader` gives: one byte more than the largest document.
pub(super) fn read_document(reader: &mut dyn Read, path: &Path) -> Result<Vec<u8>, TransferError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| unreadable("read", path, source))?;
    Ok(bytes)
}

/// The error of what is at `place` and cannot be read: that of the place itself, where it says one.
pub(super) fn unreadable(action: &'static str, place: &Path, source: io::Error) -> TransferError {
    match source.downcast::<TransferError>() {
        Ok(own) => own,
        Err(source) => TransferError::Io {
            action,
            path: place.to_owned(),
            source,
        },
    }
}
