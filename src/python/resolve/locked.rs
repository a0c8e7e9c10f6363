//! The answer of a resolver: exactly the wheels to install, or why there is none.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::index::IndexError;
use super::programs::kind_of;
use crate::oci::Digest;
use crate::policy::{Bytes, Kind};
use crate::store::StoreError;
use crate::sys::program::ProgramError;

/// Images above this are refused before anything is downloaded.
pub(crate) const MAX_IMAGE: u64 = 2_000_000_000;
/// Images above this get a warning.
pub(crate) const LARGE_IMAGE: u64 = 300_000_000;

/// Exactly what is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Wheels, sorted by name.
    pub wheels: Vec<LockedWheel>,
    /// What the resolver warned of; it is true as long as the lock is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One wheel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedWheel {
    /// Normalised project name.
    pub name: String,
    pub version: String,
    pub file_name: String,
    /// Where it is.
    pub url: String,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Hash of the source distribution that it was built from here; it has no address then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdist: Option<Digest>,
}

/// A source distribution of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedSdist {
    /// Normalised project name.
    pub name: String,
    pub version: String,
    pub file_name: String,
    /// Where it is; without credentials.
    pub url: String,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

impl LockedSdist {
    /// For people: name and version.
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// uv finds no set of versions that fits.
    #[error("resolve requirements:\n{explanation}")]
    Unsatisfiable {
        /// In uv's words, bounded.
        explanation: String,
    },
    /// A package has source distributions only.
    #[error("resolve requirements: {package} has no wheel for Python {python} on linux/amd64{newest}")]
    NoWheel {
        /// Name and version.
        package: String,
        /// The Python.
        python: String,
        /// `; the newest version with a wheel is ...`, when there is one.
        newest: String,
    },
    /// The index does not answer.
    #[error("resolve requirements: the package index cannot be reached\n{explanation}")]
    Unavailable {
        /// In uv's words, bounded.
        explanation: String,
    },
    /// A hash of the user is not the wheel's.
    #[error("resolve requirements: {package} has sha256 {got}, the requirements say {expected}")]
    Hash {
        /// Name and version.
        package: String,
        /// Of the index.
        got: String,
        /// Of the user.
        expected: String,
    },
    /// uv said something unexpected.
    #[error("resolve requirements: {reason}")]
    Answer { reason: String },
    /// uv cannot be run, or does not end.
    #[error("{0}")]
    Run(#[from] ProgramError),
    /// What uv is asked cannot be written down.
    #[error("write {} for uv", path.display())]
    Question { path: PathBuf, source: io::Error },
    /// Wheels that were built here cannot be shown to uv.
    #[error("offer wheels that were built here to the resolver")]
    Offer { source: io::Error },
    /// The index is not clear.
    #[error("{0}")]
    Index(#[from] IndexError),
    /// The configured uv is too old.
    #[error("run {}: it is uv {version}, gantry needs {oldest} or newer", program.display())]
    OldUv {
        program: PathBuf,
        /// What it is.
        version: String,
        /// What it should be.
        oldest: String,
    },
    /// There is no uv and it could not be fetched.
    #[error("find uv: it is not on the PATH, and fetching it with pip failed: {reason}")]
    NoUv {
        /// What pip says.
        reason: String,
    },
    /// There is no uv, and the index that has one does not answer.
    #[error(
        "find uv: it is not on the PATH, and the package index cannot be reached to fetch it with pip\n{explanation}"
    )]
    UvUnavailable {
        /// In pip's words, bounded.
        explanation: String,
    },
    /// The configuration names a variable that is not there.
    #[error("read the password of the package index: {variable} of the environment, which `password_env` under [index] names, {problem}")]
    Password {
        /// The variable.
        variable: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The wheels are larger than an image may be.
    #[error(
        "build image: its wheels alone have {} of at most {}, {} too much; the largest are {largest}",
        Bytes(*size), Bytes(MAX_IMAGE), Bytes(size.saturating_sub(MAX_IMAGE))
    )]
    TooLarge {
        /// All wheels together.
        size: u64,
        /// The three largest.
        largest: String,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl LockError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unavailable { .. } | Self::UvUnavailable { .. } => Kind::Unavailable,
            Self::TooLarge { .. } => Kind::Refused,
            Self::Password { .. } => Kind::Usage,
            Self::Run(source) => kind_of(source),
            Self::Index(source) => source.kind(),
            Self::Store(source) => source.kind(),
            Self::Unsatisfiable { .. }
            | Self::NoWheel { .. }
            | Self::Hash { .. }
            | Self::Answer { .. }
            | Self::Question { .. }
            | Self::Offer { .. }
            | Self::OldUv { .. }
            | Self::NoUv { .. } => Kind::Failed,
        }
    }
}
