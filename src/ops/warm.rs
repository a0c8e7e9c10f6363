//! `gantry cache warm`: images come into the store before somebody waits for them, several at once, the first of the list first.
//!
//! What is there costs a look at one small file, and no registry is asked. The failure of one stops no other.

use std::time::Instant;

use serde::Serialize;

use super::copies::{pull, Transport};
use super::image_fetch::is_nowhere;
use super::images::ImagesError;
use super::outages::{untried, Outages};
use super::prefetch::make_resident;
use super::steps_only::StepsOnly;
use crate::oci::{Digest, Place, Reference};
use crate::policy::{one_line, Kind};
use crate::store::Store;
use crate::sys::pool;
use crate::transfer::Attempt;

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
    /// alone and is gone, `evicted` when it was there and others of the list needed its room, or `failed`.
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

/// Has every image of a list in the store, `at_once` of them at a time in the order of the list, and tells `done` of each.
pub fn warm(
    transport: &Transport<'_>,
    list: &[ImageToWarm],
    at_once: usize,
    residence: Residence,
    done: &(dyn Fn(&Warmed) + Sync),
) -> Vec<Warmed> {
    let (steps, outages) = (StepsOnly(transport.progress), Outages::default());
    let mut all = pool::map(at_once, list, |one| {
        let own = Transport::new(transport.store, transport.registries, &steps);
        let warmed = Warmed::of(&own, one, residence, &outages);
        outages.note(&warmed.attempts);
        done(&warmed);
        warmed
    });
    all.iter_mut().for_each(|one| one.look_again(transport.store));
    all
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

    /// Says of an image that was there whether it is there still.
    fn look_again(&mut self, store: &Store) {
        let Some(digest) = self.digest else { return };
        if let Ok(None) = store.images().read_snapshot(&digest) {
            (self.status, self.digest, self.resident_bytes) = ("evicted", None, None);
        }
    }
}

impl Warmed {
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
