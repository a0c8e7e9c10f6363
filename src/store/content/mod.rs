//! What the store calls by what it contains: blobs, downloads, and what is remembered of steps.

pub(super) mod blobs;
pub(super) mod downloads;
pub(super) mod memo;
pub(super) mod whole;
