//! The lines of a file of the journal, from a byte on, in bounded memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::MAX_LINE;

/// Bytes that are read at once: so long that system calls do not count, so short that memory does not.
const CHUNK: usize = 256 << 10;

/// Calls `each` with every whole line of `file` from the byte `from` on, without its end; returns where the first one begins that has none
/// yet. A line that is longer than a line may be is passed over.
pub(super) fn lines(file: &mut File, from: u64, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let mut buffer = vec![0; CHUNK + MAX_LINE];
    // Bytes of the buffer that belong to a line without an end, where the buffer begins in the file, and whether that line is too long.
    let (mut kept, mut begin, mut is_too_long) = (0, from, false);
    loop {
        let read = match file.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(begin);
        }
        let end = kept + read;
        let mut at = 0;
        while let Some(line) = buffer
            .get(at..end)
            .and_then(|rest| rest.split(|byte| *byte == b'\n').next())
        {
            let next = at + line.len();
            if next >= end {
                break;
            }
            if !is_too_long && line.len() < MAX_LINE {
                each(line);
            }
            is_too_long = false;
            at = next + 1;
        }
        // What can be no line is let go, however long it is.
        if end - at >= MAX_LINE {
            (at, is_too_long) = (end, true);
        }
        buffer.copy_within(at..end, 0);
        (kept, begin) = (end - at, begin + at as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(text: &[u8], from: u64) -> (Vec<String>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        let mut found = Vec::new();
        let end = lines(&mut file, from, |line| {
            found.push(String::from_utf8_lossy(line).into_owned())
        })
        .unwrap();
        (found, end)
    }

    #[test]
    fn only_whole_lines_advance() {
        assert_eq!(read(b"", 0), (vec![], 0));
        assert_eq!(read(b"one\ntwo\nthr", 0), (vec!["one".into(), "two".into()], 8));
        assert_eq!(read(b"one\ntwo\nthr", 8), (vec![], 8));
        assert_eq!(read(b"one\n\ntwo\n", 4), (vec![String::new(), "two".into()], 9));
        assert_eq!(read(b"one\n", 400), (vec![], 400));
    }

    #[test]
    fn lines_are_whole_wherever_a_chunk_ends() {
        let line = |number: usize| format!("{number}:{}", "x".repeat(number % 977));
        let text: String = (0..3000).map(|number| line(number) + "\n").collect();
        assert!(text.len() > 4 * CHUNK);
        let (found, end) = read(text.as_bytes(), 0);
        assert_eq!(end, text.len() as u64);
        assert!(found.iter().enumerate().all(|(number, found)| *found == line(number)) && found.len() == 3000);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        for length in [MAX_LINE, CHUNK, CHUNK + MAX_LINE, 3 * CHUNK] {
            let text = ["one\n", &"x".repeat(length), "\ntwo\n"].concat();
            assert_eq!(read(text.as_bytes(), 0).0, ["one", "two"], "{length}");
        }
        let text = ["one\n", &"x".repeat(3 * CHUNK)].concat();
        let (found, end) = read(text.as_bytes(), 0);
        assert!(found == ["one"] && end > 4, "{end}");
    }
}
