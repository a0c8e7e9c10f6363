//! Small files of the store about registries, which all of its processes read and write: `registries/`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::journal;
use crate::store::{Store, REGISTRIES};
use crate::sys::clock;
use crate::sys::fault;
use crate::sys::replace::Replacement;

/// A note is some fields. A larger file is none of ours.
const MOST: u64 = 64 << 10;

/// Seconds since 1970, as notes have them.
pub(super) fn now() -> u64 {
    journal::seconds(clock::now())
}

/// The note `name` of a store. Names that begin with `_` are of no host.
pub(super) fn path_of(store: &Store, name: &str) -> PathBuf {
    Path::new(store.root()).join(REGISTRIES).join(name)
}

/// What the note says; none when there is none. A link, a pipe or a large file is an error and keeps nobody waiting.
pub(super) fn read_note<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    file.take(MOST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Writes the note, whole or not at all.
pub(super) fn write_note(store: &Store, path: &Path, note: &impl Serialize) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let scratch = store.scratch().map_err(io::Error::other)?;
    let mut file = Replacement::create(scratch.path().join("note"))?;
    file.write_all(&serde_json::to_vec(note)?)?;
    fault::point(fault::Step::Note)?;
    file.place(path)
}
