//! Room on the disk that is promised before bytes come, so that ten pulls do not all believe in the same free bytes.
//!
//! ```text
//! tmp/<random>/reserved    "<certain> <likely>\n": bytes that are still to come for sure, and with what they unpack to
//! ```
//!
//! A reservation is in a scratch directory, whose lock its process holds: that of a dead one counts for nothing. It shrinks while
//! bytes arrive, as the disk counts those. What is certain and does not fit is refused; what is only likely makes room. That
//! is promised before something goes for it ([`Claim`]), as soon as it is known that what may go is enough.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use rustix::fs::{flock, FlockOperation, CWD};

use super::disk::coming;
use super::disk::locks::{Locks, Rank, Task};
use super::disk::regular;
use super::disk::scratch::Scratch;
use super::disk::Disk;
use super::{Store, StoreError};
use crate::oci::Digest;
use crate::sys::fault::{self, Step};
use crate::sys::lock::{Lock, Mode};
use crate::sys::space;

const FILE: &str = "reserved";
/// Bytes of it.
const MOST: u64 = 64;

/// What there has to be room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoomNeeded {
    /// Bytes that are sure to come.
    pub certain: u64,
    /// Those, and what they unpack to at least: where there is no room for all that is likely, so much is made. 0 where that is
    /// not known.
    pub least: u64,
    /// Those, and what they are likely to unpack to.
    pub likely: u64,
    /// Images.
    pub images: u64,
    /// Bytes of an image as it is shipped and, where it is compressed, as many again for what it unpacks to, also of what is
    /// there already: what it needs at least where nothing else is. 0 of what is no image.
    pub whole: u64,
}

impl RoomNeeded {
    /// What has to be there at least for it to be of use.
    pub fn at_least(self) -> Self {
        Self {
            likely: self.certain.max(self.least).min(self.likely),
            ..self
        }
    }

    /// What is certain of it, alone.
    pub fn certain(self) -> Self {
        Self {
            likely: self.certain,
            ..self
        }
    }
}

/// What is asked of whoever makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomCall {
    /// This is about to come, and the disk lacks so many bytes for it.
    Before(RoomNeeded, u64),
    /// Something is about to come that goes again, and the disk lacks so many bytes for it. No limit of the store is about it, and
    /// what nobody else has does not go for it.
    Passing(u64),
    /// The disk was full: so many bytes were still to come.
    Full(u64),
    /// This image came, and stays; or none did, and it is over.
    After(Option<Digest>),
}

/// What came of making room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomMade {
    /// Whether something went, or the disk has what it lacked.
    pub has_come: bool,
    /// What the user should know of limits that the store is over all the same.
    pub warning: Option<String>,
}

/// Takes out of a store what may go.
type Maker = dyn Fn(&Store, RoomCall, Option<&Claim<'_>>) -> Result<RoomMade, StoreError> + Send + Sync;

/// Says whether so many bytes that the disk lacks could be had if all went that may. Nothing goes.
type Foresight = dyn Fn(&Store, u64) -> Result<bool, StoreError> + Send + Sync;

/// Who makes room in a store.
#[derive(Clone)]
pub struct RoomMaker {
    make: Arc<Maker>,
    could_make: Arc<Foresight>,
}

impl RoomMaker {
    /// One that does `make`, which is given the claim to what the disk lacks; `could_make` says without anything going whether so
    /// many bytes that the disk lacks could be had.
    pub fn new(
        make: impl Fn(&Store, RoomCall, Option<&Claim<'_>>) -> Result<RoomMade, StoreError> + Send + Sync + 'static,
        could_make: impl Fn(&Store, u64) -> Result<bool, StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            make: Arc::new(make),
            could_make: Arc::new(could_make),
        }
    }

    pub(super) fn could_make(&self, store: &Store, lacks: u64) -> Result<bool, StoreError> {
        (self.could_make)(store, lacks)
    }

    pub(super) fn make(
        &self,
        store: &Store,
        call: RoomCall,
        claim: Option<&Claim<'_>>,
    ) -> Result<RoomMade, StoreError> {
        (self.make)(store, call, claim)
    }
}

impl std::fmt::Debug for RoomMaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RoomMaker")
    }
}

