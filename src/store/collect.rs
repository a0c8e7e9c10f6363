//! Garbage collection: marks from the names, the leases and (unless told otherwise) the memos, sweeps the rest.
//!
//! **Crash.** Garbage leaves its place by a rename into scratch, so nobody finds half of it, and a sweep ends the work.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::locks::{try_file, Rank};
use super::{io_error, Roots, Scratch, Store, StoreError};
use crate::oci::{DiffId, Digest};
use crate::sys::lock::Mode;

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
    /// Bytes of the files among them.
    pub bytes: u64,
}

#[derive(Default)]
struct Marked {
    images: BTreeSet<String>,
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
}

/// How long to wait for others to leave.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Then the store is busy.
    pub most: Duration,
    /// Between two tries. Nobody is kept waiting by a try.
    pub between: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            most: Duration::from_secs(10),
            between: Duration::from_millis(50),
        }
    }
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
}

impl Garbage {
    fn kinds(&mut self) -> [&mut Vec<PathBuf>; 6] {
        let Self {
            snapshots,
            memos,
            downloads,
            partials,
            layers,
            blobs,
        } = self;
        [snapshots, memos, downloads, partials, layers, blobs]
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
        }
    }
}

impl Store {
    /// Removes what nothing needs; with `dry_run` only says what that is. Images in use (leased) are left alone, even
    /// when their names are gone.
    ///
    /// Builds of other processes are waited for as long as `patience` says, calling `waiting` once; then the store is
    /// busy. Others wait for us only while garbage is told and moved out of its place, not while it is deleted.
    pub fn collect_garbage(
        &self,
        keep: Keep,
        dry_run: bool,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<GarbageReport, StoreError> {
        if dry_run {
            let alone = self.collect_alone(patience, waiting)?;
            let garbage = self.find_garbage(keep)?;
            drop(alone);
            return Ok(garbage.report());
        }
        let (garbage, scratch) = self.set_aside(keep, patience, waiting)?;
        let report = garbage.report();
        drop(scratch);
        Ok(report)
    }

    /// Moves garbage out of its place; it goes with the returned scratch directory, and is in nobody's way until then.
    fn set_aside(
        &self,
        keep: Keep,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<(Garbage, Scratch), StoreError> {
        let scratch = self.scratch()?;
        let _alone = self.collect_alone(patience, waiting)?;
        let mut garbage = self.find_garbage(keep)?;
        for (number, path) in garbage.kinds().into_iter().flatten().enumerate() {
            let away = scratch.path().join(number.to_string());
            fs::rename(&*path, &away).map_err(io_error("remove", path))?;
            *path = away;
        }
        self.sweep_stamps();
        Ok((garbage, scratch))
    }

    fn find_garbage(&self, keep: Keep) -> Result<Garbage, StoreError> {
        let mut marked = Marked::default();
        for digest in self.refs()?.into_iter().filter_map(|(_, digest)| digest) {
            self.mark_image(&digest, &mut marked);
        }
        for hex in names(&self.root.join("leases"))? {
            let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else {
                continue;
            };
            if !marked.images.contains(&hex) && self.unless_leased(&digest, || ())?.is_none() {
                self.mark_image(&digest, &mut marked);
            }
        }
        if keep == Keep::Memoised {
            self.mark_memos(&mut marked)?;
        }
        let unmarked = |folder: &str, marks: &BTreeSet<String>, suffix: &str| {
            let folder = self.root.join(folder);
            let mut found = names(&folder)?;
            found.retain(|name| !marks.contains(name.trim_end_matches(suffix)));
            Ok::<_, StoreError>(found.iter().map(|name| folder.join(name)).collect::<Vec<_>>())
        };
        let none = BTreeSet::new();
        let mut garbage = Garbage {
            snapshots: unmarked("snapshots", &marked.images, ".json")?,
            layers: unmarked("layers", &marked.layers, "")?,
            blobs: unmarked("blobs/sha256", &marked.blobs, "")?,
            partials: unmarked("partial", &none, "")?,
            ..Garbage::default()
        };
        garbage.partials.retain(|path| is_unlocked(path));
        if keep == Keep::ImagesOnly {
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

    fn mark_memos(&self, marked: &mut Marked) -> Result<(), StoreError> {
        for path in self.memo_files()? {
            let Some(roots) = fs::read(path).ok().as_deref().and_then(Roots::of_file) else {
                continue;
            };
            marked.blobs.extend(roots.blobs.iter().map(Digest::hex));
            marked.layers.extend(roots.layers.iter().map(DiffId::hex));
        }
        Ok(())
    }

    /// Every memo, whichever versions wrote them.
    fn memo_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let root = self.root.join("memo");
        let mut files = Vec::new();
        for folder in names(&root)? {
            let folder = root.join(folder);
            files.extend(names(&folder)?.iter().map(|name| folder.join(name)));
        }
        Ok(files)
    }
}

/// Whether nobody is at a download. Whoever begins one now waits for the collector first.
fn is_unlocked(path: &Path) -> bool {
    matches!(try_file(path, Rank::Download, Mode::Alone), Ok(Some(_)))
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
    use serde::Deserialize;

    use super::*;
    use crate::oci::Descriptor;
    use crate::store::tests::{add_image, add_layer, collect, store};
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
        let (garbage, scratch) = store
            .set_aside(Keep::ImagesOnly, Patience::default(), &mut || ())
            .unwrap();
        // All of it is still there, and the lock is free again.
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 5);
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
}
