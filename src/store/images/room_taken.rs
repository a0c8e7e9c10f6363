//! How much of the disk each thing in the store takes, as `du` counts it: blocks, and a file of several names once.
//!
//! The tree of a layer never changes once it has its name, so what it takes is noted beside it (`layers/<hex>/size`) by the
//! first that counts it: a store of two hundred images has half a million files, and a pull shall not look at each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::disk::Disk;
use crate::store::trees::merged;
use crate::store::{io_error, StoreError};
use crate::sys::tree::{disk_bytes_of, disk_bytes_of_directories};

/// Beside the tree of a layer: the bytes that the tree takes, in digits.
const NOTE: &str = "size";

/// How exactly it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Every file is looked at, and nothing is written.
    Exact,
    /// What is noted of trees is believed.
    Noted,
    /// Nothing is counted.
    Nothing,
}

/// Bytes on the disk, by hexadecimal digests where something has one.
#[derive(Debug, Default)]
pub(super) struct RoomTaken {
    /// By the first folder of their path; files of the root itself by their names.
    pub folders: BTreeMap<String, u64>,
    pub layers: BTreeMap<String, u64>,
    /// By hexadecimal chain ids.
    pub merged: BTreeMap<String, u64>,
    pub blobs: BTreeMap<String, u64>,
    pub downloads: BTreeMap<String, u64>,
    /// By name.
    pub tools: BTreeMap<String, u64>,
    /// With the root.
    pub total: u64,
}

impl RoomTaken {
    pub(super) fn of(disk: &Disk, count: Count) -> Result<Self, StoreError> {
        let mut taken = Self::default();
        if count == Count::Nothing {
            return Ok(taken);
        }
        let mut seen = BTreeSet::new();
        for (name, path) in entries(disk.root())? {
            let bytes = match name.as_str() {
                "layers" => folder(&path, &mut taken.layers, |path| {
                    layer_bytes(disk, path, count, &mut seen)
                })?,
                // After the layers, of which all its files are.
                merged::FOLDER => folder(&path, &mut taken.merged, |path| {
                    merged_bytes(disk, path, count, &mut seen)
                })?,
                "tools" => folder(&path, &mut taken.tools, |path| Ok(disk_bytes_of(path, &mut seen)))?,
                "downloads" => folder(&path, &mut taken.downloads, |path| Ok(disk_bytes_of(path, &mut seen)))?,
                "blobs" => {
                    let inner = path.join("sha256");
                    alone(&path) + folder(&inner, &mut taken.blobs, |path| Ok(disk_bytes_of(path, &mut seen)))?
                }
                _ => disk_bytes_of(&path, &mut seen),
            };
            taken.folders.insert(name, bytes);
        }
        taken.total = alone(disk.root()) + taken.folders.values().sum::<u64>();
        Ok(taken)
    }
}

/// A folder whose entries are counted one by one.
fn folder(
    path: &Path,
    each: &mut BTreeMap<String, u64>,
    mut bytes_of: impl FnMut(&Path) -> Result<u64, StoreError>,
) -> Result<u64, StoreError> {
    for (name, path) in entries(path)? {
        each.insert(name, bytes_of(&path)?);
    }
    Ok(alone(path) + each.values().sum::<u64>())
}

fn layer_bytes(disk: &Disk, path: &Path, count: Count, seen: &mut BTreeSet<(u64, u64)>) -> Result<u64, StoreError> {
    if count == Count::Exact {
        return Ok(disk_bytes_of(path, seen));
    }
    let beside = entries(path)?.into_iter().filter(|(name, _)| name != "fs");
    let beside: u64 = beside.map(|(_, path)| disk_bytes_of(&path, seen)).sum();
    let noted = fs::read_to_string(path.join(NOTE)).ok();
    let tree = noted.and_then(|digits| digits.trim_end().parse::<u64>().ok());
    let tree = tree.unwrap_or_else(|| {
        let bytes = disk_bytes_of(&path.join("fs"), seen);
        if let Ok(name) = path.strip_prefix(disk.root()) {
            // Without it the tree is counted again.
            let _ = disk.write_atomically(&name.join(NOTE), format!("{bytes}\n").as_bytes());
        }
        bytes
    });
    Ok(alone(path) + beside + tree)
}

/// What a tree of several layers takes besides their files: its directories, and what is beside it.
fn merged_bytes(disk: &Disk, path: &Path, count: Count, seen: &mut BTreeSet<(u64, u64)>) -> Result<u64, StoreError> {
    if count == Count::Exact {
        return Ok(disk_bytes_of(path, seen));
    }
    if !merged::is_of_layers(disk, path) {
        // A layer has been unpacked again since: the files of the one before are here alone.
        return Ok(disk_bytes_of(path, &mut BTreeSet::new()));
    }
    // The layers were not looked at.
    let bytes = entries(path)?.into_iter().map(|(name, path)| match name.as_str() {
        "fs" => disk_bytes_of_directories(&path),
        _ => disk_bytes_of(&path, seen),
    });
    Ok(alone(path) + bytes.sum::<u64>())
}

/// What a directory takes by itself.
fn alone(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(directory).map_or(0, |found| found.blocks().saturating_mul(512))
}

/// What is in a directory; nothing when there is none.
///
/// # Errors
/// [`StoreError`] when it cannot be read: what is in it is not known then.
pub(super) fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let entries = match fs::read_dir(directory) {
        // It goes meanwhile, or a store of an older gantry has not got it.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new())
        }
        other => other.map_err(io_error("list", directory))?,
    };
    let mut named = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", directory))?;
        named.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    named.sort();
    Ok(named)
}
