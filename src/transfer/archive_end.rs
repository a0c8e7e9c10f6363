//! Whether an archive came to its end: how far its stream was read, and whether there was no more of it.

use std::cell::Cell;
use std::io::{self, Read};

/// Where a stream is. A tar that is whole ends before its stream does: by blocks of zeros.
#[derive(Debug, Default)]
pub(super) struct Place {
    bytes: Cell<u64>,
    has_ended: Cell<bool>,
}

impl Place {
    /// After how many bytes the stream ended; none when it did not.
    pub(super) fn end(&self) -> Option<u64> {
        self.has_ended.get().then(|| self.bytes.get())
    }
}

/// A stream that notes where it is.
pub(super) struct Watched<'p, R> {
    pub(super) inner: R,
    pub(super) place: &'p Place,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.place
            .bytes
            .set(self.place.bytes.get().saturating_add(count as u64));
        if count == 0 && !buffer.is_empty() {
            self.place.has_ended.set(true);
        }
        Ok(count)
    }
}
