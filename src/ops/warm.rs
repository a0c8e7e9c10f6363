//! `gantry cache warm`: images come into the store before somebody waits for them, several at once, the first of the list first.
//!
//! What is there costs a look at one small file, and no registry is asked. The failure of one stops no other. With `max_bytes` all
//! that the store holds is counted after each few images of which one came: a look at each file of blobs, downloads and tools,
//! and at the noted size of each layer.
//!
//! Where there are limits, images of the list do not go for those behind them: this process spares them, and others may evict
//! them, as somebody waits for what those bring. What no registry has does not go for them.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::copies::{pull, Transport};
use super::image_fetch::is_nowhere;
use super::images::ImagesError;
use super::outages::{untried, Outages};
use super::prefetch::make_resident;
use super::steps_only::StepsOnly;
use crate::oci::{Digest, Place, Reference};
use crate::policy::{as_limit, causes, counted, one_line, Bytes, Kind};
use crate::store::{Count, Reservation, Store, StoreError};
use crate::sys::{pool, space};
use crate::transfer::Attempt;
use crate::upkeep::eviction::CacheLimits;
use crate::upkeep::room::{find_room, Coming};

/// An image that is to be there.
#[derive(Debug, Clone)]
pub struct ImageToWarm {
    /// Which.
    pub reference: Reference,
    /// How often it was used lately, where that is known.
    pub uses: Option<u64>,
    /// Why.
    pub because: Because,
}

/// Why an image is to be there, which says what it means that it cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// Somebody named it.
    OfItsName,
    /// It was used here: when it was of this store alone, it may be gone.
    OfItsUse,
    /// An inventory of functions has it: as before, but registries are to have it.
    OfTheInventory,
}

/// Whether files are read into memory, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// An image is there when it is on the disk.
    Disk,
    /// The files that runs of it read at first are read.
    Memory,
}

/// What came of one image.
#[derive(Debug, Serialize)]
pub struct Warmed {
    /// The image as it was named.
    pub reference: String,
    /// `present` when it was ready, `prepared` when it was there and had to be looked at or unpacked, `pulled`, `skipped` when it was of this store
    /// alone and is gone, `evicted` when it was there and went again for others, `left_out` when the store has no room for it
    /// beside those before it and what stays, or `failed`.
    pub status: &'static str,
    /// Which one it is, when it is there now.
    pub digest: Option<Digest>,
    /// How often it was used lately; none where that is not known.
    pub uses: Option<u64>,
    /// Bytes that runs read at first and that are in memory now; none where that was not asked for, or no run has told.
    pub resident_bytes: Option<u64>,
    /// Why it is not there.
    pub error: Option<String>,
    /// Whether another try may help.
    pub is_retryable: bool,
    /// The exit code of a command that fails so; 0 when it did not.
    pub exit_code: u8,
    /// The registries that were asked, and how that went.
    pub attempts: Vec<Attempt>,
    /// How long it took.
    pub seconds: f64,
    /// What sort of failure it was.
    #[serde(skip)]
    pub kind: Option<Kind>,
    /// The failure itself, when it was tried.
    #[serde(skip)]
    pub failure: Option<ImagesError>,
}

/// How an image came to be there.
enum Found {
    Present,
    Prepared,
    Pulled,
    Gone,
}

/// How images are warmed.
#[derive(Debug, Clone, Copy)]
pub struct WarmRules {
    /// Images at a time.
    pub at_once: usize,
    /// Where they are to be.
    pub residence: Residence,
    /// What the store may hold.
    pub limits: CacheLimits,
}

