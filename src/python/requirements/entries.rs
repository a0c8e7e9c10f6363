//! The bytes of a requirements file -> its entries, each with the line it begins at.

use std::borrow::Cow;

/// The text of a file, by the mark of its encoding that some editors put first. Without one it is UTF-8; what is not stands
/// in a comment, or in an entry that is refused for it.
pub(super) fn decoded(contents: &[u8]) -> Result<Cow<'_, str>, &'static str> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let text = char::decode_utf16(pairs.iter().map(|pair| unit(*pair))).collect::<Result<String, _>>();
        match (text, rest.is_empty()) {
            (Ok(text), true) => Ok(Cow::Owned(text)),
            _ => Err("it begins as UTF-16 and is none"),
        }
    };
    match contents {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err("it is UTF-32"),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ if contents.contains(&0) => Err("it has NUL bytes, as UTF-16 without a mark has"),
        _ => Ok(String::from_utf8_lossy(
            contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents),
        )),
    }
}

/// Entries with the number of their first line: comments gone, continuations joined.
pub(super) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut entries: Vec<(usize, String)> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.split('\n')) {
        let line = line.trim_end_matches('\r');
        let (start, mut entry) = open.take().unwrap_or((number, String::new()));
        // As in pip, a line of comment ends an entry whatever its own end: a path in it swallows no requirement.
        let comment = line.trim_start().starts_with('#');
        if comment {
            entry.push(' ');
        }
        if let Some(rest) = line.strip_suffix('\\').filter(|_| !comment) {
            entry.push_str(rest);
            entry.push(' ');
            open = Some((start, entry));
            continue;
        }
        entry.push_str(line);
        entries.push((start, entry));
    }
    entries.extend(open);
    let clean = |entry: String| {
        let comment = entry
            .starts_with('#')
            .then_some(0)
            .or_else(|| entry.find(" #"))
            .or_else(|| entry.find("\t#"));
        entry
            .get(..comment.unwrap_or(entry.len()))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cleaned = entries.into_iter().map(|(number, entry)| (number, clean(entry)));
    cleaned.filter(|(_, entry)| !entry.is_empty()).collect()
}
