//! Unpacked layers: how a tree is written, what it hides, whether it is whole, and how several look as one.

pub(super) mod budget;
pub(super) mod durable;
pub(super) mod listing;
pub(super) mod opaque;
pub(super) mod origins;
pub(super) mod scaffold;
pub(super) mod stack;
pub(super) mod staging;
pub(super) mod unpack;
pub(super) mod whiteouts;
pub(super) mod writer;
