//! Brings whole images into the store: each once for all processes that want it, unpacked while it comes.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::image_copy::{copy_image, find_manifest};
use super::layer_copy::copy_and_unpack;
use super::layer_fetch::fetch_layer;
use super::local::find_copied;
use super::peer::{Destination, Documents, Incoming, Reach, Source};
use super::TransferError;
use crate::oci::{Compression, Descriptor, DiffId, Digest, ImageConfig, Manifest};
use crate::progress::Progress;
use crate::store::{
    merged_name, ArrivingImage, ExclusiveLock, Flight, Image, Reservation, RoomNeeded, Store, StoreError, Task,
};
use crate::sys::cores;

/// Layers of this machine that are copied and unpacked at once; each takes up to 20 MiB of memory.
const MOST_FROM_HERE: usize = 8;
/// How many times its own size a layer takes once it is unpacked: packages come to two or three times.
const UNPACKED: u64 = 3;
/// And how many times at least: what is compressed unpacks to more than it is.
const UNPACKED_AT_LEAST: u64 = 1;

/// What came into the store. Until this is dropped it is noted as on its way: the limits of the store are kept when it is there.
#[derive(Debug)]
pub struct Brought<T> {
    /// Which image.
    pub image: T,
    /// None of what was there.
    _noted: Option<Reservation>,
}

impl Brought<Image> {
    /// By its digest alone.
    pub fn digest(self) -> Brought<Digest> {
        Brought {
            image: self.image.digest,
            _noted: self._noted,
        }
    }
}

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
) -> Result<Brought<Image>, TransferError> {
    if let Some(image) = find_copied(store, wanted)? {
        return Ok(Brought { image, _noted: None });
    }
    let wanted = find_manifest(from, wanted, 0)?;
    let does = match from.reach() {
        Reach::Here => format!("copies image {}", wanted.digest),
        Reach::Away => format!("pulls image {}", wanted.digest),
    };
    with_room(store, |target| {
        let _alone = wait_for_others(store, &wanted, &does, progress)?;
        if let Some(image) = find_copied(store, &wanted)? {
            return Ok(image);
        }
        let image = store.images().open(&target.bring(from, &wanted, progress)?)?;
        store.images().prepare(&image)?;
        Ok(image)
    })
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
) -> Result<Brought<Digest>, TransferError> {
    let wanted = find_manifest(from, wanted, 0)?;
    let does = format!("copies image {}", wanted.digest);
    with_room(store, |target| {
        let _alone = wait_for_others(store, &wanted, &does, progress)?;
        target.bring(from, &wanted, progress)
    })
}

/// Does `work`, and again when the disk was full: then with the blobs first, of which it is known how much they unpack to, so
/// that nothing goes when all that may go is not enough, and else no more than that needs.
fn with_room<'a, T>(
    store: &'a Store,
    work: impl Fn(&Unpacked<'a>) -> Result<T, TransferError>,
) -> Result<Brought<T>, TransferError> {
    let left = match once(store, Unpacking::OnTheWay, &work) {
        // Its room is not wanted while others go.
        Err((error, target)) if error.is_full() => target.left(),
        other => return other.map_err(|(error, _)| error),
    };
    match once(store, Unpacking::AtTheEnd, &work) {
        // There is something that the file system does not tell, such as a quota, or how many files it can have. Once only: a
        // disk that is full again is full of what stays.
        Err((error, target)) if error.is_full() => {
            // What has come of it is no garbage meanwhile.
            let made = store.make_room(left)?;
            drop(target);
            match made {
                true => once(store, Unpacking::OnTheWay, &work).map_err(|(error, _)| error),
                false => Err(error),
            }
        }
        other => other.map_err(|(error, _)| error),
    }
}

/// Does `work` once, for a new target, which comes back when it failed.
///
/// The target is made here and not given by the caller: rustc up to 1.96 takes two equal values that are moved into a call for one,
/// also when the first call has changed and dropped it (rust-lang/rust#155241). A third try on a full disk freed the first one's
/// memory again.
#[inline(never)]
fn once<'a, T>(
    store: &'a Store,
    unpacking: Unpacking,
    work: &dyn Fn(&Unpacked<'a>) -> Result<T, TransferError>,
) -> Result<Brought<T>, (TransferError, Unpacked<'a>)> {
    let target = Unpacked::of(store, unpacking);
    match work(&target) {
        Ok(image) => Ok(Brought {
            image,
            _noted: target.noted(),
        }),
        Err(error) => Err((error, target)),
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

/// When the layers of an image that comes are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unpacking {
    /// While they come: what they unpack to is estimated.
    OnTheWay,
    /// When all of them are there, and room for what they unpack to is reserved.
    AtTheEnd,
}

/// The store as the place that an image comes to which is run here.
struct Unpacked<'a> {
    store: &'a Store,
    /// When it is tried to unpack them.
    wanted: Unpacking,
    /// None when they are unpacked at the end.
    image: OnceLock<ArrivingImage<'a>>,
    /// On the disk, for what is still to come.
    room: OnceLock<Reservation>,
}

