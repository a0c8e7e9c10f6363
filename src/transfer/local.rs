//! The store as a place of images.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::image_copy::{check_start, copy_image};
use super::peer::{Destination, Documents, Incoming, Reach, Source};
use super::TransferError;
use crate::oci::{Compression, Descriptor, Digest};
use crate::progress::Progress;
use crate::store::{io_error, Download, Image, Partial, Store, StoreError, Task};

impl Source for Store {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        Ok(Box::new(self.blobs().open(&blob.digest)?))
    }

    fn open_at(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + '_>, TransferError> {
        let mut file = self.blobs().open(&blob.digest)?;
        let path = self.blobs().path(&blob.digest);
        if from > 0 {
            file.seek(SeekFrom::Start(from)).map_err(io_error("read", &path))?;
        }
        Ok(Box::new(file))
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.blobs().path(digest)
    }

    /// Its images are ours: nobody gets one by naming it who could not have it anyway.
    fn prove(&self, blob: &Descriptor) -> Result<(), TransferError> {
        match self.blobs().size(&blob.digest) {
            Some(_) => Ok(()),
            None => Err(StoreError::NoBlob { digest: blob.digest }.into()),
        }
    }
}

impl Destination for Store {
    fn begin(&self, _: &Documents) -> Result<(), TransferError> {
        Ok(())
    }

    fn has(&self, layer: &Descriptor) -> Result<bool, TransferError> {
        Ok(self.blobs().has(layer)?)
    }

    fn resumes(&self) -> bool {
        true
    }

    fn put(&self, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError> {
        if incoming.reach() == Reach::Away {
            return fetch_layer(self, layer, incoming);
        }
        let target = self.blobs().path(&layer.digest);
        let mut writer = self.blobs().writer()?;
        incoming.copy_into(&mut writer, &|source| io_error("write", &target)(source).into())?;
        Ok(writer.commit_expecting(layer)?)
    }

    /// Names are given by [`Names::set`](crate::store::Names::set), once the image is unpacked.
    fn finish(&self, image: &Documents, _: Option<&str>) -> Result<(), TransferError> {
        self.blobs().put(&image.config_raw)?;
        self.blobs().put(&image.manifest_raw)?;
        Ok(())
    }
}

/// Fetches a layer once for all processes that want it, and goes on where an earlier one stopped.
fn fetch_layer(store: &Store, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError> {
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
    fill(store, layer, incoming, partial)
}

fn fill(
    store: &Store,
    blob: &Descriptor,
    incoming: &mut Incoming<'_>,
    mut partial: Partial,
) -> Result<(), TransferError> {
    let path = store.blobs().path(&blob.digest);
    let mut writer = PartialWriter {
        partial: &mut partial,
        failed: None,
    };
    let copied = incoming.copy_into(&mut writer, &|source| io_error("write", &path)(source).into());
    match writer.failed.take() {
        Some(error) => return Err(error.into()),
        None => copied?,
    }
    partial.commit(blob.size)?;
    Ok(())
}

/// Writes on behind what is there of a blob.
struct PartialWriter<'a> {
    partial: &'a mut Partial,
    failed: Option<StoreError>,
}

impl Write for PartialWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.append(bytes).map(|()| bytes.len()).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("the store cannot write it")
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies the image that `wanted` leads to into the store, unless this very one was copied and unpacked before.
///
/// # Errors
///
/// As [`copy_image`].
pub fn ensure_copied(
    store: &Store,
    from: &dyn Source,
    wanted: &Descriptor,
    progress: &dyn Progress,
) -> Result<Image, TransferError> {
    if let Some(image) = find_copied(store, wanted)? {
        return Ok(image);
    }
    let digest = copy_image(from, wanted, store, None, progress)?;
    Ok(store.images().open(&digest)?)
}

/// The image that `wanted` leads to when this very one, by its digest, is in the store and was unpacked before. Nothing is
/// asked of the place it came from: whoever names a digest may have what the store has under it.
pub(super) fn find_copied(store: &Store, wanted: &Descriptor) -> Result<Option<Image>, StoreError> {
    let is_prepared = store.images().read_snapshot(&wanted.digest)?.is_some();
    let Some(image) = store.images().open(&wanted.digest).ok().filter(|_| is_prepared) else {
        return Ok(None);
    };
    for layer in &image.manifest.layers {
        if !store.blobs().has(layer)? {
            return Ok(None);
        }
    }
    Ok((image.manifest_raw.len() as u64 == wanted.size).then_some(image))
}
