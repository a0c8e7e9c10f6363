//! Copies a stream into a file and says which of the two failed: one is the caller's, the other the store's.

use std::io::{self, Read, Write};

use crate::sys::fault;

/// Bytes read at a time: few enough to stay in the second-level cache, many enough that system calls cost nothing.
const CHUNK: usize = 1 << 20;

/// Which side of a copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The source could not be read.
    Read(io::Error),
    /// The copy could not be written.
    Write(io::Error),
}

/// Copies `from` to its end; returns how many bytes that were.
pub(crate) fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<u64, CopyError> {
    let mut chunk = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => return Ok(copied),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(CopyError::Read)?,
        };
        fault::point(fault::Step::Bytes).map_err(CopyError::Write)?;
        let bytes = chunk.get(..count).unwrap_or_default();
        to.write_all(bytes).map_err(CopyError::Write)?;
        copied += count as u64;
    }
}
