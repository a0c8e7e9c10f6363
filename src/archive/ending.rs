//! The end of a tar whose writer never closed it: the padding of its last file may be missing, its contents may not.

use std::cell::Cell;
use std::io::{self, Read};

/// What contents are filled up to.
const BLOCK: u64 = 512;

/// How far an archive was read.
#[derive(Default)]
pub(super) struct Place {
    position: Cell<u64>,
    /// Where the padding of the last entry that was read whole ends.
    complete_at: Cell<u64>,
}

impl Place {
    /// Notes that the contents of an entry end at `end`, and whether they are there.
    pub(super) fn is_complete(&self, end: u64) -> bool {
        self.complete_at.set(end.next_multiple_of(BLOCK));
        self.position.get() >= end
    }
}

/// Supplies the padding that the last file of an unclosed archive lacks.
pub(super) struct Ending<'c, R> {
    pub(super) inner: R,
    pub(super) place: &'c Place,
}

impl<R: Read> Read for Ending<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = self.inner.read(buffer)?;
        if count == 0 {
            let missing = self.place.complete_at.get().saturating_sub(self.place.position.get());
            count = buffer.len().min(usize::try_from(missing).unwrap_or_default());
            buffer.iter_mut().take(count).for_each(|byte| *byte = 0);
        }
        self.place.position.set(self.place.position.get() + count as u64);
        Ok(count)
    }
}
