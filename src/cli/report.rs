//! Writes the JSON document of `--report FILE|-|fd:N`: the whole document or none, however the command ends.
//!
//! A report begins before the work does, so a path that cannot be written ends the command while nothing is lost. The
//! document replaces that of an earlier command, so that nobody takes the old one for this command's. A pipe or a device
//! is written to, not replaced.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::pipe::PIPE_BUF;
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::CommandError;
use super::outlet::{open_descriptor, Outlet};
use super::output::is_ready;
use crate::ops::{unless_signalled, Asked, Attempt, Worked};
use crate::policy::one_line;
use crate::sandbox::Signals;
use crate::sys::replace::{try_directory, Replacement};

/// How long a pipe may be full before its reader is given up.
const UNREAD: Duration = Duration::from_secs(5);

/// The report of one command, which can be written.
#[derive(Debug)]
pub(super) struct Report {
    path: PathBuf,
    /// The pipe or device; a file is made when it is written.
    stream: Option<File>,
    state: Mutex<State>,
    /// The registries that are asked; none for a command that asks none.
    asked: Mutex<Option<Asked>>,
    /// What is done of the work, for a command that ends before its document is written.
    so_far: Mutex<Map<String, Value>>,
}

/// A manifest that was deleted in a registry.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Deleted {
    /// `HOST/REPOSITORY`.
    pub repository: String,
    pub digest: String,
    /// All of them went with it.
    pub tags: Vec<String>,
}

/// How far the report of a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// The command is at work; nothing is written.
    Begun,
    /// A document of this command is there.
    Written,
    /// A signal ended the command, and the report says so; a thread that is still at work cannot change that.
    Stopped,
}

/// The document of a command that made nothing.
#[derive(Debug, Serialize)]
struct Failure {
    schema: u32,
    status: &'static str,
    error: String,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<Attempt>>,
    #[serde(flatten)]
    so_far: Map<String, Value>,
}

/// [Begins](Report::begin) the report at `path`. Opening a pipe waits for its reader, which a signal ends.
pub(super) fn begin(path: &Path, signals: &Signals) -> Result<Worked<Report>, CommandError> {
    // A file, there or not, makes nobody wait; nor shall a run wait for a thread.
    if fs::metadata(path).is_ok_and(|found| found.is_file()) || fs::symlink_metadata(path).is_err() {
        return Report::begin(path).map(Worked::Done);
    }
    let own = path.to_owned();
    match unless_signalled(signals, move || Report::begin(&own)) {
        Ok(Worked::Done(report)) => report.map(Worked::Done),
        Ok(Worked::Stopped { stop, .. }) => Ok(Worked::Stopped { stop, result: None }),
        Err(source) => Err(failed(path, source)),
    }
}

impl Report {
    /// Makes sure that a document can be put at `path`; what is there stays until [`write`](Self::write).
    pub(super) fn begin(path: &Path) -> Result<Self, CommandError> {
        let begin = || {
            if let Outlet::Descriptor(number) = Outlet::of(path) {
                return Ok((path.to_owned(), Some(open_descriptor(number)?)));
            }
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
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            match fs::symlink_metadata(beside(&path)?) {
                // Its name may be too long where that of the document is not.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ if try_directory(directory.unwrap_or(Path::new(".")))? => {}
                // Made and removed: held until the end, it would stay behind when we are killed.
                _ => drop(Replacement::create(beside(&path)?)?),
            }
            Ok((path, None))
        };
        match begin() {
            Ok((path, stream)) => Ok(Self {
                path,
                stream,
                state: Mutex::new(State::Begun),
                asked: Mutex::default(),
                so_far: Mutex::default(),
            }),
            Err(source) => Err(failed(path, source)),
        }
    }

