//! Garbage collection: marks what names, leases and (unless told otherwise) memos lead to, removes the rest.
//!
//! What each directory of the store holds is garbage when
//!
//! ```text
//! blobs, layers, snapshots   no name, lease or memo leads to it
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
use std::time::SystemTime;

use serde::Serialize;

use crate::oci::{DiffId, Digest};
use crate::store::content::memo::Roots;
use crate::store::disk::locks::{try_file, Patience, Rank};
use crate::store::disk::scratch::Scratch;
use crate::store::{io_error, Store, StoreError};
use crate::sys::lock::Mode;

/// Days that the journal goes back: a month's figures can still be made when the month is over.
const JOURNAL_DAYS: u64 = 35;
const SECONDS_A_DAY: u64 = 86_400;

/// What is garbage besides what nothing leads to.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Whether later builds count.
    pub keep: Keep,
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
    /// Files of locks that nobody holds.
    pub locks: u64,
    /// Days of the journal.
    pub journal_days: u64,
    /// Programs of earlier versions, and caches of programs.
    pub tools: u64,
    /// Bytes of all these files.
    pub bytes: u64,
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
    locks: Vec<PathBuf>,
    journal_days: Vec<PathBuf>,
    tools: Vec<PathBuf>,
}

impl Garbage {
    fn kinds(&mut self) -> [&mut Vec<PathBuf>; 10] {
        let Self {
            snapshots,
            memos,
            downloads,
            partials,
            layers,
            blobs,
            leases,
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
            locks,
            journal_days,
            tools,
        ]
    }

    fn report(mut self) -> GarbageReport {
        GarbageReport {
            bytes: self.kinds().into_iter().flatten().map(|path| size_of(path)).sum(),
            snapshots: self.snapshots.len() as u64,
            memos: self.memos.len() as u64,
            downloads: self.downloads.len() as u64,
            partials: self.partials.len() as u64,
            layers: self.layers.len() as u64,
            blobs: self.blobs.len() as u64,
            leases: self.leases.len() as u64,
            locks: self.locks.len() as u64,
            journal_days: self.journal_days.len() as u64,
            tools: self.tools.len() as u64,
        }
    }
}

impl Store {
    /// Says what [`Store::remove_garbage`] would remove, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when others use the store for longer than `patience`.
    pub fn find_garbage(
        &self,
        rules: Rules<'_>,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<GarbageReport, StoreError> {
        let alone = self.collect_alone(patience, waiting)?;
        let garbage = self.garbage(rules)?;
        drop(alone);
        Ok(garbage.report())
    }

    /// Removes what nothing needs. Images in use (leased) are left alone, even when their names are gone.
    ///
    /// Builds of other processes are waited for as long as `patience` says, calling `waiting` once. Others wait for us only
    /// while garbage is told and moved out of its place, not while it is deleted.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when others use the store for longer than `patience`.
    pub fn remove_garbage(
        &self,
        rules: Rules<'_>,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<GarbageReport, StoreError> {
        let (garbage, scratch) = self.set_aside(rules, patience, waiting)?;
        let report = garbage.report();
        drop(scratch);
        Ok(report)
    }

    /// Moves garbage out of its place; it goes with the returned scratch directory, and is in nobody's way until then.
    fn set_aside(
        &self,
        rules: Rules<'_>,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<(Garbage, Scratch), StoreError> {
        let scratch = self.scratch()?;
        let _alone = self.collect_alone(patience, waiting)?;
        let mut garbage = self.garbage(rules)?;
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
        self.sweep_stamps();
        if let Some(_single) = try_file(&self.root.join("locks/index"), Rank::Index, Mode::Alone)? {
            remove_empty(&self.root.join("refs"));
            let kept = self.root.join("refs/_local");
            fs::create_dir_all(&kept).map_err(io_error("make directory", &kept))?;
        }
        Ok((garbage, scratch))
    }

