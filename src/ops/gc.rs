//! `gantry cache gc`: removes what no image and, unless told otherwise, no later build needs.

use crate::python::resolve::uv;
use crate::store::{GarbageReport, Keep, Patience, Rules, Store, StoreError};

/// Says what [`remove_garbage`] would remove. `waiting` is called once when others use the store.
pub fn find_garbage(store: &Store, keep: Keep, waiting: &mut dyn FnMut()) -> Result<GarbageReport, StoreError> {
    let tools = [uv::folder()];
    store.find_garbage(
        rules(keep, &tools.each_ref().map(String::as_str)),
        Patience::default(),
        waiting,
    )
}

/// Removes garbage. `waiting` is called once when others use the store.
///
/// # Errors
/// [`StoreError::Busy`] when others use the store for longer than ten seconds.
pub fn remove_garbage(store: &Store, keep: Keep, waiting: &mut dyn FnMut()) -> Result<GarbageReport, StoreError> {
    let tools = [uv::folder()];
    store.remove_garbage(
        rules(keep, &tools.each_ref().map(String::as_str)),
        Patience::default(),
        waiting,
    )
}

fn rules<'a>(keep: Keep, tools: &'a [&'a str]) -> Rules<'a> {
    Rules {
        keep,
        tools,
        now: crate::sys::clock::now(),
    }
}
