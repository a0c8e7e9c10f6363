//! The folder of one unpacked layer, `layers/<hex>/`: its tree, whether that is whole, and which blobs it came from.
//!
//! `stamp.json` says which boot wrote the tree (see [`stamp`](crate::store::disk::stamp)), so that it is told without a sync
//! on the way whether it is whole. A stamp that is missing or damaged says nothing, and the tree is unpacked again.
//!
//! A tree in use is never replaced: every run of this boot has looked at its stamps first, and what is trusted once stays
//! trusted until the machine stops.
//!
//! An empty file `from-<hex of a blob>` says that the blob inflates to the layer. An image names blobs in its manifest and
//! diff ids in its configuration, and whoever wrote them may have paired any blob with the diff id of somebody else's
//! layer. A tree that is there already is the image's only when the image's blob inflates to it. That is found out once
//! for each pair, while unpacking, while building, or by reading the blob.

use std::fs::{self, File};
use std::io::{self, BufReader, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::listing::{self, Schema};
use crate::oci::{DiffId, Digest, Hasher};
use crate::store::content::whole::hash;
use crate::store::disk::locks::Locks;
use crate::store::disk::stamp::Stamp;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;

/// What `stamp.json` says of a layer: all that a look-up needs to know.
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

/// The folder of a layer, which may not be there.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct LayerFolder<'a> {
    disk: &'a Disk,
    diff_id: &'a DiffId,
}

impl<'a> LayerFolder<'a> {
    pub(crate) fn of(disk: &'a Disk, diff_id: &'a DiffId) -> Self {
        Self { disk, diff_id }
    }

    fn name(self) -> PathBuf {
        Path::new("layers").join(self.diff_id.hex())
    }

    /// Where it is.
    pub(crate) fn path(self) -> PathBuf {
        self.disk.path(self.name())
    }

    /// Where its tree is, once the layer is unpacked.
    pub(crate) fn tree(self) -> PathBuf {
        self.path().join("fs")
    }

    /// What its `stamp.json` says; none when that is missing or damaged.
    pub(crate) fn stamp(self) -> Option<LayerStamp> {
        let json = fs::read(self.path().join("stamp.json")).ok()?;
        let stamp: LayerStamp = serde_json::from_slice(&json).ok()?;
        (stamp.schema == 2).then_some(stamp)
    }

    /// Its tree, when this boot may use it without a look at every file.
    pub(crate) fn trusted_tree(self) -> Option<PathBuf> {
        let stamp = self.stamp()?;
        self.disk.is_trusted(&stamp.boot).then(|| self.tree())
    }

    /// Whether its tree is whole; waits for another process that is at it.
    pub(crate) fn is_whole(self) -> Result<bool, StoreError> {
        if self.trusted_tree().is_some() {
            return Ok(true);
        }
        let _single = Locks::of(self.disk).layer(self.diff_id)?;
        self.verify()
    }

    /// Whether its tree is whole, for a caller that holds the layer's lock. A tree of another boot is read and compared
    /// with its listing, which makes it durable.
    pub(crate) fn verify(self) -> Result<bool, StoreError> {
        let Some(stamp) = self.stamp() else {
            return Ok(false);
        };
        if self.disk.is_trusted(&stamp.boot) {
            return Ok(true);
        }
        // What cannot be read is as good as lost.
        if !tree_is(&self.path(), &stamp.meta).unwrap_or(false) {
            return Ok(false);
        }
        let name = self.name().join("stamp.json");
        let stamp = LayerStamp {
            boot: Stamp::durable(),
            ..stamp
        };
        let json = serde_json::to_vec(&stamp).map_err(|source| StoreError::Json {
            action: "write",
            path: name.clone(),
            source,
        })?;
        self.disk.write_atomically(&name, &json)?;
        Ok(true)
    }

    fn origin(self, blob: &Digest) -> PathBuf {
        self.path().join(format!("from-{}", blob.hex()))
    }

    /// Whether the blob is known to inflate to the layer.
    pub(crate) fn is_from(self, blob: &Digest) -> bool {
        self.origin(blob).exists()
    }

    /// Notes that the blob inflates to the layer.
    pub(crate) fn note_origin(self, blob: &Digest) -> Result<(), StoreError> {
        let path = self.origin(blob);
        let made = fault::point(fault::Step::Origin).and_then(|()| File::create(&path));
        match made {
            // An eviction took the layer since it was looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::LayerLost {
                diff_id: *self.diff_id,
                digest: *blob,
            }),
            made => made.map(drop).map_err(io_error("create", &path)),
        }
    }
}

/// Whether `meta.json` and the tree beside it are those of `meta`. A listing of a schema that nobody here can read is none.
fn tree_is(folder: &Path, meta: &Digest) -> io::Result<bool> {
    let mut listed = File::open(folder.join("meta.json"))?;
    let Some(schema) = Schema::of(&mut BufReader::new(&listed))? else {
        return Ok(false);
    };
    listed.rewind()?;
    if hash(listed)? != *meta {
        return Ok(false);
    }
    let tree = File::open(folder.join("fs"))?;
    let mut hasher = Hasher::new();
    listing::read_back(schema, tree.as_fd(), &mut hasher)?;
    Ok(hasher.digest() == *meta)
}
