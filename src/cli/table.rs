//! Columns for people: a header, and each column as wide as its widest cell.

use std::time::{Duration, UNIX_EPOCH};

use super::escape::escape;
use crate::policy::rough_time;
use crate::sys::clock;

/// Between two columns.
const GAP: &str = "   ";
/// Hexadecimal digits of a digest that people tell images apart by, as podman and docker show them.
pub(super) const SHORT: usize = 12;

/// Lays out `rows` below `header`. Cells may be a stranger's words: they are escaped.
pub(super) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(
        rows.into_iter()
            .map(|row| row.map(|cell| escape(&cell.replace('\n', " ")))),
    );
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How long ago something was that was `at` so many seconds since 1970; `-` where nobody knows.
pub(super) fn ago(at: Option<u64>) -> String {
    let age = |at| clock::now().duration_since(UNIX_EPOCH + Duration::from_secs(at)).ok();
    at.and_then(age)
        .map_or("-".to_owned(), |age| format!("{} ago", rough_time(age)))
}

/// The first digits of a digest.
pub(super) fn short(digest: &crate::oci::Digest) -> String {
    digest.hex().chars().take(SHORT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_rough_and_of_what_is_known() {
        let now = clock::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(ago(Some(now - 185)), "3 min ago");
        assert_eq!(ago(None), "-");
        assert_eq!(ago(Some(now + 3600)), "-", "a clock that was set back knows nothing");
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let rows = vec![
            ["a".to_owned(), "1 MB".to_owned()],
            ["long\u{1b}".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["NAME", "SIZE"], rows),
            "NAME         SIZE\na            1 MB\nlong\\u{1b}"
        );
    }
}
