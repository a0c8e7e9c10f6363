//! What happened, as a line of the journal, and how it gets there.
//!
//! A line is written by one `write` to a file opened with `O_APPEND`, so lines of processes that write at once do not
//! mix. Losing an event never fails an operation: the caller decides what to do with the error, usually nothing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Serialize, Serializer};

use super::day::file_name;
use super::{FOLDER, MAX_LINE};
use crate::sys::fault::{self, Step};

/// Most bytes of a reference that is written down: longer ones name nothing.
const MAX_REFERENCE: usize = 1 << 10;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name {
            $($(#[$of])* $variant,)*
        }

        impl $name {
            /// The word in a line.
            pub(crate) fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// What `word` says; none for the word of a later version.
            #[allow(dead_code, reason = "not every word is read again")]
            pub(crate) fn of_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }
    };
}

words! {
    /// What sort of thing happened.
    EventKind {
        /// A function was built into an image.
        Build = "build",
        /// An image was run. A run that found its image ready is a hit, and one that had to pull it has that time among its phases.
        Run = "run",
        /// An image came from elsewhere.
        Pull = "pull",
        /// An image went to a registry.
        Push = "push",
        /// An image was copied between two places.
        Copy = "copy",
        /// What was asked for was there already, and nothing else says so.
        Hit = "hit",
        /// An image was removed to make room.
        Evict = "evict",
        /// An image of this store was removed because somebody said so.
        Delete = "delete",
        /// A manifest was deleted in a registry.
        Remove = "rm",
        /// A registry did in place of another one.
        Failover = "failover",
        /// A registry is preferred from now on, or not any more.
        Prefer = "prefer",
        /// The packages of an image were looked up in advisories.
        Scan = "scan",
    }
}

words! {
    /// What an image is for.
    ImageType {
        /// To run a function.
        Function = "function",
        /// To build functions on.
        Base = "base",
    }
}

words! {
    /// Why an image was pulled that nobody is about to run.
    Purpose {
        /// To have it when somebody will.
        Warm = "warm",
    }
}

/// Something that happened, as a line of the journal.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event<'a> {
    /// Seconds since 1970.
    pub at: u64,
    /// What.
    pub kind: EventKind,
    /// The image as typed.
    pub reference: &'a str,
    /// The image's manifest, when there is one.
    pub digest: Option<String>,
    /// How it ended.
    pub status: &'a str,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// The registry that did it, or failed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<&'a str>,
    /// The registry that was given up, of a failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
    /// What the image is for, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_type: Option<ImageType>,
    /// `hit` when nothing had to be fetched or unpacked, else `miss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'a str>,
    /// What it was for, when not for somebody who waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// `HOST/REPOSITORY` where what was evicted can be had again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<&'a str>,
    /// All names of what was evicted, when there were several.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub names: &'a [String],
    /// Bytes that were moved, or freed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why it failed, in a word that stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<&'a str>,
    /// Milliseconds of each phase of a run that took some.
    #[serde(skip_serializing_if = "Phases::is_empty")]
    pub phases: Phases<'a>,
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

/// The phases of a run: names and milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Phases<'a>(pub &'a [(&'static str, f64)]);

impl Phases<'_> {
    fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, ms)| tenths(*ms) == 0.0)
    }
}

impl Serialize for Phases<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let some = self.0.iter().map(|(name, ms)| (name, tenths(*ms)));
        serializer.collect_map(some.filter(|(_, ms)| *ms != 0.0))
    }
}

