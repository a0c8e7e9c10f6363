//! `gantry cache warm`: images are there, and in memory, before somebody waits for them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::hint::hint_of;
use crate::cli::movement::Movement;
use crate::cli::output::{print_json, print_line};
use crate::cli::progress::Narrator;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::cli::table::{short, table};
use crate::cli::warm_args::WarmArgs;
use crate::journal::{self, EventKind, Purpose};
use crate::oci::Reference;
use crate::ops::{
    self, Because, Failover, FunctionInventory, ImageToWarm, Residence, Transport, WarmRules, Warmed, MAX_INVENTORY,
};
use crate::policy::{as_limit, counted, one_line, Bytes, Kind, Verbosity};
use crate::sys::clock;
use crate::sys::streams;

/// Longest list that is read.
const MAX_LIST: u64 = 4 << 20;
/// The status of an image that the store could keep only instead of others of the list.
const LEFT_OUT: &str = "left_out";
/// Images that are named on one line.
const MOST_NAMED: usize = 5;
/// How far back the use of images counts, unless it is said.
const SINCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The report.
#[derive(Serialize)]
struct WarmReport<'a> {
    schema: u32,
    status: &'static str,
    images: &'a [Warmed],
    seconds: f64,
    exit_code: u8,
}

/// Has the images in the store that `args` name, and says what came of each.
pub(super) fn warm(session: &Session, args: &WarmArgs, report: Option<&Report>) -> Result<u8, CommandError> {
    let started = Instant::now();
    let (list, untold) = list(session, args)?;
    let narrator = Narrator::new(session.verbosity);
    let failover = match args.no_failover {
        true => Failover::Forbidden,
        false => Failover::Allowed,
    };
    let registries = session.registries().with_failover(failover);
    let transport = Transport::new(&session.store, &registries, &narrator);
    let residence = match args.resident {
        true => Residence::Memory,
        false => Residence::Disk,
    };
    let tell = |one: &Warmed| {
        if let Some(report) = report {
            report.add("images", one);
        }
        if let Some(error) = one.error.as_ref().filter(|_| one.status != LEFT_OUT) {
            let _ = writeln!(
                io::stderr(),
                "error: warm {}: {}",
                escape(&one.reference),
                escape(error)
            );
        }
    };
    untold.iter().for_each(&tell);
    let rules = WarmRules {
        at_once: usize::from(args.jobs),
        residence,
        limits: ops::cache_limits(&session.config),
    };
    let warmed = ops::warm(&transport, &list, rules, &|one| {
        note(session, one, started);
        tell(one);
    })?;
    let done: Vec<Warmed> = untold.into_iter().chain(warmed).collect();
    narrator.finish();
    narrator.done(&summary(&done, residence));
    for text in left_out(&done).into_iter().chain(lack_of_room(session, &done)) {
        let _ = writeln!(io::stderr(), "warning: {}", escape(&text));
    }
    // Of many that fail in one way it is said once.
    let hints: BTreeSet<_> = done.iter().filter_map(|one| hint_of(one.failure.as_ref()?)).collect();
    for hint in hints {
        let _ = writeln!(io::stderr(), "hint: {}", escape(&hint));
    }
    let kind = Kind::of_all(done.iter().filter_map(|one| one.kind));
    let exit_code = kind.map_or(0, Kind::exit_code);
    let document = WarmReport {
        schema: 1,
        status: kind.map_or("ok", Kind::status),
        images: &done,
        seconds: started.elapsed().as_secs_f64(),
        exit_code,
    };
    if let Some(report) = report {
        report.write(&document)?;
        if report.takes_standard_output() {
            return Ok(exit_code);
        }
    }
    match args.format.wanted() {
        Format::Json => print_json(&document)?,
        Format::Table if done.is_empty() || session.verbosity == Verbosity::Quiet => 0,
        Format::Table => print_line(&table(
            ["IMAGE", "DIGEST", "USES", "IN MEMORY", "STATUS"],
            done.iter().map(row).collect(),
        ))?,
    };
    Ok(exit_code)
}

