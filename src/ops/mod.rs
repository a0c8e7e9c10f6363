//! One file per user-visible operation: the pipelines, wired together.

mod action;
mod base;
mod build;
mod copies;
mod copy_list;
mod deadline;
pub mod doctor;
mod gc;
mod image_fetch;
mod image_list;
mod images;
mod interrupt;
mod job;
mod known_registries;
mod naming;
mod oci_bundle;
mod outcome;
mod output_place;
mod remote_images;
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
pub use crate::build::function_naming::FunctionNaming;
pub use crate::build::image::Created;
pub use crate::python::project::Origin;
pub use crate::python::resolve::LOCK_AGE;
pub use crate::transfer::{Asked, Attempt, Companions, Failover, Preferred, Registries};

pub use action::{Action, Advice};
pub use base::{build_base, BaseReport, BaseRequest};
pub use build::{build, BuildReport, BuildRequest};
pub use copies::{copy, load, load_file, pull, push, save, save_file, Copied, Transport};
pub use copy_list::{copy_list, CopiedOfList};
pub use deadline::ends;
pub use doctor::DoctorError;
pub use gc::{find_garbage, remove_garbage, GarbageWanted};
pub use image_fetch::{Fetch, Pull};
pub use image_list::{parse_list, ListError, ListedCopy};
pub use images::{list, names_of, remove, show, ImageSummary, ImagesError, Removal};
pub use interrupt::{unless_signalled, Worked};
pub use job::{read_job, CallerMode, JobError, Wanted};
pub use known_registries::{known_registries, prefer, prefer_none, KnownRegistry};
pub use naming::{function_naming, FunctionIds};
pub use oci_bundle::{
    make_bundle, promises_elsewhere, BundleError, BundleReport, BundleRequest, BundleRoot, Elsewhere, PromiseElsewhere,
};
pub use outcome::{ExitCodes, Outcome, CANNOT_RUN};
pub use output_place::OutputPlace;
pub use remote_images::{list_catalogue, list_tags, remove_remote};
pub use run::{run, RunRequest, Take};
pub use run_error::{code_of_store, RunError};
pub use secret::{SecretError, SecretWanted, Source};
pub use settings::{allowed_packages, base_settings, registries, resolver};
pub use slots::{Admission, SlotError, Slots};
pub use status::Status;
pub use ticket::Ticket;
