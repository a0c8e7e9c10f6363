//! `gantry cache pin` and `unpin`: images that no eviction takes.

use std::io::{self, Write};

use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::oci::Reference;
use crate::ops::{self, Pin};
use crate::policy::Verbosity;

/// Pins images, or pins them no longer; prints their digests.
pub(super) fn pin(
    session: &Session,
    references: &[Reference],
    wanted: Pin,
    format: Format,
) -> Result<u8, CommandError> {
    // Between its look-up and its pin an image stays.
    let _kept_out = session.store.locks().keep_collector_out()?;
    let mut done = Vec::new();
    for reference in references {
        let pinned = ops::pin(&session.store, reference, wanted)?;
        let said = match (wanted, pinned.is_new) {
            (Pin::Set, true) => "is pinned: no eviction takes it, and it stays without a name",
            (Pin::Set, false) => "was pinned before",
            (Pin::Removed, true) => "is pinned no longer",
            (Pin::Removed, false) => "was not pinned",
        };
        if session.verbosity > Verbosity::Quiet {
            let _ = writeln!(io::stderr(), "{} {said}", escape(&pinned.reference));
        }
        if format == Format::Table {
            print_line(&pinned.digest)?;
        }
        done.push(pinned);
    }
    match format {
        Format::Json => print_json(&done),
        Format::Table => Ok(0),
    }
}
