//! Garbage collection: marks what names, leases and (unless told otherwise) memos lead to, removes the rest.
//!
//! What each directory of the store holds is garbage when
//!
//! ```text
//! blobs, layers, merged, snapshots,
//! profiles                   no name, pin, lease or memo leads to it, and it is no image without a name of the last day
//! unnamed                    its day is over
//! downloads                  only images are to be kept
//! memo                       only images are to be kept; else when it is damaged, or a blob or a download it needs is gone
//! partial                    nobody is downloading it
//! tools/<program>-cache      only images are to be kept
//! tools/<program>-<version>  this version of gantry uses another one
//! leases                     nobody holds it, and its image has no name
//! locks                      nobody holds it; the collector's own stays
//! journal                    its day was more than 35 days ago
//! refs                       an empty directory
//! stamps                     what it is the stamp of is gone
//! origins                    the image is gone
//! ```
//!
//! `scaffold/` is the same for all images and stays; `tmp/` is swept by every command.
//!
//! **Crash.** Garbage leaves its place by a rename into scratch, so nobody finds half of it, and a sweep ends the work.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::names::Names;
use super::needs::{Needs, PartName};
use super::unnamed;
use super::{origins, pin_marks};
use crate::oci::{DiffId, Digest};
use crate::store::content::memo::Roots;
use crate::store::content::whole::sweep_stamps;
use crate::store::disk::locks::{try_file, Locks, Patience, Rank};
use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::trees::merged;
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::lock::Mode;
use crate::sys::tree::{bytes_of, freed_bytes_of};

/// Days that the journal goes back: a month's figures can still be made when the month is over.
const JOURNAL_DAYS: u64 = 35;
const SECONDS_A_DAY: u64 = 86_400;

/// What is garbage besides what nothing leads to.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Whether later builds count.
    pub keep: Keep,
    /// What only later builds would use, and none has used since then, goes as well.
    pub unused_since: Option<SystemTime>,
    /// Of what only later builds would use, the longest unused goes until the store has at most so many bytes.
    pub max_bytes: Option<u64>,
    /// The folders of `tools/` that this version of gantry uses.
    pub tools: &'a [&'a str],
    /// The current time, which the age of the journal's days is counted from.
    pub now: SystemTime,
}

/// Whether layers that only later builds would use are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Layers and downloads that a memo names stay.
    Memoised,
    /// Only what images need stays.
    ImagesOnly,
}

/// What was, or would be, removed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GarbageReport {
    /// Blobs.
    pub blobs: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Trees of several layers.
    pub merged: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Lists of the files that runs of an image read at first.
    pub profiles: u64,
    /// Finished downloads.
    pub downloads: u64,
    /// Downloads that nobody is at.
    pub partials: u64,
    /// Memo entries.
    pub memos: u64,
    /// Leases of images that have no name any more.
    pub leases: u64,
    /// Images without a name that were kept for a day.
    pub unnamed: u64,
    /// Files of locks that nobody holds.
    pub locks: u64,
    /// Days of the journal.
    pub journal_days: u64,
    /// Programs of earlier versions, and caches of programs.
    pub tools: u64,
    /// Bytes of all these files.
    pub bytes: u64,
    /// Bytes of the files that stay, with those of processes that are at work.
    pub left_bytes: u64,
}

#[derive(Default)]
struct Marked {
    images: BTreeSet<String>,
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
    merged: BTreeSet<String>,
}

/// The kinds of garbage, in the order in which they go: first what leads to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Snapshots,
    Profiles,
    Memos,
    Downloads,
    Partials,
    Merged,
    Layers,
    Blobs,
    Leases,
    Unnamed,
    Locks,
    JournalDays,
    Tools,
}

/// What is garbage, by kind.
#[derive(Default)]
struct Garbage(BTreeMap<What, Vec<PathBuf>>);

impl Garbage {
    fn of(&mut self, what: What) -> &mut Vec<PathBuf> {
        self.0.entry(what).or_default()
    }

