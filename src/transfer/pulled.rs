//! Brings whole images into the store: each once for all processes that want it, unpacked while it comes.

use std::sync::OnceLock;

use super::image_copy::{copy_image, find_manifest};
use super::layer_fetch::fetch_layer;
use super::local::find_copied;
use super::peer::{Destination, Documents, Incoming, Reach, Source};
use super::TransferError;
use crate::oci::Descriptor;
use crate::progress::Progress;
use crate::store::{ArrivingImage, Flight, Image, Store, StoreError, Task};

/// Copies the image that `wanted` leads to into the store and unpacks it, unless this very one was copied and unpacked
/// before. Of processes that want it from away at once one brings it, and the others wait.
///
/// # Errors
///
/// As [`copy_image`], and when it cannot be unpacked.
pub fn ensure_copied(
    store: &Store,
    from: &dyn Source,
    wanted: &Descriptor,
    progress: &dyn Progress,
) -> Result<Image, TransferError> {
    if let Some(image) = find_copied(store, wanted)? {
        return Ok(image);
    }
    let digest = match from.reach() {
        Reach::Here => copy_image(from, wanted, store, None, progress)?,
        Reach::Away => return pull(store, from, &find_manifest(from, wanted, 0)?, progress),
    };
    let image = store.images().open(&digest)?;
    store.images().prepare(&image)?;
    Ok(image)
}

fn pull(
    store: &Store,
    from: &dyn Source,
    wanted: &Descriptor,
    progress: &dyn Progress,
) -> Result<Image, TransferError> {
    let does = format!("pulls image {}", wanted.digest);
    let (flight, task) = (Flight::Image(&wanted.digest), Task { does: &does, progress });
    let alone = store.locks().try_exclusive(flight, &does)?;
    if alone.is_none() {
        // All that wait go on at once. When the one before them failed, or gives no sign of life, none waits for the failure of
        // another: each layer is fetched by one of them.
        match store.locks().wait_out(flight, task) {
            Err(StoreError::Stalled { .. }) => {}
            waited => waited?,
        }
    }
    if let Some(image) = find_copied(store, wanted)? {
        return Ok(image);
    }
    let target = Unpacked {
        store,
        image: OnceLock::new(),
    };
    let digest = copy_image(from, wanted, &target, None, progress)?;
    let image = store.images().open(&digest)?;
    store.images().prepare(&image)?;
    Ok(image)
}

/// The store as the place that an image comes to which is run here.
struct Unpacked<'a> {
    store: &'a Store,
    image: OnceLock<ArrivingImage<'a>>,
}

impl Destination for Unpacked<'_> {
    fn begin(&self, image: &Documents) -> Result<(), TransferError> {
        let arriving = self.store.images().arriving(&image.manifest, &image.config);
        self.image.get_or_init(|| arriving);
        Ok(())
    }

    fn has(&self, layer: &Descriptor) -> Result<bool, TransferError> {
        self.store.has(layer)
    }

    fn resumes(&self) -> bool {
        self.store.resumes()
    }

    fn put(&self, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError> {
        fetch_layer(self.store, self.image.get(), layer, incoming)
    }

    fn finish(&self, image: &Documents, name: Option<&str>) -> Result<(), TransferError> {
        self.store.finish(image, name)
    }
}

#[cfg(test)]
mod tests;
