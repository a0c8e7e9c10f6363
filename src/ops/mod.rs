//! One file per user-visible operation: the pipelines, wired together.

mod base;
mod build;
mod compile;
pub mod doctor;
mod foreign;
mod images;
mod interrupt;
mod libraries;
mod locks;
mod outcome;
mod overlap;
mod packages;
mod run;
mod sdist;
mod secret;
mod take_output;
mod wheels;

pub use base::{BaseError, BaseImage, BaseSettings};
pub use build::{build, build_base, BaseReport, BuildError, BuildReport, BuildRequest};
pub use compile::SandboxCompiler;
pub use doctor::DoctorError;
pub use images::{copy, list, load, remove, save, show, ImageSummary, ImagesError};
pub use interrupt::{unless_signalled, Worked};
pub use locks::LOCK_AGE;
pub use outcome::{Outcome, Status};
pub use overlap::OverlapError;
pub use run::{chain, run, RunError, RunRequest, CANNOT_RUN};
pub use sdist::SdistError;
pub use secret::{SecretError, SecretWanted, Source};

/// The base that functions are built on unless told otherwise.
pub const DEFAULT_BASE: &str = "python-3.11";

/// The Python of our own bases.
pub const BASE_PYTHON: &str = "3.11";
