//! `gantry cache`: disk use of the store.

use std::io::{self, Write};
use std::time::Duration;

use super::cache_check::check;
use super::warming;
use crate::cli::cache_args::{CacheCommand, GcArgs};
use crate::cli::error::CommandError;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::ops::{self, GarbageWanted};
use crate::policy::Bytes;
use crate::store::Keep;

/// Carries out one of the commands of `gantry cache`.
pub(super) fn cache(session: &Session, command: &CacheCommand, report: Option<&Report>) -> Result<u8, CommandError> {
    match command {
        CacheCommand::Gc(args) => gc(session, args),
        CacheCommand::Check(args) => check(session, args, report),
        CacheCommand::Du { format } => du(session, format.wanted()),
        CacheCommand::Warm(args) => warming::warm(session, args, report),
    }
}

fn du(session: &Session, format: Format) -> Result<u8, CommandError> {
    let usage = session.store.usage();
    if format == Format::Json {
        return print_json(&usage);
    }
    for (what, bytes) in [
        ("blobs", usage.blobs),
        ("layers", usage.layers),
        ("downloads", usage.downloads),
        ("unfinished downloads", usage.partials),
        ("memos", usage.memos),
        ("tools", usage.tools),
        ("journal", usage.journal),
        ("scratch", usage.scratch),
        ("total", usage.total),
    ] {
        print_line(&format!("{what:20} {:>10}", Bytes(bytes).to_string()))?;
    }
    Ok(0)
}

fn gc(session: &Session, args: &GcArgs) -> Result<u8, CommandError> {
    let wanted = GarbageWanted {
        keep: if args.all { Keep::ImagesOnly } else { Keep::Memoised },
        older_than: args.older_than,
        max_bytes: args.max_size.map(|size| size.0),
        wait: args.wait.map(Duration::from),
    };
    let mut waiting = || {
        let _ = writeln!(io::stderr(), "Waiting for builds and other commands that use the store");
    };
    let report = match args.dry_run {
        true => ops::find_garbage(&session.store, wanted, &mut waiting)?,
        false => ops::remove_garbage(&session.store, wanted, &mut waiting)?,
    };
    if args.format.wanted() == Format::Json {
        return print_json(&report);
    }
    if let Some(most) = args.max_size.filter(|most| report.left_bytes > most.0) {
        let _ = writeln!(
            io::stderr(),
            "warning: the store still has {}, more than {most}: the rest belongs to images; `gantry images rm` removes some",
            Bytes(report.left_bytes)
        );
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
