//! Makes room in a store: takes stock, plans, and carries the plan out.

use std::collections::BTreeSet;

use crate::oci::Digest;
use crate::python::resolve::uv;
use crate::store::{Claim, Count, Inventory, Store, StoreError};
use crate::sys::{clock, space};

use super::eviction::{is_within, plan, CacheLimits, EvictionPlan, OnlyHere, Planned, RoomWanted};

/// What was chosen may be in use by now: then something else is chosen, so often.
const ROUNDS: usize = 3;

/// What there has to be room for, in a store within limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Coming {
    /// What the store may hold.
    pub limits: CacheLimits,
    /// Bytes that are about to come.
    pub bytes: u64,
    /// Images that are about to come.
    pub images: u64,
    /// Bytes that the disk lacks.
    pub disk_lacks: u64,
    /// An image that stays, as all this is for it.
    pub spared: Option<Digest>,
    /// What becomes of images that no registry is known to have.
    pub only_here: OnlyHere,
}

impl Coming {
    /// Nothing: the store is to keep its limits. Who set one has said that images may go; else only what can be had again makes
    /// room on a full disk, and always for what nobody waits for.
    pub(crate) fn nothing(store: &Store, limits: CacheLimits) -> Self {
        let only_here = match limits.are_set() && !store.is_warmed() {
            true => OnlyHere::Last,
            false => OnlyHere::Stay,
        };
        Self {
            limits,
            bytes: 0,
            images: 0,
            disk_lacks: 0,
            spared: None,
            only_here,
        }
    }
}

/// How much goes when it is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Nothing: what does not fit anyway shall not cost the others their places.
    AllOrNothing,
    /// All that may go.
    Most,
}

/// Says what would go, and changes nothing but notes of sizes.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub(crate) fn find_room(store: &Store, coming: Coming) -> Result<EvictionPlan, StoreError> {
    Ok(find(store, &[coming])?.0)
}

/// Whether there would be room for what is coming if all went that may, also what later builds would use and one at work needs
/// now. Changes nothing but notes of sizes.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub(crate) fn could_be_made(store: &Store, coming: Coming) -> Result<bool, StoreError> {
    let tools = [uv::folder()];
    let tools = tools.each_ref().map(String::as_str);
    let wanted = wanted(&coming, true, &tools);
    let inventory = store.inventory(Count::Noted)?;
    Ok(plan(&inventory, &wanted, clock::now()).is_enough)
}