fn tenths(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

impl<'a> Event<'a> {
    /// An event of `kind` at `at`, in seconds since 1970, of which no more is known.
    pub(crate) fn of(kind: EventKind, at: u64, reference: &'a str, status: &'a str) -> Self {
        Self {
            at,
            kind,
            reference,
            digest: None,
            status,
            ms: 0,
            registry: None,
            from: None,
            image_type: None,
            cache: None,
            purpose: None,
            origin: None,
            names: &[],
            bytes: None,
            error_type: None,
            phases: Phases::default(),
            id: None,
            attempt: None,
            labels: None,
        }
    }

    /// The line, without what would make it longer than a line may be.
    fn line(&self) -> io::Result<Vec<u8>> {
        let mut event = self.clone();
        if event.reference.len() > MAX_REFERENCE {
            let whole = (0..=MAX_REFERENCE).rev().find_map(|end| event.reference.get(..end));
            event.reference = whole.unwrap_or_default();
        }
        let mut line = serde_json::to_vec(&event)?;
        if line.len() >= MAX_LINE {
            // Control characters are six times as long in JSON.
            (event.labels, event.id, event.names) = (None, None, &[]);
            line = serde_json::to_vec(&event)?;
        }
        if line.len() >= MAX_LINE {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        line.push(b'\n');
        Ok(line)
    }
}

/// Appends `event` to the journal of its day in the store at `root`.
pub(crate) fn append(root: &Path, event: &Event<'_>) -> io::Result<()> {
    let line = event.line()?;
    let path = root.join(FOLDER).join(file_name(event.at));
    fault::point(Step::JournalLine)?;
    put(OpenOptions::new().create(true).append(true).open(path)?, &line)
}

/// Writes a line by one `write`. What a full disk cuts is ended, so that it spoils no other line.
fn put(mut file: File, line: &[u8]) -> io::Result<()> {
    loop {
        match file.write(line) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(count) if count == line.len() => return Ok(()),
            Ok(_) => {
                let _ = file.write(b"\n");
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known_and_no_more() {
        let event = Event {
            ms: 12,
            cache: Some("hit"),
            image_type: Some(ImageType::Function),
            phases: Phases(&[("pull", 0.0), ("run", 20.04), ("teardown", 0.04)]),
            ..Event::of(EventKind::Run, 1, "a:1", "ok")
        };
        assert_eq!(
            String::from_utf8(event.line().unwrap()).unwrap(),
            "{\"at\":1,\"kind\":\"run\",\"reference\":\"a:1\",\"digest\":null,\"status\":\"ok\",\"ms\":12,\"image_type\":\"function\",\
             \"cache\":\"hit\",\"phases\":{\"run\":20.0}}\n"
        );
        let bare = Event::of(EventKind::Evict, 1, "a:1", "ok").line().unwrap();
        let bare: serde_json::Value = serde_json::from_slice(&bare).unwrap();
        assert_eq!(bare.as_object().unwrap().len(), 6, "{bare}");
    }

    #[test]
    fn no_line_is_longer_than_a_line_may_be() {
        let labels: BTreeMap<String, String> = (0..32)
            .map(|number| (format!("{number:064}"), "\u{1}".repeat(256)))
            .collect();
        let reference = "ä".repeat(100_000);
        let event = Event {
            id: Some("x"),
            labels: Some(&labels),
            ..Event::of(EventKind::Run, 1, &reference, "ok")
        };
        let line = event.line().unwrap();
        assert!(line.len() <= MAX_LINE && line.ends_with(b"\n"), "{}", line.len());
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["reference"].as_str().unwrap().len(), MAX_REFERENCE);
        // As many labels as a job may have, in plain words, are there.
        let labels: BTreeMap<String, String> = (0..32)
            .map(|number| (format!("{number:064}"), "x".repeat(256)))
            .collect();
        let event = Event {
            labels: Some(&labels),
            ..Event::of(EventKind::Run, 1, "a:1", "ok")
        };
        let line: serde_json::Value = serde_json::from_slice(&event.line().unwrap()).unwrap();
        assert_eq!(line["labels"].as_object().unwrap().len(), 32);
    }

    /// Appends a thousand lines to the journal in the working directory.
    fn append_a_thousand_lines() {
        let labels = BTreeMap::from([
            ("fill".to_owned(), "x".repeat(250)),
            ("more".to_owned(), "y".repeat(250)),
        ]);
        let name = format!("image:{}", std::process::id());
        for attempt in 0..1000 {
            let event = Event {
                attempt: Some(attempt),
                labels: Some(&labels).filter(|_| attempt.is_multiple_of(3)),
                ..Event::of(EventKind::Run, 1_728_000_000, &name, "ok")
            };
            append(Path::new("."), &event).unwrap();
        }
    }

    /// The processes that write are this test twice more, in the directory of the journal.
    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "the environment says which of the processes this is"
    )]
    fn lines_of_two_processes_that_write_at_once_do_not_mix() {
        const NAME: &str = "GANTRY_TEST_APPENDS";
        if std::env::var_os(NAME).is_some() {
            return append_a_thousand_lines();
        }
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(FOLDER)).unwrap();
        let start = || {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            let test = "journal::event::tests::lines_of_two_processes_that_write_at_once_do_not_mix";
            command.args(["--exact", test]).env(NAME, "1");
            command.current_dir(root.path()).stdout(std::process::Stdio::null());
            command.spawn().unwrap()
        };
        for mut child in [start(), start()] {
            assert!(child.wait().unwrap().success());
        }
        let text = std::fs::read_to_string(root.path().join(FOLDER).join("2024-10-04.jsonl")).unwrap();
        let mut attempts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let attempt = line["attempt"].as_u64().unwrap();
            assert_eq!(line["labels"].is_object(), attempt.is_multiple_of(3));
            attempts.entry(line["reference"].to_string()).or_default().push(attempt);
        }
        let all: Vec<u64> = (0..1000).collect();
        assert_eq!(attempts.values().collect::<Vec<_>>(), [&all, &all]);
    }

    #[test]
    fn a_word_is_read_as_it_is_written() {
        for kind in [EventKind::Build, EventKind::Remove, EventKind::Scan] {
            assert_eq!(EventKind::of_word(kind.word()), Some(kind));
        }
        assert_eq!(EventKind::of_word("dream"), None);
    }
}
