//! Garbage collection: marks what names, leases and (unless told otherwise) memos lead to, removes the rest.
//!
//! What each directory of the store holds is garbage when
//!
//! ```text
//! blobs, layers, snapshots   no name, lease or memo leads to it, and it is no image without a name of the last day
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
//! ```
//!
//! `scaffold/` is the same for all images and stays; `tmp/` is swept by every command.
//!
//! **Crash.** Garbage leaves its place by a rename into scratch, so nobody finds half of it, and a sweep ends the work.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::documents::Image;
use super::names::Names;
use super::snapshot::Snapshot;
use super::unnamed::{self, KEPT_FOR};
use crate::oci::{DiffId, Digest};
use crate::store::content::memo::Roots;
use crate::store::content::whole::sweep_stamps;
use crate::store::disk::locks::{try_file, Locks, Patience, Rank};
use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::lock::Mode;
use crate::sys::tree::bytes_of;

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
    /// Snapshots.
    pub snapshots: u64,
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
}

/// What is garbage, by kind; the kinds are the fields of the report.
#[derive(Default)]
struct Garbage {
    snapshots: Vec<PathBuf>,
    memos: Vec<PathBuf>,
    downloads: Vec<PathBuf>,
    partials: Vec<PathBuf>,
    layers: Vec<PathBuf>,
    blobs: Vec<PathBuf>,
    leases: Vec<PathBuf>,
    unnamed: Vec<PathBuf>,
    locks: Vec<PathBuf>,
    journal_days: Vec<PathBuf>,
    tools: Vec<PathBuf>,
}

impl Garbage {
    fn kinds(&mut self) -> [&mut Vec<PathBuf>; 11] {
        let Self {
            snapshots,
            memos,
            downloads,
            partials,
            layers,
            blobs,
            leases,
            unnamed,
            locks,
            journal_days,
            tools,
        } = self;
        [
            snapshots,
            memos,
            downloads,
            partials,
            layers,
            blobs,
            leases,
            unnamed,
            locks,
            journal_days,
            tools,
        ]
    }

    fn bytes(&mut self) -> u64 {
        self.kinds().into_iter().flatten().map(|path| bytes_of(path)).sum()
    }

