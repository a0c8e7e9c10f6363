//! One file per user-visible operation: the pipelines, wired together.

mod base;
mod build;
pub mod doctor;
mod images;
mod interrupt;
mod outcome;
mod run;
mod secret;
mod take_output;

pub use base::{build_base, BaseReport, BaseRequest};
pub use build::{build, BuildReport, BuildRequest};
pub use doctor::DoctorError;
pub use images::{copy, list, load, remove, save, show, ImageSummary, ImagesError};
pub use interrupt::{unless_signalled, Worked};
pub use outcome::{Outcome, Status};
pub use run::{chain, run, RunError, RunRequest, CANNOT_RUN};
pub use secret::{SecretError, SecretWanted, Source};