impl<'a> Unpacked<'a> {
    fn of(store: &'a Store, wanted: Unpacking) -> Self {
        Self {
            store,
            wanted,
            image: OnceLock::new(),
            room: OnceLock::new(),
        }
    }

    /// When its layers are unpacked.
    fn unpacking(&self) -> Unpacking {
        match self.image.get() {
            Some(_) => Unpacking::OnTheWay,
            None => Unpacking::AtTheEnd,
        }
    }

    /// Copies an image, and unpacks it as far as that is done here; returns its digest.
    fn bring(&self, from: &dyn Source, wanted: &Descriptor, progress: &dyn Progress) -> Result<Digest, TransferError> {
        let digest = copy_image(from, wanted, self, None, progress)?;
        if self.unpacking() == Unpacking::AtTheEnd {
            let image = self.store.images().open(&digest)?;
            let bytes = self.store.images().room_to_unpack(&image)?;
            let needed = RoomNeeded {
                certain: bytes,
                likely: bytes,
                ..RoomNeeded::default()
            };
            // What it was promised before has come: it is not to be counted again as that of another.
            if let Some(room) = self.room.get() {
                room.all_arrived();
            }
            let _room = self
                .store
                .reserve(needed, &coming(&digest, &image.manifest, &image.config))?;
            self.store.images().prepare(&image)?;
        }
        Ok(digest)
    }

    /// Bytes that are likely to come still.
    fn left(&self) -> u64 {
        self.room.get().map_or(0, Reservation::left)
    }

    /// The note of what came, which promises no room any more.
    fn noted(self) -> Option<Reservation> {
        let room = self.room.into_inner();
        room.iter().for_each(Reservation::all_arrived);
        room
    }
}

/// The room for a layer that comes and is unpacked.
fn room_of(layer: &Descriptor, unpacking: Unpacking) -> RoomNeeded {
    let (least, unpacked) = match unpacking {
        Unpacking::OnTheWay => (UNPACKED_AT_LEAST, UNPACKED),
        Unpacking::AtTheEnd => (0, 0),
    };
    RoomNeeded {
        certain: layer.size,
        least: layer.size.saturating_mul(1 + least),
        likely: layer.size.saturating_mul(1 + unpacked),
        ..RoomNeeded::default()
    }
}

/// What an image that comes is called in the store, part by part.
fn coming(digest: &Digest, manifest: &Manifest, config: &ImageConfig) -> BTreeSet<String> {
    let blobs = manifest.layers.iter().chain([&manifest.config]);
    let blobs = blobs.map(|blob| blob.digest.hex()).chain([digest.hex()]);
    let layers = &config.rootfs.diff_ids;
    let trees = layers.iter().map(DiffId::hex).chain(merged_name(layers));
    blobs.chain(trees).collect()
}

impl Destination for Unpacked<'_> {
    fn begin(&self, image: &Documents) -> Result<(), TransferError> {
        let known = self.store.images().read_snapshot(&image.descriptor.digest);
        let is_there = known.is_ok_and(|known| known.is_some());
        let mut needed = RoomNeeded {
            images: u64::from(!is_there),
            ..RoomNeeded::default()
        };
        for layer in image.layers() {
            let unpacked = match Compression::of_layer(layer) {
                Ok(Compression::Plain) | Err(_) => 0,
                Ok(_) => layer.size.saturating_mul(UNPACKED_AT_LEAST),
            };
            needed.whole = needed.whole.saturating_add(layer.size).saturating_add(unpacked);
            // What another boot wrote is read by whoever needs it.
            if self.store.blobs().size(&layer.digest) != Some(layer.size) {
                let room = room_of(layer, self.wanted);
                needed.certain = needed.certain.saturating_add(room.certain);
                needed.least = needed.least.saturating_add(room.least);
                needed.likely = needed.likely.saturating_add(room.likely);
            }
        }
        if needed.certain == 0 {
            // All of it is there already.
            needed.whole = 0;
        }
        let coming = coming(&image.descriptor.digest, &image.manifest, &image.config);
        let room = self.store.reserve(needed, &coming)?;
        // Where there is no room for what it takes at least, more is made when its bytes are there and it is known how much: what
        // nobody can fetch again does not go for what a registry may fail to send.
        if self.wanted == Unpacking::OnTheWay && room.holds(needed.at_least().likely) {
            let arriving = self.store.images().arriving(&image.manifest, &image.config);
            self.image.get_or_init(|| arriving);
        }
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
            (Reach::Here, None) => self.store.put(layer, incoming),
            (Reach::Away, image) => fetch_layer(self.store, image, layer, incoming),
        }?;
        if let Some(room) = self.room.get() {
            room.arrived(room_of(layer, self.unpacking()));
        }
        Ok(())
    }

    fn finish(&self, image: &Documents, name: Option<&str>) -> Result<(), TransferError> {
        self.store.finish(image, name)
    }
}

#[cfg(test)]
mod tests;
