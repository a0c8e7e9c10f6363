//! How many bytes and files all layers of an image together may put on the disk; each layer alone is bounded by
//! [`ExtractionLimits`] too.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::archive::tar_reader::TarError;
use crate::policy::ExtractionLimits;

/// Shared by the threads that unpack an image.
#[derive(Debug)]
pub(in crate::store) struct Budget {
    bytes: Purse,
    entries: Purse,
}

#[derive(Debug)]
struct Purse {
    what: &'static str,
    limit: u64,
    spent: AtomicU64,
}

impl Budget {
    pub(in crate::store) fn new(limits: &ExtractionLimits) -> Self {
        let purse = |what, limit| Purse {
            what,
            limit,
            spent: AtomicU64::new(0),
        };
        Self {
            bytes: purse("the unpacked size of the image's layers", limits.bytes),
            entries: purse("the number of files of the image's layers", limits.image_entries),
        }
    }

    /// Counts bytes of a file that is about to be written.
    pub(in crate::store) fn take_bytes(&self, count: u64) -> io::Result<()> {
        self.bytes.take(count)
    }

    /// Counts files, directories and links that were made.
    pub(in crate::store) fn take_entries(&self, count: u64) -> io::Result<()> {
        self.entries.take(count)
    }

    /// What was too much.
    pub(in crate::store) fn exceeded(&self) -> Option<TarError> {
        let over = |purse: &&Purse| purse.spent.load(Ordering::Relaxed) > purse.limit;
        let over = [&self.bytes, &self.entries].into_iter().find(over)?;
        Some(TarError::Limit {
            what: over.what,
            limit: over.limit,
        })
    }
}

impl Purse {
    fn take(&self, count: u64) -> io::Result<()> {
        // Each taker stops at its first refusal, so this does not wrap.
        let before = self.spent.fetch_add(count, Ordering::Relaxed);
        if before.saturating_add(count) > self.limit {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(())
    }
}
