//! `gantry copy`: one image, or a list of them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::moving::Moving;
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::hint::hint_of;
use crate::cli::movement::Movement;
use crate::cli::moving_args::CopyArgs;
use crate::cli::output::print_line;
use crate::cli::progress::Narrator;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::journal::EventKind;
use crate::ops::{self, Companions, CopiedOfList, ListedCopies, Transport};
use crate::policy::Kind;
use crate::sys::streams;

/// Longest list that is read.
const MAX_LIST: u64 = 4 << 20;

/// Copies an image and prints its digest, or each of a list.
pub(super) fn copy(session: &Session, args: &CopyArgs, report: Option<&Report>) -> Result<u8, CommandError> {
    let companions = match args.no_referrers {
        true => Companions::Left,
        false => Companions::Along,
    };
    let moving = Moving::new(&args.moving, report);
    match (&args.all_from, &args.source, &args.destination) {
        (Some(file), target, _) => {
            let name = match file == Path::new("-") {
                true => "standard input".to_owned(),
                false => file.display().to_string(),
            };
            let wrong = |error| CommandError::Usage(format!("read the list of images {name}: {error}"));
            let list = ops::parse_list(&read_list(file)?, target.as_ref()).map_err(wrong)?;
            say_oddities(&name, &list);
            copy_list(session, &list.images, companions, &moving, report)
        }
        (None, Some(source), Some(destination)) => moving.copy(session, source, destination, companions),
        (None, ..) => Err(CommandError::Usage("copy: want a source and a destination".to_owned())),
    }
}

/// Says what a list has that is no mistake, and may not be meant.
fn say_oddities(name: &str, list: &ListedCopies) {
    let warn = |text: &str| drop(writeln!(io::stderr(), "warning: {}: {text}", escape(name)));
    if list.images.is_empty() {
        warn("the list has no image, so nothing is copied");
    }
    if let Some(first) = list.repeated.first() {
        let more = match list.repeated.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        warn(&format!(
            "line {first}{more} says what another line before it says; each image is copied once"
        ));
    }
}

fn read_list(file: &Path) -> Result<String, CommandError> {
    let failed = |source| CommandError::File {
        action: "read",
        path: file.display().to_string(),
        source,
    };
    let mut text = String::new();
    let mut read = |from: &mut dyn Read| from.take(MAX_LIST + 1).read_to_string(&mut text);
    match file == Path::new("-") {
        true => streams::standard_input().and_then(|stdin| read(&mut stdin.lock())),
        false => File::open(file).and_then(|mut file| read(&mut file)),
    }
    .map_err(failed)?;
    if text.len() as u64 > MAX_LIST {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "a list has at most 4 MiB",
        )));
    }
    Ok(text)
}

/// The report of a list.
#[derive(Serialize)]
struct ListReport<'a> {
    schema: u32,
    status: &'static str,
    images: &'a [CopiedOfList],
    seconds: f64,
    exit_code: u8,
}

fn copy_list(
    session: &Session,
    list: &[ops::ListedCopy],
    companions: Companions,
    moving: &Moving<'_>,
    report: Option<&Report>,
) -> Result<u8, CommandError> {
    let started = Instant::now();
    let narrator = Narrator::new(session.verbosity);
    let registries = session.registries().with_failover(moving.failover());
    let mut transport = Transport::new(&session.store, &registries, &narrator);
    transport.companions = companions;
    let done = ops::copy_list(&transport, list, &|one| {
        let began = Instant::now().checked_sub(Duration::from_secs_f64(one.seconds));
        let movement = Movement {
            kind: EventKind::Copy,
            reference: &one.destination,
            result: one.digest.ok_or(one.kind.unwrap_or(Kind::Failed)),
            attempts: &one.attempts,
            purpose: None,
            started: began.unwrap_or(started),
        };
        movement.note(session);
        if let Some(report) = report {
            report.add("images", one);
        }
        if let Some(error) = &one.error {
            let _ = writeln!(io::stderr(), "error: copy {}: {}", escape(&one.source), escape(error));
        }
    })?;
    narrator.finish();
    let kind = Kind::of_all(done.iter().filter_map(|one| one.kind));
    let count = |status| done.iter().filter(|one| one.status == status).count();
    let (copied, equal, failed) = (count("copied"), count("equal"), count("failed"));
    let _ = writeln!(io::stderr(), "{copied} copied, {equal} there already, {failed} failed");
    // Of many that fail in one way it is said once.
    let hints: BTreeSet<_> = done.iter().filter_map(|one| hint_of(one.failure.as_ref()?)).collect();
    for hint in hints {
        let _ = writeln!(io::stderr(), "hint: {}", escape(&hint));
    }
    let exit_code = kind.map_or(0, Kind::exit_code);
    if let Some(report) = report {
        report.write(&ListReport {
            schema: 1,
            status: kind.map_or("ok", Kind::status),
            images: &done,
            seconds: started.elapsed().as_secs_f64(),
            exit_code,
        })?;
        if report.takes_standard_output() {
            return Ok(exit_code);
        }
    }
    for one in &done {
        if let Some(digest) = &one.digest {
            print_line(&format!("{digest} {}", escape(&one.destination)))?;
        }
    }
    Ok(exit_code)
}
