//! `gantry pull`, `push`, `copy`, `save` and `load`: images move in and out of the store.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::movement::Movement;
use crate::cli::moving_args::MovingArgs;
use crate::cli::output::{failed, print_line, standard_output};
use crate::cli::progress::Narrator;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::journal::EventKind;
use crate::oci::{Place, Reference};
use crate::ops::{self, Attempt, Companions, Copied, Failover, ImagesError, Taken, Transport};
use crate::policy::{Bytes, Verbosity};
use crate::sys::streams;

/// What the options of a command that moves an image say.
pub(super) struct Moving<'a> {
    failover: Failover,
    report: Option<&'a Report>,
}

impl<'a> Moving<'a> {
    /// What `args` say; the report is where it was begun.
    pub(super) fn new(args: &MovingArgs, report: Option<&'a Report>) -> Self {
        let failover = if args.no_failover {
            Failover::Forbidden
        } else {
            Failover::Allowed
        };
        Self { failover, report }
    }

    /// The image is one of the store, which no registry is asked for.
    pub(super) fn of_own(report: Option<&'a Report>) -> Self {
        let failover = Failover::Allowed;
        Self { failover, report }
    }

    /// Whether another registry is asked.
    pub(super) fn failover(&self) -> Failover {
        self.failover
    }

    /// Copies an image and prints its digest.
    pub(super) fn copy(
        &self,
        session: &Session,
        source: &Place,
        destination: &Place,
        companions: Companions,
    ) -> Result<u8, CommandError> {
        let work = |transport: &mut Transport<'_>| {
            transport.companions = companions;
            ops::copy(transport, source, destination)
        };
        let destination = destination.to_string();
        self.carry_out(session, EventKind::Copy, &destination, work, |copied, _| {
            let name = copied.name.as_ref().map(Reference::with_tag);
            let to = name.as_deref().unwrap_or(&destination);
            format!("Copied {source}{} to {to}", from(copied))
        })
    }

    /// Does `work`, says how it went in the report and in the journal, and prints the digest.
    fn carry_out(
        &self,
        session: &Session,
        kind: EventKind,
        image: &str,
        work: impl FnOnce(&mut Transport<'_>) -> Result<Copied, ImagesError>,
        said: impl FnOnce(&Copied, &Movement<'_>) -> String,
    ) -> Result<u8, CommandError> {
        let started = Instant::now();
        let narrator = Narrator::new(session.verbosity);
        let registries = session.registries().with_failover(self.failover);
        let mut transport = Transport::new(&session.store, &registries, &narrator);
        if let Some(report) = self.report {
            report.asks(&transport.asked);
        }
        let done = work(&mut transport);
        narrator.finish();
        let instead = transport.instead().map(|place| place.to_string());
        let attempts = transport.asked.attempts();
        let movement = Movement {
            kind,
            reference: instead.as_deref().unwrap_or(image),
            result: done.as_ref().map(|copied| copied.digest).map_err(ImagesError::kind),
            attempts: &attempts,
            purpose: None,
            started,
        };
        movement.note(session);
        let copied = done?;
        if session.verbosity > Verbosity::Quiet {
            let _ = writeln!(io::stderr(), "{}", escape(&said(&copied, &movement)));
        }
        if let Some(report) = self.report {
            report.write(&Moved {
                schema: 1,
                status: "ok",
                digest: copied.digest.to_string(),
                name: copied.name.as_ref().map(Reference::with_tag),
                attempts,
                seconds: started.elapsed().as_secs_f64(),
            })?;
            if report.takes_standard_output() {
                return Ok(0);
            }
        }
        print_line(&copied.digest)
    }
}

/// Who said what the name means that was typed, when that is another registry.
fn from(copied: &Copied) -> String {
    let host = copied.from.as_ref();
    host.map_or(String::new(), |host| format!(" from {host}"))
}

/// The report of a command that moved an image.
#[derive(Serialize)]
struct Moved {
    schema: u32,
    status: &'static str,
    digest: String,
    name: Option<String>,
    attempts: Vec<Attempt>,
    seconds: f64,
}

/// Copies an image into the store, prints its digest and says its name.
pub(super) fn pull(
    session: &Session,
    source: &Place,
    tag: Option<&Reference>,
    moving: &Moving<'_>,
) -> Result<u8, CommandError> {
    let work = |transport: &mut Transport<'_>| ops::pull(transport, source, tag);
    moving.carry_out(session, EventKind::Pull, &source.to_string(), work, |copied, _| {
        let pulled = format!("Pulled {}{}", copied.digest, from(copied));
        match &copied.name {
            Some(name) => format!("{pulled} as {}", name.with_tag()),
            None => format!("{pulled}; it has no name and is kept for a day"),
        }
    })
}

/// Copies an image out of the store and prints its digest.
pub(super) fn push(
    session: &Session,
    source: &Reference,
    destination: Option<&Place>,
    moving: &Moving<'_>,
) -> Result<u8, CommandError> {
    let work = |transport: &mut Transport<'_>| ops::push(transport, source, destination);
    let image = destination.map_or_else(|| source.to_string(), Place::to_string);
    moving.carry_out(session, EventKind::Push, &image, work, |_, movement| {
        let pushed = format!("Pushed {source} to {}", movement.reference);
        match movement.attempts.iter().map(|one| one.bytes).sum() {
            _ if movement.attempts.is_empty() => pushed,
            0 => format!("{pushed}, which had its layers"),
            sent => format!("{pushed}: {} sent", Bytes(sent)),
        }
    })
}

/// Standard input cannot be read.
fn no_input(source: io::Error) -> CommandError {
    CommandError::File {
        action: "read",
        path: "standard input".to_owned(),
        source,
    }
}

/// A password is a line of standard input that is not longer than this.
const MAX_PASSWORD: u64 = 16 << 10;

/// Tries a user and the password on standard input at a registry, and keeps them.
pub(super) fn login(session: &Session, host: &str, user: &str) -> Result<u8, CommandError> {
    let is_host = matches!(format!("{host}/x").parse(), Ok(Reference::Registry { host: parsed, .. }) if parsed == host);
    if !is_host || user.is_empty() || user.contains(':') {
        let reason = "login HOST --username USER: want a host as it begins the name of an image, such as registry.example.org, and a user without a colon";
        return Err(CommandError::Usage(reason.to_owned()));
    }
    if io::stdin().is_terminal() {
        let reason = format!("login {host}: the password comes from standard input, where nobody sees it: `gantry login {host} --username {user} <FILE`");
        return Err(CommandError::Usage(reason));
    }
    let mut password = String::new();
    let stdin = streams::standard_input().map_err(no_input)?;
    let read = stdin.lock().take(MAX_PASSWORD + 1).read_to_string(&mut password);
    read.map_err(no_input)?;
    if password.len() as u64 > MAX_PASSWORD {
        let reason = format!("login {host}: standard input has more than {MAX_PASSWORD} bytes, which is no password");
        return Err(CommandError::Usage(reason));
    }
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        let reason = format!("login {host}: there is no password on standard input");
        return Err(CommandError::Usage(reason));
    }
    let registries = session.registries();
    let (place, taken) = registries.log_in(host, user, password).map_err(ImagesError::from)?;
    if registries.names_credentials(host) {
        let text = format!(
            "warning: the configuration names other credentials for {host}, and those are the ones that are used"
        );
        let _ = writeln!(io::stderr(), "{text}");
    }
    let (user, place) = (escape(user), escape(&place));
    let text = match taken {
        Taken::Accepted => format!("{host} takes the password of {user}; it is kept in {place}"),
        Taken::Unasked => format!(
            "{host} answers without a password, so that of {user} was not tried; it is kept in {place}, and is shown where the registry asks for one"
        ),
    };
    let _ = writeln!(io::stderr(), "{text}");
    Ok(0)
}