/// Room that is promised until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    scratch: Scratch,
    certain: AtomicU64,
    likely: AtomicU64,
    /// Bytes of it at first.
    promised: u64,
}

/// Room that the disk has not got yet, and that can be promised to the one that asks for it: what goes for it is nobody else's.
#[derive(Debug)]
pub struct Claim<'a> {
    disk: &'a Disk,
    scratch: &'a Scratch,
    wanted: RoomNeeded,
}

impl<'a> Claim<'a> {
    pub(super) fn new(disk: &'a Disk, scratch: &'a Scratch, wanted: RoomNeeded) -> Self {
        Self { disk, scratch, wanted }
    }

    /// Bytes of it that the disk lacks by now, with what others are promised.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be looked at.
    pub fn lacks(&self) -> Result<u64, StoreError> {
        let _single = single(self.disk)?;
        Ok(look(self.disk, self.scratch, self.wanted).lacks)
    }

    /// Promises it from now on, also to those who ask meanwhile; returns what the disk lacks of it. Idempotent.
    ///
    /// # Errors
    /// As [`lacks`](Self::lacks).
    pub fn promise(&self) -> Result<u64, StoreError> {
        let _single = single(self.disk)?;
        note(self.scratch, self.wanted.certain, self.wanted.likely);
        Ok(look(self.disk, self.scratch, self.wanted).lacks)
    }

    /// Promises it no longer.
    pub(super) fn withdraw(&self) {
        // Where it cannot be removed, others count on less room than there is until the directory goes.
        let _ = fs::remove_file(self.scratch.path().join(FILE));
    }
}

/// How many of `bytes` that are certain to come the disk lacks, with what is certain of others.
pub(super) fn lacks_for(disk: &Disk, bytes: u64) -> u64 {
    let free = space::free(disk.root()).unwrap_or(u64::MAX);
    bytes.saturating_add(promised(disk, None).certain).saturating_sub(free)
}

/// Held while room is looked at and promised.
fn single(disk: &Disk) -> Result<Lock, StoreError> {
    let task = Task::silent("reserves room");
    Ok(Locks::of(disk)
        .wait_for(Rank::Index, Mode::Alone, &disk.path("locks/room"), task)?
        .0)
}

/// What the disk has for somebody who asks.
struct Looked {
    /// Bytes of those that are likely that it has not got.
    lacks: u64,
    /// Bytes that it has for what is certain.
    room: u64,
}

/// Looks what of `wanted` the disk has beside what others than the process of `scratch` are promised.
fn look(disk: &Disk, scratch: &Scratch, wanted: RoomNeeded) -> Looked {
    // A file system that does not say how full it is refuses when it is.
    let free = space::free(disk.root()).unwrap_or(u64::MAX);
    let others = promised(disk, Some(scratch.path()));
    Looked {
        lacks: wanted.likely.saturating_add(others.likely).saturating_sub(free),
        room: free.saturating_sub(others.certain),
    }
}

/// What came of asking for room.
pub(super) enum Asked {
    Promised(Reservation),
    /// The disk has not got so many bytes of those that are likely, and `room` of those that are certain.
    Lacking {
        likely: u64,
        room: u64,
        /// Where what comes is noted, so that nobody takes it for garbage.
        scratch: Scratch,
    },
}

impl Reservation {
    /// From now on no eviction of this process takes the image; those of others do, which may need the room more.
    pub(crate) fn spare(store: &Store, image: &Digest) {
        coming::spare(&store.disk, image.hex());
    }

    /// Ends [`spare`](Self::spare).
    pub(crate) fn spare_no_longer(store: &Store, image: &Digest) {
        coming::spare_no_longer(&store.disk, image.hex());
    }

    /// Notes what is about to come, as hexadecimal digests, so that nobody takes for garbage what is there of it.
    pub(super) fn begin(disk: &Disk, coming: &BTreeSet<String>) -> Result<Scratch, StoreError> {
        let scratch = Scratch::new(disk)?;
        match coming::note(&scratch, coming) {
            // Without it some of it may have to be brought again.
            Ok(()) | Err(StoreError::NoSpace { .. }) => Ok(scratch),
            Err(error) => Err(error),
        }
    }

