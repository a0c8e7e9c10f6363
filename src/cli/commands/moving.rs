//! `gantry pull`, `push`, `copy`, `save` and `load`: images move in and out of the store.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::output::print_line;
use crate::cli::session::Session;
use crate::oci::{Place, Reference};
use crate::ops;

/// Copies an image into the store, prints its digest and says its name.
pub(super) fn pull(session: &Session, source: &Place, tag: Option<&Reference>) -> Result<u8, CommandError> {
    let copied = ops::pull(&session.store, source, tag)?;
    if let Some(name) = &copied.name {
        let _ = writeln!(io::stderr(), "Pulled {} as {}", copied.digest, name.with_tag());
    }
    print_line(&copied.digest)
}

/// Copies an image out of the store and prints its digest.
pub(super) fn push(session: &Session, source: &Place, destination: &Place) -> Result<u8, CommandError> {
    print_line(&ops::push(&session.store, source, destination)?.digest)
}

/// Copies an image and prints its digest.
pub(super) fn copy(session: &Session, source: &Place, destination: &Place) -> Result<u8, CommandError> {
    print_line(&ops::copy(&session.store, source, Some(destination))?.digest)
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
        ops::save(&session.store, reference, io::stdout())?
    };
    let _ = writeln!(io::stderr(), "Saved {digest}");
    Ok(0)
}

/// Reads the images of an archive and prints their digests and names; `-` is standard input, but no terminal.
pub(super) fn load(session: &Session, file: &Path, tag: Option<&Reference>) -> Result<u8, CommandError> {
    let loaded = if file != Path::new("-") {
        ops::load_file(&session.store, file, tag)?
    } else if io::stdin().is_terminal() {
        let reason = "load -: standard input is a terminal; name a file, or redirect it: `gantry load - <FILE`";
        return Err(CommandError::Usage(reason.to_owned()));
    } else {
        ops::load(&session.store, io::stdin().lock(), tag)?
    };
    for (name, digest) in loaded {
        print_line(&format!("{digest} {}", escape(&name)))?;
    }
    Ok(0)
}
