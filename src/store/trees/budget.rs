//! How many bytes and files all layers of an image together may put on the disk; each layer alone is bounded by
//! [`ExtractionLimits`] too.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::archive::tar_reader::TarError;
use crate::policy::ExtractionLimits;

/// Memory for whiteouts, which are kept until their layer has been read; half a million of the longest would be two
/// gigabytes. A distribution has 10 MiB.
const MAX_NAMES: u64 = 64 << 20;

/// Shared by the threads that unpack an image.
#[derive(Debug)]
pub(in crate::store) struct Budget {
    bytes: Purse,
    entries: Purse,
    names: Purse,
}

#[derive(Debug)]
struct Purse {
    what: &'static str,
    limit: u64,
    spent: AtomicU64,
    /// Whether somebody was refused.
    has_refused: AtomicBool,
}

impl Budget {
    pub(in crate::store) fn new(limits: &ExtractionLimits) -> Self {
        let purse = |what, limit| Purse {
            what,
            limit,
            spent: AtomicU64::new(0),
            has_refused: AtomicBool::new(false),
        };
        Self {
            bytes: purse("the unpacked size of the image's layers", limits.bytes),
            entries: purse("the number of files of the image's layers", limits.image_entries),
            names: purse("the memory for whiteouts of the image's layers", MAX_NAMES),
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

    /// Counts memory for names that are kept until a layer has been read.
    pub(in crate::store) fn take_names(&self, bytes: u64) -> io::Result<()> {
        self.names.take(bytes)
    }

    /// What a layer took that is not wanted any more.
    pub(in crate::store) fn give_back(&self, bytes: u64, entries: u64, names: u64) {
        for (purse, count) in [(&self.bytes, bytes), (&self.entries, entries), (&self.names, names)] {
            purse.spent.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// What was too much.
    pub(in crate::store) fn exceeded(&self) -> Option<TarError> {
        let over = |purse: &&Purse| purse.has_refused.load(Ordering::Relaxed);
        let over = [&self.bytes, &self.entries, &self.names].into_iter().find(over)?;
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
            self.has_refused.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(())
    }
}
