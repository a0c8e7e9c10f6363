//! Why a run did not happen, or why its results were not taken; its status and its code.

use std::io;
use std::path::PathBuf;

use super::images::ImagesError;
use super::outcome::CANNOT_RUN;
use super::secret::SecretError;
use super::slots::SlotError;
use super::status::Status;
use super::take_output::TakeError;
use crate::policy::{Code, Kind};
use crate::sandbox::{CollectError, SandboxError, Stop};
use crate::store::StoreError;
use crate::transfer::TransferError;

/// Why a run did not happen, or why its results were not taken.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The reference names nothing in the store.
    #[error("run {reference}: no such image in the store")]
    UnknownImage {
        /// As typed.
        reference: String,
    },
    /// Neither the image nor the caller names a command.
    #[error("run {reference}: the image has no command")]
    NoCommand {
        /// As typed.
        reference: String,
    },
    /// A secret cannot be read.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// The caller's directory for `/input` cannot be used.
    #[error("show {path} as /input")]
    Input {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The caller's directory for the files of `/output` cannot be used.
    #[error("write {path}, for the files of /output (--output)")]
    Output {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What the function printed cannot be written.
    #[error("write {stream}: what the function printed is lost")]
    Stream {
        /// Standard output or standard error.
        stream: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A variable cannot be passed on.
    #[error("set environment variable {name:?}: a name is not empty and holds neither = nor NUL, a value no NUL")]
    Environment {
        /// Its name.
        name: String,
    },
    /// The image did not come from a registry.
    #[error("{0}")]
    Pull(#[source] ImagesError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The sandbox failed or refused.
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    /// The workload ended, but its files could not be taken.
    #[error("{0}")]
    Collect(#[from] CollectError),
    /// The machine carries as many runs as it may.
    #[error("{0}")]
    Slot(#[source] SlotError),
    /// A system call of ours failed.
    #[error("wait for the image to be unpacked")]
    Wait {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The run was to end before or after the workload's own time.
    #[error("{stop}")]
    Stopped {
        /// Why.
        stop: Stop,
    },
}

impl RunError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::UnknownImage { .. }
            | Self::NoCommand { .. }
            | Self::Input { .. }
            | Self::Output { .. }
            | Self::Stream { .. }
            | Self::Wait { .. }
            | Self::Stopped { .. } => Kind::Failed,
            Self::Environment { .. } => Kind::Usage,
            Self::Secret(error) => error.kind(),
            Self::Pull(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Sandbox(error) => error.kind(),
            Self::Collect(error) => error.kind(),
            Self::Slot(error) => error.kind(),
        }
    }

    /// The exit code of a run that ended in this error.
    pub fn exit_code(&self) -> u8 {
        match self.kind() {
            kind @ (Kind::Busy | Kind::Unavailable) => kind.exit_code(),
            Kind::Failed | Kind::Usage | Kind::Refused => CANNOT_RUN,
        }
    }

    /// What a run that ended in it says.
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownImage { .. } => Code::UnknownImage,
            Self::NoCommand { .. } => Code::BadImage,
            Self::Input { .. } => Code::InputUnusable,
            Self::Output { .. } => Code::OutputUnwritable,
            Self::Stream { .. } => Code::StreamUnwritable,
            Self::Environment { .. } => Code::BadJob,
            Self::Wait { .. } => Code::SandboxFailed,
            Self::Stopped { stop } => code_of_stop(*stop),
            Self::Slot(error) => match error {
                SlotError::TooLarge { .. } => Code::OverMemoryTotal,
                SlotError::Full { .. } => Code::NoSlot,
                SlotError::Io { .. } => Code::StoreUnusable,
                SlotError::Stopped { stop } => code_of_stop(*stop),
            },
            Self::Secret(error) => error.code(),
            Self::Pull(error) => code_of_pull(error),
            Self::Store(error) => code_of_store(error),
            Self::Sandbox(error) => error.code(),
            Self::Collect(error) => error.code(),
        }
    }

    /// The status of a run that ended in this error. `refused` is said of promises alone (`docs/formats.md`).
    pub fn status(&self) -> Status {
        match (self, self.kind()) {
            (Self::Sandbox(_), Kind::Refused) => Status::Refused,
            (_, Kind::Unavailable | Kind::Busy) => Status::Unavailable,
            (_, Kind::Failed | Kind::Usage | Kind::Refused) => Status::Error,
        }
    }
}

impl From<SlotError> for RunError {
    fn from(error: SlotError) -> Self {
        match error {
            SlotError::Stopped { stop } => Self::Stopped { stop },
            other => Self::Slot(other),
        }
    }
}

/// What a run says that was told to stop.
fn code_of_stop(stop: Stop) -> Code {
    match stop {
        Stop::Signal(_) => Code::Stopped,
        Stop::CallerEnded { .. } => Code::CallerEnded,
        Stop::Deadline { .. } => Code::Deadline,
    }
}

/// What a run says whose image did not come from a registry.
fn code_of_pull(error: &ImagesError) -> Code {
    match error {
        ImagesError::Store(error) | ImagesError::Transfer(TransferError::Store(error)) => match error {
            // What came is not what it should be: nothing of the store is.
            StoreError::Size { .. }
            | StoreError::Digest { .. }
            | StoreError::DiffId { .. }
            | StoreError::Layer { .. } => Code::BadImage,
            other => code_of_store(other),
        },
        ImagesError::Transfer(TransferError::Document { .. } | TransferError::NotFound { .. }) => Code::BadImage,
        ImagesError::Transfer(TransferError::NoRegistry { .. }) => Code::UnknownImage,
        ImagesError::Transfer(error) if error.is_not_found() => Code::UnknownImage,
        ImagesError::Transfer(_) if error.kind().is_away() => Code::RegistryUnavailable,
        _ => Code::RegistryRefused,
    }
}

/// What a run says that the store failed.
pub fn code_of_store(error: &StoreError) -> Code {
    match error {
        StoreError::NoSpace { .. } | StoreError::OverLimit { .. } => Code::StoreFull,
        StoreError::Busy { .. } | StoreError::Stalled { .. } => Code::StoreBusy,
        StoreError::Version { .. } => Code::StoreVersion,
        StoreError::NoBlob { .. }
        | StoreError::Size { .. }
        | StoreError::Digest { .. }
        | StoreError::DiffId { .. }
        | StoreError::Layer { .. }
        | StoreError::LayerLost { .. }
        | StoreError::Document { .. }
        | StoreError::DamagedName { .. } => Code::StoreDamaged,
        StoreError::NotAName { .. } | StoreError::PinnedName { .. } | StoreError::Ambiguous { .. } => {
            Code::UnknownImage
        }
        StoreError::Io { .. } | StoreError::Json { .. } | StoreError::NotAStore { .. } | StoreError::Place { .. } => {
            Code::StoreUnusable
        }
    }
}

impl From<TakeError> for RunError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Collect(error) => Self::Collect(error),
            TakeError::Store(error) => Self::Store(error),
            TakeError::Write { path, source } => Self::Output { path, source },
            TakeError::Stopped { stop } => Self::Stopped { stop },
        }
    }
}
