//! Files that are called what they contain, what is remembered by keys, and the names of images.

pub(super) mod blobs;
pub(super) mod downloads;
pub(super) mod memo;
pub(super) mod names;
pub(super) mod whole;