/// Writes an image to an archive, complete or not there; `-` is standard output, but no terminal.
pub(super) fn save(session: &Session, reference: &Reference, file: &Path) -> Result<u8, CommandError> {
    let digest = if file != Path::new("-") {
        ops::save_file(&session.store, reference, file)?
    } else if io::stdout().is_terminal() {
        return Err(CommandError::Usage(format!(
            "save {reference}: standard output is a terminal, and an archive is no text; name a file, or redirect it: `gantry save {reference} - >FILE`"
        )));
    } else {
        ops::save(&session.store, reference, standard_output().map_err(failed)?)?
    };
    if session.verbosity > Verbosity::Quiet {
        let to = match file == Path::new("-") {
            true => "standard output".to_owned(),
            false => escape(&file.display().to_string()),
        };
        let _ = writeln!(io::stderr(), "Saved {digest} to {to}");
    }
    Ok(0)
}

/// Reads the images of an archive and prints their digests and names; `-` is standard input, but no terminal.
pub(super) fn load(session: &Session, file: &Path, tag: Option<&Reference>) -> Result<u8, CommandError> {
    let narrator = Narrator::new(session.verbosity);
    let loaded = if file != Path::new("-") {
        ops::load_file(&session.store, file, tag, &narrator)?
    } else if io::stdin().is_terminal() {
        let reason = "load -: standard input is a terminal; name a file, or redirect it: `gantry load - <FILE`";
        return Err(CommandError::Usage(reason.to_owned()));
    } else {
        let stdin = streams::standard_input().map_err(no_input)?;
        ops::load(&session.store, stdin.lock(), tag, &narrator)?
    };
    if session.verbosity > Verbosity::Quiet {
        let names: Vec<&str> = loaded.iter().map(|(name, _)| name.as_str()).collect();
        let _ = writeln!(io::stderr(), "{}", escape(&loaded_as(&names)));
    }
    for (name, digest) in loaded {
        print_line(&format!("{digest} {}", escape(&name)))?;
    }
    Ok(0)
}

/// Names of an archive that are said; standard output has each.
const MOST_NAMES: usize = 5;

/// What a load came to, in a line.
fn loaded_as(names: &[&str]) -> String {
    let (named, others) = names.split_at(names.len().min(MOST_NAMES));
    let more = match others.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match names {
        // Its digest stands for it.
        [name] if name.starts_with("sha256:") => format!("Loaded {name}; it has no name and is kept for a day"),
        _ => format!("Loaded {}{more}", named.join(", ")),
    }
}