/// Has the images of a list in the store, as many as it may hold, the first of the list first, and tells `done` of each.
///
/// # Errors
/// [`ImagesError::Store`] when it cannot be told what the store holds, or this process is about to end.
pub fn warm(
    transport: &Transport<'_>,
    list: &[ImageToWarm],
    rules: WarmRules,
    done: &(dyn Fn(&Warmed) + Sync),
) -> Result<Vec<Warmed>, ImagesError> {
    let (store, limits) = (&transport.store.warmed(), rules.limits);
    let (steps, outages) = (StepsOnly(transport.progress), Outages::default());
    let held = Mutex::new(Held::of(store));
    let held = || held.lock().unwrap_or_else(PoisonError::into_inner);
    let is_disk_full = AtomicBool::new(false);
    let warm = |one: &ImageToWarm, _: &pool::Stop| {
        store.check_not_ending()?;
        let warmed = match is_disk_full.load(Ordering::SeqCst) {
            true => Warmed::left_out(one, Full::Disk),
            false => {
                let mut own = Transport::new(store, transport.registries, &steps);
                // Before those beside it look what has to go.
                let hold = |digest: &Digest| held().hold(*digest);
                own.came = limits.are_set().then_some(&hold);
                Warmed::of(&own, one, rules.residence, &outages)
            }
        };
        if warmed.kind.is_some() {
            store.check_not_ending()?;
        }
        outages.note(&warmed.attempts);
        if let Some(digest) = warmed.digest.filter(|_| limits.are_set()) {
            held().hold(digest);
        }
        // What is held has the room that it lacks. Without any it is a failure like others.
        let lacks_room = warmed.met_a_full_disk() && !held().images.is_empty();
        let warmed = match lacks_room {
            true => {
                is_disk_full.store(true, Ordering::SeqCst);
                Warmed {
                    attempts: warmed.attempts,
                    seconds: warmed.seconds,
                    ..Warmed::left_out(one, Full::Disk)
                }
            }
            false => warmed,
        };
        done(&warmed);
        Ok::<_, StoreError>(warmed)
    };
    let others = match limits.max_images {
        Some(_) => stays(store, list)?,
        None => 0,
    };
    let room = limits.max_images.map(|most| most.saturating_sub(others));
    let room = room.and_then(|room| usize::try_from(room).ok()).unwrap_or(usize::MAX);
    // How much an image takes is known when it is there.
    let most = limits.max_bytes.map_or(usize::MAX, |_| rules.at_once);
    let (mut all, mut there, mut left) = (Vec::<Warmed>::new(), BTreeSet::new(), list);
    let mut why = Full::Images(limits.max_images.unwrap_or_default(), others);
    // One that cannot be had leaves its place to the next of the list.
    while !left.is_empty() && there.len() < room {
        let (some, rest) = left.split_at((room - there.len()).min(most).min(left.len()));
        let came = pool::each(rules.at_once, some, warm)?;
        let has_grown = came.iter().any(Warmed::has_come);
        all.extend(came);
        there.extend(all.iter().filter_map(|one| one.digest));
        left = rest;
        let full = match limits.max_bytes.filter(|_| has_grown) {
            Some(_) => let_go(store, limits, &all, &mut held()).unwrap_or_else(|error| {
                let text = format!("the store may hold more than it is to: {}", one_line(&error));
                transport.progress.warn(&text);
                None
            }),
            None => None,
        };
        let full = full.or_else(|| is_disk_full.load(Ordering::SeqCst).then_some(Full::Disk));
        if let Some(full) = full {
            why = full;
            break;
        }
    }
    all.iter_mut().for_each(|one| one.look_again(store));
    for one in left {
        let left_out = Warmed::left_out(one, why);
        done(&left_out);
        all.push(left_out);
    }
    // With something left out that has said it.
    if let (true, Full::Others(most)) = (left.is_empty(), why) {
        transport.progress.warn(&format!(
            "the store may hold {} (`max_bytes` under [cache]), and holds more: the first of the list, or what is pinned, in use or on its way; `gantry cache stats` says what takes room",
            as_limit(Bytes(most))
        ));
    }
    Ok(all)
}

/// The images of the list that are there: no eviction that those behind them bring about takes them.
struct Held<'a> {
    store: &'a Store,
    images: BTreeSet<Digest>,
}

impl<'a> Held<'a> {
    fn of(store: &'a Store) -> Self {
        Self {
            store,
            images: BTreeSet::new(),
        }
    }

    fn hold(&mut self, image: Digest) {
        Reservation::spare(self.store, &image);
        self.images.insert(image);
    }

    fn release(&mut self, image: &Digest) {
        Reservation::spare_no_longer(self.store, image);
        self.images.remove(image);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.images
            .iter()
            .for_each(|image| Reservation::spare_no_longer(self.store, image));
    }
}

