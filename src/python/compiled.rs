//! What the script that compiles leaves: one file of records per job, which is a stranger's like everything of a sandbox.
//!
//! ```text
//! record    length of the path (4 bytes, little-endian), length of the bytecode (8 bytes), path, bytecode
//! ```
//!
//! Files of records, and not a tree of files: the sandbox bounds the number of files, whose memory is the kernel's, and
//! a package may have 15,000 sources.

use std::io::{self, BufReader, Read};

/// The longest path of a file: that of Linux.
const MAX_PATH: usize = 4096;

/// The bytecode files of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompiledTree {
    /// Path inside the image without leading slash, and contents; sorted by path.
    pub files: Vec<(String, Vec<u8>)>,
    /// Sources that do not compile, with the compiler's message; they simply get no bytecode.
    pub failed: Vec<(String, String)>,
}

impl CompiledTree {
    /// Takes the records of `file`, which has `size` bytes, for sources below the absolute directories `roots`.
    pub(super) fn take_records(&mut self, file: impl Read, size: u64, roots: &[String]) -> io::Result<()> {
        let mut file = BufReader::with_capacity(1 << 20, file.take(size));
        let mut left = size;
        while left > 0 {
            let (mut path_size, mut size) = ([0; 4], [0; 8]);
            file.read_exact(&mut path_size)?;
            file.read_exact(&mut size)?;
            let path_size = usize::try_from(u32::from_le_bytes(path_size)).unwrap_or(usize::MAX);
            let size = u64::from_le_bytes(size);
            let whole = size.saturating_add(path_size as u64).saturating_add(12);
            if path_size > MAX_PATH || whole > left {
                return Err(broken("a record is longer than what is left"));
            }
            left -= whole;
            let mut path = vec![0; path_size];
            file.read_exact(&mut path)?;
            let path = String::from_utf8(path).map_err(|_| broken("a path is not UTF-8"))?;
            let mut contents = vec![0; usize::try_from(size).map_err(|_| broken("a record is too large"))?];
            file.read_exact(&mut contents)?;
            let path = inside(&path, roots).ok_or_else(|| broken("a path leads elsewhere"))?;
            self.files.push((path.to_owned(), contents));
        }
        Ok(())
    }

    /// Sorts what was taken; refuses a path that came twice.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.files.sort();
        let twice = self
            .files
            .windows(2)
            .any(|pair| matches!(pair, [(one, _), (other, _)] if one == other));
        if twice {
            return Err(broken("a path comes twice"));
        }
        Ok(())
    }
}

/// `path` without its leading slash, when it plainly is that of bytecode below one of `roots`.
fn inside<'a>(path: &'a str, roots: &[String]) -> Option<&'a str> {
    let is_below = |root: &String| {
        path.strip_prefix(root.as_str())
            .is_some_and(|rest| rest.starts_with('/'))
    };
    let relative = path.strip_prefix('/')?;
    let plain = |component: &str| !matches!(component, "" | "." | "..") && !component.contains('\0');
    let fits = roots.iter().any(is_below) && relative.split('/').all(plain) && path.ends_with(".pyc");
    fits.then_some(relative)
}

fn broken(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &str, contents: &[u8]) -> Vec<u8> {
        let mut record = (path.len() as u32).to_le_bytes().to_vec();
        record.extend((contents.len() as u64).to_le_bytes());
        record.extend(path.as_bytes());
        record.extend(contents);
        record
    }

    fn take(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut tree = CompiledTree::default();
        tree.take_records(bytes, bytes.len() as u64, &["/app".to_owned()])?;
        tree.finish()?;
        Ok(tree.files)
    }

    #[test]
    fn records_become_files_sorted_by_path() {
        let both = [record("/app/b.pyc", b"2"), record("/app/a.pyc", b"")].concat();
        let expected = [
            ("app/a.pyc".to_owned(), vec![]),
            ("app/b.pyc".to_owned(), b"2".to_vec()),
        ];
        assert_eq!(take(&both).unwrap(), expected);
        assert_eq!(take(b"").unwrap(), []);
    }

    #[test]
    fn records_that_are_none_are_refused() {
        for path in [
            "/etc/x.pyc",
            "/app",
            "/app/../etc/x.pyc",
            "/app//x.pyc",
            "app/x.pyc",
            "/application/x.pyc",
            "/app/x.py",
        ] {
            assert!(take(&record(path, b"1")).is_err(), "{path}");
        }
        let whole = record("/app/a.pyc", b"1234");
        for length in 1..whole.len() {
            assert!(take(&whole[..length]).is_err(), "{length} bytes");
        }
        let mut endless = whole.clone();
        endless[4..12].fill(0xff);
        assert!(take(&endless).is_err());
        assert!(take(&[whole.clone(), whole].concat()).is_err(), "twice");
    }
}