/// The images that `args` name, each once, the first to be warmed first; and those that nobody could ask for.
fn list(session: &Session, args: &WarmArgs) -> Result<(Vec<ImageToWarm>, Vec<Warmed>), CommandError> {
    let since = args.since.unwrap_or(SINCE);
    let at = journal::seconds(clock::now()).saturating_sub(since.as_secs());
    let mut untold = Vec::new();
    let mut list = match (&args.inventory, args.top) {
        (Some(file), top) => {
            let (list, nameless) = of_inventory(session, file, top, at)?;
            untold = nameless;
            list
        }
        (None, Some(top)) => of_journal(session, usize::from(top), at)?,
        (None, None) => {
            if args.since.is_some() {
                let reason = "warm --since: want --top or --inventory, whose images it is about";
                return Err(CommandError::Usage(reason.to_owned()));
            }
            named(args)?
        }
    };
    let mut seen = BTreeSet::new();
    list.retain(|one| seen.insert(one.reference.to_string()));
    if list.is_empty() && untold.is_empty() {
        let what = match (&args.inventory, args.top, &args.from) {
            (Some(_), ..) => format!(
                "no function of the inventory that has an image ran in the last {}",
                days(since)
            ),
            (None, Some(_), _) => format!("the journal has no image that was used in the last {}", days(since)),
            (None, None, _) => "the list is empty".to_owned(),
        };
        if session.verbosity > Verbosity::Quiet {
            let _ = writeln!(io::stderr(), "Nothing to warm: {what}");
        }
    }
    Ok((list, untold))
}

/// A time as people say it after "the last".
fn days(time: Duration) -> String {
    let one_or = |count: u64, one: &str, many: &str| match count {
        1 => one.to_owned(),
        count => format!("{count} {many}"),
    };
    match time.as_secs() / 3600 {
        0 => one_or(time.as_secs().div_ceil(60), "minute", "minutes"),
        hours @ 1..48 => one_or(hours, "hour", "hours"),
        hours => format!("{} days", hours / 24),
    }
}

/// Those of the arguments, and of a list.
fn named(args: &WarmArgs) -> Result<Vec<ImageToWarm>, CommandError> {
    let mut references = args.references.clone();
    if let Some(file) = &args.from {
        let text = String::from_utf8(read(file, MAX_LIST, "a list has at most 4 MiB")?);
        let text = text.map_err(|_| failed(file, io::Error::other("a list is text, and this is none")))?;
        let wrong = |error| CommandError::Usage(format!("read the list of images {}: {error}", file.display()));
        let listed = ops::parse_names(&text).map_err(wrong)?;
        references.extend(listed);
    }
    if let Some(reference) = references.iter().find(|one| matches!(one, Reference::Layout { .. })) {
        let reason = format!("warm {reference}: want HOST/REPOSITORY[:TAG][@DIGEST] or an image of the store; `gantry pull` copies one of a layout");
        return Err(CommandError::Usage(reason));
    }
    let wanted = |reference| ImageToWarm {
        reference,
        uses: None,
        because: Because::OfItsName,
    };
    Ok(references.into_iter().map(wanted).collect())
}

/// The most used ones of the journal.
fn of_journal(session: &Session, most: usize, since: u64) -> Result<Vec<ImageToWarm>, CommandError> {
    let root = session.store.root();
    let folded = journal::fold(root, clock::now()).map_err(|source| failed(&root.join(journal::FOLDER), source))?;
    let wanted = |used: journal::Used| {
        Some(ImageToWarm {
            reference: used.reference.parse().ok()?,
            uses: Some(used.uses),
            because: Because::OfItsUse,
        })
    };
    Ok(folded.counts.top(most, since).into_iter().filter_map(wanted).collect())
}

/// Those of the functions of an inventory that ran lately, and what is to be said of those that cannot be named.
fn of_inventory(
    session: &Session,
    file: &Path,
    most: Option<u16>,
    since: u64,
) -> Result<(Vec<ImageToWarm>, Vec<Warmed>), CommandError> {
    let json = read(file, MAX_INVENTORY, "an inventory has at most 64 MiB")?;
    let now = journal::seconds(clock::now());
    let inventory = FunctionInventory::parse(&json, now).map_err(|error| failed(file, io::Error::other(error)))?;
    let (active, nameless) = inventory.active_since(&session.config, since);
    if let (true, Some(first)) = (active.is_empty(), nameless.first()) {
        // None of them: the configuration lacks something, and that is to be mended.
        return Err(failed(file, io::Error::other(first.error.clone())));
    }
    let untold = nameless
        .into_iter()
        .map(|one| Warmed::untold(format!("function {}", one.id), one_line(&one.error)));
    let wanted = |reference| ImageToWarm {
        reference,
        uses: None,
        because: Because::OfTheInventory,
    };
    let most = most.map_or(usize::MAX, usize::from);
    let wanted = active.into_iter().take(most).map(|one| wanted(one.reference));
    Ok((wanted.collect(), untold.collect()))
}

