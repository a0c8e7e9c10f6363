//! `gantry registries` lists the registries of this machine, `registries prefer` is the mode for an outage.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::registry_contents;
use crate::cli::args::RegistriesCommand;
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::{Format, FormatArgs};
use crate::cli::image_hint::no_registry;
use crate::cli::output::{print_json, print_line};
use crate::cli::progress::Narrator;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::cli::table::{ago, table};
use crate::journal::EventKind;
use crate::ops::{self, KnownRegistry};
use crate::policy::Verbosity;

/// Prints the registries, whoever is asked first first, or changes who that is.
pub(super) fn registries(
    session: &Session,
    command: Option<&RegistriesCommand>,
    format: &FormatArgs,
    report: Option<&Report>,
) -> Result<u8, CommandError> {
    match command {
        None => list(session, format),
        Some(RegistriesCommand::Prefer {
            host: Some(host),
            time: Some(time),
            ..
        }) => prefer(session, host, (*time).into()),
        Some(RegistriesCommand::Prefer { .. }) => prefer_none(session),
        Some(RegistriesCommand::Tags { repository, format }) => registry_contents::tags(session, repository, format),
        Some(RegistriesCommand::Ls { host, format }) => registry_contents::catalogue(session, host, format),
        Some(RegistriesCommand::Rm(args)) => registry_contents::remove(session, args, report),
    }
}

fn list(session: &Session, format: &FormatArgs) -> Result<u8, CommandError> {
    let registries = session.registries();
    let narrator = Narrator::new(session.verbosity);
    let known = ops::known_registries(&session.store, &registries, &narrator);
    narrator.finish();
    match format.wanted() {
        Format::Json => print_json(&known),
        Format::Table if session.verbosity == Verbosity::Quiet => known
            .iter()
            .try_for_each(|one| print_line(&one.host).map(drop))
            .map(|()| 0),
        Format::Table => {
            if known.is_empty() {
                say(&no_registry());
            }
            let row = |one: &KnownRegistry| {
                let priority = one.priority.to_string();
                [
                    one.host.clone(),
                    priority,
                    one.role.to_owned(),
                    escape(&one.state()),
                    ago(one.last_success),
                    ago(one.last_failure),
                ]
            };
            print_line(&table(
                ["HOST", "PRIORITY", "ROLE", "STATE", "LAST SUCCESS", "LAST FAILURE"],
                known.iter().map(row).collect(),
            ))
        }
    }
}

fn prefer(session: &Session, host: &str, time: Duration) -> Result<u8, CommandError> {
    let started = Instant::now();
    let registries = session.registries();
    let preferred = ops::prefer(&session.store, &registries, host, time)?;
    session.note(EventKind::Prefer, &preferred.host, None, "on", started);
    let (host, end) = (&preferred.host, preferred.end());
    if registries.may_push(host).is_ok() {
        say(&format!(
            "{host} is preferred until {end}: pulls ask it first, pushes go there alone"
        ));
        return Ok(0);
    }
    say(&format!("{host} is preferred until {end}: pulls ask it first"));
    if registries
        .entries()
        .iter()
        .any(|entry| registries.may_push(&entry.host).is_ok())
    {
        say(
            "warning: it is only pulled from (role = \"pull\"), and what is pushed would go there alone: until then pushes to the registries of the configuration are refused. `gantry registries prefer --off` ends it",
        );
    }
    Ok(0)
}

fn prefer_none(session: &Session) -> Result<u8, CommandError> {
    let started = Instant::now();
    let registries = session.registries();
    let narrator = Narrator::new(Verbosity::Quiet);
    let host = registries
        .preferred(&session.store, &narrator)
        .map(|preferred| preferred.host);
    ops::prefer_none(&session.store, &registries)?;
    session.note(
        EventKind::Prefer,
        host.as_deref().unwrap_or_default(),
        None,
        "off",
        started,
    );
    say(&match host {
        Some(host) => format!("{host} is not preferred any more"),
        None => "no registry is preferred".to_owned(),
    });
    Ok(0)
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", escape(text));
}
