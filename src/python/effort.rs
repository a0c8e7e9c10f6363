//! How much compiling may take, by what is compiled: a package of 50 MB of sources may have more than one line of them.
//!
//! Sources are a stranger's. One that makes much of little, such as a line that multiplies a text, is what the limits are
//! for.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::policy::Bytes;

/// Bytecode of whole packages has 1.1 to 1.5 bytes for each of its source (measured on the standard library and on dask with
/// what it needs), single files up to 10.
const OUTPUT_PER_BYTE: u64 = 8;
/// For a function of some lines, and the lists of what does not compile.
const OUTPUT_FLOOR: u64 = 64 << 20;
/// Output is memory; packages of 250 MB of sources reach it.
const OUTPUT_MOST: u64 = 2 << 30;
/// A megabyte takes 0.2 to 0.35 s of one processor (measured); a hundred builds at once share two.
const TIME_PER_MEGABYTE: Duration = Duration::from_secs(10);
/// Far above what one file takes on a machine that does a hundred other things.
const TIME_FLOOR: Duration = Duration::from_secs(300);
/// Every job may hold the tree of a large source, which has 140 times its size (measured on a list of 7 MB). The output
/// comes on top.
const MEMORY_FLOOR: u64 = 2560 << 20;

/// The sources of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Files that are called like sources.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What compiling may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effort {
    /// Bytes of bytecode.
    pub output: Bytes,
    /// Wall clock.
    pub time: Duration,
    pub memory: Bytes,
}

impl Amount {
    /// The sources below the absolute directories `roots` of the unpacked layer `tree`. Follows no links; what cannot be
    /// read counts nothing.
    pub(super) fn of(tree: &Path, roots: &[String]) -> Self {
        let mut found = Self::default();
        let mut pending: Vec<PathBuf> = roots
            .iter()
            .map(|root| tree.join(root.trim_start_matches('/')))
            .collect();
        while let Some(directory) = pending.pop() {
            let Ok(entries) = fs::read_dir(directory) else { continue };
            for entry in entries.flatten() {
                // Of the entry itself, as its type is.
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    pending.push(entry.path());
                } else if metadata.is_file() && entry.file_name().as_encoded_bytes().ends_with(b".py") {
                    found.files += 1;
                    found.bytes = found.bytes.saturating_add(metadata.len());
                }
            }
        }
        found
    }

    /// What compiling them may take.
    pub(super) fn effort(self) -> Effort {
        let output = self
            .bytes
            .saturating_mul(OUTPUT_PER_BYTE)
            .saturating_add(OUTPUT_FLOOR)
            .min(OUTPUT_MOST);
        let megabytes = u32::try_from(self.bytes / 1_000_000).unwrap_or(u32::MAX);
        Effort {
            output: Bytes(output),
            time: TIME_FLOOR.saturating_add(TIME_PER_MEGABYTE.saturating_mul(megabytes)),
            memory: Bytes(MEMORY_FLOOR + output),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = if self.files == 1 { "source" } else { "sources" };
        write!(f, "{} {sources} of {}", self.files, Bytes(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_counted_where_they_are() {
        let tree = tempfile::tempdir().unwrap();
        let write = |path: &str, contents: &str| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        };
        write("app/a.py", "12345");
        write("app/lib/b.py", "123");
        write("app/lib/c.txt", "123");
        write("opt/d.py", "123");
        std::os::unix::fs::symlink(tree.path(), tree.path().join("app/loop")).unwrap();
        std::os::unix::fs::symlink("a.py", tree.path().join("app/e.py")).unwrap();
        let amount = |root: &str| Amount::of(tree.path(), &[root.to_owned()]);
        assert_eq!(amount("/app"), Amount { files: 2, bytes: 8 });
        assert_eq!(amount("/none"), Amount::default());
        assert_eq!(amount("/opt").to_string(), "1 source of 3 B");
    }

    #[test]
    fn more_sources_may_take_more_within_bounds() {
        let effort = |bytes| Amount { files: 1, bytes }.effort();
        assert_eq!((effort(0).output.0, effort(0).time), (OUTPUT_FLOOR, TIME_FLOOR));
        assert_eq!(effort(50_000_000).time, TIME_FLOOR + 50 * TIME_PER_MEGABYTE);
        assert_eq!(effort(50_000_000).output.0, OUTPUT_FLOOR + 400_000_000);
        assert_eq!(effort(u64::MAX).output.0, OUTPUT_MOST);
        assert!(effort(u64::MAX).memory > effort(u64::MAX).output);
    }
}