    /// Promises the room that is needed if the disk has it.
    pub(super) fn ask(disk: &Disk, scratch: Scratch, needed: RoomNeeded) -> Result<Asked, StoreError> {
        let _single = single(disk)?;
        let Looked { lacks, room } = look(disk, &scratch, needed);
        if lacks > 0 {
            return Ok(Asked::Lacking {
                likely: lacks,
                room,
                scratch,
            });
        }
        Ok(Asked::Promised(Self::insist(scratch, needed)))
    }

    /// Promises what is needed, whether or not there is room for it.
    pub(super) fn insist(scratch: Scratch, needed: RoomNeeded) -> Self {
        let reservation = Self {
            scratch,
            certain: AtomicU64::new(needed.certain),
            likely: AtomicU64::new(needed.likely),
            promised: needed.likely,
        };
        reservation.note();
        reservation
    }

    /// Gives back what has arrived of it.
    pub fn arrived(&self, part: RoomNeeded) {
        let less = |all: &AtomicU64, part: u64| {
            let _ = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
                Some(all.saturating_sub(part))
            });
        };
        less(&self.certain, part.certain);
        less(&self.likely, part.likely);
        self.note();
    }

    /// Gives back all that is left of it.
    pub fn all_arrived(&self) {
        self.arrived(RoomNeeded {
            certain: u64::MAX,
            likely: u64::MAX,
            ..RoomNeeded::default()
        });
    }

    /// Whether so many bytes were promised.
    pub fn holds(&self, bytes: u64) -> bool {
        self.promised >= bytes
    }

    /// Bytes that are likely to come still.
    pub fn left(&self) -> u64 {
        self.likely.load(Ordering::Relaxed)
    }

    fn note(&self) {
        note(&self.scratch, self.certain.load(Ordering::Relaxed), self.left());
    }
}

/// A note that cannot be written is none: others count on more room than there is, and the disk says so.
fn note(scratch: &Scratch, certain: u64, likely: u64) {
    let file = scratch.path().join(FILE);
    let _ = fault::point(Step::Reservation).and_then(|()| fs::write(file, format!("{certain} {likely}\n")));
}

