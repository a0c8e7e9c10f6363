//! One file per user-visible operation: the pipelines, wired together.

mod action;
mod base;
mod build;
mod deadline;
pub mod doctor;
mod gc;
mod images;
mod interrupt;
mod job;
mod outcome;
mod output_place;
mod run;
mod run_ending;
mod run_error;
mod secret;
mod settings;
mod slots;
mod status;
mod take_output;
mod threads;
mod ticket;

pub use crate::base::{Allowed, SystemPackage};
pub use crate::build::image::Created;
pub use crate::python::project::Origin;
pub use crate::python::resolve::LOCK_AGE;

pub use action::{Action, Advice};
pub use base::{build_base, BaseReport, BaseRequest};
pub use build::{build, BuildReport, BuildRequest};
pub use deadline::ends;
pub use doctor::DoctorError;
pub use gc::{find_garbage, remove_garbage, GarbageWanted};
pub use images::{
    copy, list, load, load_file, names_of, pull, push, remove, save, save_file, show, Copied, ImageSummary,
    ImagesError, Removal,
};
pub use interrupt::{unless_signalled, Worked};
pub use job::{read_job, CallerMode, JobError, Pull, Wanted};
pub use outcome::{ExitCodes, Outcome, CANNOT_RUN};
pub use output_place::OutputPlace;
pub use run::{run, RunRequest, Take};
pub use run_error::{code_of_store, RunError};
pub use secret::{SecretError, SecretWanted, Source};
pub use settings::{allowed_packages, base_settings, resolver};
pub use slots::{Admission, SlotError, Slots};
pub use status::Status;
pub use ticket::Ticket;
