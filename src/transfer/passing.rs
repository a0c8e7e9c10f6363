//! A blob on its way into the store, which is written before it is given to whoever unpacks it.

use std::io::{self, Read};

use super::peer::Incoming;
use super::TransferError;

/// What is read at a time: enough for few system calls, little enough for sixty-four layers at once.
const CHUNK: usize = 256 << 10;

/// A blob that `write` gets in parts as it is read.
pub(super) struct PassingBlob<'i, 'a, W> {
    incoming: &'i mut Incoming<'a>,
    write: W,
    chunk: Vec<u8>,
    /// What was not given yet of `chunk`.
    next: usize,
    end: usize,
    failed: Option<TransferError>,
}

impl<'i, 'a, W: FnMut(&[u8]) -> Result<(), TransferError>> PassingBlob<'i, 'a, W> {
    pub(super) fn new(incoming: &'i mut Incoming<'a>, write: W) -> Self {
        Self {
            incoming,
            write,
            chunk: vec![0; CHUNK],
            next: 0,
            end: 0,
            failed: None,
        }
    }

    /// Writes what comes next; whether there was something.
    fn advance(&mut self) -> Result<bool, TransferError> {
        (self.next, self.end) = (0, 0);
        let count = self.incoming.read_next(&mut self.chunk)?;
        (self.write)(self.chunk.get(..count).unwrap_or_default())?;
        self.end = count;
        Ok(count > 0)
    }

    /// Writes all that is still to come.
    ///
    /// # Errors
    /// Also the one that ended an earlier reading.
    pub(super) fn drain(mut self) -> Result<(), TransferError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        while self.advance()? {}
        Ok(())
    }
}

impl<W: FnMut(&[u8]) -> Result<(), TransferError>> Read for PassingBlob<'_, '_, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.next == self.end && self.failed.is_none() {
            if let Err(error) = self.advance() {
                self.failed = Some(error);
            }
        }
        if self.failed.is_some() {
            return Err(io::Error::other("the rest of it cannot be read or written"));
        }
        let mut rest = self.chunk.get(self.next..self.end).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.next += count;
        Ok(count)
    }
}