    /// The report of a store that has `total` bytes with all of this.
    fn report(mut self, total: u64) -> GarbageReport {
        let bytes = self.bytes();
        GarbageReport {
            bytes,
            left_bytes: total.saturating_sub(bytes),
            snapshots: self.snapshots.len() as u64,
            memos: self.memos.len() as u64,
            downloads: self.downloads.len() as u64,
            partials: self.partials.len() as u64,
            layers: self.layers.len() as u64,
            blobs: self.blobs.len() as u64,
            leases: self.leases.len() as u64,
            unnamed: self.unnamed.len() as u64,
            locks: self.locks.len() as u64,
            journal_days: self.journal_days.len() as u64,
            tools: self.tools.len() as u64,
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
    let alone = Locks::of(disk).collector_alone(patience, waiting)?;
    let garbage = choose(disk, rules)?;
    drop(alone);
    Ok(garbage.report(bytes_of(disk.root())))
}

/// Removes what nothing needs; [`Store::remove_garbage`](crate::store::Store::remove_garbage) has the contract.
pub(in crate::store) fn remove(
    disk: &Disk,
    rules: Rules<'_>,
    patience: Patience,
    waiting: &mut dyn FnMut(),
) -> Result<GarbageReport, StoreError> {
    let (garbage, scratch, total) = set_aside(disk, rules, patience, waiting)?;
    let report = garbage.report(total);
    drop(scratch);
    Ok(report)
}

/// Moves garbage out of its place, and says how many bytes the store had with it; it goes with the returned scratch directory, and is in nobody's way until then.
fn set_aside(
    disk: &Disk,
    rules: Rules<'_>,
    patience: Patience,
    waiting: &mut dyn FnMut(),
) -> Result<(Garbage, Scratch, u64), StoreError> {
    let scratch = Scratch::new(disk)?;
    let _alone = Locks::of(disk).collector_alone(patience, waiting)?;
    let mut garbage = choose(disk, rules)?;
    let total = bytes_of(disk.root());
    // Names are mended without the collector's lock, so a lock may have been taken since it was found free. It is
    // held while its file goes: who opened the file before sees that it has no name any more, and opens another.
    let mut held = Vec::new();
    for (files, rank) in [(&mut garbage.leases, Rank::Lease), (&mut garbage.locks, Rank::Index)] {
        files.retain(|path| match try_file(path, rank, Mode::Alone) {
            Ok(Some(lock)) => {
                held.push(lock);
                true
            }
            Ok(None) | Err(_) => false,
        });
    }
    for (number, path) in garbage.kinds().into_iter().flatten().enumerate() {
        let away = scratch.path().join(number.to_string());
        fs::rename(&*path, &away).map_err(io_error("remove", path))?;
        *path = away;
    }
    drop(held);
    sweep_stamps(disk);
    if let Some(_single) = try_file(&disk.path("locks/index"), Rank::Index, Mode::Alone)? {
        remove_empty(&disk.path("refs"));
        let kept = disk.path("refs/_local");
        fs::create_dir_all(&kept).map_err(io_error("make directory", &kept))?;
    }
    Ok((garbage, scratch, total))
}

/// What goes by `rules`. For a bound of bytes, the latest time is sought that nothing must be unused since.
fn choose(disk: &Disk, rules: Rules<'_>) -> Result<Garbage, StoreError> {
    let mut garbage = Collector::of(disk).find(rules)?;
    let Some(max_bytes) = rules.max_bytes else {
        return Ok(garbage);
    };
    let total = bytes_of(disk.root());
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
            self.mark_image(&digest);
        }
        let mut garbage = Garbage::default();
        for kept in unnamed::list(self.disk)? {
            let age = kept.since.and_then(|since| rules.now.duration_since(since).ok());
            match age.is_some_and(|age| age >= KEPT_FOR) {
                true => garbage.unnamed.push(kept.path),
                false => self.mark_image(&kept.digest),
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
                true => garbage.leases.push(leases.join(hex)),
                false => self.mark_image(&digest),
            }
        }
        if rules.keep == Keep::Memoised {
            garbage.memos = self.mark_memos(rules.unused_since)?;
        }
        let unmarked = |folder: &str, marks: &BTreeSet<String>, suffix: &str| {
            let folder = self.disk.path(folder);
            let mut found = names(&folder)?;
            found.retain(|name| !marks.contains(name.trim_end_matches(suffix)));
            Ok::<_, StoreError>(found.iter().map(|name| folder.join(name)).collect::<Vec<_>>())
        };
        let none = BTreeSet::new();
        garbage.snapshots = unmarked("snapshots", &self.marked.images, ".json")?;
        garbage.layers = unmarked("layers", &self.marked.layers, "")?;
        garbage.blobs = unmarked("blobs/sha256", &self.marked.blobs, "")?;
        garbage.partials = unmarked("partial", &none, "")?;
        garbage.partials.retain(|path| is_free(path, Rank::Download));
        garbage.locks = unmarked("locks", &BTreeSet::from(["collector".to_owned()]), "")?;
        garbage.locks.retain(|path| is_free(path, Rank::Index));
        garbage.journal_days = unmarked("journal", &none, "")?;
        garbage.journal_days.retain(|path| is_old_day(path, rules.now));
        let tools: BTreeSet<String> = rules.tools.iter().map(|name| (*name).to_owned()).collect();
        garbage.tools = unmarked("tools", &tools, "")?;
        let is_cache = |path: &PathBuf| path.to_string_lossy().ends_with("-cache");
        garbage
            .tools
            .retain(|path| rules.keep == Keep::ImagesOnly || !is_cache(path));
        if rules.keep == Keep::ImagesOnly {
            garbage.memos = self.memo_files()?;
            garbage.downloads = unmarked("downloads", &none, "")?;
        } else if let Some(since) = rules.unused_since {
            garbage.downloads = unmarked("downloads", &none, "")?;
            garbage
                .downloads
                .retain(|path| used(path).is_some_and(|used| used < since));
        }
        Ok(garbage)
    }

    fn mark_image(&mut self, digest: &Digest) {
        if !self.marked.images.insert(digest.hex()) {
            return;
        }
        self.marked.blobs.insert(digest.hex());
        if let Ok(Some(snapshot)) = Snapshot::read(self.disk, digest) {
            self.marked.layers.extend(snapshot.layers.iter().map(DiffId::hex));
        }
        if let Ok(image) = Image::open(self.disk, digest) {
            self.marked
                .blobs
                .extend(image.blobs().iter().map(|blob| blob.digest.hex()));
            self.marked
                .layers
                .extend(image.config.rootfs.diff_ids.iter().map(DiffId::hex));
        }
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
            let is_there = |folder: &str, digest: &Digest| self.disk.path(folder).join(digest.hex()).exists();
            let roots = Roots::of_file(&json).filter(|roots| {
                roots.blobs.iter().all(|blob| is_there("blobs/sha256", blob))
                    && roots.downloads.iter().all(|download| is_there("downloads", download))
            });
            let Some(roots) = roots else {
                useless.push(path);
                continue;
            };
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
fn is_old_day(path: &Path, now: SystemTime) -> bool {
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