/// Lets the last images of a list go until the store keeps its limits, when it does not, and says so. They all stay when the store
/// would be over its limits without them, too: what is pinned, in use or on its way is too much then.
fn let_go(store: &Store, limits: CacheLimits, all: &[Warmed], held: &mut Held<'_>) -> Result<Option<Full>, StoreError> {
    let most = limits.max_bytes.unwrap_or(u64::MAX);
    let is_over = || Ok::<_, StoreError>(store.tally(Count::Noted)?.total > most);
    if !is_over()? {
        return Ok(None);
    }
    let mut seen = BTreeSet::new();
    let mut there = all.iter().filter_map(|one| one.digest);
    let Some(first) = there.next() else { return Ok(None) };
    // An image has its place by the first of its names.
    let behind: Vec<Digest> = there
        .filter(|digest| *digest != first && seen.insert(*digest))
        .collect();
    let coming = Coming {
        spared: Some(first),
        ..Coming::nothing(store, limits)
    };
    behind.iter().for_each(|digest| held.release(digest));
    let without = find_room(store, coming);
    behind.iter().for_each(|digest| held.hold(*digest));
    if !without?.is_enough {
        return Ok(Some(Full::Others(most)));
    }
    for digest in behind.iter().rev() {
        held.release(digest);
        store.keep_limits(Some(&first))?;
        if !is_over()? {
            break;
        }
    }
    Ok(Some(Full::Bytes(most)))
}

/// How many images the store keeps whatever comes, besides those of `list`: what is pinned, and what no registry has.
fn stays(store: &Store, list: &[ImageToWarm]) -> Result<u64, StoreError> {
    let wanted = list.iter().filter_map(|one| store.names().find(&one.reference).ok()?);
    let wanted: BTreeSet<Digest> = wanted.collect();
    let named = store.names().list()?.into_iter().filter_map(|(_, digest)| digest);
    let mut stays: BTreeSet<Digest> = named
        .filter(|digest| store.images().origins(digest).is_empty())
        .collect();
    stays.extend(store.images().pinned()?);
    Ok(stays.difference(&wanted).count() as u64)
}

/// Why no further image is begun.
#[derive(Debug, Clone, Copy)]
enum Full {
    /// So many images may be there, of which so many stay whatever comes.
    Images(u64, u64),
    /// So many bytes may be there, and those of the list and what stays are as many.
    Bytes(u64),
    /// So many bytes may be there, and what stays besides those of the list is more.
    Others(u64),
    /// The disk has no room beside those of the list.
    Disk,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images(most, others) => {
                write!(
                    f,
                    "the store may keep {} (`max_images = {most}` under [cache]): those before it in the list",
                    counted(*most, "image", "images")
                )?;
                match others {
                    0 => Ok(()),
                    1 => f.write_str(", and 1 more that stays, as it is pinned or no registry has it"),
                    others => write!(f, ", and {others} more that stay, as they are pinned or no registry has them"),
                }
            }
            Self::Bytes(most) => write!(
                f,
                "the store may hold {} (`max_bytes` under [cache]): those before it in the list and what is pinned or in use leave it no room",
                as_limit(Bytes(*most))
            ),
            Self::Others(most) => write!(
                f,
                "the store may hold {} (`max_bytes` under [cache]), and holds more: what is pinned, in use or on its way is too much, whatever of the list goes",
                as_limit(Bytes(*most))
            ),
            Self::Disk => {
                f.write_str("the disk of the store has no room for it, and those before it in the list do not go for it")
            }
        }
    }
}

impl Warmed {
    fn of(transport: &Transport<'_>, one: &ImageToWarm, residence: Residence, outages: &Outages) -> Self {
        let began = Instant::now();
        let mut warmed = Self {
            reference: one.reference.to_string(),
            status: "failed",
            digest: None,
            uses: one.uses,
            resident_bytes: None,
            error: None,
            is_retryable: false,
            exit_code: 0,
            attempts: Vec::new(),
            seconds: 0.0,
            kind: None,
            failure: None,
        };
        let fail = |warmed: &mut Self, kind: Kind, error: String| {
            (warmed.kind, warmed.error) = (Some(kind), Some(error));
            (warmed.is_retryable, warmed.exit_code) = (kind.is_away(), kind.exit_code());
        };
        match find_or_pull(transport, one, outages) {
            Ok(Ok((found, digest))) => {
                warmed.digest = digest;
                warmed.status = match found {
                    Found::Present => "present",
                    Found::Prepared => "prepared",
                    Found::Pulled => "pulled",
                    Found::Gone => "skipped",
                };
            }
            Ok(Err(Away(host))) => fail(&mut warmed, Kind::Unavailable, untried(&host)),
            Err(error) => {
                fail(&mut warmed, error.kind(), one_line(&error));
                warmed.failure = Some(error);
            }
        }
        if let Some(digest) = warmed.digest.filter(|_| residence == Residence::Memory) {
            warmed.resident_bytes = make_resident(transport.store, &digest);
        }
        warmed.attempts = transport.asked.attempts();
        warmed.seconds = began.elapsed().as_secs_f64();
        warmed
    }

