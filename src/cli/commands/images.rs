//! `gantry images`: the images of the store.

use std::io::{self, Write};

use crate::cli::args::ImagesCommand;
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::oci::Reference;
use crate::ops::{self, ImageSummary, Removal};
use crate::policy::Bytes;

/// Carries out one of the commands of `gantry images`.
pub fn images(session: &Session, command: &ImagesCommand) -> Result<u8, CommandError> {
    match command {
        ImagesCommand::Ls { json: true } => print_json(&ops::list(&session.store)?),
        ImagesCommand::Ls { json: false } => {
            for image in ops::list(&session.store)? {
                print_line(&escape(&line(image)))?;
            }
            Ok(0)
        }
        ImagesCommand::Show { reference, json } => {
            let image = ops::show(&session.store, reference)?;
            let value = serde_json::json!({"digest": image.digest, "manifest": image.manifest, "config": image.config});
            if *json {
                return print_json(&value);
            }
            let pretty = serde_json::to_string_pretty(&value).unwrap_or_default();
            print_line(&escape(&pretty))
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

fn line(image: ImageSummary) -> String {
    let digest = image.digest.map_or("-".to_owned(), |digest| digest.to_string());
    let size = image.size.map_or("-".to_owned(), |size| Bytes(size).to_string());
    let rest = match image.damaged {
        Some(reason) => format!("damaged: {reason}"),
        None => image.created.unwrap_or_default(),
    };
    format!("{:40} {digest} {size:>10} {rest}", image.reference)
}

fn remove(session: &Session, references: &[Reference], removal: Removal, verb: &str) -> Result<u8, CommandError> {
    for reference in references {
        ops::remove(&session.store, reference, removal)?;
        let _ = writeln!(io::stderr(), "{verb} {reference}");
    }
    Ok(0)
}
