//! Passes on what the workload prints, up to a limit and with secrets masked.
//!
//! Nothing here blocks: what our own stream does not take yet is kept, a pipe's worth at most, and meanwhile the
//! workload's pipe is not read. So a reader that stalls stalls the workload, and neither the clock nor our signals.
//! A workload that writes byte after byte does not get a read for each: after a small one the pipe is left to fill.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::sys::streams;

/// Bytes of one read: the default capacity of a pipe.
const CHUNK: usize = 64 << 10;
/// A read of fewer bytes than this is a small one.
const SMALL: usize = 4096;
/// Pause after a small read: a person does not notice it, and 1000 reads a second cost little.
const REST: Duration = Duration::from_millis(1);
/// A pipe that polls as writable takes this much at once (PIPE_BUF, pipe(7)); our own stream may be one that blocks.
const WRITE: usize = 4096;
/// A shorter secret is also an ordinary word.
const LEAST_MASKED: usize = 6;
/// What is passed on in a secret's place.
const MASK: &[u8] = b"***";

/// The reading end of a pipe and where its bytes go.
#[derive(Debug)]
pub(super) struct Stream {
    pipe: Option<File>,
    /// What was read last; never larger than a chunk, and memory only as far as something was read.
    chunk: Vec<u8>,
    /// When the pipe is read again.
    rests_until: Option<Instant>,
    to: To,
    limit: u64,
    bytes: u64,
    mask: Mask,
    /// Bytes that the destination has not taken yet.
    pending: Vec<u8>,
    /// Whether bytes were dropped because nobody waits for them any more.
    abandoned: bool,
    /// Why bytes could not be written.
    unwritable: Option<Errno>,
    /// Whether whoever read our own stream has gone.
    is_unread: bool,
}

/// Where bytes go.
#[derive(Debug)]
pub(super) enum To {
    /// Our own standard output.
    Stdout,
    /// Our own standard error.
    Stderr,
    /// To a buffer.
    Memory(Vec<u8>),
    /// Our own stream is closed: drain on, so that the workload does not notice.
    Nowhere,
}

impl Stream {
    /// Passes on the first `limit` bytes of `pipe`, which must not block.
    pub(super) fn new(pipe: OwnedFd, to: To, limit: u64) -> Self {
        Self {
            pipe: Some(File::from(pipe)),
            chunk: Vec::with_capacity(CHUNK),
            rests_until: None,
            to,
            limit,
            bytes: 0,
            mask: Mask::default(),
            pending: Vec::new(),
            abandoned: false,
            unwritable: None,
            is_unread: false,
        }
    }

