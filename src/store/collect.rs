//! Garbage collection: marks from the names, the leases and (unless told otherwise) the memos, sweeps the rest.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::{io_error, MemoKind, Store, StoreError};
use crate::oci::Digest;

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

impl Store {
    /// Removes what nothing needs; with `dry_run` only says what that is. Images in use (leased) are left alone, even
    /// when their names are gone. Waits for builds of other processes; runs go on, only their first milliseconds wait for us.
    pub fn collect_garbage(&self, keep: Keep, dry_run: bool) -> Result<GarbageReport, StoreError> {
        let _alone = self.collect_alone()?;
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
        let mut report = GarbageReport::default();
        let act = |path: &Path, marks: &BTreeSet<String>, suffix: &str| -> Result<(u64, u64), StoreError> {
            let (mut count, mut bytes) = (0, 0);
            for name in names(path)? {
                if marks.contains(name.trim_end_matches(suffix)) {
                    continue;
                }
                let path = path.join(&name);
                count += 1;
                bytes += size_of(&path);
                if !dry_run {
                    self.remove(&path)?;
                }
            }
            Ok((count, bytes))
        };
        let none = BTreeSet::new();
        let mut bytes = 0;
        let mut add = |(count, more): (u64, u64)| {
            bytes += more;
            count
        };
        report.snapshots = add(act(&self.root.join("snapshots"), &marked.images, ".json")?);
        if keep == Keep::ImagesOnly {
            for kind in MemoKind::ALL {
                report.memos += add(act(&self.root.join("memo").join(kind.folder()), &none, ".json")?);
            }
            report.downloads = add(act(&self.root.join("downloads"), &none, "")?);
        }
        report.layers = add(act(&self.root.join("layers"), &marked.layers, "")?);
        report.blobs = add(act(&self.root.join("blobs/sha256"), &marked.blobs, "")?);
        if !dry_run {
            self.sweep_stamps();
        }
        report.bytes = bytes;
        Ok(report)
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
        for kind in MemoKind::ALL {
            let folder = self.root.join("memo").join(kind.folder());
            for name in names(&folder)? {
                let Ok(json) = fs::read(folder.join(name)) else {
                    continue;
                };
                let Ok(value) = serde_json::from_slice::<serde_json::Value>(&json) else {
                    continue;
                };
                let hex = |field: &str| Some(value.get(field)?.as_str()?.strip_prefix("sha256:")?.to_owned());
                marked.blobs.extend(hex("digest"));
                marked.layers.extend(hex("diff_id"));
            }
        }
        Ok(())
    }

    /// Out of its place by rename first, so that nobody finds half of it.
    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        let scratch = self.scratch()?;
        let away = scratch.path().join("removed");
        fs::rename(path, &away).map_err(io_error("remove", path))?;
        let removed = if away.is_dir() {
            fs::remove_dir_all(&away)
        } else {
            fs::remove_file(&away)
        };
        removed.map_err(io_error("remove", path))
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
