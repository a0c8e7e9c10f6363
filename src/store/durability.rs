//! What a power loss may have taken, told without a sync on the way.
//!
//! Whatever is large and used unread (trees, blobs of layers, downloads) carries a stamp: the id of the boot that wrote it.
//! While the machine is up, the page cache gives back what was written, so a stamp of this boot is trusted. A stamp of
//! another boot is not: the thing is read once and compared with its digests. What is read back after a boot came from the
//! disk, so from then on the stamp says `durable`. A stamp that is missing or damaged says nothing: the tree is unpacked
//! again; a file is read, and stamped with this boot, as it may have been written in it.
//!
//! A tree in use is never replaced: every run of this boot has looked at its stamps first, and what is trusted once stays
//! trusted until the machine stops.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{io_error, listing, Store, StoreError};
use crate::oci::{DiffId, Digest, Hasher};

/// The id of a boot, or that the disk has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(String);

impl Stamp {
    /// The stamp of what this boot writes. Where the kernel does not say, all boots look the same.
    pub fn of_this_boot() -> Self {
        Self(crate::sys::kernel::boot_id().unwrap_or_else(|| "unknown".to_owned()))
    }

    fn durable() -> Self {
        Self("durable".to_owned())
    }
}

/// `layers/<hex>/stamp.json`: what a look-up needs to know of a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerStamp {
    /// Always 2; there was no stamp in 1.
    pub schema: u32,
    pub boot: Stamp,
    /// The digest of `meta.json`, the listing of the tree.
    pub meta: Digest,
    /// Bytes of its files.
    pub unpacked_bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

/// A folder of files that are called what they contain.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Blob,
    Download,
}

impl Content {
    fn folder(self) -> &'static str {
        match self {
            Self::Blob => "blobs/sha256",
            Self::Download => "downloads",
        }
    }

    pub(super) fn stamp_prefix(self) -> &'static str {
        match self {
            Self::Blob => "blob-",
            Self::Download => "download-",
        }
    }
}

impl Store {
    /// The same store after the machine was started again, as `boot`.
    #[cfg(test)]
    pub fn after_boot(&self, boot: &str) -> Self {
        Self {
            root: self.root.clone(),
            boot: Stamp(boot.to_owned()),
            waits: self.waits,
        }
    }

    fn is_trusted(&self, stamp: &Stamp) -> bool {
        *stamp == self.boot || *stamp == Stamp::durable()
    }

    pub(super) fn layer_stamp(&self, diff_id: &DiffId) -> Option<LayerStamp> {
        let json = fs::read(self.layer_folder(diff_id).join("stamp.json")).ok()?;
        let stamp: LayerStamp = serde_json::from_slice(&json).ok()?;
        (stamp.schema == 2).then_some(stamp)
    }

    /// The tree of a layer that is unpacked and trusted.
    pub fn layer_tree(&self, diff_id: &DiffId) -> Option<PathBuf> {
        let stamp = self.layer_stamp(diff_id)?;
        self.is_trusted(&stamp.boot).then(|| self.layer_path(diff_id))
    }

    /// Whether the tree of a layer is whole; waits for another process that is at it.
    pub(super) fn layer_is_whole(&self, diff_id: &DiffId) -> Result<bool, StoreError> {
        if self.layer_tree(diff_id).is_some() {
            return Ok(true);
        }
        let _single = self.lock_layer(diff_id)?;
        self.verify_layer(diff_id)
    }