    /// Masks `secrets` in everything that is read from now on.
    pub(super) fn hide<'a>(&mut self, secrets: impl Iterator<Item = &'a [u8]>) {
        self.mask = Mask::new(secrets);
    }

    /// How long it is not to be read; meanwhile there is no [`event`](Self::event) of the pipe. Ends a rest that is over.
    pub(super) fn rest(&mut self) -> Option<Duration> {
        let left = self.rests_until?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.rests_until = None;
        }
        self.rests_until.map(|_| left)
    }

    /// The event to wait for before [`proceed`](Self::proceed); none at the end.
    pub(super) fn event(&self) -> Option<PollFd<'_>> {
        match (&self.pipe, self.to.descriptor()) {
            (_, Some(ours)) if !self.pending.is_empty() => Some(PollFd::from_borrowed_fd(ours, PollFlags::OUT)),
            (Some(pipe), _) if self.rests_until.is_none() => {
                Some(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN))
            }
            _ => None,
        }
    }

    /// Bytes that the workload has written, passed on or not.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether something was dropped that could have been written.
    pub(super) fn is_truncated(&self) -> bool {
        self.bytes > self.limit || self.abandoned
    }

    /// Whether whoever read our own stream has gone: what came after that went nowhere.
    pub(super) fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// Why something could not be written, if that was so. A closed pipe has had what it wanted.
    pub(super) fn unwritable(&self) -> Option<io::Error> {
        self.unwritable.map(|errno| match errno {
            // Ours: no kernel says that of a pipe.
            Errno::TIMEDOUT => io::Error::new(io::ErrorKind::TimedOut, "nobody read it in time"),
            errno => errno.into(),
        })
    }

    /// Passes on some of what is kept, when our stream is ready for it; else reads once, and forgets the pipe at its end.
    pub(super) fn proceed(&mut self) {
        if self.pending.is_empty() {
            self.read();
        } else {
            self.write();
        }
    }

    /// Everyone who could write is dead: what is in the pipe is all there is. Someone outside may still hold it open.
    pub(super) fn is_done(&mut self) -> bool {
        while self.pending.is_empty() && self.pipe.is_some() {
            if !self.read() {
                self.close();
            }
        }
        self.pending.is_empty()
    }

    /// Drops what the destination has not taken yet.
    pub(super) fn abandon(&mut self) {
        self.abandoned |= !self.pending.is_empty();
        self.pending.clear();
        self.pipe = None;
    }

    /// Drops it because nobody has read it for too long, which is an error.
    pub(super) fn give_up(&mut self) {
        if !self.pending.is_empty() {
            self.unwritable = Some(Errno::TIMEDOUT);
        }
        self.pending.clear();
        self.pipe = None;
    }

    /// Whether there was something to read.
    fn read(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        self.chunk.clear();
        match rustix::io::read(pipe, spare_capacity(&mut self.chunk)) {
            Ok(0) => self.close(),
            Ok(count) => {
                let room = usize::try_from(self.limit.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
                self.bytes += count as u64;
                self.rests_until = (count < SMALL).then(|| Instant::now() + REST);
                let passed = self.mask.pass(self.chunk.get(..count.min(room)).unwrap_or_default());
                self.to.take(&passed, &mut self.pending);
            }
            Err(Errno::AGAIN) => return false,
            Err(Errno::INTR) => {}
            Err(_) => self.close(),
        }
        true
    }

    fn write(&mut self) {
        let Some(ours) = self.to.descriptor() else { return };
        let some = self.pending.get(..self.pending.len().min(WRITE)).unwrap_or_default();
        let written = match (&self.to, streams::is_standard_output_closed()) {
            // What has its number now is not what our caller gave us: nothing.
            (To::Stdout, true) => Err(Errno::BADF),
            _ => rustix::io::write(ours, some),
        };
        match written {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => {
                self.is_unread = errno == Errno::PIPE;
                self.unwritable = Some(errno).filter(|errno| *errno != Errno::PIPE);
                self.pending.clear();
                self.to = To::Nowhere;
            }
        }
    }

    /// What was kept.
    pub(super) fn into_memory(self) -> Vec<u8> {
        match self.to {
            To::Memory(memory) => memory,
            _ => Vec::new(),
        }
    }

    fn close(&mut self) {
        self.pipe = None;
        let held = self.mask.rest();
        self.to.take(&held, &mut self.pending);
    }
}

impl To {
    fn descriptor(&self) -> Option<BorrowedFd<'static>> {
        match self {
            Self::Stdout => Some(rustix::stdio::stdout()),
            Self::Stderr => Some(rustix::stdio::stderr()),
            Self::Memory(_) | Self::Nowhere => None,
        }
    }

    fn take(&mut self, bytes: &[u8], pending: &mut Vec<u8>) {
        match self {
            Self::Stdout | Self::Stderr => pending.extend(bytes),
            Self::Memory(memory) => memory.extend(bytes),
            Self::Nowhere => {}
        }
    }
}

/// Blots out secrets in a stream. A help against accidents (a traceback, a debug print), not a promise: whoever means
/// to print a secret encodes it first.
#[derive(Debug, Default)]
struct Mask {
    /// Longest first, so that a secret that begins like another is blotted out whole.
    secrets: Vec<Vec<u8>>,
    /// The end of what came, when a secret may have begun there.
    held: Vec<u8>,
}

