//! `gantry cache`: disk use of the store.

use std::io::{self, Write};

use crate::cli::args::{CacheCommand, GcArgs};
use crate::cli::error::CommandError;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::policy::Bytes;
use crate::store::{Keep, Patience};

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
    let report = session
        .store
        .collect_garbage(keep, args.dry_run, Patience::default(), &mut waiting)?;
    if args.json {
        return print_json(&report);
    }
    let verb = if args.dry_run { "Would remove" } else { "Removed" };
    print_line(&format!(
        "{verb} {}: {} blobs, {} layers, {} snapshots, {} downloads, {} unfinished downloads",
        Bytes(report.bytes),
        report.blobs,
        report.layers,
        report.snapshots,
        report.downloads,
        report.partials
    ))
}
