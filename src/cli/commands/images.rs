//! `gantry images`: the images of the store.

use std::io::{self, Write};
use std::time::Instant;

use crate::cli::args::ImagesCommand;
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::cli::table::{short, table};
use crate::journal::EventKind;
use crate::oci::Reference;
use crate::ops::{self, ImageSummary, ImagesError, Removal, Removed};
use crate::policy::{Bytes, Verbosity};
use crate::store::Image;

/// Carries out one of the commands of `gantry images`.
pub(super) fn images(session: &Session, command: &ImagesCommand) -> Result<u8, CommandError> {
    match command {
        ImagesCommand::Ls { format } => {
            let images = ops::list(&session.store)?;
            match format.wanted() {
                Format::Json => print_json(&images),
                Format::Table if session.verbosity == Verbosity::Quiet => {
                    let names = images
                        .iter()
                        .try_for_each(|image| print_line(&image.reference).map(drop));
                    names.map(|()| 0)
                }
                Format::Table => print_line(&table(
                    ["NAME", "DIGEST", "SIZE", "LAYERS", "CREATED"],
                    images.into_iter().map(row).collect(),
                )),
            }
        }
        ImagesCommand::Show { reference, format } => {
            let image = ops::show(&session.store, reference)?;
            match format.given() {
                Some(Format::Json) => print_json(&whole(&image)),
                Some(Format::Table) => print_line(&table(["NAME", &reference.to_string()], facts(&image))),
                None => {
                    let pretty = serde_json::to_string_pretty(&whole(&image)).unwrap_or_default();
                    print_line(&escape(&pretty))
                }
            }
        }
        ImagesCommand::Rm {
            references,
            dry_run: false,
        } => remove(session, references, Removal::Done, "Removed"),
        ImagesCommand::Rm {
            references,
            dry_run: true,
        } => remove(session, references, Removal::Rehearsed, "Would remove"),
    }
}

fn row(image: ImageSummary) -> [String; 5] {
    let or_none = |text: Option<String>| text.unwrap_or("-".to_owned());
    // A digest in the place of a name is as short as it may be and a reference yet: the whole would break the line.
    let name = match &image.digest {
        Some(digest) if digest.to_string() == image.reference => format!("sha256:{}", short(digest)),
        _ => image.reference,
    };
    [
        name,
        or_none(image.digest.as_ref().map(short)),
        or_none(image.size.map(|size| Bytes(size).to_string())),
        or_none(image.layers.map(|layers| layers.to_string())),
        match image.damaged {
            Some(reason) => format!("damaged: {reason}"),
            None => image.created.unwrap_or_default(),
        },
    ]
}

fn whole(image: &Image) -> serde_json::Value {
    serde_json::json!({"digest": image.digest, "manifest": image.manifest, "config": image.config})
}

/// What people ask of an image, in the words of its configuration.
fn facts(image: &Image) -> Vec<[String; 2]> {
    let config = &image.config.config;
    let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default().join(" ");
    let size: u64 = image.blobs().iter().map(|blob| blob.size).sum();
    let mut facts = [
        ["DIGEST", &image.digest.to_string()],
        ["SIZE", &Bytes(size).to_string()],
        ["LAYERS", &image.manifest.layers.len().to_string()],
        ["CREATED", image.config.created.as_deref().unwrap_or_default()],
        ["ENTRYPOINT", &words(&config.entrypoint)],
        ["COMMAND", &words(&config.cmd)],
    ]
    .map(|fact| fact.map(str::to_owned))
    .to_vec();
    facts.extend(
        config
            .env
            .iter()
            .flatten()
            .map(|entry| ["ENV".to_owned(), entry.clone()]),
    );
    let labels = config.labels.iter().flatten();
    facts.extend(labels.map(|(name, value)| ["LABEL".to_owned(), format!("{name}={value}")]));
    facts
}

/// What is said of an image that is there without the name that was removed.
fn what_stays(removed: &Removed) -> String {
    match removed.digest.filter(|_| removed.is_pinned) {
        Some(digest) => {
            let id = format!("sha256:{}", short(&digest));
            format!("; its image {id} is pinned and stays: `gantry cache unpin {id}` lets it go")
        }
        None => String::new(),
    }
}

/// Removes all that are there, and then names those that are not.
fn remove(session: &Session, references: &[Reference], removal: Removal, verb: &str) -> Result<u8, CommandError> {
    let mut missing = Vec::new();
    for reference in references {
        let started = Instant::now();
        let removed = ops::remove(&session.store, reference, removal);
        if let (Ok(removed), Removal::Done) = (&removed, removal) {
            let digest = removed.digest.map(|digest| digest.to_string());
            session.note(EventKind::Delete, &reference.to_string(), digest, "ok", started);
        }
        match removed {
            Ok(_) if session.verbosity == Verbosity::Quiet => {}
            Ok(removed) => drop(writeln!(io::stderr(), "{verb} {reference}{}", what_stays(&removed))),
            Err(ImagesError::Unknown { reference }) => missing.push(reference),
            Err(error) => return Err(error.into()),
        }
    }
    if missing.is_empty() {
        return Ok(0);
    }
    let reference = missing.join(", ");
    Err(ImagesError::Unknown { reference }.into())
}