fn wanted<'a>(coming: &Coming, may_forget: bool, tools: &'a [&'a str]) -> RoomWanted<'a> {
    RoomWanted {
        limits: coming.limits,
        coming_bytes: coming.bytes,
        coming_images: coming.images,
        disk_lacks: coming.disk_lacks,
        only_here: coming.only_here,
        may_forget,
        tools,
        spared: coming.spared,
    }
}

/// What would go for the first of `wishes` that can be fulfilled, else for the last of them, and the inventory that it was chosen
/// from: documents of images are read only when something has to go for the first.
fn find(store: &Store, wishes: &[Coming]) -> Result<(EvictionPlan, Inventory), StoreError> {
    let tools = [uv::folder()];
    let tools = tools.each_ref().map(String::as_str);
    let may_forget = !store.locks().is_building()?;
    let tally = store.tally(Count::Noted)?;
    let first = wishes.first().map(|first| wanted(first, may_forget, &tools));
    if let Some(nothing) = first.and_then(|first| is_within(&tally, &first)) {
        return Ok((nothing, Inventory::default()));
    }
    let (inventory, now) = (store.inventory_of(tally)?, clock::now());
    let mut found = EvictionPlan::default();
    for wish in wishes {
        let wanted = wanted(wish, may_forget, &tools);
        found = plan(&inventory, &wanted, now);
        if found.is_enough {
            break;
        }
        if !may_forget {
            // What builds could make again stays while one is at work. What nobody can fetch again does not go instead of it,
            // unless that is all that it takes.
            let only_here = OnlyHere::Stay;
            found = plan(&inventory, &RoomWanted { only_here, ..wanted }, now);
            let may_forget = true;
            found.is_enough_soon |= plan(&inventory, &RoomWanted { may_forget, ..wanted }, now).is_enough_soon;
        }
    }
    Ok((found, inventory))
}

/// These wishes, of a disk that lacks `lacks` bytes.
fn lacking(wishes: &[Coming], lacks: u64) -> Vec<Coming> {
    let mut wishes = wishes.to_vec();
    wishes.iter_mut().for_each(|wish| wish.disk_lacks = lacks);
    wishes
}

/// Takes images out of the store until it keeps the limits and has room for what is coming, as far as that is possible; the
/// result says what went, in bytes that the disk has back. Of `wishes` the first counts that can be fulfilled.
///
/// Of processes that make room at once one looks after the other has ended, so that nothing goes twice for the same bytes: what the
/// disk has got meanwhile, it lacks no more. One that does not end is not waited for: limits are kept by whoever comes next.
/// What is to go for the bytes of a `claim` goes when those are promised: what comes of it is not taken by another.
///
/// # Errors
/// [`StoreError`] when the store cannot be read, or something cannot be removed.
pub(crate) fn make_room(
    store: &Store,
    wishes: &[Coming],
    effort: Effort,
    claim: Option<&Claim<'_>>,
) -> Result<EvictionPlan, StoreError> {
    let lacks = wishes.iter().map(|wish| wish.disk_lacks).max().unwrap_or_default();
    let first = wishes.first().map(|first| wanted(first, true, &[]));
    let tally = store.tally(Count::Noted)?;
    if let Some(nothing) = first.and_then(|first| is_within(&tally, &first)) {
        return Ok(nothing);
    }
    let before = space::free(store.root());
    let _alone = match store.locks().making_room() {
        Ok(lock) => Some(lock),
        Err(StoreError::Stalled { .. }) if lacks == 0 => {
            return Ok(EvictionPlan {
                is_enough_soon: true,
                ..EvictionPlan::default()
            })
        }
        Err(StoreError::Stalled { .. }) => None,
        Err(error) => return Err(error),
    };
    // What one that was killed had put aside.
    let _ = store.sweep();
    let lacks = match claim {
        Some(claim) => claim.lacks()?,
        None => {
            let came = space::free(store.root()).zip(before);
            lacks.saturating_sub(came.map_or(0, |(now, before)| now.saturating_sub(before)))
        }
    };
    let mut wishes = lacking(wishes, lacks);
    let mut claimed = None;
    let mut done = EvictionPlan::default();
    for round in 0..ROUNDS {
        let (found, inventory) = find(store, &wishes)?;
        if round == 0 {
            (done.bytes_before, done.images_before) = (found.bytes_before, found.images_before);
        }
        (done.is_enough, done.is_enough_soon) = (found.is_enough, found.is_enough_soon);
        (done.bytes_after, done.images_after) = (found.bytes_before, found.images_before);
        done.kept = found.kept;
        let is_vain = effort == Effort::AllOrNothing && !found.is_enough;
        if found.items.is_empty() || is_vain {
            break;
        }
        if let (Some(claim), None) = (claim, claimed) {
            // Nobody else is promised from now on what comes of it. Who was promised some of it since is looked at again.
            let lacks_now = *claimed.insert(claim.promise()?);
            if lacks_now > lacks {
                wishes = lacking(&wishes, lacks_now);
                continue;
            }
        }
        let evicted = store.evict(&inventory, &found.doomed)?;
        let images: BTreeSet<Digest> = evicted.images.iter().copied().collect();
        let files: BTreeSet<String> = evicted
            .remembered
            .iter()
            .chain(&evicted.loose)
            .map(|file| file.display().to_string())
            .collect();
        let planned = found.items.len();
        let went = found.items.into_iter().filter(|item| match &item.digest {
            Some(digest) => images.contains(digest),
            None => files.contains(&item.name),
        });
        let before = done.items.len();
        done.items.extend(went);
        done.bytes_after = found.bytes_before.saturating_sub(evicted.bytes);
        let counted = |item: &&Planned| item.kind == "image";
        let went = done.items.iter().skip(before).filter(counted).count() as u64;
        done.images_after = found.images_before.saturating_sub(went);
        // The bytes that the disk lacked are there, or it was all that there is.
        let went = done.items.len() - before;
        if went == planned || (lacks > 0 && went > 0) {
            break;
        }
        (done.is_enough, done.is_enough_soon) = (false, false);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{examples, store};

    /// A store with `own:1`, which no registry has.
    fn with_an_image() -> (tempfile::TempDir, Store) {
        let (scratch, store) = store();
        let own = examples::image(&store, &[&[("a", 100_000)]]);
        store.images().prepare(&own).unwrap();
        store.names().set(&"own:1".parse().unwrap(), &own.digest).unwrap();
        (scratch, store)
    }

    #[test]
    fn what_nobody_can_fetch_again_does_not_go_instead_of_what_builds_can_make_again() {
        let (_scratch, store) = with_an_image();
        let total = || store.tally(Count::Exact).unwrap().total;
        let room = |max_bytes| {
            let limits = CacheLimits {
                max_bytes: Some(max_bytes),
                low_water: 100,
                ..CacheLimits::default()
            };
            let went = make_room(&store, &[Coming::nothing(&store, limits)], Effort::Most, None).unwrap();
            went.items.iter().map(|item| item.kind).collect::<Vec<_>>()
        };
        let alone = total();
        store.downloads().put(&vec![7; 400_000]).unwrap();
        let all = total();
        let building = store.locks().building().unwrap();
        // All that may go while a build is at work is too little: it would be lost for nothing.
        assert_eq!(room(all - 350_000), [""; 0]);
        // Without the build the download is enough.
        drop(building);
        assert_eq!(room(alone + 50_000), ["remembered"]);
        // It goes where that is all that it takes.
        let _building = store.locks().building().unwrap();
        assert_eq!(room(alone - 1000), ["image"]);
    }

    #[test]
    fn the_disk_has_room_also_where_the_limits_cannot_be_kept() {
        let (_scratch, store) = with_an_image();
        store.downloads().put(&vec![7; 400_000]).unwrap();
        let limits = CacheLimits {
            max_bytes: Some(1),
            ..CacheLimits::default()
        };
        let both = Coming {
            disk_lacks: 300_000,
            only_here: OnlyHere::Stay,
            ..Coming::nothing(&store, limits)
        };
        let disk_alone = Coming {
            limits: CacheLimits::default(),
            ..both
        };
        let made = make_room(&store, &[both], Effort::AllOrNothing, None).unwrap();
        assert!(!made.is_enough && made.items.is_empty(), "{made:?}");
        let made = make_room(&store, &[both, disk_alone], Effort::AllOrNothing, None).unwrap();
        let kinds: Vec<_> = made.items.iter().map(|item| item.kind).collect();
        assert!(made.is_enough && kinds == ["remembered"], "{made:?}");
        assert!(store.names().find(&"own:1".parse().unwrap()).unwrap().is_some());
    }

    #[test]
    fn what_a_dead_process_had_put_aside_is_gone_before_something_else_goes() {
        let (_scratch, store) = with_an_image();
        let limits = CacheLimits {
            max_bytes: Some(store.tally(Count::Exact).unwrap().total + 100_000),
            low_water: 100,
            ..CacheLimits::default()
        };
        let dead = store.root().join("tmp/dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("1"), vec![7; 400_000]).unwrap();
        let made = make_room(&store, &[Coming::nothing(&store, limits)], Effort::Most, None).unwrap();
        assert!(made.is_enough && made.items.is_empty(), "{made:?}");
        assert!(!dead.exists());
    }
}
