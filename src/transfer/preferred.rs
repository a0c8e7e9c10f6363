//! The outage mode: a registry that is preferred for some time. Whoever pulls asks it first, whoever pushes to one of the
//! registries of the configuration pushes there alone.
//!
//! ```text
//! registries/_preferred.json    {"schema":1,"host":"backup.example.net","since":1796000000,"until":1796086400}
//! ```
//!
//! Times are seconds since 1970. The note ends by itself: after `until` it counts for nothing. One that cannot be meant, such
//! as of a registry that is not configured, counts for nothing either, and is named in a warning.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::note::{path_of, read_note, write_note};
use super::TransferError;
use crate::journal;
use crate::store::Store;
use crate::sys::clock::{self, rfc3339};
use crate::sys::fault::{self, Step};

/// No outage is longer. It also bounds what a clock that was set back makes of a note.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A registry that is preferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preferred {
    schema: u32,
    /// Its host.
    pub host: String,
    /// From when on, in seconds since 1970.
    pub since: u64,
    /// Until when.
    pub until: u64,
}

impl Preferred {
    /// Until when, for a person.
    pub fn end(&self) -> String {
        rfc3339(self.until, "")
    }
}

/// The registry that is preferred now, of those for which `is_known` holds.
///
/// # Errors
///
/// The text names the note, and says why it counts for nothing.
pub(super) fn read_preferred(store: &Store, is_known: impl Fn(&str) -> bool) -> Result<Option<Preferred>, String> {
    let path = path(store);
    let wrong = |reason: &dyn std::fmt::Display| {
        Err(format!(
            "read {}: {reason}; no registry is preferred (`gantry registries prefer --off` removes it)",
            path.display()
        ))
    };
    let preferred: Preferred = match read_note(&path) {
        Ok(Some(preferred)) => preferred,
        Ok(None) => return Ok(None),
        Err(error) => return wrong(&error),
    };
    let now = now();
    match preferred {
        Preferred { schema, .. } if schema != 1 => wrong(&format!("its schema is {schema}, expected 1")),
        Preferred { until, .. } if until <= now => Ok(None),
        Preferred { until, .. } if until - now > LONGEST.as_secs() => wrong(&"it ends in more than a week"),
        Preferred { host, .. } if !is_known(&host) => {
            let host: String = host.chars().filter(|one| !one.is_control()).take(100).collect();
            wrong(&format!("{host:?} is no [[registry]] of the configuration"))
        }
        preferred => Ok(Some(preferred)),
    }
}

/// Prefers the registry `host` for `time`.
pub(super) fn prefer(store: &Store, host: &str, time: Duration) -> Result<Preferred, TransferError> {
    let since = now();
    let preferred = Preferred {
        schema: 1,
        host: host.to_owned(),
        since,
        until: since + time.min(LONGEST).as_secs().max(1),
    };
    let path = path(store);
    write_note(store, &path, &preferred).map_err(|source| io_error("write", path, source))?;
    Ok(preferred)
}

/// Prefers no registry any more.
pub(super) fn prefer_none(store: &Store) -> Result<(), TransferError> {
    let path = path(store);
    match fault::point(Step::NoteRemoved).and_then(|()| fs::remove_file(&path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, error)),
        _ => Ok(()),
    }
}

fn io_error(action: &'static str, path: PathBuf, source: io::Error) -> TransferError {
    TransferError::Io { action, path, source }
}

fn path(store: &Store) -> PathBuf {
    path_of(store, "_preferred.json")
}

fn now() -> u64 {
    journal::seconds(clock::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;

    fn read(store: &Store) -> Result<Option<Preferred>, String> {
        read_preferred(store, |host| host == "b.example")
    }

    #[test]
    fn a_registry_is_preferred_until_the_end_of_its_time() {
        let (_scratch, store) = store();
        assert_eq!(read(&store), Ok(None));
        let preferred = prefer(&store, "b.example", Duration::from_secs(3600)).unwrap();
        assert_eq!(preferred.until - preferred.since, 3600);
        assert_eq!(read(&store), Ok(Some(preferred.clone())));
        let over = Preferred {
            until: preferred.since,
            ..preferred
        };
        write_note(&store, &path(&store), &over).unwrap();
        assert_eq!(read(&store), Ok(None));
        prefer(&store, "b.example", LONGEST * 2).unwrap();
        assert!(read(&store).unwrap().is_some());
        prefer_none(&store).unwrap();
        prefer_none(&store).unwrap();
        assert_eq!(read(&store), Ok(None));
    }

    #[test]
    fn a_note_that_cannot_be_meant_is_named_and_counts_for_nothing() {
        let (_scratch, store) = store();
        prefer(&store, "b.example", LONGEST).unwrap();
        let far = now() + 2 * LONGEST.as_secs();
        for (text, says) in [
            ("{".to_owned(), "EOF"),
            ("[]".to_owned(), "invalid length"),
            ("x".repeat(1 << 20), "too large"),
            (
                format!(r#"{{"schema":1,"host":"b.example","since":0,"until":{far}}}"#),
                "more than a week",
            ),
            (
                format!(r#"{{"schema":2,"host":"b.example","since":0,"until":{}}}"#, now() + 60),
                "schema is 2",
            ),
            (
                format!(
                    r#"{{"schema":1,"host":"evil\u001b[31m","since":0,"until":{}}}"#,
                    now() + 60
                ),
                "evil[31m",
            ),
            (
                r#"{"schema":1,"host":"b.example","since":0,"until":-1}"#.to_owned(),
                "invalid value",
            ),
        ] {
            fs::write(path(&store), &text).unwrap();
            let warning = read(&store).unwrap_err();
            assert!(
                warning.contains(says) && warning.contains("_preferred.json"),
                "{text}: {warning}"
            );
        }
        fs::remove_file(path(&store)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path(&store)).unwrap();
        assert!(read(&store).is_err());
        fs::remove_file(path(&store)).unwrap();
        // A pipe that nobody writes into keeps nobody waiting.
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path(&store), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(read(&store).unwrap_err().contains("no regular file"));
    }
}
