//! One file per command: it turns arguments into a request, and the result into text and an exit code.

mod about;
mod base;
mod build;
mod bundling;
mod cache;
mod cache_check;
mod cache_ls;
mod cache_pin;
mod cache_stats;
mod configuration;
mod copying;
mod doctor;
mod images;
mod moving;
mod registry_contents;
mod registry_order;
pub(super) mod run;
mod warming;

pub(crate) use about::version;
pub(crate) use configuration::configuration;
pub(crate) use doctor::hold;

use moving::Moving;

use crate::cli::args::{Globals, StoreCommand};
use crate::cli::error::CommandError;
use crate::cli::progress;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::sandbox;

/// Carries out a command that uses the store, and returns its exit code.
pub(super) fn dispatch(globals: &Globals, command: &StoreCommand, report: Option<&Report>) -> Result<u8, CommandError> {
    let session = Session::open(globals, progress::tell)?;
    // What cannot be swept now is swept later; no command fails because of it.
    let _ = session.store.sweep();
    let _ = session.store.names().mend_index();
    sandbox::sweep();
    let _kept_out = match command {
        // It is the collector, or keeps it out while it needs to: not while somebody is slow to send an archive.
        StoreCommand::Cache(_) | StoreCommand::Load { .. } => None,
        _ => Some(session.store.locks().keep_collector_out()?),
    };
    match command {
        StoreCommand::Build(args) => build::build(&session, args, report),
        StoreCommand::Base(command) => base::base(&session, command, report),
        StoreCommand::Pull { reference, tag, moving } => {
            moving::pull(&session, reference, tag.as_ref(), &Moving::new(moving, report))
        }
        StoreCommand::Push {
            reference,
            destination,
            report: _,
        } => moving::push(&session, reference, destination.as_ref(), &Moving::of_own(report)),
        StoreCommand::Copy(args) => copying::copy(&session, args, report),
        StoreCommand::Login { host, username } => moving::login(&session, host, username),
        StoreCommand::Registries { command, format } => {
            registry_order::registries(&session, command.as_ref(), format, report)
        }
        StoreCommand::Save { reference, file } => moving::save(&session, reference, file),
        StoreCommand::Load { file, tag } => moving::load(&session, file, tag.as_ref()),
        StoreCommand::Bundle(args) => bundling::bundle(&session, args, report),
        StoreCommand::Images(command) => images::images(&session, command),
        StoreCommand::Cache(command) => cache::cache(&session, command, report),
        StoreCommand::Doctor(args) => doctor::examine(&session, args),
    }
}
