//! `gantry pull`, `push`, `copy`, `save` and `load`: images move in and out of the store.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::output::print_line;
use crate::cli::session::Session;
use crate::oci::Reference;
use crate::ops;
use crate::sys::replace::Replacement;

/// Copies an image into the store and prints its digest.
pub fn pull(session: &Session, reference: &Reference) -> Result<u8, CommandError> {
    print_line(&ops::copy(&session.store, reference, None)?)
}

/// Copies an image and prints its digest.
pub fn copy(session: &Session, source: &Reference, destination: &Reference) -> Result<u8, CommandError> {
    print_line(&ops::copy(&session.store, source, Some(destination))?)
}

/// Writes an image to an archive, complete or not there; `-` is standard output.
pub fn save(session: &Session, reference: &Reference, file: &Path) -> Result<u8, CommandError> {
    let digest = if file == Path::new("-") {
        ops::save(&session.store, reference, io::stdout())?
    } else {
        // Nothing stays beside it when we are stopped.
        let temporary = session.store.beside(file)?;
        let error = |source| failed("write", file, source);
        let mut out = Replacement::create(temporary.path().to_owned()).map_err(error)?;
        let digest = ops::save(&session.store, reference, io::BufWriter::new(&mut out))?;
        out.place(file).map_err(error)?;
        digest
    };
    let _ = writeln!(io::stderr(), "Saved {digest}");
    Ok(0)
}

/// Reads the images of an archive and prints their digests and names; `-` is standard input.
pub fn load(session: &Session, file: &Path, tag: Option<&Reference>) -> Result<u8, CommandError> {
    let loaded = if file == Path::new("-") {
        ops::load(&session.store, io::stdin().lock(), tag)?
    } else {
        let archive = fs::File::open(file).map_err(|source| failed("open", file, source))?;
        ops::load(&session.store, io::BufReader::new(archive), tag)?
    };
    for (name, digest) in loaded {
        print_line(&format!("{digest} {}", escape(&name)))?;
    }
    Ok(0)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CommandError {
    CommandError::File {
        action,
        path: path.display().to_string(),
        source,
    }
}
