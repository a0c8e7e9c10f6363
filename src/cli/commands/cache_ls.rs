//! `gantry cache ls`: the images by last use, and what each takes.

use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::cli::table::{ago, short, table};
use crate::ops::{self, ImageRoom};
use crate::policy::{Bytes, Verbosity};

/// Lists the images, the last used first.
pub(super) fn ls(session: &Session, format: Format) -> Result<u8, CommandError> {
    let images = ops::cache_images(&session.store)?;
    if format == Format::Json {
        return print_json(&images);
    }
    if session.verbosity == Verbosity::Quiet {
        // A line each, for programs that take them as arguments.
        let mut names = images.iter().flat_map(names_in_full);
        return names.try_fold(0, |_, name| print_line(&escape(&name)));
    }
    print_line(&table(
        ["NAME", "DIGEST", "SIZE", "UNIQUE", "LAST USE", "STATE", "FROM"],
        images.iter().map(row).collect(),
    ))
}

fn row(image: &ImageRoom) -> [String; 7] {
    let states = [(image.is_pinned, "pinned"), (image.is_in_use, "in use")];
    let states: Vec<&str> = states
        .into_iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, state)| state)
        .collect();
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    [
        name(image),
        short(&image.digest),
        Bytes(image.logical).to_string(),
        Bytes(image.unique).to_string(),
        last_use(image),
        or_none(states.join(", ")),
        or_none(image.origins.join(" ")),
    ]
}

/// The names of an image, else the first digits of its digest.
pub(super) fn name(image: &ImageRoom) -> String {
    match image.names.is_empty() {
        true => format!("sha256:{}", short(&image.digest)),
        false => image.names.join(" "),
    }
}

/// The names of an image, else its digest: what can be typed.
fn names_in_full(image: &ImageRoom) -> Vec<String> {
    match image.names.is_empty() {
        true => vec![image.digest.to_string()],
        false => image.names.iter().map(ToString::to_string).collect(),
    }
}

/// How long ago an image was used.
pub(super) fn last_use(image: &ImageRoom) -> String {
    ago(image.last_use)
}
