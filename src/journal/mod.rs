//! Records what happened: one JSON line per event, appended to `journal/2026-11-29.jsonl` in the store, by the day in UTC.
//!
//! `event` writes the lines, `line` reads them, `fold` sums them up: hit rate, last use, the most used images; `evicted` looks up
//! what became of a name. What a
//! line has stands in `docs/formats.md`; fields are added, none changes its meaning, and a reader passes over what it does
//! not know.

mod count;
mod day;
mod event;
mod evicted;
mod fold;
mod line;
mod read;

#[allow(unused_imports, reason = "for what makes room and for statistics")]
pub(crate) use count::{Counts, HitRate, RegistryUse, Used};
pub(crate) use day::{day_of, days, seconds};
pub(crate) use event::{append, Event, EventKind, ImageType, Phases, Purpose};
pub(crate) use evicted::{find_evicted, EvictedImage};
#[allow(unused_imports, reason = "for what makes room and for statistics")]
pub(crate) use fold::{fold, Folded};

/// The journal's directory in the root of a store.
pub(crate) const FOLDER: &str = "journal";

/// Most bytes of a line, with its end. A line of a run with all the labels it may have is shorter.
const MAX_LINE: usize = 16 << 10;
