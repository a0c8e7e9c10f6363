//! Stamps: which boot of the machine wrote a file.
//!
//! Nothing is synced, so what was written is sure to be there only while the machine is up: the page cache gives it back.
//! A file with the stamp of this boot is trusted. One of another boot is read once and compared with its digest; what is
//! read back after a boot came from the disk, so its stamp says `durable` from then on.

use serde::{Deserialize, Serialize};

/// The boot that wrote a file, or `durable` for a file that is known to be on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Stamp(String);

impl Stamp {
    /// The stamp of what this boot writes. Where the kernel does not say, all boots look alike.
    pub(crate) fn of_this_boot() -> Self {
        Self(crate::sys::kernel::boot_id().unwrap_or_else(|| "unknown".to_owned()))
    }

    /// The stamp of what is on the disk for sure.
    pub(in crate::store) fn durable() -> Self {
        Self("durable".to_owned())
    }

    /// The stamp that a file holds; none for an empty one.
    pub(in crate::store) fn of_text(text: String) -> Option<Self> {
        (!text.is_empty()).then_some(Self(text))
    }

    pub(in crate::store) fn as_str(&self) -> &str {
        &self.0
    }
}
