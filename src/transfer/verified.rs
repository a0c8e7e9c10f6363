//! Reads documents of a place, and believes nothing of them but what their digests say.

use super::peer::Source;
use super::TransferError;
use crate::oci::{Descriptor, Digest, ParseImageError, MAX_DOCUMENT_BYTES};
use crate::store::check_descriptor;

/// A document of at most 4 MiB that is what its descriptor says.
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
    check_descriptor(descriptor, Digest::of(&bytes), bytes.len() as u64)?;
    Ok(bytes)
}
