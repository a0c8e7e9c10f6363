//! The store as a place of images.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::layer_fetch::fetch_layer;
use super::peer::{Destination, Documents, Incoming, Reach, Source};
use super::TransferError;
use crate::oci::{Descriptor, Digest};
use crate::store::{io_error, Image, Store, StoreError};

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
            return fetch_layer(self, None, layer, incoming);
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
