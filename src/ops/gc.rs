//! `gantry cache gc`: removes what no image and, unless told otherwise, no later build needs.

use std::time::Duration;

use crate::python::resolve::uv;
use crate::store::{GarbageReport, Keep, Patience, Rules, Store, StoreError};
use crate::upkeep::beside::{collect_beside, find_beside};

/// Says what [`remove_garbage`] would remove. `waiting` is called once when others use the store.
///
/// # Errors
///
/// [`StoreError`]; `Busy` when others use the store for longer than is wanted.
pub fn find_garbage(
    store: &Store,
    wanted: GarbageWanted,
    waiting: &mut dyn FnMut(),
) -> Result<GarbageReport, StoreError> {
    let tools = [uv::folder()];
    store.find_garbage(
        rules(wanted, &tools.each_ref().map(String::as_str)),
        patience(wanted),
        waiting,
    )
}

/// Removes garbage. `waiting` is called once when others use the store.
///
/// # Errors
/// [`StoreError::Busy`] when others use the store for longer than that.
pub fn remove_garbage(
    store: &Store,
    wanted: GarbageWanted,
    waiting: &mut dyn FnMut(),
) -> Result<GarbageReport, StoreError> {
    let tools = [uv::folder()];
    store.remove_garbage(
        rules(wanted, &tools.each_ref().map(String::as_str)),
        patience(wanted),
        waiting,
    )
}

/// Removes, or says what it would remove, of the garbage that can go while others use the store: nothing that is on its way, and
/// while a build is at work only images that nobody keeps. Waits for nobody.
///
/// # Errors
/// [`StoreError`] when the store cannot be read, or something cannot be removed.
pub fn garbage_beside(store: &Store, wanted: GarbageWanted, goes: Goes) -> Result<GarbageReport, StoreError> {
    let tools = [uv::folder()];
    let tools = tools.each_ref().map(String::as_str);
    match goes {
        Goes::Now => collect_beside(store, rules(wanted, &tools)),
        Goes::IfAsked => find_beside(store, rules(wanted, &tools)),
    }
}

/// Whether garbage goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goes {
    /// It does.
    Now,
    /// It is only said what would go.
    IfAsked,
}

fn patience(wanted: GarbageWanted) -> Patience {
    let usual = Patience::default();
    Patience {
        most: wanted.wait.unwrap_or(usual.most),
        ..usual
    }
}

/// What shall go.
#[derive(Debug, Clone, Copy)]
pub struct GarbageWanted {
    /// Whether later builds count.
    pub keep: Keep,
    /// What only later builds would use, and none has used for so long, goes as well.
    pub older_than: Option<Duration>,
    /// The longest unused goes until the store has at most so many bytes.
    pub max_bytes: Option<u64>,
    /// How long others are waited for; without it ten seconds.
    pub wait: Option<Duration>,
}

fn rules<'a>(wanted: GarbageWanted, tools: &'a [&'a str]) -> Rules<'a> {
    let now = crate::sys::clock::now();
    Rules {
        keep: wanted.keep,
        unused_since: wanted.older_than.and_then(|age| now.checked_sub(age)),
        max_bytes: wanted.max_bytes,
        tools,
        now,
    }
}
