//! What a caller calls its job: copied from the job document to the outcome, the journal and the progress, and never
//! understood, so that the caller finds its job again in whatever it reads.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An identifier is a name, not a document; a line of the journal holds it whole.
const MOST_ID: usize = 256;
/// Labels of one job.
const MOST_LABELS: usize = 32;
/// Bytes of a label's name.
const MOST_LABEL_NAME: usize = 64;
/// Bytes of a label's value.
const MOST_LABEL_VALUE: usize = 256;

/// The caller's own words for a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ticket {
    /// Its name for the job.
    pub id: Option<String>,
    /// Which try it is; the first is 1.
    pub attempt: Option<u32>,
    /// Anything else.
    pub labels: BTreeMap<String, String>,
}

impl Ticket {
    /// Checks that the words are few and short.
    pub fn new(id: Option<String>, attempt: Option<u32>, labels: BTreeMap<String, String>) -> Result<Self, String> {
        if let Some(length) = id.as_ref().map(String::len) {
            within("id", length, MOST_ID)?;
        }
        if labels.len() > MOST_LABELS {
            return Err(format!(
                "labels: {} are given, at most {MOST_LABELS} are kept",
                labels.len()
            ));
        }
        for (name, value) in &labels {
            within("the name of a label", name.len(), MOST_LABEL_NAME)?;
            if value.len() > MOST_LABEL_VALUE {
                let got = value.len();
                return Err(format!(
                    "label {name:?}: its value has {got} bytes, at most {MOST_LABEL_VALUE} are kept"
                ));
            }
        }
        Ok(Self { id, attempt, labels })
    }
}

/// The words of a document that may be wrong in any way.
#[derive(Deserialize)]
struct Words {
    id: Option<Value>,
    attempt: Option<Value>,
    labels: Option<Value>,
}

impl Ticket {
    /// The words of a job document that is refused, as far as each can be read.
    pub fn of_broken(document: &str) -> Self {
        fn read<T: DeserializeOwned>(value: Option<Value>) -> Option<T> {
            serde_json::from_value(value?).ok()
        }
        let Ok(Words { id, attempt, labels }) = serde_json::from_str(document) else {
            return Self::default();
        };
        let id = Self::new(read(id), None, BTreeMap::new()).unwrap_or_default().id;
        let labels = Self::new(None, None, read(labels).unwrap_or_default())
            .unwrap_or_default()
            .labels;
        let attempt = read(attempt);
        Self { id, attempt, labels }
    }
}

fn within(what: &str, got: usize, most: usize) -> Result<(), String> {
    if (1..=most).contains(&got) {
        return Ok(());
    }
    Err(format!("{what}: it has {got} bytes, want 1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_refused_document_are_read_as_far_as_they_can_be() {
        let ticket = Ticket::of_broken(r#"{"bogus": 1, "id": "x", "attempt": 7, "labels": {"a": 1}}"#);
        assert_eq!(
            (ticket.id.as_deref(), ticket.attempt, ticket.labels.len()),
            (Some("x"), Some(7), 0)
        );
        let long = format!(r#"{{"id": "{}", "labels": {{"a": "b"}}}}"#, "x".repeat(257));
        let ticket = Ticket::of_broken(&long);
        assert_eq!((ticket.id, ticket.labels.len()), (None, 1));
        assert_eq!(Ticket::of_broken("{"), Ticket::default());
    }

    #[test]
    fn words_are_few_and_short_and_their_meaning_is_the_callers() {
        let labels = |count: usize, name: usize, value: usize| -> BTreeMap<String, String> {
            let one = |at: usize| (format!("{at:0name$}"), "v".repeat(value));
            (0..count).map(one).collect()
        };
        let ticket = Ticket::new(Some("\n\u{1b}[31m".to_owned()), Some(0), labels(32, 64, 256)).unwrap();
        assert_eq!((ticket.id.as_deref(), ticket.labels.len()), (Some("\n\u{1b}[31m"), 32));
        for (id, labels, says) in [
            (
                Some(String::new()),
                labels(0, 1, 1),
                "id: it has 0 bytes, want 1 to 256",
            ),
            (
                Some("x".repeat(257)),
                labels(0, 1, 1),
                "id: it has 257 bytes, want 1 to 256",
            ),
            (None, labels(33, 2, 1), "labels: 33 are given, at most 32 are kept"),
            (
                None,
                labels(1, 65, 1),
                "the name of a label: it has 65 bytes, want 1 to 64",
            ),
            (
                None,
                labels(1, 1, 257),
                "label \"0\": its value has 257 bytes, at most 256 are kept",
            ),
        ] {
            assert_eq!(Ticket::new(id, None, labels), Err(says.to_owned()));
        }
    }
}
