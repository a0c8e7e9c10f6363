//! Reads documents, which are small.

use std::io::Read;
use std::path::Path;

use super::TransferError;
use crate::oci::MAX_DOCUMENT_BYTES;

/// The beginning of what `reader` gives: one byte more than the largest document.
pub(super) fn read_document(reader: &mut dyn Read, path: &Path) -> Result<Vec<u8>, TransferError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| TransferError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes)
}
