//! Whether the store is what it says: all that is called by a digest is read whole, all that leads to something is followed.
//!
//! [`Integrity::look`] changes nothing and keeps nobody waiting. What does not look right is looked at once more with the
//! collector kept out, so that something on its way in or out is no finding. [`Integrity::mend`] takes out what is wrong,
//! alone in the store; making or fetching it again is the caller's.
//!
//! Not looked at: the journal, notes of registries, and programs in `tools/`, which are verified or made again when they are used.

mod contents;
mod finding;
mod mend;
mod references;
mod tree_difference;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

pub use finding::{Finding, Part, State};
use references::Look;

use super::disk::locks::{Locks, Patience};
use super::disk::Disk;
use super::StoreError;
use crate::oci::Digest;
use crate::policy::Sample;
use crate::progress::Progress;

/// Threads that read: a disk is not faster with more.
const MOST_THREADS: usize = 8;

/// What was looked at, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Blobs that were read.
    pub blobs: usize,
    /// Downloads that were read.
    pub downloads: usize,
    /// Layers whose files were read.
    pub layers: usize,
    /// Trees of several layers whose directories were read.
    pub merged: usize,
    /// Names.
    pub names: u64,
    /// Images that names and notes lead to.
    pub images: usize,
    /// Snapshots.
    pub snapshots: u64,
    /// Memos.
    pub memos: u64,
}

/// What a look at the store came to.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// What was looked at.
    pub looked: Looked,
    /// Blobs, downloads, layers and trees of several layers that there are.
    pub contents: usize,
    /// Bytes of what was looked at, each once.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The images that names and notes lead to, and their names.
    pub images: BTreeMap<Digest, Vec<String>>,
}

/// Looks at a store, and mends it.
#[derive(Debug, Clone, Copy)]
pub struct Integrity<'a> {
    disk: &'a Disk,
}

impl<'a> Integrity<'a> {
    pub(in crate::store) fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    /// Reads all that is called by a digest, or a `sample` of it, and follows all that leads to something.
    ///
    /// # Errors
    /// [`StoreError`] when a folder of the store cannot be listed.
    pub fn look(self, sample: Option<Sample>, progress: &dyn Progress) -> Result<Inspection, StoreError> {
        let mut items = contents::list(self.disk)?;
        let contents = items.len();
        if let Some(sample) = sample {
            contents::choose(&mut items, sample);
        }
        progress.step(
            "Checking",
            &format!("{} of {contents} blobs, downloads and layers", items.len()),
        );
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(MOST_THREADS));
        let (mut wrong, bytes) = contents::look(self.disk, &items, threads, progress)?;
        progress.step("Checking", "names, snapshots and memos");
        let damaged: BTreeSet<PathBuf> = wrong.iter().map(|finding| PathBuf::from(&finding.which)).collect();
        let followed = self.follow(&damaged)?;
        for finding in &mut wrong {
            let needed = followed.needed_by.get(&PathBuf::from(&finding.which));
            finding.images = needed.into_iter().flatten().cloned().collect();
        }
        let count = |part: Part| items.iter().filter(|item| item.part == part).count();
        let looked = Looked {
            blobs: count(Part::Blob),
            downloads: count(Part::Download),
            layers: count(Part::Layer),
            merged: count(Part::Merged),
            names: followed.names,
            images: followed.images.len(),
            snapshots: followed.snapshots,
            memos: followed.memos,
        };
        wrong.extend(followed.findings);
        wrong.extend(references::look_at_the_rest(self.disk)?);
        wrong.sort_by(|one, other| (one.what, &one.which).cmp(&(other.what, &other.which)));
        Ok(Inspection {
            looked,
            contents,
            bytes,
            findings: wrong,
            images: followed.images,
        })
    }

    /// What leads to nothing, as [`look`](Self::look) finds it, without reading what is called by a digest.
    pub fn dangling(self) -> Result<Vec<Finding>, StoreError> {
        let _kept_out = Locks::of(self.disk).keep_collector_out()?;
        Ok(references::follow(self.disk, &BTreeSet::new(), Look::Sure)?.findings)
    }

    fn follow(self, damaged: &BTreeSet<PathBuf>) -> Result<references::Followed, StoreError> {
        let followed = references::follow(self.disk, damaged, Look::Fleeting)?;
        if followed.findings.is_empty() {
            return Ok(followed);
        }
        let _kept_out = Locks::of(self.disk).keep_collector_out()?;
        references::follow(self.disk, damaged, Look::Sure)
    }

    /// Removes what is wrong, as far as it can go, and says so in the findings, and to `progress` as it goes. Calls `waiting` once when others use the store.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when others use the store for longer than `patience`.
    pub fn mend(
        self,
        findings: &mut [Finding],
        patience: Patience,
        progress: &dyn Progress,
        waiting: &mut dyn FnMut(),
    ) -> Result<(), StoreError> {
        mend::mend(self.disk, findings, patience, progress, waiting)
    }

    /// Whether what a finding is about has its place again.
    pub fn is_there(self, finding: &Finding) -> bool {
        finding
            .path
            .as_ref()
            .is_some_and(|path| path.symlink_metadata().is_ok())
    }
}

#[cfg(test)]
mod tests;
