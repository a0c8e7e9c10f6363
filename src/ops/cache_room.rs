//! Who makes room in the store of this machine: by `[cache]` of its configuration, and where the disk is full.

use super::over_limits::over_limits;
use crate::config::Config;
use crate::journal::{self, Event, EventKind};
use crate::oci::Digest;
use crate::policy::one_line;
use crate::store::{Claim, RoomCall, RoomMade, RoomMaker, RoomNeeded, Store, StoreError};
use crate::sys::clock;
use crate::upkeep::eviction::{CacheLimits, EvictionPlan, OnlyHere};
use crate::upkeep::room::{could_be_made, find_room, make_room, Coming, Effort};

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
    let could_make = move |store: &Store, disk_lacks| {
        let coming = Coming {
            limits: CacheLimits::default(),
            disk_lacks,
            ..Coming::nothing(store, limits)
        };
        could_be_made(store, coming)
    };
    let make = move |store: &Store, call, claim: Option<&Claim<'_>>| {
        let (wishes, effort) = wishes(store, limits, call)?;
        if wishes.is_empty() {
            return Ok(RoomMade::default());
        }
        let done = make_room(store, &wishes, effort, claim)?;
        note(store, &done);
        if !done.items.is_empty() {
            tell(&done);
        }
        // Others may have made the room that the disk lacked.
        let has_come = wishes.iter().any(|wish| wish.disk_lacks > 0) && done.is_enough;
        let has_come = has_come || !done.items.is_empty();
        let warning = match call {
            // Who has no room for what nobody waits for says so of what is left out.
            RoomCall::After(came) if !done.is_enough_soon && !store.is_warmed() => {
                Some(over_limits(&done, &limits, "holds", came.as_ref()))
            }
            RoomCall::After(_) | RoomCall::Before(..) | RoomCall::Passing(_) | RoomCall::Full(_) => None,
        };
        Ok(RoomMade { has_come, warning })
    };
    RoomMaker::new(make, could_make)
}

/// What room is made for upon a call; the first that can be fulfilled counts.
fn wishes(store: &Store, limits: CacheLimits, call: RoomCall) -> Result<(Vec<Coming>, Effort), StoreError> {
    let nothing = Coming::nothing(store, limits);
    Ok(match call {
        RoomCall::Before(_, 0) | RoomCall::After(_) if !limits.are_set() => (Vec::new(), Effort::Most),
        RoomCall::Passing(0) => (Vec::new(), Effort::Most),
        RoomCall::Passing(disk_lacks) => {
            // No limit is about it, so that what nobody else has stays: it does not go for a copy that goes again.
            let coming = Coming {
                disk_lacks,
                ..Coming::nothing(store, CacheLimits::default())
            };
            (vec![coming], Effort::AllOrNothing)
        }
        RoomCall::Before(needed, disk_lacks) => {
            check_size(store, limits, needed.whole)?;
            (before(needed, disk_lacks, nothing), Effort::AllOrNothing)
        }
        RoomCall::Full(bytes) => {
            let coming = Coming {
                disk_lacks: bytes.max(LEAST),
                ..nothing
            };
            (vec![coming], Effort::Most)
        }
        RoomCall::After(spared) => (vec![Coming { spared, ..nothing }], Effort::Most),
    })
}

/// What nobody can fetch again goes neither for what may never come nor for a limit, which is kept when the image is there; and
/// where the limits cannot be kept yet, such as while others are on their way, the disk has room all the same.
fn before(needed: RoomNeeded, disk_lacks: u64, nothing: Coming) -> Vec<Coming> {
    let likely = Coming {
        bytes: needed.likely,
        images: needed.images,
        disk_lacks,
        only_here: OnlyHere::Stay,
        ..nothing
    };
    if disk_lacks == 0 {
        // The layers of what a build downloads may be there.
        let bytes = match needed.images {
            0 => needed.certain,
            _ => needed.at_least().likely,
        };
        return vec![likely, Coming { bytes, ..likely }];
    }
    let disk_alone = Coming {
        limits: CacheLimits::default(),
        ..likely
    };
    let mut wishes = match nothing.limits.are_set() {
        true => vec![likely, disk_alone],
        false => vec![likely],
    };
    // Of a full disk less is asked for next, and what is certain last.
    if needed == needed.certain() && nothing.only_here == OnlyHere::Last {
        wishes.push(Coming {
            only_here: OnlyHere::Last,
            ..disk_alone
        });
    }
    wishes
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

/// Keeps the limits of a store after the image `came`, or when none did; what the user should know of it. The image is there all the same.
pub(super) fn keep_limits(store: &Store, came: Option<&Digest>) -> Option<String> {
    store
        .keep_limits(came)
        .unwrap_or_else(|error| Some(format!("the store may hold more than it is to: {}", one_line(&error))))
}

/// What the store would lose to keep its limits.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn find_evictions(store: &Store, limits: CacheLimits) -> Result<EvictionPlan, StoreError> {
    find_room(store, Coming::nothing(store, limits))
}

/// Evicts until the store keeps its limits, as far as that is possible.
///
/// # Errors
/// [`StoreError`] when what may go cannot be removed.
pub fn evict(store: &Store, limits: CacheLimits) -> Result<EvictionPlan, StoreError> {
    let done = make_room(store, &[Coming::nothing(store, limits)], Effort::Most, None)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;

    #[test]
    fn what_is_only_likely_takes_nothing_that_nobody_can_fetch_again() {
        let (_scratch, store) = store();
        let limits = CacheLimits {
            max_bytes: Some(1),
            ..CacheLimits::default()
        };
        let needed = RoomNeeded {
            certain: 10,
            least: 20,
            likely: 40,
            images: 1,
            ..RoomNeeded::default()
        };
        let asked = |store: &Store, limits, needed, lacks| {
            let wishes = before(needed, lacks, Coming::nothing(store, limits));
            let told = wishes
                .iter()
                .map(|wish| (wish.limits.are_set(), wish.bytes, wish.disk_lacks, wish.only_here));
            told.collect::<Vec<_>>()
        };
        let (stay, last) = (OnlyHere::Stay, OnlyHere::Last);
        assert_eq!(
            asked(&store, limits, needed, 0),
            [(true, 40, 0, stay), (true, 20, 0, stay)]
        );
        let download = RoomNeeded { images: 0, ..needed };
        assert_eq!(
            asked(&store, limits, download, 0),
            [(true, 40, 0, stay), (true, 10, 0, stay)]
        );
        assert_eq!(
            asked(&store, limits, needed, 5),
            [(true, 40, 5, stay), (false, 40, 5, stay)]
        );
        assert_eq!(
            asked(&store, limits, needed.at_least(), 5),
            [(true, 20, 5, stay), (false, 20, 5, stay)]
        );
        assert_eq!(
            asked(&store, limits, needed.certain(), 5),
            [(true, 10, 5, stay), (false, 10, 5, stay), (false, 10, 5, last)]
        );
        // Nobody has said that it may go.
        let none = CacheLimits::default();
        assert_eq!(asked(&store, none, needed.certain(), 5), [(false, 10, 5, stay)]);
        let warmed = asked(&store.warmed(), limits, needed.certain(), 5);
        assert_eq!(warmed, [(true, 10, 5, stay), (false, 10, 5, stay)]);
    }
}
