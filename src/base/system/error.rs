//! Why there are no system packages.

use std::io;

use crate::archive::deb::DebError;
use crate::archive::layer::LayerError;
use crate::base::debian::MirrorError;
use crate::base::relock::RelockError;
use crate::net::NetError;
use crate::policy::{Bytes, Kind};
use crate::sandbox::{CollectError, SandboxError};
use crate::store::StoreError;
use crate::transfer::FetchError;

/// Why there is no layer of system packages.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// A line of the file is no package.
    #[error("packages.txt, line {line}: {reason}")]
    Line { line: usize, reason: String },
    /// This machine does not let functions ask for it.
    #[error("packages.txt, line {line}: {package} is not among the packages that [system] of the configuration allows{hint}")]
    NotAllowed {
        line: usize,
        package: String,
        /// `; did you mean ...?`, or nothing.
        hint: String,
    },
    /// What is shipped about packages cannot be read.
    #[error("read rootfs/system.toml: {reason}")]
    Shipped { reason: String },
    /// The base does not say what is in it.
    #[error("add system packages to base {base}: {reason}")]
    Base { base: String, reason: String },
    /// The layers of the base cannot be looked at.
    #[error("add system packages to base {base}: read /{path}")]
    ReadBase {
        base: String,
        path: String,
        source: io::Error,
    },
    /// The archive has no such package.
    #[error("packages.txt, line {line}: Debian {suite} has no package {package}{hint}")]
    Unknown {
        line: usize,
        suite: String,
        package: String,
        /// `; did you mean ...?`, or nothing.
        hint: String,
    },
    /// What a package needs is not to be had.
    #[error("choose system packages: {package} needs {needs}: {reason}")]
    Unmet {
        package: String,
        needs: String,
        reason: String,
    },
    /// Two packages exclude each other.
    #[error("choose system packages: {package} does not go with {other}")]
    Excluded { package: String, other: String },
    /// The archive says something odd about a package.
    #[error("choose system packages: {reason}")]
    Odd { reason: String },
    /// They are larger than an image may be.
    #[error("choose system packages: they have {} of at most {}; the largest are {largest}", Bytes(*size), Bytes(*most))]
    TooLarge {
        size: u64,
        most: u64,
        /// The three largest.
        largest: String,
    },
    /// A script of it would do something that nobody has looked at.
    #[error("refuse system package {package}: no script of a package is run, and its {script} does what is not known to be harmless to leave out: {line:?}")]
    Script {
        package: String,
        /// `preinst` or `postinst`.
        script: &'static str,
        /// The first line that is not known.
        line: String,
    },
    /// A file of it may not be where it is.
    #[error("refuse system package {package}: {path:?}: {reason}")]
    Refused {
        package: String,
        path: String,
        reason: &'static str,
    },
    /// A package is damaged, or over a limit.
    #[error("unpack system package {package}")]
    Deb { package: String, source: DebError },
    /// A package cannot be read, or its files not be written.
    #[error("unpack system package {package}")]
    Unpack { package: String, source: io::Error },
    /// A library of the packages cannot be read again.
    #[error("list the libraries of system packages")]
    ListLibraries { source: io::Error },
    /// A program of the packages failed.
    #[error("set up system packages in the sandbox: {reason}")]
    SetUp { reason: String },
    /// The sandbox failed or refused.
    #[error("set up system packages in the sandbox")]
    Sandbox(#[from] SandboxError),
    /// What a program of the packages left is refused.
    #[error("set up system packages in the sandbox")]
    Collect(#[from] CollectError),
    /// This machine knows no archive.
    #[error("{0}")]
    Mirror(#[from] MirrorError),
    /// The archive's index cannot be used.
    #[error("{0}")]
    Index(#[from] RelockError),
    /// The network failed.
    #[error("{0}")]
    Net(#[from] NetError),
    /// A package cannot be downloaded.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The layer cannot be written.
    #[error("{0}")]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl SystemError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotAllowed { .. } | Self::TooLarge { .. } | Self::Script { .. } | Self::Refused { .. } => {
                Kind::Refused
            }
            Self::Line { .. }
            | Self::Shipped { .. }
            | Self::Base { .. }
            | Self::ReadBase { .. }
            | Self::Unknown { .. }
            | Self::Unmet { .. }
            | Self::Excluded { .. }
            | Self::Odd { .. }
            | Self::Unpack { .. }
            | Self::ListLibraries { .. }
            | Self::SetUp { .. } => Kind::Failed,
            Self::Deb { source, .. } => source.kind(),
            Self::Sandbox(source) => source.kind(),
            Self::Collect(source) => source.kind(),
            Self::Mirror(source) => source.kind(),
            Self::Index(source) => source.kind(),
            Self::Net(source) => source.kind(),
            Self::Fetch(source) => source.kind(),
            Self::Layer(source) => source.kind(),
            Self::Store(source) => source.kind(),
        }
    }
}
