//! Whether the tree of a layer is whole, told without a sync on the way.
//!
//! `layers/<hex>/stamp.json` says which boot wrote the tree (see [`stamp`](crate::store::disk::stamp)). One that is missing or
//! damaged says nothing, and the tree is unpacked again.
//!
//! A tree in use is never replaced: every run of this boot has looked at its stamps first, and what is trusted once stays
//! trusted until the machine stops.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::listing;
use crate::oci::{DiffId, Digest, Hasher};
use crate::store::content::whole::hash;
use crate::store::disk::stamp::Stamp;
use crate::store::{Store, StoreError};

/// `layers/<hex>/stamp.json`: what a look-up needs to know of a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::store) struct LayerStamp {
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

impl Store {
    pub(in crate::store) fn layer_folder(&self, diff_id: &DiffId) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// Where the tree of a layer is, once it is unpacked.
    pub fn layer_path(&self, diff_id: &DiffId) -> PathBuf {
        self.layer_folder(diff_id).join("fs")
    }

    /// Bytes of the files of an unpacked layer.
    pub fn layer_bytes(&self, diff_id: &DiffId) -> Option<u64> {
        self.layer_stamp(diff_id).map(|stamp| stamp.unpacked_bytes)
    }

    pub(in crate::store) fn layer_stamp(&self, diff_id: &DiffId) -> Option<LayerStamp> {
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
    pub(in crate::store) fn layer_is_whole(&self, diff_id: &DiffId) -> Result<bool, StoreError> {
        if self.layer_tree(diff_id).is_some() {
            return Ok(true);
        }
        let _single = self.lock_layer(diff_id)?;
        self.verify_layer(diff_id)
    }

    /// The same with the layer's lock held: a tree of another boot is read and compared, which makes it durable.
    pub(in crate::store) fn verify_layer(&self, diff_id: &DiffId) -> Result<bool, StoreError> {
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
}

/// Whether `meta.json` and the tree beside it are those of `meta`.
fn tree_is(folder: &Path, meta: &Digest) -> io::Result<bool> {
    if hash(File::open(folder.join("meta.json"))?)? != *meta {
        return Ok(false);
    }
    let tree = File::open(folder.join("fs"))?;
    let mut hasher = Hasher::new();
    listing::write(tree.as_fd(), &listing::Digests::new(), &mut hasher)?;
    Ok(hasher.digest() == *meta)
}
