//! Brings whole images into the store: each once for all processes that want it, unpacked while it comes.

use std::sync::OnceLock;

use super::image_copy::{copy_image, find_manifest};
use super::layer_copy::copy_and_unpack;
use super::layer_fetch::fetch_layer;
use super::local::find_copied;
use super::peer::{Destination, Documents, Incoming, Reach, Source};
use super::TransferError;
use crate::oci::{Descriptor, Digest};
use crate::progress::Progress;
use crate::store::{ArrivingImage, ExclusiveLock, Flight, Image, Reservation, RoomNeeded, Store, StoreError, Task};
use crate::sys::cores;

/// Layers of this machine that are copied and unpacked at once; each takes up to 20 MiB of memory.
const MOST_FROM_HERE: usize = 8;
/// How many times its own size a layer takes once it is unpacked: packages come to two or three times.
const UNPACKED: u64 = 3;

/// Copies the image that `wanted` leads to into the store and unpacks it, unless this very one was copied and unpacked
/// before. Of processes that want it at once one brings it, and the others wait.
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
    let wanted = find_manifest(from, wanted, 0)?;
    let does = match from.reach() {
        Reach::Here => format!("copies image {}", wanted.digest),
        Reach::Away => format!("pulls image {}", wanted.digest),
    };
    with_room(store, |target| bring(store, from, &wanted, &does, target, progress))
}

/// Copies the image that `wanted` leads to into the store and unpacks its layers while they are read; of those that the store
/// has, `from` shows that it has them, too. What is missing of it unpacked then is left to whoever prepares the image.
///
/// # Errors
///
/// As [`copy_image`], and when a layer cannot be unpacked.
pub fn copy_unpacked(
    store: &Store,
    from: &dyn Source,
    wanted: &Descriptor,
    progress: &dyn Progress,
) -> Result<Digest, TransferError> {
    let wanted = find_manifest(from, wanted, 0)?;
    let does = format!("copies image {}", wanted.digest);
    with_room(store, |target| {
        let _alone = wait_for_others(store, &wanted, &does, progress)?;
        copy_image(from, &wanted, target, None, progress)
    })
}

/// Does `work`, and once more when the disk was full and something went to make room: a disk that is full again is full of
/// what stays.
fn with_room<'a, T>(
    store: &'a Store,
    work: impl Fn(&Unpacked<'a>) -> Result<T, TransferError>,
) -> Result<T, TransferError> {
    let target = Unpacked::of(store);
    let done = work(&target);
    let left = target.left();
    // Its room is not wanted while others go.
    drop(target);
    match done {
        Err(error) if error.is_full() && store.make_room(left)? => work(&Unpacked::of(store)),
        other => other,
    }
}

/// Waits for a process that brings the image; locks it when there is none.
fn wait_for_others(
    store: &Store,
    wanted: &Descriptor,
    does: &str,
    progress: &dyn Progress,
) -> Result<Option<ExclusiveLock>, TransferError> {
    let (flight, task) = (Flight::Image(&wanted.digest), Task { does, progress });
    let alone = store.locks().try_exclusive(flight, does)?;
    if alone.is_none() {
        // All that wait go on at once. When the one before them failed, or gives no sign of life, none waits for the failure of
        // another: each layer is fetched by one of them.
        match store.locks().wait_out(flight, task) {
            Err(StoreError::Stalled { .. }) => {}
            waited => waited?,
        }
    }
    Ok(alone)
}

fn bring(
    store: &Store,
    from: &dyn Source,
    wanted: &Descriptor,
    does: &str,
    target: &Unpacked<'_>,
    progress: &dyn Progress,
) -> Result<Image, TransferError> {
    let _alone = wait_for_others(store, wanted, does, progress)?;
    if let Some(image) = find_copied(store, wanted)? {
        return Ok(image);
    }
    let digest = copy_image(from, wanted, target, None, progress)?;
    let image = store.images().open(&digest)?;
    store.images().prepare(&image)?;
    Ok(image)
}

/// The store as the place that an image comes to which is run here.
struct Unpacked<'a> {
    store: &'a Store,
    image: OnceLock<ArrivingImage<'a>>,
    /// On the disk, for what is still to come.
    room: OnceLock<Reservation>,
}

impl<'a> Unpacked<'a> {
    fn of(store: &'a Store) -> Self {
        Self {
            store,
            image: OnceLock::new(),
            room: OnceLock::new(),
        }
    }

    /// Bytes that are likely to come still.
    fn left(&self) -> u64 {
        self.room.get().map_or(0, Reservation::left)
    }
}

/// The room for a layer that comes and is unpacked.
fn room_of(layer: &Descriptor) -> RoomNeeded {
    RoomNeeded {
        certain: layer.size,
        likely: layer.size.saturating_mul(1 + UNPACKED),
        images: 0,
    }
}

impl Destination for Unpacked<'_> {
    fn begin(&self, image: &Documents) -> Result<(), TransferError> {
        let arriving = self.store.images().arriving(&image.manifest, &image.config);
        self.image.get_or_init(|| arriving);
        let known = self.store.images().read_snapshot(&image.descriptor.digest);
        let is_there = known.is_ok_and(|known| known.is_some());
        let mut needed = RoomNeeded {
            images: u64::from(!is_there),
            ..RoomNeeded::default()
        };
        for layer in image.layers() {
            // What another boot wrote is read by whoever needs it.
            if self.store.blobs().size(&layer.digest) != Some(layer.size) {
                let room = room_of(layer);
                needed.certain = needed.certain.saturating_add(room.certain);
                needed.likely = needed.likely.saturating_add(room.likely);
            }
        }
        let room = self.store.reserve(needed)?;
        self.room.get_or_init(|| room);
        Ok(())
    }

    fn has(&self, layer: &Descriptor) -> Result<bool, TransferError> {
        self.store.has(layer)
    }

    fn resumes(&self) -> bool {
        self.store.resumes()
    }

    /// From here as many as are worth it: each is computed on, not waited for.
    fn at_once(&self, from: Reach) -> usize {
        match from {
            Reach::Here => cores::count().clamp(2, MOST_FROM_HERE),
            Reach::Away => usize::MAX,
        }
    }

    fn put(&self, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError> {
        match (incoming.reach(), self.image.get()) {
            (Reach::Here, Some(image)) => copy_and_unpack(self.store, image, layer, incoming),
            (_, image) => fetch_layer(self.store, image, layer, incoming),
        }?;
        if let Some(room) = self.room.get() {
            room.arrived(room_of(layer));
        }
        Ok(())
    }

    fn finish(&self, image: &Documents, name: Option<&str>) -> Result<(), TransferError> {
        self.store.finish(image, name)
    }
}

#[cfg(test)]
mod tests;