    /// Whether the store holds more by it than before.
    fn has_come(&self) -> bool {
        matches!(self.status, "pulled" | "prepared")
    }

    /// Whether it failed as the disk of the store is full.
    fn met_a_full_disk(&self) -> bool {
        let is_full = |error: &ImagesError| {
            causes(error).any(|cause| cause.downcast_ref::<io::Error>().is_some_and(space::is_full))
        };
        self.failure.as_ref().is_some_and(is_full)
    }

    /// Says of an image that was there whether it is there still.
    fn look_again(&mut self, store: &Store) {
        let Some(digest) = self.digest else { return };
        if let Ok(None) = store.images().read_snapshot(&digest) {
            (self.status, self.digest, self.resident_bytes) = ("evicted", None, None);
        }
    }
}

impl Warmed {
    /// An image that the store could keep only instead of one before it.
    fn left_out(one: &ImageToWarm, why: Full) -> Self {
        Self {
            status: "left_out",
            uses: one.uses,
            error: Some(why.to_string()),
            is_retryable: false,
            exit_code: 0,
            kind: None,
            ..Self::untold(one.reference.to_string(), String::new())
        }
    }

    /// An image that was not even tried: what it is called cannot be told.
    pub fn untold(reference: String, error: String) -> Self {
        let kind = Kind::Failed;
        Self {
            reference,
            status: "failed",
            digest: None,
            uses: None,
            resident_bytes: None,
            error: Some(error),
            is_retryable: false,
            exit_code: kind.exit_code(),
            attempts: Vec::new(),
            seconds: 0.0,
            kind: Some(kind),
            failure: None,
        }
    }
}

/// A registry that was away for those before.
struct Away(String);

fn find_or_pull(
    transport: &Transport<'_>,
    one: &ImageToWarm,
    outages: &Outages,
) -> Result<Result<(Found, Option<Digest>), Away>, ImagesError> {
    let (store, reference) = (transport.store, &one.reference);
    // Nothing may name it yet, nor its layers.
    let _kept = store.locks().keep_collector_out()?;
    let named = match store.names().find(reference) {
        // A damaged name is given anew.
        Err(_) if matches!(reference, Reference::Registry { .. }) => None,
        named => named?,
    };
    if let Some(digest) = named {
        let _lease = store.locks().hold(&digest)?;
        if store.images().snapshot(&digest)?.is_some() {
            return Ok(Ok((Found::Present, Some(digest))));
        }
        match store.images().restore(&digest) {
            Ok(_) => return Ok(Ok((Found::Prepared, Some(digest)))),
            // Its registry may have what is lost here.
            Err(_) if matches!(reference, Reference::Registry { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !matches!(reference, Reference::Registry { .. }) {
        let unknown = ImagesError::Unknown {
            reference: reference.to_string(),
        };
        return match one.because {
            Because::OfItsUse | Because::OfTheInventory => Ok(Ok((Found::Gone, None))),
            Because::OfItsName => Err(unknown),
        };
    }
    let place = Place::Image(reference.clone());
    if let Some(host) = outages.find([&place]) {
        return Ok(Err(Away(host)));
    }
    match pull(transport, &place, None) {
        Ok(copied) => Ok(Ok((Found::Pulled, Some(copied.digest)))),
        Err(error)
            if one.because == Because::OfItsUse && is_nowhere(store, transport.registries, reference, &error) =>
        {
            Ok(Ok((Found::Gone, None)))
        }
        Err(error) => Err(error),
    }
}
