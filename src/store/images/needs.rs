//! What an image needs of the store, as its snapshot, manifest and configuration say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::documents::Image;
use super::snapshot::Snapshot;
use crate::oci::{DiffId, Digest};
use crate::store::disk::Disk;
use crate::store::trees::merged::{self, Merged};
use crate::store::StoreError;

/// What a part is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartName {
    /// A layer as it is shipped, a configuration, a manifest.
    Blob(Digest),
    /// An unpacked layer.
    Layer(DiffId),
    /// The tree of several layers, by their chain id.
    Merged(Digest),
    /// A finished download.
    Download(Digest),
}

impl PartName {
    /// Where it is, below the root.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Blob(digest) => Path::new("blobs/sha256").join(digest.hex()),
            Self::Layer(diff_id) => Path::new("layers").join(diff_id.hex()),
            Self::Merged(chain) => merged::name(chain),
            Self::Download(digest) => Path::new("downloads").join(digest.hex()),
        }
    }
}

/// What an image needs, whether or not it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub parts: BTreeSet<PartName>,
    /// Whether its manifest and configuration were read, which never change: then there is nothing else.
    pub is_all: bool,
}

impl Needs {
    /// What the image `digest` needs, as far as documents of it are there that are not damaged.
    ///
    /// # Errors
    /// [`StoreError`] when a document is there and cannot be read: what the image needs is not known then, and whoever removes
    /// what nothing needs has to stop.
    pub(super) fn of(disk: &Disk, digest: &Digest) -> Result<Self, StoreError> {
        let mut parts = BTreeSet::from([PartName::Blob(*digest)]);
        if let Some(snapshot) = known(Snapshot::read(disk, digest))?.flatten() {
            parts.extend(snapshot.merged().map(|merged| PartName::Merged(merged.chain)));
            parts.extend(snapshot.layers.into_iter().map(PartName::Layer));
        }
        let image = known(Image::open(disk, digest))?;
        let is_all = image.is_some();
        if let Some(image) = image {
            parts.extend(image.blobs().iter().map(|blob| PartName::Blob(blob.digest)));
            let layers = image.config.rootfs.diff_ids;
            parts.extend(Merged::of(&layers).map(|merged| PartName::Merged(merged.chain)));
            parts.extend(layers.into_iter().map(PartName::Layer));
        }
        Ok(Self { parts, is_all })
    }
}

/// What was read; none when it is gone or damaged.
pub(super) fn known<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error) if error.is_gone_or_damaged() => Ok(None),
        other => other.map(Some),
    }
}
