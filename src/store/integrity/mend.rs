//! Takes out of the store what is wrong, alone in it: what is left is then as if that had never been there, and is made or
//! fetched again.
//!
//! What was found may be old by the time that nobody else is in the store: it is looked at again, and what is right by then, or
//! gone, stays as it is.
//!
//! What a run holds stays: it has the layers of its image open, and would lose its files.
//!
//! **Crash.** What goes leaves its place by a rename into scratch, first what leads to something, as in garbage collection.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::contents;
use super::finding::{Finding, Part, State};
use super::references::{follow, images_with, layer_of, look_at_the_rest, Look};
use crate::oci::Digest;
use crate::progress::Progress;
use crate::store::disk::locks::{try_file, Locks, Patience, Rank};
use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::images::names::Names;
use crate::store::trees::merged;
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::lock::{Lock, Mode};

/// Removes what `findings` name, as far as it can go, and tells `progress` of each at once; an image is not a thing that goes.
pub(super) fn mend(
    disk: &Disk,
    findings: &mut [Finding],
    patience: Patience,
    progress: &dyn Progress,
    waiting: &mut dyn FnMut(),
) -> Result<(), StoreError> {
    let scratch = Scratch::new(disk)?;
    let _alone = Locks::of(disk).collector_alone(patience, waiting)?;
    let trees = findings.iter().filter(|finding| is_tree(finding.what));
    let trees = trees.map(|finding| PathBuf::from(&finding.which)).collect();
    let still = dangling(disk)?;
    let mut mender = Mender {
        disk,
        scratch: &scratch,
        moved: 0,
        progress,
        images: images_with(disk, &trees)?,
    };
    // What leads to something first.
    let order = |part: Part| matches!(part, Part::Blob | Part::Download) || is_tree(part);
    for is_content in [false, true] {
        for finding in findings.iter_mut().filter(|finding| order(finding.what) == is_content) {
            let is_wrong = match (is_content, &finding.path) {
                (true, _) => contents::is_still_wrong(disk, finding)?,
                (false, Some(_)) => still.contains(&(finding.what, finding.which.clone())),
                // Nothing of it goes.
                (false, None) => true,
            };
            match is_wrong {
                true => mender.take(finding)?,
                // Somebody else has mended it.
                false => finding.state = State::Remade,
            }
        }
    }
    // What led to a part that went now leads to nothing, and is no finding of its own.
    let after = follow(disk, &BTreeSet::new(), Look::Sure)?.findings;
    let leads = after
        .iter()
        .filter(|one| matches!(one.what, Part::Memo | Part::Unnamed));
    for path in leads.filter_map(|one| one.path.as_ref()) {
        match mender.away(path) {
            // As above: the rest can be mended where this cannot, and the next look finds it.
            Err(StoreError::Io { .. }) => {}
            other => other?,
        }
    }
    let _single = Locks::of(disk).index()?;
    Names::of(disk).write_index()?;
    for finding in findings.iter_mut().filter(|finding| finding.what == Part::Index) {
        finding.state = State::Remade;
    }
    Ok(())
}

fn is_tree(part: Part) -> bool {
    matches!(part, Part::Layer | Part::Merged)
}

/// What leads to nothing now.
fn dangling(disk: &Disk) -> Result<BTreeSet<(Part, String)>, StoreError> {
    let followed = follow(disk, &BTreeSet::new(), Look::Sure)?.findings;
    let rest = look_at_the_rest(disk)?;
    Ok(followed
        .into_iter()
        .chain(rest)
        .map(|one| (one.what, one.which))
        .collect())
}

struct Mender<'a> {
    disk: &'a Disk,
    scratch: &'a Scratch,
    moved: u64,
    progress: &'a dyn Progress,
    /// The images that have a tree which is wrong, by its path below the root.
    images: BTreeMap<PathBuf, BTreeSet<Digest>>,
}

impl Mender<'_> {
    fn take(&mut self, finding: &mut Finding) -> Result<(), StoreError> {
        let Some(path) = finding.path.clone() else {
            return Ok(());
        };
        let done = match is_tree(finding.what) {
            true => self.take_tree(&finding.which, &path),
            false => self.away(&path).map(|()| true),
        };
        match done {
            Ok(true) => {
                finding.state = State::Removed;
                self.progress.step("Removed", &finding.which);
            }
            Ok(false) => {
                finding.state = State::Kept;
                finding.remedy = Some("a run is using it: check again when it has ended".to_owned());
            }
            // The rest can be mended where this cannot.
            Err(StoreError::Io { source, .. }) => {
                finding.state = State::Kept;
                finding.remedy = Some(format!("it cannot be removed: {source}"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes a layer, or several layers as one tree, and what leads to it; whether nobody uses it.
    fn take_tree(&mut self, which: &str, path: &Path) -> Result<bool, StoreError> {
        let images = self.images.remove(Path::new(which)).unwrap_or_default();
        let mut held = Vec::new();
        for image in &images {
            match Held::take(self.disk, image)? {
                Some(lease) => held.push(lease),
                None => return Ok(false),
            }
        }
        let Some(layer) = layer_of(which) else {
            // Runs do without it.
            return self.away(path).map(|()| true);
        };
        // The files of the layer are in them as well. Each image that has one has the layer.
        for merged in merged::with_layer(self.disk, &layer) {
            self.away(&self.disk.path(merged))?;
        }
        for image in &images {
            self.away(&self.disk.path(format!("snapshots/{}.json", image.hex())))?;
        }
        let _single = Locks::of(self.disk).layer(&layer)?;
        self.away(path).map(|()| true)
    }

    fn away(&mut self, path: &Path) -> Result<(), StoreError> {
        self.moved += 1;
        let away = self.scratch.path().join(self.moved.to_string());
        let moved = fault::point(fault::Step::Repair).and_then(|()| fs::rename(path, away));
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(io_error("remove", path)),
        }
    }
}

/// A lease that nobody else has: no run begins to use the image.
struct Held {
    _lock: Lock,
    /// The file, which was not there before.
    new: Option<std::path::PathBuf>,
}

impl Held {
    fn take(disk: &Disk, image: &Digest) -> Result<Option<Self>, StoreError> {
        let path = disk.path("leases").join(image.hex());
        let is_new = !path.exists();
        let lock = try_file(&path, Rank::Lease, Mode::Alone)?;
        Ok(lock.map(|_lock| Self {
            _lock,
            new: is_new.then_some(path),
        }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // While it is held: who has opened it meanwhile sees that it has no name any more. Its time would say that the image
        // was used now.
        if let Some(path) = &self.new {
            let _ = fs::remove_file(path);
        }
    }
}
