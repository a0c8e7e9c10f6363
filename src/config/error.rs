//! The errors of a configuration or an environment that cannot be used.

use std::io;
use std::path::PathBuf;

use crate::policy::Kind;

/// Why a configuration or an environment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {path}")]
    Read { path: PathBuf, source: io::Error },
    /// The file says something unknown or impossible; `reason` has the line.
    #[error("read configuration {path}: {reason}")]
    Parse { path: PathBuf, reason: String },
    /// No variable says where the store is.
    #[error("find the store: neither GANTRY_ROOT, XDG_DATA_HOME nor HOME is set")]
    NoHome,
    /// `GANTRY_LOG` is no word for how much is said.
    #[error("GANTRY_LOG is {text:?}: {reason}")]
    Log { text: String, reason: String },
    /// The file cannot be written.
    #[error("write configuration {path}")]
    Write { path: PathBuf, source: io::Error },
    /// `SOURCE_DATE_EPOCH` is no time.
    #[error("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds")]
    SourceDateEpoch { text: String },
}

impl ConfigError {
    /// The kind is always [`Kind::Usage`]: the caller wrote it, or said where it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { .. }
            | Self::Parse { .. }
            | Self::NoHome
            | Self::Log { .. }
            | Self::Write { .. }
            | Self::SourceDateEpoch { .. } => Kind::Usage,
        }
    }
}
