//! `gantry cache`: disk use of the store.

use std::io::{self, Write};

use crate::cli::args::{CacheCommand, Format, GcArgs};
use crate::cli::error::CommandError;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::ops;
use crate::policy::Bytes;
use crate::store::Keep;

/// Carries out one of the commands of `gantry cache`.
pub fn cache(session: &Session, command: &CacheCommand) -> Result<u8, CommandError> {
    match command {
        CacheCommand::Gc(args) => gc(session, args),
    }
}

fn gc(session: &Session, args: &GcArgs) -> Result<u8, CommandError> {
    let keep = if args.all { Keep::ImagesOnly } else { Keep::Memoised };
    let mut waiting = || {
        let _ = writeln!(io::stderr(), "Waiting for builds and other commands that use the store");
    };
    let report = match args.dry_run {
        true => ops::find_garbage(&session.store, keep, &mut waiting)?,
        false => ops::remove_garbage(&session.store, keep, &mut waiting)?,
    };
    if args.format.wanted() == Format::Json {
        return print_json(&report);
    }
    let verb = if args.dry_run { "Would remove" } else { "Removed" };
    print_line(&format!(
        "{verb} {}: {} blobs, {} layers, {} snapshots, {} downloads, {} unfinished downloads, {} memos, {} tools, \
         {} days of the journal, {} leases, {} images without a name, {} locks",
        Bytes(report.bytes),
        report.blobs,
        report.layers,
        report.snapshots,
        report.downloads,
        report.partials,
        report.memos,
        report.tools,
        report.journal_days,
        report.leases,
        report.unnamed,
        report.locks
    ))
}
