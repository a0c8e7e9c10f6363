//! `--report FILE`: one JSON document, whole or not there, whatever the command came to.
//!
//! It is begun before the work: a place that cannot be written ends the command while nothing is lost. What is written
//! then replaces the document of an earlier command, so that nobody takes that for this one's. A pipe or a device is
//! written, not replaced.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::{exit_code, CommandError};
use crate::ops;

/// A report that can be written.
#[derive(Debug)]
pub struct Report {
    path: PathBuf,
    /// The pipe or device; a file is made when it is written.
    stream: Option<File>,
}

/// The document of a build that made nothing.
#[derive(Debug, Serialize)]
struct Failure {
    schema: u32,
    status: &'static str,
    error: String,
    exit_code: u8,
}

impl Report {
    /// Makes sure that a document can be put at `path`; what is there stays until [`write`](Self::write).
    pub fn begin(path: &Path) -> Result<Self, CommandError> {
        let begin = || {
            // A link to a file stays a link.
            let is_file = fs::metadata(path).map(|found| found.is_file());
            match is_file {
                Ok(false) => {
                    let stream = OpenOptions::new().write(true).open(path)?;
                    return Ok((path.to_owned(), Some(stream)));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let path = is_file.and_then(|_| fs::canonicalize(path)).unwrap_or(path.to_owned());
            // Made and removed: held until the end, it would stay behind when we are killed.
            let (temporary, _) = temporary(&path)?;
            fs::remove_file(temporary)?;
            Ok((path, None))
        };
        match begin() {
            Ok((path, stream)) => Ok(Self { path, stream }),
            Err(source) => Err(failed(path, source)),
        }
    }

    /// Writes `document`; a reader finds all of it or what was there before.
    pub fn write(&self, document: &impl Serialize) -> Result<(), CommandError> {
        let error = |source| failed(&self.path, source);
        let mut json = serde_json::to_vec(document).map_err(|source| error(source.into()))?;
        json.push(b'\n');
        if let Some(mut stream) = self.stream.as_ref() {
            return stream.write_all(&json).map_err(error);
        }
        let (temporary, mut file) = temporary(&self.path).map_err(error)?;
        let written = file.write_all(&json).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(error)
    }

    /// Writes that the command ended in `error`.
    pub fn fail(&self, error: &CommandError) -> Result<(), CommandError> {
        let exit_code = exit_code(error);
        let status = match exit_code {
            3 => "refused",
            4 => "unavailable",
            _ => "failed",
        };
        self.write(&Failure {
            schema: 1,
            status,
            error: ops::chain(error).replace('\n', " "),
            exit_code,
        })
    }
}

/// A new file beside `path`.
fn temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".gantry-{:016x}", u64::from_ne_bytes(random)));
    let temporary = path.with_file_name(temporary);
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    Ok((temporary, file))
}

fn failed(path: &Path, source: io::Error) -> CommandError {
    CommandError::File {
        action: "write",
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn what_was_there_stays_until_all_of_the_new_is_there() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("report.json");
        fs::write(&path, "of an earlier command").unwrap();
        let report = Report::begin(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "of an earlier command");
        report.write(&serde_json::json!({"a": 1})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n");
        report.fail(&CommandError::Usage("one\ntwo".to_owned())).unwrap();
        let document = "{\"schema\":1,\"status\":\"failed\",\"error\":\"one two\",\"exit_code\":2}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), document);
        assert_eq!(names(scratch.path()), ["report.json"]);
    }

    #[test]
    fn a_link_stays_a_link_and_a_device_a_device() {
        let scratch = tempfile::tempdir().unwrap();
        let (file, link) = (scratch.path().join("file"), scratch.path().join("link"));
        fs::write(&file, "x".repeat(100)).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        Report::begin(&link).unwrap().write(&1).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        Report::begin(Path::new("/dev/null")).unwrap().write(&1).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_is_found_before_the_work() {
        let scratch = tempfile::tempdir().unwrap();
        for path in ["", "none/report.json", "..", "/", "/proc/report.json"] {
            let path = scratch.path().join(path);
            let error = Report::begin(&path).unwrap_err();
            assert!(matches!(error, CommandError::File { action: "write", .. }), "{path:?}");
        }
        assert!(names(scratch.path()).is_empty());
    }
}
