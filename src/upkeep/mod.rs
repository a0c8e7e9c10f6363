//! What a store keeps and what goes: pure plans over its inventory, and what carries them out.
//!
//! Read [`eviction`] first, the rule by which images go; [`room`] applies it, [`beside`] takes garbage alone; [`stats`] says what there is.

pub(crate) mod beside;
pub(crate) mod eviction;
pub(crate) mod room;
pub(crate) mod stats;