impl Mask {
    fn new<'a>(secrets: impl Iterator<Item = &'a [u8]>) -> Self {
        let trimmed = secrets.map(|secret| secret.trim_ascii_end().to_vec());
        let mut secrets: Vec<Vec<u8>> = trimmed.filter(|secret| secret.len() >= LEAST_MASKED).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self {
            secrets,
            held: Vec::new(),
        }
    }

    fn pass<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.secrets.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend(bytes);
        let mut passed = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            // Before a match is taken: it may be the beginning of a longer one.
            let mut longer = self.secrets.iter().take_while(|secret| secret.len() > rest.len());
            if longer.any(|secret| secret.starts_with(rest)) {
                self.held = rest.to_vec();
                break;
            }
            rest = self.blot_one(rest, &mut passed);
        }
        Cow::Owned(passed)
    }

    /// What was held back, when nothing more can come.
    fn rest(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let (mut passed, mut rest) = (Vec::new(), held.as_slice());
        while !rest.is_empty() {
            rest = self.blot_one(rest, &mut passed);
        }
        passed
    }

    /// Passes on one byte, or a mask for the secret that begins there; returns what follows.
    fn blot_one<'a>(&self, text: &'a [u8], passed: &mut Vec<u8>) -> &'a [u8] {
        let found = self.secrets.iter().find(|secret| text.starts_with(secret));
        match found {
            Some(_) => passed.extend(MASK),
            None => passed.extend(text.first()),
        }
        text.get(found.map_or(1, Vec::len)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], chunks: &[&str]) -> String {
        let mut mask = Mask::new(secrets.iter().map(|secret| secret.as_bytes()));
        let mut passed = Vec::new();
        for chunk in chunks {
            passed.extend(mask.pass(chunk.as_bytes()).iter());
        }
        passed.extend(mask.rest());
        String::from_utf8(passed).unwrap()
    }

    #[test]
    fn secrets_are_blotted_out_wherever_the_chunks_end() {
        let text = "key=hunter2hunter2; keys=hunter3 hunter2";
        let expected = "key=******; keys=hunter3 ***";
        for width in 1..text.len() {
            let chunks: Vec<&str> = (0..text.len())
                .step_by(width)
                .map(|at| &text[at..text.len().min(at + width)])
                .collect();
            assert_eq!(masked(&["hunter2\n"], &chunks), expected, "in chunks of {width}");
        }
    }

    #[test]
    fn the_longer_of_two_secrets_is_blotted_out_whole() {
        assert_eq!(
            masked(&["secret", "secret-key"], &["a secret-", "key, a secret-k"]),
            "a ***, a ***-k"
        );
    }

    /// Writes a packet a time (pipe(7), O_DIRECT): each would be a read of its own.
    #[test]
    fn a_pipe_that_brings_little_is_left_alone_for_a_while_and_still_drained_at_the_end() {
        let flags = rustix::pipe::PipeFlags::DIRECT | rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags).unwrap();
        let mut stream = Stream::new(read, To::Memory(Vec::new()), 100);
        let send = |bytes: &[u8]| assert_eq!(rustix::io::write(&write, bytes).unwrap(), bytes.len());
        assert!(stream.rest().is_none() && stream.event().is_some());
        send(b"a");
        send(b"b");
        let before = Instant::now();
        stream.proceed();
        assert!(stream.rests_until.is_some_and(|until| until >= before + REST));
        stream.rests_until = Some(Instant::now() + Duration::from_secs(600));
        assert!(stream.rest().is_some() && stream.event().is_none());
        stream.rests_until = Some(Instant::now());
        assert!(stream.rest().is_none() && stream.event().is_some(), "the rest is over");
        stream.proceed();
        stream.rests_until = Some(Instant::now() + Duration::from_secs(600));
        send(b"c");
        assert!(stream.event().is_none() && stream.is_done(), "the end does not wait");
        assert_eq!(stream.into_memory(), b"abc");

        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut stream = Stream::new(read, To::Memory(Vec::new()), 100);
        rustix::io::write(&write, &[0; SMALL]).unwrap();
        stream.proceed();
        assert!(stream.event().is_some(), "more may be there already");
    }

    #[test]
    fn short_secrets_and_unfinished_ones_pass() {
        assert_eq!(masked(&["no", "hunter2"], &["no hunter"]), "no hunter");
        assert_eq!(masked(&[], &["anything"]), "anything");
    }
}
