//! Why the store did not do what it was asked, and what the kernel says turned into that.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::archive::tar_reader::TarError;
use crate::oci::{Descriptor, DiffId, Digest, ParseImageError};
use crate::policy::{as_limit, Bytes, Kind};
use crate::store::VERSION;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The disk is full.
    #[error("{action} {path}: there is no space left for the store")]
    NoSpace {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason; those who look for it find it as a source.
        source: io::Error,
    },
    /// An image that is larger than the store may be.
    #[error("make room in {path}: the image takes {} at least, as it is shipped and unpacked, and `max_bytes` under [cache] is {}", Bytes(*.needed), as_limit(Bytes(*.most)))]
    OverLimit {
        /// The root.
        path: PathBuf,
        /// Bytes that the image takes at least.
        needed: u64,
        /// Bytes that the store may have.
        most: u64,
    },
    /// Made by another version.
    #[error("open store {path}: its version is {:?}, this gantry reads {:?}", .got.trim_end(), VERSION.trim_end())]
    Version {
        /// The root.
        path: PathBuf,
        /// What the version file says.
        got: String,
    },
    /// A directory that is somebody else's.
    #[error("make a store in {path}: it is not empty, and no store: {found:?} is in it")]
    NotAStore {
        /// The root.
        path: PathBuf,
        /// What a store has not.
        found: OsString,
    },
    /// A place that no store can be in.
    #[error("open store {path}: {reason}")]
    Place {
        /// The root.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// A blob that is not there.
    #[error("open blob {digest}: it is not in the store")]
    NoBlob {
        /// Which.
        digest: Digest,
    },
    /// A blob of another size.
    #[error("read blob {digest}: size is {got}, descriptor says {expected}")]
    Size {
        /// Which.
        digest: Digest,
        /// In the descriptor.
        expected: u64,
        /// On disk or in the stream.
        got: u64,
    },
    /// Bytes that are not what they are called.
    #[error("read blob {expected}: its bytes have digest {got}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What was found.
        got: Digest,
    },
    /// A layer whose uncompressed bytes are not what the configuration says.
    #[error("unpack layer {digest}: its diff id is {got}, the image config says {expected}")]
    DiffId {
        /// The layer's blob.
        digest: Digest,
        /// In the configuration.
        expected: DiffId,
        /// Of the bytes.
        got: DiffId,
    },
    /// A layer that is refused.
    #[error("unpack layer {digest}")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: TarError,
    },
    /// A layer that nothing in the store can bring back.
    #[error("restore layer {diff_id}: its files are damaged or missing, and so is its blob {digest}; build the image again, or pull or load it again")]
    LayerLost {
        /// Which.
        diff_id: DiffId,
        /// What it would be unpacked from.
        digest: Digest,
    },
    /// A document that is refused.
    #[error("read image {digest}")]
    Document {
        /// The document's blob.
        digest: Digest,
        /// Why.
        source: ParseImageError,
    },
    /// A document of our own that cannot be written or read.
    #[error("{action} {path}")]
    Json {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Digits that begin the digests of several images.
    #[error("find image {id}: the digests of several begin so: {images}; type more digits")]
    Ambiguous {
        /// The digits.
        id: String,
        /// The first of those images.
        images: String,
    },
    /// A reference the store keeps no name for.
    #[error("name an image {reference}: only names of this store and of registries can be kept")]
    NotAName {
        /// The reference.
        reference: String,
    },
    /// A reference that means one image, whatever its name.
    #[error("name an image {reference}: with a digest it means that very image; leave out @ and what follows")]
    PinnedName {
        /// The reference.
        reference: String,
    },
    /// Others are at work.
    #[error("collect garbage in {path}: builds or other commands are using it")]
    Busy {
        /// The root.
        path: PathBuf,
    },
    /// Another process has a lock and does not get on.
    #[error("wait for {holder}: it has made no progress for {} s", .silence.as_secs())]
    Stalled {
        /// Who it is and what it does.
        holder: String,
        /// Since when nothing is seen of it.
        silence: Duration,
    },
    /// A name whose file is empty or damaged.
    #[error("read the name {reference}: it is damaged; build or load the image again under this name, or remove it: `gantry images rm {reference}`")]
    DamagedName {
        /// The name.
        reference: String,
    },
}

impl StoreError {
    /// Whether the disk has run full, or the quota of the user on it, and nobody had looked before.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NoSpace { source, .. } if crate::sys::space::has_run_full(source))
    }

    /// Whether something is not in the store that was there.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::NoBlob { .. } | Self::LayerLost { .. })
    }

    /// Whether what was to be read is gone, or is something else than it was: reading it again gives nothing else. Any other
    /// failure says nothing of what is there.
    pub(in crate::store) fn is_gone_or_damaged(&self) -> bool {
        use crate::sys::tree::is_of_another_kind;
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound || is_of_another_kind(source),
            Self::NoBlob { .. }
            | Self::Size { .. }
            | Self::Digest { .. }
            | Self::Document { .. }
            | Self::DamagedName { .. } => true,
            Self::NoSpace { .. }
            | Self::OverLimit { .. }
            | Self::Version { .. }
            | Self::NotAStore { .. }
            | Self::Place { .. }
            | Self::DiffId { .. }
            | Self::Layer { .. }
            | Self::LayerLost { .. }
            | Self::Json { .. }
            | Self::Ambiguous { .. }
            | Self::NotAName { .. }
            | Self::PinnedName { .. }
            | Self::Busy { .. }
            | Self::Stalled { .. } => false,
        }
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Layer { source, .. } => source.kind(),
            Self::Busy { .. } | Self::Stalled { .. } => Kind::Busy,
            Self::Io { .. }
            | Self::NoSpace { .. }
            | Self::OverLimit { .. }
            | Self::Version { .. }
            | Self::NotAStore { .. }
            | Self::Place { .. }
            | Self::NoBlob { .. }
            | Self::Size { .. }
            | Self::Digest { .. }
            | Self::DiffId { .. }
            | Self::LayerLost { .. }
            | Self::Document { .. }
            | Self::Json { .. }
            | Self::Ambiguous { .. }
            | Self::NotAName { .. }
            | Self::PinnedName { .. }
            | Self::DamagedName { .. } => Kind::Failed,
        }
    }
}

/// Turns an I/O error into ours, telling a full disk apart.
pub(crate) fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| match crate::sys::space::is_full(&source) {
        true => StoreError::NoSpace {
            action,
            path: path.to_owned(),
            source,
        },
        false => StoreError::Io {
            action,
            path: path.to_owned(),
            source,
        },
    }
}

/// Size and digest of a descriptor against what was seen.
pub(crate) fn check_descriptor(expected: &Descriptor, digest: Digest, size: u64) -> Result<(), StoreError> {
    if size != expected.size {
        return Err(StoreError::Size {
            digest: expected.digest,
            expected: expected.size,
            got: size,
        });
    }
    if digest != expected.digest {
        return Err(StoreError::Digest {
            expected: expected.digest,
            got: digest,
        });
    }
    Ok(())
}
