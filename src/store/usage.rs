//! How much room a store takes, by kind.

use serde::Serialize;

use super::disk::Disk;
use crate::sys::tree::bytes_of;

/// Bytes of the files of a store, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Always 1.
    pub schema: u32,
    /// Blobs: layers as they are shipped, configurations, manifests.
    pub blobs: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Finished downloads.
    pub downloads: u64,
    /// Downloads under way.
    pub partials: u64,
    /// What is remembered of steps.
    pub memos: u64,
    /// Programs that gantry fetched, and what they cache.
    pub tools: u64,
    /// The journal.
    pub journal: u64,
    /// Scratch of processes that are at work.
    pub scratch: u64,
    /// All of it, with names, snapshots and locks.
    pub total: u64,
}

impl Usage {
    pub(super) fn of(disk: &Disk) -> Self {
        let bytes = |folder: &str| bytes_of(&disk.path(folder));
        Self {
            schema: 1,
            blobs: bytes("blobs"),
            layers: bytes("layers"),
            downloads: bytes("downloads"),
            partials: bytes("partial"),
            memos: bytes("memo"),
            tools: bytes("tools"),
            journal: bytes(crate::journal::FOLDER),
            scratch: bytes("tmp"),
            total: bytes_of(disk.root()),
        }
    }
}