    fn garbage(&self, rules: Rules<'_>) -> Result<Garbage, StoreError> {
        let mut marked = Marked::default();
        for digest in self.refs()?.into_iter().filter_map(|(_, digest)| digest) {
            self.mark_image(&digest, &mut marked);
        }
        let mut garbage = Garbage::default();
        let leases = self.root.join("leases");
        for hex in names(&leases)? {
            let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else {
                continue;
            };
            if marked.images.contains(&hex) {
                continue;
            }
            match is_free(&leases.join(&hex), Rank::Lease) {
                true => garbage.leases.push(leases.join(hex)),
                false => self.mark_image(&digest, &mut marked),
            }
        }
        if rules.keep == Keep::Memoised {
            garbage.memos = self.mark_memos(&mut marked)?;
        }
        let unmarked = |folder: &str, marks: &BTreeSet<String>, suffix: &str| {
            let folder = self.root.join(folder);
            let mut found = names(&folder)?;
            found.retain(|name| !marks.contains(name.trim_end_matches(suffix)));
            Ok::<_, StoreError>(found.iter().map(|name| folder.join(name)).collect::<Vec<_>>())
        };
        let none = BTreeSet::new();
        garbage.snapshots = unmarked("snapshots", &marked.images, ".json")?;
        garbage.layers = unmarked("layers", &marked.layers, "")?;
        garbage.blobs = unmarked("blobs/sha256", &marked.blobs, "")?;
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
        }
        Ok(garbage)
    }

    fn mark_image(&self, digest: &Digest, marked: &mut Marked) {
        if !marked.images.insert(digest.hex()) {
            return;
        }
        marked.blobs.insert(digest.hex());
        if let Ok(Some(snapshot)) = self.read_snapshot(digest) {
            marked
                .layers
                .extend(snapshot.layers.iter().map(crate::oci::DiffId::hex));
        }
        if let Ok(image) = self.open_image(digest) {
            marked.blobs.extend(image.blobs().iter().map(|blob| blob.digest.hex()));
            marked
                .layers
                .extend(image.config.rootfs.diff_ids.iter().map(crate::oci::DiffId::hex));
        }
    }

    /// Marks what memos need; returns those that are of no use.
    fn mark_memos(&self, marked: &mut Marked) -> Result<Vec<PathBuf>, StoreError> {
        let mut useless = Vec::new();
        for path in self.memo_files()? {
            let json = fs::read(&path).map_err(io_error("read", &path))?;
            let is_there = |folder: &str, digest: &Digest| self.root.join(folder).join(digest.hex()).exists();
            let roots = Roots::of_file(&json).filter(|roots| {
                roots.blobs.iter().all(|blob| is_there("blobs/sha256", blob))
                    && roots.downloads.iter().all(|download| is_there("downloads", download))
            });
            let Some(roots) = roots else {
                useless.push(path);
                continue;
            };
            marked.blobs.extend(roots.blobs.iter().map(Digest::hex));
            marked.layers.extend(roots.layers.iter().map(DiffId::hex));
        }
        Ok(useless)
    }

    /// Every memo, whichever versions wrote them.
    fn memo_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let root = self.root.join("memo");
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

/// Whether `path` is `<days since 1970>.jsonl` of a day that is long gone. Anything else there is not ours.
fn is_old_day(path: &Path, now: SystemTime) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let day = name.strip_suffix(".jsonl").and_then(|day| day.parse::<u64>().ok());
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

