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
use crate::cli::gone_images;
use crate::cli::output::{print_json, print_line};
use crate::cli::progress::tell_others;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::ops::{self, EvictionPlan, GarbageWanted, Goes, Pin};
use crate::policy::{as_limit, counted, Bytes, Verbosity};
use crate::store::{GarbageReport, Keep, StoreError};

/// Carries out one of the commands of `gantry cache`.
pub(super) fn cache(session: &Session, command: &CacheCommand, report: Option<&Report>) -> Result<u8, CommandError> {
    match command {
        CacheCommand::Gc(args) => gc(session, args),
        CacheCommand::Check(args) => check(session, args, report),
        CacheCommand::Du { format } => du(session, format.wanted()),
        CacheCommand::Warm(args) => warming::warm(session, args, report),
        CacheCommand::Stats { format } => cache_stats::stats(session, format.wanted()),
        CacheCommand::Ls { format } => cache_ls::ls(session, format.wanted()),
        CacheCommand::Pin { references, format } => cache_pin::pin(session, references, Pin::Set, format.wanted()),
        CacheCommand::Unpin { references, format } => {
            cache_pin::pin(session, references, Pin::Removed, format.wanted())
        }
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
    /// Whether nobody else used the store: else there may be more.
    is_complete: bool,
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

/// A line for each image that went, and for those that could not.
fn tell(session: &Session, evictions: &EvictionPlan, args: &GcArgs) -> Result<(), CommandError> {
    let (verb, holds) = match args.dry_run {
        true => ("Would evict", "would hold"),
        false => ("Evicted", "holds"),
    };
    let mut lines = gone_images::lines(evictions, verb, session.verbosity);
    let kept = evictions.kept.iter();
    lines.extend(kept.map(|kept| format!("Kept {}: {}", kept.name, kept.reason)));
    if session.verbosity > Verbosity::Quiet {
        for line in lines {
            print_line(&escape(&line))?;
        }
    }
    if !evictions.is_enough {
        let limits = ops::cache_limits(&session.config);
        warn(&ops::over_limits(evictions, &limits, holds, None));
    }
    Ok(())
}

fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "warning: {}", escape(text));
}

fn gc(session: &Session, args: &GcArgs) -> Result<u8, CommandError> {
    let wanted = GarbageWanted {
        keep: if args.all { Keep::ImagesOnly } else { Keep::Memoised },
        older_than: args.older_than,
        max_bytes: args.max_size.map(|size| size.0),
        wait: args.wait.map(Duration::from),
    };
    let mut waiting = || tell_others(session.verbosity);
    // Garbage goes first: no image has to go for what nobody needs.
    let collected = match args.dry_run {
        true => ops::find_garbage(&session.store, wanted, &mut waiting),
        false => ops::remove_garbage(&session.store, wanted, &mut waiting),
    };
    let (report, busy) = match collected {
        Err(busy @ StoreError::Busy { .. }) => {
            let goes = if args.dry_run { Goes::IfAsked } else { Goes::Now };
            (ops::garbage_beside(&session.store, wanted, goes)?, Some(busy))
        }
        other => (other?, None),
    };
    let evictions = evictions(session, args)?;
    let collected = Collected {
        garbage: &report,
        is_complete: busy.is_none(),
        evictions: evictions.as_ref(),
    };
    let code = tell_all(session, args, &collected)?;
    // Who uses the store, and that there may be more for the next one.
    busy.map_or(Ok(code), |busy| Err(busy.into()))
}

/// Prints what went, or would.
fn tell_all(session: &Session, args: &GcArgs, went: &Collected<'_>) -> Result<u8, CommandError> {
    if args.format.wanted() == Format::Json {
        return print_json(went);
    }
    let report = went.garbage;
    if let Some(evictions) = went.evictions {
        tell(session, evictions, args)?;
    }
    if let Some(most) = args
        .max_size
        .filter(|_| went.is_complete)
        .filter(|most| report.left_bytes > most.0)
    {
        warn(&format!(
            "the store still has {}, more than {}: the rest belongs to {}",
            Bytes(report.left_bytes),
            as_limit(most),
            owners(session)?
        ));
    }
    match session.verbosity {
        Verbosity::Quiet => Ok(0),
        Verbosity::Normal | Verbosity::Verbose => print_line(&collected(report, args, session.verbosity)),
    }
}

/// Whose a store is when all is gone that only later builds would use.
fn owners(session: &Session) -> Result<String, CommandError> {
    let mut owners = Vec::new();
    if !ops::list(&session.store)?.is_empty() {
        owners.push("images (`gantry images rm` removes some)".to_owned());
    }
    let tools = session.store.usage().tools;
    if tools > 0 {
        owners.push(format!("programs that builds need ({}), which stay", Bytes(tools)));
    }
    Ok(match owners.is_empty() {
        true => "gantry itself: locks, the journal and what processes are at".to_owned(),
        false => owners.join(" and "),
    })
}

/// What was removed, or would be: only that of which there was something.
fn collected(report: &GarbageReport, args: &GcArgs, verbosity: Verbosity) -> String {
    let kinds = [
        (report.blobs, "blob", "blobs"),
        (report.layers, "layer", "layers"),
        (report.merged, "tree of several layers", "trees of several layers"),
        (report.snapshots, "snapshot", "snapshots"),
        (report.profiles, "list of start-up files", "lists of start-up files"),
        (report.downloads, "download", "downloads"),
        (report.partials, "unfinished download", "unfinished downloads"),
        (report.memos, "memo", "memos"),
        (report.tools, "tool", "tools"),
        (report.journal_days, "day of the journal", "days of the journal"),
        (report.leases, "lease", "leases"),
        (report.unnamed, "image without a name", "images without a name"),
        (report.locks, "lock", "locks"),
    ];
    // Each command leaves empty files of locks, which is nothing to read of when they are all there is.
    let is_told = |kind: &str| report.bytes > 0 || kind != "lock" || verbosity == Verbosity::Verbose;
    let some = kinds.iter().filter(|(count, kind, _)| *count > 0 && is_told(kind));
    let some: Vec<String> = some.map(|(count, one, many)| counted(*count, one, many)).collect();
    let verb = if args.dry_run { "Would remove" } else { "Removed" };
    match (some.is_empty(), report.bytes) {
        (true, _) if args.dry_run => "Would remove no garbage".to_owned(),
        (true, _) => "There was no garbage".to_owned(),
        (false, 0) => format!("{verb} {}", some.join(", ")),
        (false, bytes) => format!("{verb} {}: {}", Bytes(bytes), some.join(", ")),
    }
}
