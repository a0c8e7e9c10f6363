//! Why an image did not get from one place to another.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::ParseImageError;
use crate::policy::Kind;
use crate::store::StoreError;

/// The index of a layout is locked for the time it takes to write a few kilobytes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Most names in the index of an archive: each distinct image costs a manifest and a configuration of up to 4 MiB to read.
pub(super) const MAX_IMAGES: usize = 1000;

/// Why an image did not get from one place to another.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file system refused, or an archive could not be read or written.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what; `archive` for a stream.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Not a regular file.
    #[error("read {path}: it is no regular file")]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A link or something else in the place of a directory.
    #[error("write into {path}: it is no directory")]
    NotADirectory {
        /// Which.
        path: PathBuf,
    },
    /// A document that is refused.
    #[error("read {path}")]
    Document {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ParseImageError,
    },
    /// No image of that name, or more than one and none was named.
    #[error("find an image in {path}: {reason}")]
    NotFound {
        /// The layout, archive or index.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// Another process is writing the layout and does not end.
    #[error("write into {path}: another process has locked it for more than {} seconds", PATIENCE.as_secs())]
    Busy {
        /// The layout.
        path: PathBuf,
    },
    /// Something else than an archive.
    #[error("read archive: {found}")]
    NotAnArchive {
        /// What it is, and what to do about it.
        found: &'static str,
    },
    /// An entry that no OCI archive has.
    #[error("read archive entry {path:?}: {reason}")]
    Entry {
        /// Its name.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// More images than an archive may have.
    #[error("read archive: its index has {got} images of at most {MAX_IMAGES}")]
    TooMany {
        /// How many.
        got: usize,
    },
    /// A part of an archive is missing.
    #[error("read archive: it has no {part}")]
    Missing {
        /// Which.
        part: &'static str,
    },
    /// The store failed, or a blob is not what it is called.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl TransferError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Busy { .. } => Kind::Busy,
            Self::TooMany { .. } => Kind::Refused,
            Self::Io { .. }
            | Self::NotAFile { .. }
            | Self::NotADirectory { .. }
            | Self::Document { .. }
            | Self::NotFound { .. }
            | Self::NotAnArchive { .. }
            | Self::Entry { .. }
            | Self::Missing { .. } => Kind::Failed,
        }
    }
}
