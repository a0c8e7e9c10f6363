//! A stream of the workload on its way to somewhere: limited, and with secrets blotted out.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One read of a pipe: its default capacity.
const CHUNK: usize = 64 << 10;
/// A shorter secret is also an ordinary word.
const LEAST_MASKED: usize = 6;
/// What is passed on in a secret's place.
const MASK: &[u8] = b"***";

/// The reading end of a pipe and where its bytes go.
#[derive(Debug)]
pub struct Stream {
    pipe: Option<File>,
    to: To,
    limit: u64,
    bytes: u64,
    mask: Mask,
}

/// Where bytes go.
#[derive(Debug)]
pub enum To {
    /// Our own standard output.
    Stdout,
    /// Our own standard error.
    Stderr,
    /// Kept.
    Memory(Vec<u8>),
    /// Our own stream is closed: drain on, so that the workload does not notice.
    Nowhere,
}

impl Stream {
    /// Passes on the first `limit` bytes of `pipe`, which must not block; `secrets` are blotted out.
    pub fn new(pipe: OwnedFd, to: To, limit: u64, secrets: &[Vec<u8>]) -> Self {
        Self {
            pipe: Some(File::from(pipe)),
            to,
            limit,
            bytes: 0,
            mask: Mask::new(secrets),
        }
    }

    /// Becomes readable with the next bytes; none at the end.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(|pipe| pipe.as_fd())
    }

    /// Bytes that came, passed on or not.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether something was dropped.
    pub fn is_truncated(&self) -> bool {
        self.bytes > self.limit
    }

    /// Reads once; forgets the pipe at its end.
    pub fn drain(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut chunk = [0u8; CHUNK];
        match pipe.read(&mut chunk) {
            Ok(0) => self.close(),
            Ok(count) => {
                let room = usize::try_from(self.limit.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
                self.bytes += count as u64;
                self.pass_on(chunk.get(..count.min(room)).unwrap_or_default());
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.close(),
        }
    }

    /// Reads what is left, when everyone who could write is dead.
    pub fn drain_all(&mut self) {
        while self.pipe.is_some() {
            self.drain();
        }
    }

    /// What was kept.
    pub fn into_memory(self) -> Vec<u8> {
        match self.to {
            To::Memory(memory) => memory,
            _ => Vec::new(),
        }
    }

    fn close(&mut self) {
        self.pipe = None;
        let held = self.mask.rest();
        self.to.write(&held);
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        let masked = self.mask.pass(bytes);
        self.to.write(&masked);
    }
}

impl To {
    fn write(&mut self, bytes: &[u8]) {
        let passed = match self {
            Self::Stdout => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
            Self::Stderr => io::stderr().write_all(bytes),
            Self::Memory(memory) => {
                memory.extend(bytes);
                Ok(())
            }
            Self::Nowhere => Ok(()),
        };
        if passed.is_err() {
            *self = Self::Nowhere;
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
    fn new(secrets: &[Vec<u8>]) -> Self {
        let trimmed = secrets.iter().map(|secret| secret.trim_ascii_end().to_vec());
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
        let secrets: Vec<Vec<u8>> = secrets.iter().map(|secret| secret.as_bytes().to_vec()).collect();
        let mut mask = Mask::new(&secrets);
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

    #[test]
    fn short_secrets_and_unfinished_ones_pass() {
        assert_eq!(masked(&["no", "hunter2"], &["no hunter"]), "no hunter");
        assert_eq!(masked(&[], &["anything"]), "anything");
    }
}
