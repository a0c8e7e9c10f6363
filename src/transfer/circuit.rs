//! What the processes of a store know of each other's luck with a registry: one that is away is asked last for a while, so
//! that an outage costs its timeout once, and not each process, each image and each layer.
//!
//! ```text
//! registries/<host>.json    {"schema":1,"failures":2,"open_until":1796000030,"last_failure":1796000000,
//!                            "reason":"connection","last_success":1795990000,"since":1795999990}
//! ```
//!
//! A registry that refuses us, gave other bytes than it was asked for, or whose name has no address, is noted as well, and asked as before: it costs no time. Times are
//! seconds since 1970. The file is a hint: one that is missing, damaged or cannot be written says nothing. It is
//! written by rename, and two that write at once lose one failure of the two.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::note::{now, path_of, read_note, write_note};
use crate::store::Store;

/// How long a registry is asked last that was away: the usual restart takes less, and an outage much more.
const OPEN: Duration = Duration::from_secs(30);
/// Between two notes of success, which say when it was last well.
const NOTED_EVERY: u64 = 60;
/// A clock that was set back shall not keep a registry away for ever.
const LONGEST: u64 = 3600;

/// What is known of one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Circuit {
    schema: u32,
    /// Times in a row that it was given up.
    pub failures: u32,
    /// Until when it is asked last.
    pub open_until: u64,
    /// When it was last given up, and why.
    pub last_failure: Option<u64>,
    /// In a word.
    pub reason: Option<String>,
    /// When it last did what it was asked, to the minute.
    pub last_success: Option<u64>,
    /// When it began to do as it does now: to fail, or to do what it is asked.
    pub since: Option<u64>,
}

/// What is known of the registry `host`.
pub fn read_circuit(store: &Store, host: &str) -> Circuit {
    read_note(&path(store, host)).ok().flatten().unwrap_or_default()
}

impl Circuit {
    /// Whether the registry is asked last now.
    pub fn is_open(&self) -> bool {
        let now = now();
        self.open_until > now && self.open_until - now <= LONGEST
    }
}

/// Notes that the registry was given up.
pub(super) fn note_failure(store: &Store, host: &str, reason: &str) {
    note(store, host, reason, now() + OPEN.as_secs());
}

/// Notes that the registry refused, gave wrong bytes, or could not be found. It is asked as before.
pub(super) fn note_refusal(store: &Store, host: &str, reason: &str) {
    note(store, host, reason, 0);
}

fn note(store: &Store, host: &str, reason: &str, open_until: u64) {
    let (before, now) = (read_circuit(store, host), now());
    let is_failing = before.failures > 0;
    write(
        store,
        host,
        &Circuit {
            schema: 1,
            failures: before.failures.saturating_add(1),
            open_until: before.open_until.max(open_until),
            last_failure: Some(now),
            reason: Some(reason.to_owned()),
            last_success: before.last_success,
            since: before.since.filter(|_| is_failing).or(Some(now)),
        },
    );
}

/// Notes that the registry answers, which is no news of one that is away: what it has not may be all that it can say.
pub(super) fn note_answer(store: &Store, host: &str) {
    if !read_circuit(store, host).is_open() {
        note_success(store, host);
    }
}

/// Notes that the registry did what it was asked.
pub(super) fn note_success(store: &Store, host: &str) {
    let (before, now) = (read_circuit(store, host), now());
    let is_noted = before
        .last_success
        .is_some_and(|noted| noted <= now && now - noted < NOTED_EVERY);
    if is_noted && before.failures == 0 {
        return;
    }
    write(
        store,
        host,
        &Circuit {
            schema: 1,
            failures: 0,
            open_until: 0,
            last_success: Some(now),
            since: before.since.filter(|_| before.failures == 0).or(Some(now)),
            ..before
        },
    );
}

fn write(store: &Store, host: &str, circuit: &Circuit) {
    // No image is lost for a note that is.
    let _ = write_note(store, &path(store, host), circuit);
}

fn path(store: &Store, host: &str) -> PathBuf {
    // A host and its port: nothing in it means anything in a path.
    path_of(store, &format!("{host}.json"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::tests::store;

    #[test]
    fn a_failure_opens_the_circuit_for_a_while_and_a_success_closes_it() {
        let (_scratch, store) = store();
        let host = "a.example:5000";
        assert_eq!(read_circuit(&store, host), Circuit::default());
        assert!(!read_circuit(&store, host).is_open());
        note_failure(&store, host, "timeout");
        note_failure(&store, host, "connection");
        let open = read_circuit(&store, host);
        assert!(open.is_open());
        assert_eq!((open.failures, open.reason.as_deref()), (2, Some("connection")));
        assert!(!read_circuit(&store, "b.example").is_open());
        note_success(&store, host);
        let closed = read_circuit(&store, host);
        assert!(!closed.is_open() && closed.failures == 0 && closed.last_success.is_some());
        assert_eq!(closed.last_failure, open.last_failure);
    }

    #[test]
    fn a_refusal_is_noted_and_the_registry_is_asked_as_before() {
        let (_scratch, store) = store();
        note_refusal(&store, "a.example", "auth");
        let refused = read_circuit(&store, "a.example");
        assert!(!refused.is_open());
        assert_eq!((refused.failures, refused.reason.as_deref()), (1, Some("auth")));
        assert_eq!(refused.since, refused.last_failure);
        note_failure(&store, "a.example", "timeout");
        note_refusal(&store, "a.example", "auth");
        let away = read_circuit(&store, "a.example");
        assert!(away.is_open(), "a refusal does not end an outage");
        assert_eq!(away.since, refused.since);
        note_success(&store, "a.example");
        let well = read_circuit(&store, "a.example");
        assert!(!well.is_open() && well.since == well.last_success);
    }

    #[test]
    fn a_file_that_cannot_be_meant_says_nothing() {
        let (_scratch, store) = store();
        note_failure(&store, "a.example", "timeout");
        fs::write(path(&store, "a.example"), "{").unwrap();
        assert_eq!(read_circuit(&store, "a.example"), Circuit::default());
        let far = format!("{{\"open_until\":{}}}", now() + 10 * LONGEST);
        fs::write(path(&store, "a.example"), far).unwrap();
        assert!(!read_circuit(&store, "a.example").is_open());
    }
}
