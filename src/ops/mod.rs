//! One file per user-visible operation: the pipelines, wired together.

mod base;
mod build;
mod compile;
pub mod doctor;
mod group;
mod images;
mod outcome;
mod run;
mod sdist;
mod secret;
mod take_output;

pub use base::{ensure_base, BaseError, BaseImage, BaseSettings};
pub use build::{build, BuildError, BuildReport, BuildRequest};
pub use compile::SandboxCompiler;
pub use doctor::DoctorError;
pub use images::{copy, list, load, save, show, ImageSummary, ImagesError};
pub use outcome::{Outcome, Status};
pub use run::{chain, run, RunError, RunRequest, CANNOT_RUN};
pub use sdist::SdistError;
pub use secret::{SecretError, SecretWanted, Source};

/// The base that functions are built on unless told otherwise.
pub const DEFAULT_BASE: &str = "python-3.11";
