//! Who makes room in the store of this machine: by `[cache]` of its configuration, and where the disk is full.

use crate::config::Config;
use crate::journal::{self, Event, EventKind};
use crate::store::{RoomCall, RoomMaker, Store, StoreError};
use crate::sys::clock;
use crate::upkeep::eviction::{CacheLimits, EvictionPlan, OnlyHere};
use crate::upkeep::room::{find_room, make_room, Coming, Effort};

/// A disk that was full gets at least so much room: what comes has more files than its bytes say.
const LEAST: u64 = 64 << 20;

/// What the store of this machine may hold.
pub fn cache_limits(config: &Config) -> CacheLimits {
    let usual = CacheLimits::default();
    let (max_bytes, max_images) = config.cache.limits();
    CacheLimits {
        max_bytes: max_bytes.map(|bytes| bytes.0),
        max_images: max_images.map(u64::from),
        low_water: config.cache.low_water().unwrap_or(usual.low_water),
    }
}

/// Makes room in a store within `limits`; `tell` is told what went, when something did.
pub fn room_maker(limits: CacheLimits, tell: impl Fn(&EvictionPlan) + Send + Sync + 'static) -> RoomMaker {
    RoomMaker::new(move |store, call| {
        let done = make_room_for(store, limits, call)?;
        note(store, &done);
        if !done.items.is_empty() {
            tell(&done);
        }
        Ok(!done.items.is_empty())
    })
}

fn make_room_for(store: &Store, limits: CacheLimits, call: RoomCall) -> Result<EvictionPlan, StoreError> {
    let nothing = Coming::nothing(limits);
    match call {
        RoomCall::Before(_, 0) | RoomCall::After(_) if !limits.are_set() => Ok(EvictionPlan::default()),
        RoomCall::Passing(0) => Ok(EvictionPlan::default()),
        RoomCall::Passing(disk_lacks) => {
            let limits = CacheLimits::default();
            let coming = Coming {
                disk_lacks,
                // No limit is about it, so that what nobody else has stays: it does not go for a copy that goes again.
                ..Coming::nothing(limits)
            };
            make_room(store, limits, coming, Effort::AllOrNothing)
        }
        RoomCall::Before(needed, disk_lacks) => {
            check_size(store, limits, needed.whole)?;
            let likely = Coming {
                bytes: needed.likely,
                images: needed.images,
                disk_lacks,
                only_here: OnlyHere::Stay,
                ..nothing
            };
            let done = make_room(store, limits, likely, Effort::AllOrNothing)?;
            let least = needed.at_least();
            // What nobody can fetch again does not go for what may never come. Of a full disk so much is asked for next.
            if done.is_enough || nothing.only_here == OnlyHere::Stay || (disk_lacks > 0 && needed != least) {
                return Ok(done);
            }
            let least = Coming {
                bytes: least.likely,
                only_here: OnlyHere::Last,
                ..likely
            };
            make_room(store, limits, least, Effort::AllOrNothing)
        }
        RoomCall::Full(bytes) => {
            let coming = Coming {
                disk_lacks: bytes.max(LEAST),
                ..nothing
            };
            make_room(store, limits, coming, Effort::Most)
        }
        RoomCall::After(spared) => make_room(store, limits, Coming { spared, ..nothing }, Effort::Most),
    }
}

/// Refuses an image that an empty store could not keep: it would cost all others their places, and then its own.
fn check_size(store: &Store, limits: CacheLimits, whole: u64) -> Result<(), StoreError> {
    match limits.max_bytes {
        Some(most) if whole > most => Err(StoreError::OverLimit {
            path: store.root().to_owned(),
            needed: whole,
            most,
        }),
        _ => Ok(()),
    }
}

/// What the store would lose to keep its limits.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn find_evictions(store: &Store, limits: CacheLimits) -> Result<EvictionPlan, StoreError> {
    find_room(store, limits, Coming::nothing(limits))
}

/// Evicts until the store keeps its limits, as far as that is possible.
///
/// # Errors
/// [`StoreError`] when what may go cannot be removed.
pub fn evict(store: &Store, limits: CacheLimits) -> Result<EvictionPlan, StoreError> {
    let done = make_room(store, limits, Coming::nothing(limits), Effort::Most)?;
    note(store, &done);
    Ok(done)
}

/// Writes a line into the journal for each image that went. Losing one never fails anything.
fn note(store: &Store, done: &EvictionPlan) {
    let at = journal::seconds(clock::now());
    for item in &done.items {
        let Some(digest) = &item.digest else { continue };
        // The first of several names.
        let name = item.name.split(' ').next().unwrap_or_default();
        let event = Event {
            digest: Some(digest.to_string()),
            bytes: Some(item.frees),
            origin: item.origin.as_deref(),
            names: match item.names.len() {
                0 | 1 => &[],
                _ => &item.names,
            },
            ..Event::of(EventKind::Evict, at, name, "ok")
        };
        let _ = journal::append(store.root(), &event);
    }
}
