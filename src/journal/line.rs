//! A line of the journal as it is read: tolerant of what is torn, and of what a later version wrote.

use std::borrow::Cow;

use serde::Deserialize;

/// What every line begins with. One that was torn has the next one behind it, on one line.
const START: &[u8] = b"{\"at\":";

/// What is read of a line. Fields that are not known are passed over; those that earlier versions did not write are none.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    /// Seconds since 1970.
    pub at: u64,
    /// What happened.
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    /// The image as typed.
    #[serde(borrow, default)]
    pub reference: Cow<'a, str>,
    /// Its manifest.
    #[serde(borrow, default)]
    pub digest: Option<Cow<'a, str>>,
    /// How it ended.
    #[serde(borrow, default)]
    pub status: Cow<'a, str>,
    /// The registry that did it.
    #[serde(borrow, default)]
    pub registry: Option<Cow<'a, str>>,
    /// Whether it was there.
    #[serde(borrow, default)]
    pub cache: Option<Cow<'a, str>>,
    /// What it was for.
    #[serde(borrow, default)]
    pub purpose: Option<Cow<'a, str>>,
    /// Bytes that were moved, or freed.
    #[serde(default)]
    pub bytes: Option<u64>,
}

impl<'a> Line<'a> {
    /// The event of a line; of one that was torn that of what was written behind it, if anything. None for anything else.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        if let Ok(line) = serde_json::from_slice(line) {
            return Some(line);
        }
        let behind = line.get(1..)?;
        let at = behind.windows(START.len()).rposition(|window| window == START)?;
        serde_json::from_slice(behind.get(at..)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_and_later_versions_write_is_read() {
        let old = br#"{"at":5,"kind":"run","reference":"a:1","digest":null,"status":"ok","ms":1,"labels":{"a":"b"}}"#;
        let line = Line::read(old).unwrap();
        assert_eq!((line.at, &*line.kind, line.cache), (5, "run", None));
        let new = br#"{"at":6,"kind":"dream","ms":"soon","depth":[1,{}],"reference":"a\n:1","cache":"hit"}"#;
        let line = Line::read(new).unwrap();
        assert_eq!(
            (&*line.kind, &*line.reference, line.cache.as_deref()),
            ("dream", "a\n:1", Some("hit"))
        );
    }

    #[test]
    fn behind_a_torn_line_the_next_one_is_read() {
        let torn = br#"{"at":5,"kind":"run","refer{"at":6,"kind":"pull","reference":"b:1"}"#;
        assert_eq!(Line::read(torn).unwrap().at, 6);
        for garbage in [
            &b""[..],
            b"{",
            b"\0\0\0",
            b"{\"at\":",
            b"[]",
            b"{\"at\":-1,\"kind\":\"run\"}",
            b"{\"at\":1}",
            b"\xff{\"at\":1",
        ] {
            assert!(Line::read(garbage).is_none());
        }
        assert!(Line::read("[".repeat(16_000).as_bytes()).is_none());
    }
}
