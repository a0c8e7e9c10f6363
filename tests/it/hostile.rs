//! Image layouts that mean harm, or mean two things: each is refused, by variant and with the name of what is wrong.
//!
//! One table serves every way in: the library says the variant, and the binary is shown each layout through `copy`, `pull`,
//! `load` (as an archive) and from one layout to another.

mod cases;
mod contained;
mod corpus;
mod documents;
pub mod draft;
mod entries;
mod streams;

use std::error::Error;
use std::path::Path;
use std::process::Command;

use gantry::archive::tar_reader::TarError;
use gantry::oci::ParseImageError;
use gantry::store::{Store, StoreError};
use gantry::transfer::{copy_image, Layout, TransferError};

use self::cases::{cases, files};
use self::draft::{honest, layer, pack, tar_of, Names, Says, TAR, ZSTD};
use crate::common::{tool, Gantry};

/// Which refusal an error is.
fn variant(error: &TransferError) -> String {
    match error {
        TransferError::Document { source, .. } => document(source),
        TransferError::NotAFile { .. } => "no file".to_owned(),
        TransferError::NotFound { .. } => "not found".to_owned(),
        TransferError::Store(StoreError::Document { source, .. }) => document(source),
        TransferError::Store(StoreError::Layer { source, .. }) => match source {
            TarError::Compression { .. } => "compression".to_owned(),
            TarError::Limit { what, .. } => format!("limit of {what}"),
            TarError::Entry { .. } => "entry".to_owned(),
            TarError::Path { .. } => "path".to_owned(),
            TarError::Read(_) => "damaged".to_owned(),
            TarError::Visit { .. } => "visit".to_owned(),
        },
        TransferError::Store(StoreError::Size { .. }) => "size".to_owned(),
        TransferError::Store(StoreError::Digest { .. }) => "digest".to_owned(),
        TransferError::Store(StoreError::DiffId { .. }) => "diff id".to_owned(),
        TransferError::Io { .. } => "io".to_owned(),
        other => format!("{other:?}"),
    }
}

fn document(error: &ParseImageError) -> String {
    match error {
        ParseImageError::Json { .. } => "json".to_owned(),
        ParseImageError::Field { field, .. } => format!("field {field}"),
        ParseImageError::Layer { .. } => "layer type".to_owned(),
        ParseImageError::Data { .. } => "data".to_owned(),
        ParseImageError::TooLarge { .. } => "too large".to_owned(),
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// Takes the image `x` of a layout as every command does, and prepares it for a run.
fn take(layout: &Path) -> Result<(), TransferError> {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(&scratch.path().join("store")).unwrap();
    let layout = Layout::new(&store, layout);
    let digest = copy_image(
        &layout,
        &layout.find(Some("x"))?,
        &store,
        None,
        &gantry::progress::Silent,
    )?;
    store.images().prepare(&store.images().open(&digest)?)?;
    Ok(())
}

fn named(says: Says, names: &Names) -> String {
    match says {
        // In messages a digest is written in full, a path ends in its digits.
        Says::Config => names.config.trim_start_matches("sha256:").to_owned(),
        Says::Manifest => names.manifest.trim_start_matches("sha256:").to_owned(),
        Says::Layer => names.layer.trim_start_matches("sha256:").to_owned(),
        Says::Text(text) => text.to_owned(),
    }
}

#[test]
fn an_honest_layout_is_taken() {
    let scratch = tempfile::tempdir().unwrap();
    honest().write(scratch.path());
    take(scratch.path()).unwrap();
    for (media_type, how) in [(TAR, "plain"), (ZSTD, "zstd")] {
        let scratch = tempfile::tempdir().unwrap();
        layer(media_type, pack(how, &tar_of(&["app/"]))).write(scratch.path());
        take(scratch.path()).unwrap();
    }
}

#[test]
fn every_hostile_layout_is_refused_by_variant_and_name() {
    let mut wrong = Vec::new();
    for (what, expected, says, draft) in cases().into_iter().chain(files()) {
        let scratch = tempfile::tempdir().unwrap();
        let names = draft.write(scratch.path());
        let name = named(says, &names);
        match take(scratch.path()) {
            Ok(()) => wrong.push(format!("{what}: taken, expected {expected}")),
            Err(error) if variant(&error) != expected || !chain(&error).contains(&name) => wrong.push(format!(
                "{what}: {} instead of {expected}, should name {name}: {}",
                variant(&error),
                chain(&error)
            )),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

/// The layout as an archive, written by tar.
fn archive(layout: &Path, file: &Path) {
    tool(
        Command::new("tar")
            .arg("-cf")
            .arg(file)
            .arg("-C")
            .arg(layout)
            .args(["index.json", "oci-layout", "blobs"]),
    );
}

#[test]
fn no_command_takes_a_hostile_layout() {
    let gantry = Gantry::new();
    let mut wrong = Vec::new();
    for (what, variant, says, draft) in cases() {
        let scratch = tempfile::tempdir().unwrap();
        let (layout, tar) = (scratch.path().join("layout"), scratch.path().join("image.tar"));
        let names = draft.write(&layout);
        let name = named(says, &names);
        archive(&layout, &tar);
        let (from, to) = (
            format!("oci:{}:x", layout.display()),
            format!("oci:{}/to:x", scratch.path().display()),
        );
        let tar = tar.to_str().unwrap();
        for command in [
            &["copy", &from, "a:1"][..],
            &["copy", &from, &to],
            &["load", tar, "--tag", "a:1"],
        ] {
            // All images of an archive are loaded; which of them a name means is not asked.
            if command[0] == "load" && ["a name of control characters", "the name twice"].contains(&what) {
                continue;
            }
            // What only the unpacked bytes show is found where they are unpacked, and the whole corpus is copied into a store.
            if is_of_unpacked_bytes(variant) && command[0] != "load" {
                continue;
            }
            let done = gantry.gantry(command);
            let is_by_name = command[0] != "load" || !matches!(says, Says::Text(_));
            if done.code == 0 {
                wrong.push(format!("{what}: taken by {command:?}"));
            }
            if done.code != 0 && is_by_name && !done.stderr.contains(&name) {
                wrong.push(format!("{what}: {command:?} does not name {name}: {}", done.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(gantry.ok(["images", "ls", "--json"]).trim(), "[]");
}

fn is_of_unpacked_bytes(variant: &str) -> bool {
    let of_bytes = ["diff id", "entry", "path", "visit", "damaged"];
    of_bytes.contains(&variant) || variant.starts_with("limit")
}

#[test]
fn a_layer_of_more_entries_than_any_honest_one_is_refused() {
    let limit = gantry::policy::ExtractionLimits::default().entries;
    // Device nodes below dev/ count like all entries, but make no files here.
    let mut bytes = Vec::new();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Char);
    header.set_mode(0o600);
    header.set_size(0);
    for number in 0..=limit {
        header.set_path(format!("dev/{number}")).unwrap();
        header.set_cksum();
        bytes.extend(header.as_bytes());
    }
    let scratch = tempfile::tempdir().unwrap();
    let names = layer(TAR, bytes).write(scratch.path());
    let error = take(scratch.path()).unwrap_err();
    assert_eq!(variant(&error), "limit of the number of entries");
    assert_eq!(error.kind(), gantry::policy::Kind::Refused);
    assert!(chain(&error).contains(&names.layer), "{}", chain(&error));
}
