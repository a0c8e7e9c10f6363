//! Copies a layer that lies on this machine into the store and unpacks it in the same pass.
//!
//! The blob gets its name when its digest is right, and then its files, when they are those of the diff id. What is refused
//! while a blob is read was read from bytes that are not verified yet, so the blob's own error comes first.

use std::io::Write;

use super::passing::PassingBlob;
use super::peer::Incoming;
use super::TransferError;
use crate::oci::Descriptor;
use crate::store::{io_error, ArrivingImage, Store, StoreError};

/// Copies a layer and unpacks it for `image`. A layer that may need more memory than one beside others has is copied only.
pub(super) fn copy_and_unpack(
    store: &Store,
    image: &ArrivingImage<'_>,
    layer: &Descriptor,
    incoming: &mut Incoming<'_>,
) -> Result<(), TransferError> {
    let path = store.blobs().path(&layer.digest);
    let mut writer = store.blobs().writer()?;
    let mut copied = PassingBlob::new(incoming, |bytes| {
        Ok(writer.write_all(bytes).map_err(io_error("write", &path))?)
    });
    let unpacked = image.unpack(layer, &mut copied);
    copied.drain()?;
    writer.commit_expecting(layer)?;
    match unpacked {
        Ok(unpacked) => Ok(unpacked.commit()?),
        // It is unpacked from its blob, one at a time, and refused then if it is.
        Err(StoreError::Layer { .. }) if image.may_need_more(layer) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