    /// All of it, in the order in which it goes.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.0.values_mut().flatten()
    }

    fn bytes(&self) -> u64 {
        freed_bytes_of(
            self.0.values().flatten().map(PathBuf::as_path),
            &|found| match found.is_dir() {
                true => 0,
                false => found.len(),
            },
        )
    }

    /// The report of a store that has `total` bytes with all of this.
    fn report(&self, total: u64) -> GarbageReport {
        let bytes = self.bytes();
        let count = |what| self.0.get(&what).map_or(0, |paths| paths.len() as u64);
        GarbageReport {
            bytes,
            left_bytes: total.saturating_sub(bytes),
            merged: count(What::Merged),
            snapshots: count(What::Snapshots),
            profiles: count(What::Profiles),
            memos: count(What::Memos),
            downloads: count(What::Downloads),
            partials: count(What::Partials),
            layers: count(What::Layers),
            blobs: count(What::Blobs),
            leases: count(What::Leases),
            unnamed: count(What::Unnamed),
            locks: count(What::Locks),
            journal_days: count(What::JournalDays),
            tools: count(What::Tools),
        }
    }
}

/// Says what [`remove`] would remove, and changes nothing.
pub(in crate::store) fn find(
    disk: &Disk,
    rules: Rules<'_>,
    patience: Patience,
    waiting: &mut dyn FnMut(),
) -> Result<GarbageReport, StoreError> {
    let total = bytes_of(disk.root());
    let alone = Locks::of(disk).collector_alone(patience, waiting)?;
    let garbage = choose(disk, rules, total)?;
    drop(alone);
    Ok(garbage.report(total))
}

/// Removes what nothing needs; [`Store::remove_garbage`](crate::store::Store::remove_garbage) has the contract.
pub(in crate::store) fn remove(
    disk: &Disk,
    rules: Rules<'_>,
    patience: Patience,
    waiting: &mut dyn FnMut(),
) -> Result<GarbageReport, StoreError> {
    // Before others have to wait for us: a large store has millions of files.
    let total = bytes_of(disk.root());
    let (garbage, scratch) = set_aside(disk, rules, total, patience, waiting)?;
    let report = garbage.report(total);
    drop(scratch);
    Ok(report)
}

/// Moves garbage of a store of `total` bytes out of its place; it goes with the returned scratch directory, and is in
/// nobody's way until then.
fn set_aside(
    disk: &Disk,
    rules: Rules<'_>,
    total: u64,
    patience: Patience,
    waiting: &mut dyn FnMut(),
) -> Result<(Garbage, Scratch), StoreError> {
    let scratch = Scratch::new(disk)?;
    let _alone = Locks::of(disk).collector_alone(patience, waiting)?;
    let mut garbage = choose(disk, rules, total)?;
    // Names are mended without the collector's lock, so a lock may have been taken since it was found free. It is
    // held while its file goes: who opened the file before sees that it has no name any more, and opens another.
    let mut held = Vec::new();
    for (what, rank) in [(What::Leases, Rank::Lease), (What::Locks, Rank::Index)] {
        garbage.of(what).retain(|path| match try_file(path, rank, Mode::Alone) {
            Ok(Some(lock)) => {
                held.push(lock);
                true
            }
            Ok(None) | Err(_) => false,
        });
    }
    for (number, path) in garbage.paths().enumerate() {
        let away = scratch.path().join(number.to_string());
        let moved = fault::point(fault::Step::Garbage).and_then(|()| fs::rename(&*path, &away));
        moved.map_err(io_error("remove", path))?;
        *path = away;
    }
    drop(held);
    sweep_stamps(disk);
    origins::sweep(disk);
    if let Some(_single) = try_file(&disk.path("locks/index"), Rank::Index, Mode::Alone)? {
        remove_empty(&disk.path("refs"));
        let kept = disk.path("refs/_local");
        fs::create_dir_all(&kept).map_err(io_error("make directory", &kept))?;
    }
    Ok((garbage, scratch))
}

