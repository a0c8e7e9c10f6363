//! Records what happened: one JSON line per event, appended to `journal/<day>.jsonl` in the store.
//!
//! A line is written by one `write` to a file opened with `O_APPEND`, so lines of processes that write at once do not
//! mix. Losing an event never fails an operation: the caller decides what to do with the error, usually nothing.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// Something that happened, as a line of the journal.
#[derive(Debug, Clone, Serialize)]
pub struct Event<'a> {
    /// Seconds since 1970.
    pub at: u64,
    /// `build`, `run`, `pull`, ...
    pub kind: &'a str,
    /// The image as typed.
    pub reference: &'a str,
    /// The image's manifest, when there is one.
    pub digest: Option<String>,
    /// How it ended.
    pub status: &'a str,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// The caller's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// The caller's count of its tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The caller's labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// The journal's directory in the root of a store.
pub const FOLDER: &str = "journal";

/// Appends `event` to the journal of its day in the store at `root`.
pub fn append(root: &Path, event: &Event<'_>) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let path = root.join(FOLDER).join(format!("{}.jsonl", event.at / 86_400));
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?
        .write_all(&line)
}

/// Seconds since 1970 of a time; 0 for earlier ones.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}
