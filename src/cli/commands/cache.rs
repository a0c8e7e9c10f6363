//! `gantry cache`: disk use of the store.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::cache_check::check;
use super::{cache_ls, cache_pin, cache_stats, warming};
use crate::cli::cache_args::{CacheCommand, GcArgs};
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::ops::{self, EvictionPlan, GarbageWanted, Pin};
use crate::policy::Bytes;
use crate::store::{GarbageReport, Keep};

/// Carries out one of the commands of `gantry cache`.
pub(super) fn cache(session: &Session, command: &CacheCommand, report: Option<&Report>) -> Result<u8, CommandError> {
    match command {
        CacheCommand::Gc(args) => gc(session, args),
        CacheCommand::Check(args) => check(session, args, report),
        CacheCommand::Du { format } => du(session, format.wanted()),
        CacheCommand::Warm(args) => warming::warm(session, args, report),
        CacheCommand::Stats { format } => cache_stats::stats(session, format.wanted()),
        CacheCommand::Ls { format } => cache_ls::ls(session, format.wanted()),
        CacheCommand::Pin { references } => cache_pin::pin(session, references, Pin::Set),
        CacheCommand::Unpin { references } => cache_pin::pin(session, references, Pin::Removed),
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

/// What `gc` removed, or would.
#[derive(Serialize)]
struct Collected<'a> {
    #[serde(flatten)]
    garbage: &'a GarbageReport,
    /// Null when `[cache]` sets no limit.
    evictions: Option<&'a EvictionPlan>,
}

/// Evicts what is over the limits, or says what it would be; nothing where there are none.
fn evictions(session: &Session, args: &GcArgs) -> Result<Option<EvictionPlan>, CommandError> {
    let limits = ops::cache_limits(&session.config);
    if !limits.are_set() {
        return Ok(None);
    }
    let _no_other = session.store.locks().keep_collector_out()?;
    Ok(Some(match args.dry_run {
        true => ops::find_evictions(&session.store, limits)?,
        false => ops::evict(&session.store, limits)?,
    }))
}

/// A line for each image and each thing that went, and for those that could not.
fn tell(evictions: &EvictionPlan, args: &GcArgs) -> Result<(), CommandError> {
    let verb = if args.dry_run { "Would evict" } else { "Evicted" };
    for item in &evictions.items {
        print_line(&format!(
            "{verb} {}, {}: {}",
            escape(&item.name),
            Bytes(item.frees),
            escape(&item.reason)
        ))?;
    }
    for kept in &evictions.kept {
        print_line(&format!("Kept {}: {}", escape(&kept.name), kept.reason))?;
    }
    if !evictions.is_enough {
        let text = "warning: the store is over its limits all the same: `gantry cache stats` says what takes room";
        let _ = writeln!(io::stderr(), "{text}");
    }
    Ok(())
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
    // Garbage goes first: no image has to go for what nobody needs.
    let report = match args.dry_run {
        true => ops::find_garbage(&session.store, wanted, &mut waiting)?,
        false => ops::remove_garbage(&session.store, wanted, &mut waiting)?,
    };
    let evictions = evictions(session, args)?;
    if args.format.wanted() == Format::Json {
        return print_json(&Collected {
            garbage: &report,
            evictions: evictions.as_ref(),
        });
    }
    if let Some(evictions) = &evictions {
        tell(evictions, args)?;
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
