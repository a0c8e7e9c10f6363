//! Passes our own standard input on to the workload, up to a limit.
//!
//! Nothing here blocks: what the workload does not take yet is kept, a pipe's worth at most, and meanwhile our own input is
//! not read. Nothing is read before the workload has started, so that a run which is refused takes nothing from anyone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::stdio::stdin;

/// Bytes of one read: the default capacity of a pipe.
const CHUNK: usize = 64 << 10;

/// The writing end of the workload's standard input, and what goes into it.
#[derive(Debug)]
pub(super) struct Feed {
    /// Closed when there is nothing more to pass on, or nobody to take it: then the workload reads an end.
    pipe: Option<OwnedFd>,
    /// Bytes that the workload has not taken yet.
    pending: Vec<u8>,
    /// Whether our own input is at its end.
    ended: bool,
    bytes: u64,
    limit: u64,
    failed: Option<Errno>,
}

impl Feed {
    /// Passes at most `limit` bytes on to `pipe`, which must not block.
    pub(super) fn new(pipe: OwnedFd, limit: u64) -> Self {
        Self {
            pipe: Some(pipe),
            pending: Vec::new(),
            ended: false,
            bytes: 0,
            limit,
            failed: None,
        }
    }

    /// The event to wait for before [`proceed`](Self::proceed); none at the end.
    pub(super) fn event(&self) -> Option<PollFd<'_>> {
        let pipe = self.pipe.as_ref().filter(|_| !self.is_over())?;
        Some(if self.pending.is_empty() {
            PollFd::from_borrowed_fd(stdin(), PollFlags::IN)
        } else {
            PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::OUT)
        })
    }

    /// Reads once, or passes some of what was read on.
    pub(super) fn proceed(&mut self) {
        if self.pending.is_empty() {
            self.read();
        } else {
            self.write();
        }
        // Over the limit the workload is ended with its input open: it must not take the cut for the end.
        if self.ended && self.pending.is_empty() && !self.is_over() {
            self.pipe = None;
        }
    }

    /// Whether there is more than may be passed on. The rest is not.
    pub(super) fn is_over(&self) -> bool {
        self.bytes > self.limit
    }

    /// Why our own input could not be read to its end, if that was so.
    pub(super) fn failed(&self) -> Option<io::Error> {
        self.failed.map(Into::into)
    }

    fn read(&mut self) {
        let mut chunk = vec![0; CHUNK];
        match rustix::io::read(stdin(), &mut chunk) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.bytes += count as u64;
                self.ended = self.is_over();
                chunk.truncate(count);
                self.pending = if self.ended { Vec::new() } else { chunk };
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => (self.ended, self.failed) = (true, Some(errno)),
        }
    }

    fn write(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        match rustix::io::write(pipe, &self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The workload has closed it, or is gone: it has had what it wanted.
            Err(_) => {
                self.pending.clear();
                self.ended = true;
            }
        }
    }
}
