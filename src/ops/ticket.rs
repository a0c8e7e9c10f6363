//! What a caller calls its job: copied from the job document to the outcome, the journal and the progress, and never
//! understood, so that the caller finds its job again in whatever it reads.

use std::collections::BTreeMap;

use serde::Serialize;

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