/// What is promised in the store, by all processes that live, but for what the directory `own` says.
fn promised(disk: &Disk, own: Option<&Path>) -> RoomNeeded {
    let mut all = RoomNeeded::default();
    for entry in fs::read_dir(disk.path("tmp")).into_iter().flatten().flatten() {
        let path = entry.path();
        if own == Some(path.as_path()) {
            continue;
        }
        let text = regular::read(CWD, &path.join(FILE), MOST).ok();
        let Some(text) = text.and_then(|text| String::from_utf8(text).ok()) else {
            continue;
        };
        let is_dead =
            File::open(&path).is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
        let numbers = text.trim_end().split_once(' ');
        let numbers = numbers.and_then(|(certain, likely)| Some((certain.parse().ok()?, likely.parse().ok()?)));
        if let (false, Some((certain, likely))) = (is_dead, numbers) {
            all.certain = all.certain.saturating_add(certain);
            all.likely = all.likely.saturating_add(likely);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::tests::store;

    fn needed(certain: u64, likely: u64) -> RoomNeeded {
        RoomNeeded {
            certain,
            likely,
            images: 1,
            whole: certain,
            ..RoomNeeded::default()
        }
    }

    #[test]
    fn what_goes_for_one_is_promised_to_it_before_it_goes() {
        let (_scratch, store) = store();
        let unit = space::free(store.root()).unwrap() / 270;
        // What may go is held as a promise, and 150 units are free beside it.
        let evictable = Mutex::new(Some(Reservation::insist(
            Reservation::begin(&store.disk, &BTreeSet::new()).unwrap(),
            needed(120 * unit, 120 * unit),
        )));
        let make = move |store: &Store, _, claim: Option<&Claim<'_>>| {
            let claim = claim.unwrap();
            let lacks = claim.lacks().unwrap();
            // Others write to this disk meanwhile.
            assert!(lacks > 40 * unit && claim.promise().unwrap().abs_diff(lacks) < 10 * unit);
            let has_come = evictable.lock().unwrap().take().is_some();
            // Somebody asks when it is gone and before it is looked whether that was enough.
            let meanwhile = ask(store, needed(100 * unit, 100 * unit));
            assert!(matches!(meanwhile, Asked::Lacking { .. }) || !has_come);
            Ok(RoomMade {
                has_come,
                warning: None,
            })
        };
        let store = store.making_room_by(RoomMaker::new(make, |_, _| Ok(false)));
        let room = store.reserve(needed(200 * unit, 200 * unit), &BTreeSet::new()).unwrap();
        assert_eq!(promised(&store.disk, None).likely, 200 * unit);
        drop(room);
        // What was claimed and did not come is nobody's.
        assert!(store.reserve(needed(500 * unit, 500 * unit), &BTreeSet::new()).is_err());
        assert_eq!(promised(&store.disk, None), RoomNeeded::default());
    }

    fn ask(store: &Store, needed: RoomNeeded) -> Asked {
        let scratch = Reservation::begin(&store.disk, &BTreeSet::new()).unwrap();
        Reservation::ask(&store.disk, scratch, needed).unwrap()
    }

    #[test]
    fn what_one_was_promised_no_other_is() {
        let (_scratch, store) = store();
        let free = space::free(store.root()).unwrap();
        // Others write to this disk meanwhile.
        let half = free / 2 + free / 10;
        let Asked::Promised(first) = ask(&store, needed(half, half)) else {
            panic!("there is room for half of it")
        };
        assert!(matches!(
            ask(&store, needed(half, half)),
            Asked::Lacking { likely, room, .. } if likely > 0 && room < half
        ));
        first.arrived(needed(half, half));
        assert!(matches!(ask(&store, needed(half, half)), Asked::Promised(_)));
    }

    #[test]
    fn what_it_takes_at_least_makes_room_also_where_what_is_certain_fits() {
        let (_scratch, store) = store();
        let unit = space::free(store.root()).unwrap() / 270;
        let evictable = 120 * unit;
        // What may go is held as a promise, and 150 units are free beside it.
        let other = Mutex::new(Some(Reservation::insist(
            Reservation::begin(&store.disk, &BTreeSet::new()).unwrap(),
            needed(evictable, evictable),
        )));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        let make = move |_: &Store, call, _: Option<&Claim<'_>>| {
            let RoomCall::Before(wanted, lacks) = call else {
                panic!("{call:?}")
            };
            told.lock().unwrap().push(wanted.likely / unit);
            let has_come = lacks <= evictable && other.lock().unwrap().take().is_some();
            Ok(RoomMade {
                has_come,
                warning: None,
            })
        };
        let store = store.making_room_by(RoomMaker::new(make, |_, _| Ok(false)));
        let wanted = RoomNeeded {
            least: 200 * unit,
            ..needed(100 * unit, 400 * unit)
        };
        let room = store.reserve(wanted, &BTreeSet::new()).unwrap();
        assert_eq!(*asked.lock().unwrap(), [400, 200]);
        assert_eq!(
            (room.left(), promised(&store.disk, None).likely),
            (200 * unit, 200 * unit)
        );
        drop(room);
        // Where not even so much can be had, what is certain is promised, and nothing went for it.
        let room = store
            .reserve(
                RoomNeeded {
                    least: 300 * unit,
                    ..wanted
                },
                &BTreeSet::new(),
            )
            .unwrap();
        assert_eq!(asked.lock().unwrap().split_off(2), [400, 300]);
        assert_eq!(room.left(), 100 * unit);
        assert!(room.holds(100 * unit) && !room.holds(300 * unit));
    }

    #[test]
    fn what_has_all_arrived_is_promised_no_more() {
        let (_scratch, store) = store();
        let Asked::Promised(room) = ask(&store, needed(1 << 20, 1 << 21)) else {
            panic!("there is no room for two megabytes");
        };
        assert_eq!(promised(&store.disk, None).likely, 1 << 21);
        room.all_arrived();
        assert_eq!((promised(&store.disk, None), room.left()), (RoomNeeded::default(), 0));
    }

    #[test]
    fn what_a_dead_process_was_promised_counts_for_nothing() {
        let (_scratch, store) = store();
        let dead = store.root().join("tmp/dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(FILE), format!("{0} {0}\n", u64::MAX)).unwrap();
        assert!(matches!(ask(&store, needed(1, 1)), Asked::Promised(_)));
    }
}
