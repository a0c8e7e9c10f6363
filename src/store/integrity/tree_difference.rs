//! The first difference between a tree and its listing, told while the tree is read: both are streams in the same order, a
//! line for each entry ([`listing`]), so that neither is held in memory.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::mem;

use crate::store::trees::listing;

/// Longer than the line of any entry: a path has at most 4096 bytes, as has the target of a link, and each may be six in JSON.
const MOST_OF_A_LINE: u64 = 64 << 10;

/// Compares the listing that is written to it with the one that `expected` has.
pub(super) struct TreeDifference<R> {
    expected: R,
    line: Vec<u8>,
    first: Option<Difference>,
    /// The last entry that was equal.
    last: String,
}

/// What a listing has, and what a tree has in its place, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub expected: String,
    pub got: String,
}

impl<R: BufRead> TreeDifference<R> {
    pub(super) fn from(expected: R) -> Self {
        Self {
            expected,
            line: Vec::new(),
            first: None,
            last: "its root".to_owned(),
        }
    }

    /// The last entry that is as it has to be.
    pub(super) fn last(&self) -> &str {
        &self.last
    }

    /// The first difference, when the tree was written to its end.
    pub(super) fn finish(mut self) -> io::Result<Option<Difference>> {
        let line = mem::take(&mut self.line);
        if self.first.is_none() {
            self.compare(&line)?;
        }
        if self.first.is_none() {
            let rest = self.next()?;
            self.first = (!rest.is_empty()).then(|| difference(&rest, b""));
        }
        Ok(self.first)
    }

    /// The next line of what is expected, without its end.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.expected
            .by_ref()
            .take(MOST_OF_A_LINE)
            .read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") {
            line.pop();
        }
        line.truncate(entry_of(&line).len());
        Ok(line)
    }

    fn compare(&mut self, got: &[u8]) -> io::Result<()> {
        let (expected, got) = (self.next()?, entry_of(got));
        if expected == got {
            if let Some(path) = path_of(got) {
                self.last = path;
            }
            return Ok(());
        }
        self.first = Some(difference(&expected, got));
        Ok(())
    }
}

impl<R: BufRead> Write for TreeDifference<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = mem::take(&mut self.line);
            if self.first.is_none() {
                self.compare(&line)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line without what separates it from the next one, or ends the document.
fn entry_of(line: &[u8]) -> &[u8] {
    let end = [&b"}}"[..], b","].into_iter().find_map(|end| line.strip_suffix(end));
    end.filter(|entry| entry.ends_with(b"}") || entry.ends_with(b"{"))
        .unwrap_or(line)
}

/// The path of an entry, `"etc/a":{...}`.
fn path_of(line: &[u8]) -> Option<String> {
    let mut texts = serde_json::Deserializer::from_slice(line).into_iter::<String>();
    texts.next()?.ok()
}

/// What two entries that are not equal say: one that is another one, that is missing, or that should not be there.
fn difference(expected: &[u8], got: &[u8]) -> Difference {
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    // A layer may name a file as it likes.
    let none = |path: &str| format!("no {}", path.escape_debug());
    let named = |path: &str, line: &[u8]| format!("{}, {}", path.escape_debug(), words(line));
    match (path_of(expected), path_of(got)) {
        (Some(missing), Some(found)) if missing.split('/').lt(found.split('/')) => Difference {
            expected: named(&missing, expected),
            got: none(&missing),
        },
        (Some(missing), None) => Difference {
            expected: named(&missing, expected),
            got: none(&missing),
        },
        (Some(one), Some(other)) if one == other => Difference {
            expected: named(&one, expected),
            got: words(got),
        },
        (_, Some(extra)) => Difference {
            expected: none(&extra),
            got: named(&extra, got),
        },
        (None, None) => Difference {
            expected: text(expected),
            got: text(got),
        },
    }
}

/// What an entry of a listing is.
fn words(line: &[u8]) -> String {
    let document = format!("{{{}}}", String::from_utf8_lossy(line));
    let entry: Option<HashMap<String, listing::Entry>> = serde_json::from_str(&document).ok();
    let entry = entry.and_then(|entries| entries.into_values().next());
    // A listing that is whole has nothing else.
    entry.map_or_else(|| String::from_utf8_lossy(line).into_owned(), |entry| entry.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: [&str; 3] = [
        r#""a":{"mode":493}"#,
        r#""a/b":{"target":"c"}"#,
        r#""a-b":{"mode":493}"#,
    ];

    fn listing(entries: &[&str]) -> String {
        let entries: Vec<_> = entries.iter().map(|entry| format!("\n{entry}")).collect();
        format!(
            "{{\"schema\":3,\"opaque\":false,\"entries\":{{{}}}}}",
            entries.join(",")
        )
    }

    fn compare(expected: &[&str], got: &[&str]) -> Option<(String, String)> {
        let expected = listing(expected);
        let mut difference = TreeDifference::from(expected.as_bytes());
        difference.write_all(listing(got).as_bytes()).unwrap();
        let found = difference.finish().unwrap();
        found.map(|found| (found.expected, found.got))
    }

    #[test]
    fn the_first_entry_that_differs_is_named_with_what_it_should_be() {
        let [a, ab, last] = ENTRIES;
        let (other, more) = (r#""a/b":{"target":"d"}"#, r#""a/c":{"mode":1}"#);
        let sha256 = crate::oci::Digest::of(b"");
        let older = format!(r#""a/b":{{"mode":420,"size":12,"sha256":"{sha256}"}}"#);
        let of_older = format!("a file of 12 bytes, mode 644, {sha256}");
        let blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let file = format!(r#""a/b":{{"mode":420,"size":12,"blake3":"{blake3}"}}"#);
        let of_file = format!("a file of 12 bytes, mode 644, blake3:{blake3}");
        assert_eq!(compare(&ENTRIES, &ENTRIES), None);
        assert_eq!(compare(&[], &[]), None);
        for (got, expected, found) in [
            (vec![a, other, last], "a/b, a link to \"c\"", "a link to \"d\""),
            (vec![a, &file, last], "a/b, a link to \"c\"", &*of_file),
            (vec![a, &older, last], "a/b, a link to \"c\"", &*of_older),
            (
                vec![a, r#""a/b":{"whiteout":true}"#, last],
                "a/b, a link to \"c\"",
                "a whiteout",
            ),
            (vec![a, last], "a/b, a link to \"c\"", "no a/b"),
            (vec![a, ab], "a-b, a directory, mode 755", "no a-b"),
            (vec![], "a, a directory, mode 755", "no a"),
            (vec![a, ab, more, last], "no a/c", "a/c, a directory, mode 1"),
            (vec![a, ab, last, more], "no a/c", "a/c, a directory, mode 1"),
        ] {
            let difference = compare(&ENTRIES, &got).unwrap();
            assert_eq!(difference, (expected.to_owned(), found.to_owned()), "{got:?}");
        }
        assert_eq!(
            compare(&[], &[a]),
            Some(("no a".to_owned(), "a, a directory, mode 755".to_owned()))
        );
        assert_eq!(
            words(br#""a":{"mode":493,"opaque":true}"#),
            "a directory, mode 755, that hides the one below it"
        );
        let hostile = compare(&[], &[r#""a\nerror: b":{"mode":493}"#]).unwrap();
        assert_eq!(
            hostile,
            (
                "no a\\nerror: b".to_owned(),
                "a\\nerror: b, a directory, mode 755".to_owned()
            )
        );
        assert_eq!(words(b"half"), "half");
    }
}