/// What goes by `rules` of a store of `total` bytes. For a bound of bytes, the latest time is sought that nothing must be unused since.
fn choose(disk: &Disk, rules: Rules<'_>, total: u64) -> Result<Garbage, StoreError> {
    let garbage = Collector::of(disk).find(rules)?;
    let Some(max_bytes) = rules.max_bytes else {
        return Ok(garbage);
    };
    if total.saturating_sub(garbage.bytes()) <= max_bytes || rules.keep == Keep::ImagesOnly {
        return Ok(garbage);
    }
    let mut times = Collector::of(disk).times_of_use()?;
    times.retain(|time| rules.unused_since.is_none_or(|since| *time >= since));
    times.sort();
    times.dedup();
    // Everything goes when that is not enough.
    let until = |at: usize| times.get(at).map(|time| *time + Duration::from_nanos(1));
    let find = |at: usize| {
        Collector::of(disk).find(Rules {
            unused_since: until(at).or(rules.unused_since),
            ..rules
        })
    };
    let (mut low, mut high) = (0, times.len().saturating_sub(1));
    while low < high {
        let middle = low + (high - low) / 2;
        match total.saturating_sub(find(middle)?.bytes()) <= max_bytes {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    find(low)
}

/// When a file was of use last.
fn used(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Tells garbage from what is needed, alone in the store.
struct Collector<'a> {
    disk: &'a Disk,
    marked: Marked,
}

impl<'a> Collector<'a> {
    fn of(disk: &'a Disk) -> Self {
        Self {
            disk,
            marked: Marked::default(),
        }
    }

    fn find(mut self, rules: Rules<'_>) -> Result<Garbage, StoreError> {
        for digest in Names::of(self.disk)
            .list()?
            .into_iter()
            .filter_map(|(_, digest)| digest)
        {
            self.mark_image(&digest)?;
        }
        for digest in pin_marks::list(self.disk)? {
            self.mark_image(&digest)?;
        }
        let mut garbage = Garbage::default();
        for kept in unnamed::list(self.disk)? {
            match kept.is_over(rules.now) {
                true => garbage.of(What::Unnamed).push(kept.path),
                false => self.mark_image(&kept.digest)?,
            }
        }
        let leases = self.disk.path("leases");
        for hex in names(&leases)? {
            let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else {
                continue;
            };
            if self.marked.images.contains(&hex) {
                continue;
            }
            match is_free(&leases.join(&hex), Rank::Lease) {
                true => garbage.of(What::Leases).push(leases.join(hex)),
                false => self.mark_image(&digest)?,
            }
        }
        if rules.keep == Keep::Memoised {
            *garbage.of(What::Memos) = self.mark_memos(rules.unused_since)?;
        }
        let unmarked = |folder: &str, marks: &BTreeSet<String>, suffix: &str| {
            let folder = self.disk.path(folder);
            let mut found = names(&folder)?;
            found.retain(|name| !marks.contains(name.trim_end_matches(suffix)));
            Ok::<_, StoreError>(found.iter().map(|name| folder.join(name)).collect::<Vec<_>>())
        };
        let none = BTreeSet::new();
        *garbage.of(What::Snapshots) = unmarked("snapshots", &self.marked.images, ".json")?;
        *garbage.of(What::Profiles) = unmarked("profiles", &self.marked.images, "")?;
        *garbage.of(What::Merged) = unmarked(merged::FOLDER, &self.marked.merged, "")?;
        *garbage.of(What::Layers) = unmarked("layers", &self.marked.layers, "")?;
        *garbage.of(What::Blobs) = unmarked("blobs/sha256", &self.marked.blobs, "")?;
        *garbage.of(What::Partials) = unmarked("partial", &none, "")?;
        garbage.of(What::Partials).retain(|path| is_free(path, Rank::Download));
        *garbage.of(What::Locks) = unmarked("locks", &BTreeSet::from(["collector".to_owned()]), "")?;
        let is_noted = |path: &Path| path.ends_with("locks/index") && Names::of(self.disk).is_changing();
        garbage
            .of(What::Locks)
            .retain(|path| is_free(path, Rank::Index) && !is_noted(path));
        *garbage.of(What::JournalDays) = unmarked("journal", &none, "")?;
        garbage.of(What::JournalDays).retain(|path| is_old_day(path, rules.now));
        let tools: BTreeSet<String> = rules.tools.iter().map(|name| (*name).to_owned()).collect();
        *garbage.of(What::Tools) = unmarked("tools", &tools, "")?;
        let is_cache = |path: &PathBuf| path.to_string_lossy().ends_with("-cache");
        garbage
            .of(What::Tools)
            .retain(|path| rules.keep == Keep::ImagesOnly || !is_cache(path));
        if rules.keep == Keep::ImagesOnly {
            *garbage.of(What::Memos) = self.memo_files()?;
            *garbage.of(What::Downloads) = unmarked("downloads", &none, "")?;
        } else if let Some(since) = rules.unused_since {
            *garbage.of(What::Downloads) = unmarked("downloads", &none, "")?;
            garbage
                .of(What::Downloads)
                .retain(|path| used(path).is_some_and(|used| used < since));
        }
        Ok(garbage)
    }

    fn mark_image(&mut self, digest: &Digest) -> Result<(), StoreError> {
        if !self.marked.images.insert(digest.hex()) {
            return Ok(());
        }
        for part in Needs::of(self.disk, digest)?.parts {
            match part {
                PartName::Blob(digest) => self.marked.blobs.insert(digest.hex()),
                PartName::Layer(diff_id) => self.marked.layers.insert(diff_id.hex()),
                PartName::Merged(chain) => self.marked.merged.insert(chain.hex()),
                // No image needs one.
                PartName::Download(_) => false,
            };
        }
        Ok(())
    }

    /// When each memo and each download was of use last.
    fn times_of_use(&self) -> Result<Vec<SystemTime>, StoreError> {
        let downloads = self.disk.path("downloads");
        let names = names(&downloads)?.into_iter().map(|name| downloads.join(name));
        Ok(self
            .memo_files()?
            .into_iter()
            .chain(names)
            .filter_map(|path| used(&path))
            .collect())
    }

    /// Marks what memos need; returns those that are of no use, or have been of none since `unused_since`.
    fn mark_memos(&mut self, unused_since: Option<SystemTime>) -> Result<Vec<PathBuf>, StoreError> {
        let mut useless = Vec::new();
        for path in self.memo_files()? {
            if unused_since.is_some_and(|since| used(&path).is_some_and(|used| used < since)) {
                useless.push(path);
                continue;
            }
            let json = fs::read(&path).map_err(io_error("read", &path))?;
            let Some(roots) = Roots::of_file(&json) else {
                useless.push(path);
                continue;
            };
            let is_there = |folder: &str, digest: &Digest| {
                let path = self.disk.path(folder).join(digest.hex());
                path.try_exists().map_err(io_error("look at", &path))
            };
            let blobs = roots.blobs.iter().map(|blob| is_there("blobs/sha256", blob));
            let mut all = blobs.chain(roots.downloads.iter().map(|download| is_there("downloads", download)));
            if !all.try_fold(true, |all, one| one.map(|one| all && one))? {
                useless.push(path);
                continue;
            }
            self.marked.blobs.extend(roots.blobs.iter().map(Digest::hex));
            self.marked.layers.extend(roots.layers.iter().map(DiffId::hex));
        }
        Ok(useless)
    }

    /// Every memo, whichever versions wrote them.
    fn memo_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let root = self.disk.path("memo");
        let mut files = Vec::new();
        for folder in names(&root)? {
            let folder = root.join(folder);
            if !folder.is_dir() {
                continue;
            }
            files.extend(names(&folder)?.iter().map(|name| folder.join(name)));
        }
        Ok(files)
    }
}

/// Whether nobody holds the lock of a file that is there. Whoever wants it now waits for the collector first.
fn is_free(path: &Path, rank: Rank) -> bool {
    matches!(try_file(path, rank, Mode::Alone), Ok(Some(_)))
}

/// Whether `path` is the file of a day that is long gone. Anything else there is not ours.
pub(super) fn is_old_day(path: &Path, now: SystemTime) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let day = crate::journal::day_of(name);
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let today = since.as_secs() / SECONDS_A_DAY;
    day.is_some_and(|day| day.saturating_add(JOURNAL_DAYS) < today)
}

/// Removes the directories below `directory` that hold nothing. One that is filled meanwhile stays.
fn remove_empty(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(directory) {
        // A store of an older gantry has not every folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        other => other.map_err(io_error("list", directory))?,
    };
    for entry in entries {
        names.push(
            entry
                .map_err(io_error("list", directory))?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