    /// Removes what an earlier command left in its place.
    pub(super) fn clear(&self) -> Result<(), CommandError> {
        let is_file = self.stream.is_none() && fs::symlink_metadata(&self.path).is_ok_and(|found| found.is_file());
        if !is_file {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(|source| CommandError::File {
            action: "remove",
            path: self.path.display().to_string(),
            source,
        })
    }

    /// Whether it is written to standard output, where nothing else is to be then.
    pub(super) fn takes_standard_output(&self) -> bool {
        Outlet::of(&self.path).is_standard_output()
    }

    /// Writes `document`; a reader finds all of it or what was there before.
    pub(super) fn write(&self, document: &impl Serialize) -> Result<(), CommandError> {
        self.put(document, State::Written)
    }

    /// Notes where it is said which registries are asked: how that went belongs to the report of a failure, and of a command
    /// that a signal ends, too.
    pub(super) fn asks(&self, asked: &Asked) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked.clone());
    }

    fn so_far(&self) -> Map<String, Value> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn attempts(&self) -> Option<Vec<Attempt>> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.as_ref().map(Asked::attempts)
    }

    /// Writes that the command ended in `error`.
    pub(super) fn fail(&self, error: &CommandError) -> Result<(), CommandError> {
        let kind = error.kind();
        self.write(&Failure {
            schema: 1,
            status: kind.status(),
            error: one_line(error),
            exit_code: kind.exit_code(),
            signal: None,
            attempts: self.attempts(),
            so_far: self.so_far(),
        })
    }

    /// Adds `value` to the list `key` of the report that is written when the command fails, or a signal ends it.
    pub(super) fn add(&self, key: &'static str, value: &impl Serialize) {
        let Ok(value) = serde_json::to_value(value) else {
            return;
        };
        let mut so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        if let Value::Array(list) = so_far.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
            list.push(value);
        }
    }

    /// Writes that `signal` ended the command, and what was done by then. Threads of it may still be at work: nothing they write comes after this.
    pub(super) fn stop(&self, signal: i32, exit_code: u8) -> Result<(), CommandError> {
        let failure = Failure {
            schema: 1,
            status: "killed",
            error: format!("stopped by signal {signal}"),
            exit_code,
            signal: Some(signal),
            attempts: self.attempts(),
            so_far: self.so_far(),
        };
        self.put(&failure, State::Stopped)
    }

    fn put(&self, document: &impl Serialize, next: State) -> Result<(), CommandError> {
        // Held until the document is there: there are no two at once.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        *state = before.max(next);
        match (before, &self.stream) {
            (State::Stopped, _) => Ok(()),
            // A reader of a pipe gets one document.
            (State::Written, Some(_)) => Ok(()),
            (State::Begun | State::Written, None) => self.replace(document),
            (State::Begun, Some(stream)) => {
                let mut stream = stream;
                let json = self.line(document)?;
                for part in json.chunks(PIPE_BUF) {
                    // A caller that does not read has gone, or waits for us to end.
                    if !is_ready(stream, UNREAD) {
                        return Err(failed(&self.path, io::ErrorKind::TimedOut.into()));
                    }
                    stream.write_all(part).map_err(|source| failed(&self.path, source))?;
                }
                Ok(())
            }
        }
    }

    fn replace(&self, document: &impl Serialize) -> Result<(), CommandError> {
        let error = |source| failed(&self.path, source);
        let json = self.line(document)?;
        let file = beside(&self.path).and_then(Replacement::create);
        let mut file = file.map_err(error)?;
        file.write_all(&json).map_err(error)?;
        file.place(&self.path).map_err(error)
    }

    fn line(&self, document: &impl Serialize) -> Result<Vec<u8>, CommandError> {
        let mut json = serde_json::to_vec(document).map_err(|source| failed(&self.path, source.into()))?;
        json.push(b'\n');
        Ok(json)
    }
}

/// A name beside `path` for the file that will take its place.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".gantry-{:016x}", u64::from_ne_bytes(random)));
    Ok(path.with_file_name(beside))
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
    fn nothing_is_reported_after_the_signal_that_ended_the_command() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("report.json");
        let report = Report::begin(&path).unwrap();
        report.write(&1).unwrap();
        report.stop(15, 143).unwrap();
        report.write(&2).unwrap();
        report.fail(&CommandError::Usage("no".to_owned())).unwrap();
        let document =
            "{\"schema\":1,\"status\":\"killed\",\"error\":\"stopped by signal 15\",\"exit_code\":143,\"signal\":15}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), document);
        assert_eq!(names(scratch.path()), ["report.json"]);
    }

    #[test]
    fn a_signal_loses_nothing_of_what_was_done_by_then() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("report.json");
        let report = Report::begin(&path).unwrap();
        report.add("images", &serde_json::json!({"status": "copied"}));
        report.add("images", &serde_json::json!({"status": "failed"}));
        report.stop(15, 143).unwrap();
        let document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(document["status"], "killed");
        let images = serde_json::json!([{"status": "copied"}, {"status": "failed"}]);
        assert_eq!(document["images"], images);
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