    /// The same with the layer's lock held: a tree of another boot is read and compared, which makes it durable.
    pub(super) fn verify_layer(&self, diff_id: &DiffId) -> Result<bool, StoreError> {
        let Some(stamp) = self.layer_stamp(diff_id) else {
            return Ok(false);
        };
        if self.is_trusted(&stamp.boot) {
            return Ok(true);
        }
        // What cannot be read is as good as lost.
        if !tree_is(&self.layer_folder(diff_id), &stamp.meta).unwrap_or(false) {
            return Ok(false);
        }
        let name = PathBuf::from("layers").join(diff_id.hex()).join("stamp.json");
        let stamp = LayerStamp {
            boot: Stamp::durable(),
            ..stamp
        };
        let json = serde_json::to_vec(&stamp).map_err(|source| StoreError::Json {
            action: "write",
            path: name.clone(),
            source,
        })?;
        self.write_atomically(&name, &json)?;
        Ok(true)
    }

    /// Whether a file is what it is called. One of another boot is read, once; one that is damaged is removed.
    pub(super) fn content_is_whole(&self, content: Content, digest: &Digest) -> Result<bool, StoreError> {
        let name = stamp_name(content, digest);
        if self.content_stamp(&name).is_some_and(|stamp| self.is_trusted(&stamp)) {
            return Ok(true);
        }
        let _single = self.lock_content(content, digest)?;
        let stamp = self.content_stamp(&name);
        if stamp.as_ref().is_some_and(|stamp| self.is_trusted(stamp)) {
            return Ok(true);
        }
        if !self.content_is(content, digest) {
            let path = self.root.join(content.folder()).join(digest.hex());
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
                _ => Ok(false),
            };
        }
        let stamp = stamp.map_or_else(|| self.boot.clone(), |_| Stamp::durable());
        self.make_stamps()?;
        self.write_atomically(&name, stamp.0.as_bytes())?;
        Ok(true)
    }

    /// Reads a file and compares.
    pub(super) fn content_is(&self, content: Content, digest: &Digest) -> bool {
        let file = File::open(self.root.join(content.folder()).join(digest.hex()));
        file.and_then(listing::hash).is_ok_and(|got| got == *digest)
    }

    /// Stamps a file with this boot. Before it gets its name, so that it never has the stamp of an earlier one.
    pub(super) fn stamp_content(&self, content: Content, digest: &Digest, scratch: &Path) -> Result<(), StoreError> {
        let (temporary, target) = (scratch.join("stamp"), self.root.join(stamp_name(content, digest)));
        self.make_stamps()?;
        let written = fs::write(&temporary, &self.boot.0).and_then(|()| fs::rename(&temporary, &target));
        written.map_err(io_error("write", &target))
    }

    /// A store of an older gantry has no such folder.
    fn make_stamps(&self) -> Result<(), StoreError> {
        let folder = self.root.join("stamps");
        fs::create_dir_all(&folder).map_err(io_error("make directory", &folder))
    }

    fn content_stamp(&self, name: &Path) -> Option<Stamp> {
        let text = fs::read_to_string(self.root.join(name)).ok()?;
        Some(Stamp(text)).filter(|stamp| !stamp.0.is_empty())
    }

    /// Removes the stamps of files that are gone.
    pub(super) fn sweep_stamps(&self) {
        for entry in fs::read_dir(self.root.join("stamps")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let found = [Content::Blob, Content::Download].into_iter().find_map(|content| {
                let hex = name.to_str()?.strip_prefix(content.stamp_prefix())?;
                Some(self.root.join(content.folder()).join(hex).exists())
            });
            if found != Some(true) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn stamp_name(content: Content, digest: &Digest) -> PathBuf {
    PathBuf::from("stamps").join(format!("{}{}", content.stamp_prefix(), digest.hex()))
}

/// Whether `meta.json` and the tree beside it are those of `meta`.
fn tree_is(folder: &Path, meta: &Digest) -> io::Result<bool> {
    if listing::hash(File::open(folder.join("meta.json"))?)? != *meta {
        return Ok(false);
    }
    let tree = File::open(folder.join("fs"))?;
    let mut hasher = Hasher::new();
    listing::write(tree.as_fd(), &listing::Digests::new(), &mut hasher)?;
    Ok(hasher.digest() == *meta)
}

#[cfg(test)]
#[path = "durability_tests.rs"]
mod tests;
