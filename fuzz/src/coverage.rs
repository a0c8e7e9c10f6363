//! Coverage counters as LLVM's `sancov` inserts them with `inline-8bit-counters`: one byte for each edge of the program.
//! Without that pass there are none, and nothing counts as new.
#![allow(
    unsafe_code,
    reason = "the counters are memory that the compiler hands over by address"
)]

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Parts of the program that register counters; each crate's objects are merged into one or a few.
const MOST_REGIONS: usize = 4096;
static STARTS: [AtomicPtr<u8>; MOST_REGIONS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST_REGIONS];
static LENGTHS: [AtomicUsize; MOST_REGIONS] = [const { AtomicUsize::new(0) }; MOST_REGIONS];
static REGIONS: AtomicUsize = AtomicUsize::new(0);

/// Called by each instrumented object before `main`, with its counters.
///
/// # Safety
/// `start..end` must be counters that live as long as the program.
#[no_mangle]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
    let length = (end as usize).saturating_sub(start as usize);
    let is_there = STARTS.iter().any(|known| known.load(Ordering::Relaxed) == start);
    let at = REGIONS.load(Ordering::Relaxed);
    if length > 0 && !is_there && at < MOST_REGIONS {
        STARTS[at].store(start, Ordering::Relaxed);
        LENGTHS[at].store(length, Ordering::Relaxed);
        REGIONS.store(at + 1, Ordering::Relaxed);
    }
}

/// Called beside the above with the places of the edges, which nobody here asks for.
#[no_mangle]
pub extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _end: *const usize) {}

fn each_region(mut work: impl FnMut(&mut [u8])) {
    for at in 0..REGIONS.load(Ordering::Relaxed) {
        let (start, length) = (STARTS[at].load(Ordering::Relaxed), LENGTHS[at].load(Ordering::Relaxed));
        // SAFETY: the compiler registered these bytes for the life of the program; only the target, which does not run
        // now, writes to them, and the watchdog's thread at most adds to a counter of its own.
        work(unsafe { std::slice::from_raw_parts_mut(start, length) });
    }
}

/// Sets all counters to zero.
pub fn reset() {
    each_region(|counters| counters.fill(0));
}

/// What was reached so far: for each edge, a bit per order of magnitude of how often in one run.
#[derive(Default)]
pub struct Seen {
    reached: Vec<u8>,
}

impl Seen {
    /// Adds the run that has just ended; whether it reached anything new.
    pub fn add(&mut self) -> bool {
        let (mut at, mut is_new) = (0, false);
        each_region(|counters| {
            self.reached.resize(self.reached.len().max(at + counters.len()), 0);
            // Nearly all of a million counters are zero.
            for (counts, reached) in counters.chunks(64).zip(self.reached[at..].chunks_mut(64)) {
                if counts.iter().fold(0, |any, count| any | count) == 0 {
                    continue;
                }
                for (count, reached) in counts.iter().zip(reached).filter(|(count, _)| **count > 0) {
                    let bit = 1 << (7 - count.leading_zeros().min(7));
                    is_new |= *reached & bit == 0;
                    *reached |= bit;
                }
            }
            at += counters.len();
        });
        is_new
    }

    /// Edges that were ever reached.
    pub fn edges(&self) -> usize {
        self.reached.iter().filter(|reached| **reached > 0).count()
    }
}
