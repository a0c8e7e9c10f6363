//! How often what was wanted was in the store: the journal, summed up.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::journal::{self, Counts, RegistryUse};
use crate::oci::Digest;
use crate::store::Store;

const SECONDS_A_DAY: u64 = 86_400;
/// Images that are named as the most used.
const MOST: usize = 10;

/// What the journal says of the use of a store. Runs count, and pulls that somebody typed.
#[derive(Debug, Clone, Serialize)]
pub struct CacheUse {
    /// Of the last day and the last seven, to the hour.
    pub hit_rate: HitRates,
    /// The most used images of the last seven days, the most used first.
    pub most_used: Vec<MostUsed>,
    /// How each registry did in the last seven days.
    registries: BTreeMap<String, RegistryUse>,
    /// Lines that were read for the first time now, and are no events: torn ones, and what somebody else wrote.
    pub garbage: u64,
}

/// Hits and misses of the last day and the last seven.
#[derive(Debug, Clone, Serialize)]
pub struct HitRates {
    /// Of the last day.
    pub day: Hits,
    /// Of the last seven days.
    pub week: Hits,
}

/// Uses that found all that they needed in the store, and uses that did not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Hits {
    /// Nothing had to be fetched or unpacked.
    pub hits: u64,
    /// Something had to be.
    pub misses: u64,
    /// The share of hits, between 0 and 1; none without either.
    pub share: Option<f64>,
}

/// An image that was used.
#[derive(Debug, Clone, Serialize)]
pub struct MostUsed {
    /// As it was called last.
    pub reference: String,
    /// Its manifest.
    pub digest: Digest,
    /// How often, in the last seven days.
    pub uses: u64,
    /// When last, in seconds since 1970.
    pub last_use: Option<u64>,
    /// Of its uses.
    pub hit_rate: Hits,
}

/// Sums up the journal of `store` at `now`; reads what is new since the last time.
///
/// # Errors
///
/// When the journal or its sums cannot be read.
pub fn cache_use(store: &Store, now: SystemTime) -> std::io::Result<CacheUse> {
    let folded = journal::fold(store.root(), now)?;
    let counts = &folded.counts;
    let ago = |days: u64| journal::seconds(now).saturating_sub(days * SECONDS_A_DAY);
    let registries = counts.registries(ago(7)).into_iter();
    Ok(CacheUse {
        hit_rate: HitRates {
            day: hits(counts.hit_rate(ago(1))),
            week: hits(counts.hit_rate(ago(7))),
        },
        most_used: most_used(counts, ago(7)),
        registries: registries.map(|(host, used)| (host.to_owned(), used)).collect(),
        garbage: folded.garbage,
    })
}

fn most_used(counts: &Counts, since: u64) -> Vec<MostUsed> {
    let row = |used: journal::Used| MostUsed {
        last_use: counts.last_use(&used.digest),
        hit_rate: hits(counts.hit_rate_of(&used.digest, since)),
        reference: used.reference,
        digest: used.digest,
        uses: used.uses,
    };
    counts.top(MOST, since).into_iter().map(row).collect()
}

fn hits(rate: journal::HitRate) -> Hits {
    Hits {
        hits: rate.hits,
        misses: rate.misses,
        share: rate.share(),
    }
}