fn size_of(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            fs::read_dir(path).map_or(0, |entries| entries.flatten().map(|entry| size_of(&entry.path())).sum())
        }
        Ok(found) => found.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;
    use crate::oci::Descriptor;
    use crate::store::tests::{add_image, add_layer, collect, gc_rules, store};
    use crate::store::{Key, Memo, Step};

    /// A memo whose fields are called like nothing that garbage collection knows.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Renamed {
        packed: Digest,
        tree: DiffId,
    }

    impl Memo for Renamed {
        const FOLDER: &'static str = "renamed";

        fn roots(&self) -> Roots {
            Roots {
                blobs: vec![self.packed],
                layers: vec![self.tree],
                downloads: Vec::new(),
            }
        }
    }

    fn is_there(store: &Store, layer: &Descriptor, diff_id: &DiffId) -> bool {
        store.has_blob(layer).unwrap() && store.layer_path(diff_id).exists()
    }

    #[test]
    fn what_a_memo_says_it_needs_stays_whatever_its_fields_are_called() {
        let (_scratch, store) = store();
        let (layer, diff_id) = add_layer(&store, "x").unwrap();
        let key = Key::of(Step::CodeLayer).with("x").finish();
        let memo = Renamed {
            packed: layer.digest,
            tree: diff_id,
        };
        store.memos().put(&key, &memo).unwrap();
        collect(&store, Keep::Memoised, false);
        assert!(is_there(&store, &layer, &diff_id));
        let report = collect(&store, Keep::ImagesOnly, false);
        assert_eq!((report.memos, report.blobs, report.layers), (1, 1, 1));
        assert!(!is_there(&store, &layer, &diff_id));
        assert_eq!(store.memos().find::<Renamed>(&key).unwrap(), None);
    }

    #[test]
    fn what_a_memo_of_an_earlier_version_needs_stays() {
        let (_scratch, store) = store();
        let (layer, diff_id) = add_layer(&store, "x").unwrap();
        let folder = store.root.join("memo/wheel");
        fs::create_dir_all(&folder).unwrap();
        let memo = serde_json::json!({
            "digest": layer.digest, "size": layer.size, "diff_id": diff_id, "unpacked_bytes": 1, "note": null,
        });
        fs::write(folder.join("0.json"), memo.to_string()).unwrap();
        collect(&store, Keep::Memoised, false);
        assert!(is_there(&store, &layer, &diff_id));
    }

    #[test]
    fn nobody_waits_while_garbage_is_deleted() {
        let (_scratch, store) = store();
        add_image(&store, "x").unwrap();
        store.remove_ref(&"image:1".parse().unwrap()).unwrap();
        let (mut garbage, scratch) = store
            .set_aside(gc_rules(Keep::ImagesOnly), Patience::default(), &mut || ())
            .unwrap();
        // All of it is still there, and the lock is free again.
        let moved: Vec<_> = garbage.kinds().into_iter().flatten().collect();
        assert!(
            moved.len() >= 5
                && moved
                    .iter()
                    .all(|path| path.starts_with(scratch.path()) && path.exists())
        );
        assert!(names(&store.root.join("layers")).unwrap().is_empty());
        let none = Patience {
            most: Duration::ZERO,
            between: Duration::ZERO,
        };
        drop(store.collect_alone(none, &mut || panic!("somebody has it")).unwrap());
        let report = garbage.report();
        assert_eq!((report.blobs, report.layers, report.snapshots), (3, 1, 1));
        drop(scratch);
        assert!(names(&store.root.join("tmp")).unwrap().is_empty());
    }

    fn rules(keep: Keep) -> Rules<'static> {
        Rules {
            keep,
            tools: &["uv-2"],
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(100 * SECONDS_A_DAY),
        }
    }

    #[test]
    fn nothing_grows_for_ever() {
        let (_scratch, store) = store();
        let digest = add_image(&store, "x").unwrap();
        for path in [
            "tools/uv-cache/wheels/a",
            "tools/uv-1/uv",
            "tools/uv-2/uv",
            "journal/64.jsonl",
            "journal/65.jsonl",
            "journal/notes",
            "locks/layer-x",
            "memo/wheel/damaged.json",
        ] {
            let path = store.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        let gone = Renamed {
            packed: Digest::of(b"gone"),
            tree: DiffId::of(b"gone"),
        };
        let key = Key::of(Step::CodeLayer).with("gone").finish();
        store.memos().put(&key, &gone).unwrap();
        drop(store.lease(&digest).unwrap());
        let unnamed = Digest::of(b"unnamed");
        drop(store.lease(&unnamed).unwrap());
        let other = "example.org/deep/er:1".parse().unwrap();
        store.set_ref(&other, &digest).unwrap();
        store.remove_ref(&other).unwrap();

        let held = Store::open(&store.root).unwrap();
        let held = std::thread::spawn(move || held.lock_index().unwrap()).join().unwrap();
        let locks = names(&store.root.join("locks")).unwrap().len() as u64 - 1;
        let find = |keep| {
            store
                .find_garbage(rules(keep), Patience::default(), &mut || ())
                .unwrap()
        };
        let counted = |found: &GarbageReport| (found.tools, found.journal_days, found.leases, found.memos, found.locks);
        // The one that is held stays, as does the collector's own.
        assert_eq!(counted(&find(Keep::Memoised)), (1, 1, 1, 2, locks));
        assert_eq!(counted(&find(Keep::ImagesOnly)), (2, 1, 1, 2, locks));
        assert!(
            store.root.join("leases").join(unnamed.hex()).exists(),
            "nothing is changed"
        );

        let removed = store
            .remove_garbage(rules(Keep::Memoised), Patience::default(), &mut || ())
            .unwrap();
        assert_eq!(counted(&removed), (1, 1, 1, 2, locks));
        let left = |folder: &str| names(&store.root.join(folder)).unwrap();
        assert_eq!(left("tools"), ["uv-2", "uv-cache"]);
        assert_eq!(left("journal"), ["65.jsonl", "notes"]);
        assert_eq!(left("leases"), [digest.hex()]);
        assert_eq!(left("locks"), ["collector", "index"]);
        assert_eq!(left("refs"), ["_local", "example.org"], "somebody writes names");

        drop(held);
        store
            .remove_garbage(rules(Keep::ImagesOnly), Patience::default(), &mut || ())
            .unwrap();
        assert_eq!(left("tools"), ["uv-2"]);
        assert_eq!(
            left("locks"),
            ["collector", "index"],
            "the lock that it took itself is back"
        );
        assert_eq!(left("refs"), ["_local"]);
        assert_eq!(store.find_ref(&"image:1".parse().unwrap()).unwrap(), Some(digest));
    }

    #[test]
    fn a_lock_whose_file_went_away_is_still_one_lock() {
        let (_scratch, store) = store();
        let done = std::sync::atomic::AtomicBool::new(false);
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            let _single = store.lock_index().unwrap();
                            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    collect(&store, Keep::Memoised, false);
                }
            });
            let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            ends.into_iter().for_each(|end| end.unwrap());
        });
    }
}