fn read(file: &Path, most: u64, limit: &'static str) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let mut read = |from: &mut dyn Read| from.take(most + 1).read_to_end(&mut bytes);
    match file == Path::new("-") {
        true => streams::standard_input().and_then(|stdin| read(&mut stdin.lock())),
        false => File::open(file).and_then(|mut file| read(&mut file)),
    }
    .map_err(|source| failed(file, source))?;
    match bytes.len() as u64 > most {
        true => Err(failed(file, io::Error::new(io::ErrorKind::FileTooLarge, limit))),
        false => Ok(bytes),
    }
}

fn failed(file: &Path, source: io::Error) -> CommandError {
    let path = match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    };
    CommandError::File {
        action: "read",
        path,
        source,
    }
}

/// Writes a pull into the journal. What was there is no event: nobody used it.
fn note(session: &Session, one: &Warmed, started: Instant) {
    let result = match (one.digest, one.kind) {
        (Some(digest), _) if one.status == "pulled" => Ok(digest),
        (None, Some(kind)) if !one.attempts.is_empty() => Err(kind),
        _ => return,
    };
    let began = Instant::now().checked_sub(Duration::from_secs_f64(one.seconds));
    let movement = Movement {
        kind: EventKind::Pull,
        reference: &one.reference,
        result,
        attempts: &one.attempts,
        purpose: Some(Purpose::Warm),
        started: began.unwrap_or(started),
    };
    movement.note(session);
}

fn summary(done: &[Warmed], residence: Residence) -> String {
    let count = |status| done.iter().filter(|one| one.status == status).count();
    let counts = [
        ("pulled", count("pulled")),
        ("made ready", count("prepared")),
        ("there already", count("present")),
        ("gone (skipped)", count("skipped")),
        ("evicted for others of the list", count("evicted")),
        ("left out", count(LEFT_OUT)),
        ("failed", count("failed")),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(what, count)| *count > 0 || *what == "pulled")
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    let counts = counts.join(", ");
    let resident: Vec<u64> = done.iter().filter_map(|one| one.resident_bytes).collect();
    match residence {
        Residence::Disk => counts,
        Residence::Memory if resident.is_empty() => {
            format!(
                "{counts}; nothing is read into memory: which files an image needs at first is known when it has run"
            )
        }
        Residence::Memory => {
            let bytes = Bytes(resident.iter().sum());
            format!("{counts}; {bytes} of start-up files are in memory")
        }
    }
}

/// Why images of the list were not brought, and which; none when all were.
fn left_out(done: &[Warmed]) -> Option<String> {
    let all: Vec<&Warmed> = done.iter().filter(|one| one.status == LEFT_OUT).collect();
    let why = all.first()?.error.as_deref().unwrap_or_default();
    let named = all.iter().take(MOST_NAMED).map(|one| one.reference.as_str());
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match all.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let count = counted(all.len() as u64, "image of the list is", "images of the list are");
    Some(format!("{count} left out: {named}{more}; {why}"))
}

/// Why images of the list are gone again, and what to do; none when all are there.
fn lack_of_room(session: &Session, done: &[Warmed]) -> Option<String> {
    let count = done.iter().filter(|one| one.status == "evicted").count() as u64;
    let limits = ops::cache_limits(&session.config);
    let bytes = limits
        .max_bytes
        .map(|most| format!("max_bytes = {}", as_limit(Bytes(most))));
    let images = limits.max_images.map(|most| format!("max_images = {most}"));
    let limits: Vec<String> = bytes.into_iter().chain(images).collect();
    let limits = match limits.is_empty() {
        true => "what the disk has room for".to_owned(),
        false => format!("{} under [cache]", limits.join(", ")),
    };
    (count > 0).then(|| {
        format!(
            "{} evicted again, as together they are over {limits}: warm fewer, or raise the limit",
            counted(count, "image of the list was", "images of the list were")
        )
    })
}

fn row(one: &Warmed) -> [String; 5] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        one.reference.clone(),
        or_none(one.digest.as_ref().map(short)),
        or_none(one.uses.map(|uses| uses.to_string())),
        or_none(one.resident_bytes.map(|bytes| Bytes(bytes).to_string())),
        one.status.to_owned(),
    ]
}
