//! Fetches a layer from away once for all processes that want it, goes on where an earlier one stopped, and unpacks it on
//! the way.
//!
//! ```text
//! network -> partial/<hex>, hashed -> inflated, hashed -> files under tmp/
//! ```
//!
//! What is inflated are the bytes that were just written, and of an earlier process's part those on the disk: nothing is
//! read from the disk a second time. The blob gets its name when its digest is right and its files are those of the diff
//! id, and then the tree. A layer that is refused leaves neither; which bytes were refused is known for sure only when all of
//! them came, so a refusal is the layer's own fault when its digest is right, and the registry's when not.

use std::fs::File;
use std::io::{self, Read};

use super::image_copy::check_start;
use super::passing::PassingBlob;
use super::peer::Incoming;
use super::TransferError;
use crate::oci::{Compression, Descriptor};
use crate::store::{ArrivingImage, Download, Partial, Store, StoreError, Task};

/// Fetches a layer, and unpacks it when there is an image that it is unpacked for.
pub(super) fn fetch_layer(
    store: &Store,
    image: Option<&ArrivingImage<'_>>,
    layer: &Descriptor,
    incoming: &mut Incoming<'_>,
) -> Result<(), TransferError> {
    let does = format!("fetches layer {}", layer.digest);
    let task = Task {
        does: &does,
        progress: incoming.progress(),
    };
    let mut partial = match store.blobs().claim(&layer.digest, Some(layer.size), task)? {
        Download::Whole(_) => return incoming.prove(),
        Download::Partial(partial) => *partial,
    };
    if partial.len() == layer.size && !partial.is_empty() && partial.is_right() {
        // All of it came, and its process ended before it got its name. Nobody gets it who could not have fetched it.
        incoming.prove()?;
        partial.commit(layer.size)?;
        return Ok(());
    }
    if partial.len() >= layer.size {
        partial.restart()?;
    }
    partial.check_room(layer.size)?;
    incoming.start_at(partial.len())?;
    if partial.is_empty() {
        let compression = Compression::of_layer(layer).map_err(|source| TransferError::Document {
            path: store.blobs().path(&layer.digest),
            source,
        })?;
        check_start(layer, compression, incoming)?;
    }
    let kept = partial.reopen()?.take(partial.len());
    let mut coming = PassingBlob::new(incoming, |bytes| Ok(partial.append(bytes)?));
    let Some(image) = image else {
        coming.drain()?;
        partial.commit(layer.size)?;
        return Ok(());
    };
    let unpacked = image.unpack(
        layer,
        &mut Whole {
            kept,
            coming: &mut coming,
        },
    );
    // What comes behind the end of the archive counts for the digest, and all of it when the archive was refused.
    coming.drain()?;
    match unpacked {
        Ok(unpacked) => {
            partial.commit(layer.size)?;
            Ok(unpacked.commit()?)
        }
        Err(error) => refuse(image, layer, partial, error),
    }
}

/// What follows when a layer was refused of which all has come.
fn refuse(
    image: &ArrivingImage<'_>,
    layer: &Descriptor,
    mut partial: Partial,
    error: StoreError,
) -> Result<(), TransferError> {
    if partial.len() != layer.size || !partial.is_right() {
        // Other bytes than those that were asked for: the commit says so, and the registry may be asked again.
        partial.commit(layer.size)?;
        return Err(error.into());
    }
    let error = match error {
        // It may need more memory than a layer may have that comes beside others.
        StoreError::Layer { .. } if image.may_need_more(layer) => {
            match image.unpack_alone(layer, &mut partial.reopen()?) {
                Ok(unpacked) => {
                    partial.commit(layer.size)?;
                    return Ok(unpacked.commit()?);
                }
                Err(error) => error,
            }
        }
        error => error,
    };
    match error {
        StoreError::Layer { .. } | StoreError::DiffId { .. } => {
            partial.restart()?;
            Err(error.into())
        }
        // The disk's fault: what came is kept for the next try.
        error => Err(error.into()),
    }
}

/// What is there of a blob already, and then what comes.
struct Whole<'c, C> {
    kept: io::Take<File>,
    coming: &'c mut C,
}

impl<C: Read> Read for Whole<'_, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        crate::sys::lock::beat();
        if self.kept.limit() == 0 {
            return self.coming.read(buffer);
        }
        match self.kept.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}
