//! `gantry registries tags`, `ls` and `rm`: what a registry holds.

use std::io::{self, Write};
use std::time::Instant;

use serde::Serialize;

use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::{Format, FormatArgs};
use crate::cli::movement::type_by_name;
use crate::cli::moving_args::RemoveArgs;
use crate::cli::output::{print_json, print_line};
use crate::cli::progress::Narrator;
use crate::cli::report::{Deleted, Report};
use crate::cli::session::Session;
use crate::journal::{Event, EventKind};
use crate::oci::Reference;
use crate::ops::{self, Removal};
use crate::policy::Verbosity;
use crate::progress::Progress;

/// A list of a registry.
#[derive(Serialize)]
struct Listed<'a> {
    /// Whose.
    of: String,
    /// Tags or repositories, sorted.
    names: &'a [String],
}

/// Prints the tags of a repository.
pub(super) fn tags(session: &Session, repository: &Reference, format: &FormatArgs) -> Result<u8, CommandError> {
    let registries = session.registries();
    print(
        &repository.to_string(),
        &ops::list_tags(&registries, repository)?,
        format,
    )
}

/// Prints the repositories of a registry.
pub(super) fn catalogue(session: &Session, host: &str, format: &FormatArgs) -> Result<u8, CommandError> {
    let is_host =
        matches!(format!("{host}/x").parse(), Ok(Reference::Registry { repository, .. }) if repository == "x");
    if !is_host {
        let reason = format!("registries ls {host}: want a host as it begins the names of its images");
        return Err(CommandError::Usage(reason));
    }
    let registries = session.registries();
    print(host, &ops::list_catalogue(&registries, host)?, format)
}

fn print(of: &str, names: &[String], format: &FormatArgs) -> Result<u8, CommandError> {
    match format.wanted() {
        Format::Json => print_json(&Listed {
            of: of.to_owned(),
            names,
        }),
        Format::Table => names.iter().try_for_each(|name| print_line(name).map(drop)).map(|()| 0),
    }
}

/// The report of a deletion.
#[derive(Serialize)]
struct RemovalReport {
    schema: u32,
    status: &'static str,
    /// Whether it is only said what would be deleted.
    is_rehearsal: bool,
    deleted: Vec<Deleted>,
    /// What stays although it is said to belong to what goes, and why.
    kept: Vec<String>,
    seconds: f64,
}

/// Deletes images of registries, notes each in the journal, and prints its digest.
pub(super) fn remove(session: &Session, args: &RemoveArgs, report: Option<&Report>) -> Result<u8, CommandError> {
    let started = Instant::now();
    let registries = session.registries();
    let (removal, verb) = match args.dry_run {
        false => (Removal::Done, "Deleted"),
        true => (Removal::Rehearsed, "Would delete"),
    };
    let is_alone = report.is_some_and(Report::takes_standard_output);
    let narrator = Narrator::new(session.verbosity);
    let (mut all, mut printed) = (Vec::new(), Ok(0));
    let done = ops::remove_remote(
        &session.store,
        &registries,
        &args.references,
        removal,
        &narrator,
        &mut |of, removed| {
            let one = Deleted {
                repository: of_repository(of),
                digest: removed.digest.to_string(),
                tags: removed.tags.clone(),
            };
            let tags = removed.tags.join(" ");
            if session.verbosity != Verbosity::Quiet {
                let text = format!("{verb} {} of {} {tags}", one.digest, one.repository);
                let _ = writeln!(io::stderr(), "{}", escape(text.trim_end()));
            }
            if printed.is_ok() && !is_alone {
                printed = print_line(&removed.digest);
            }
            if removal == Removal::Done {
                let name = one.tags.first().map(|tag| format!("{}:{tag}", one.repository));
                let name = name.unwrap_or_else(|| one.repository.clone());
                let host = one.repository.split('/').next();
                session.record(&Event {
                    digest: Some(one.digest.clone()),
                    registry: host,
                    image_type: type_by_name(&name),
                    ..Session::event(EventKind::Remove, &name, "ok", started)
                });
                if let Some(report) = report {
                    report.add("deleted", &one);
                }
            }
            all.push(one);
        },
    );
    if let (Err(error), Removal::Done) = (&done, removal) {
        let names: Vec<String> = args.references.iter().map(ToString::to_string).collect();
        session.record(&Event {
            error_type: Some(error.kind().name()),
            ..Session::event(EventKind::Remove, &names.join(" "), "failed", started)
        });
    }
    let kept = match done {
        Ok(kept) => kept,
        Err(error) => {
            narrator.finish();
            return Err(error.into());
        }
    };
    kept.iter().for_each(|text| narrator.warn(text));
    narrator.finish();
    if let Some(report) = report {
        report.write(&RemovalReport {
            schema: 1,
            status: "ok",
            is_rehearsal: args.dry_run,
            deleted: all,
            kept,
            seconds: started.elapsed().as_secs_f64(),
        })?;
    }
    printed
}

/// `HOST/REPOSITORY`.
fn of_repository(reference: &Reference) -> String {
    match reference {
        Reference::Registry { host, repository, .. } => format!("{host}/{repository}"),
        other => other.to_string(),
    }
}
