//! Reads a gzip file by its members (RFC 1952, 2.2): small ones whole, several at a time where processors are free.
//!
//! Where a member ends is known only when it is inflated. What looks like the header of another one is therefore a guess at
//! an end, and the guess holds when the bytes before it are one whole member: its deflate stream ends right before the
//! trailer, and size and checksum are those of the trailer. The first member begins with the first byte, so each guess that
//! holds makes the next beginning certain, and nothing is given before that. From a beginning whose guess does not hold, or
//! that is too large to be kept, one member is read as a stream. So bytes that lie about members are read, or refused, as
//! by a reader that takes one member after the other; they only cost themselves their speed.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::thread;

use flate2::bufread::{GzDecoder, MultiGzDecoder};
use memchr::memmem;

use super::gzip::HEADER;
use crate::sys::cores;
use crate::sys::inflate::Inflater;

/// Most packed bytes of a member that is inflated at once. Larger ones are few, and ten layers come at a time.
const WINDOW: usize = 2 << 20;
/// Read at a time.
const STEP: usize = 256 << 10;
/// Most bytes that are inflated before they are given.
const LARGEST: usize = 8 << 20;
/// Inflated at a time by a thread that is alone: more would leave the processor's cache.
const BATCH: usize = 1 << 20;
/// Checksum and size.
const TRAILER: usize = 8;
/// Wrong guesses after which none is made: each costs the work of a batch, which a stream of wrong ones must not multiply.
const MOST_WRONG: usize = 16;
/// Threads beside the caller's; what is inflated is hashed by one thread, which is not three times as fast.
const MOST_HELPERS: usize = 3;

/// Reads what the members of `R` inflate to, one after the other.
pub(super) struct MemberReader<'c, R> {
    state: State<'c, R>,
    inflated: Vec<u8>,
    /// What was not given yet of `inflated`.
    given: usize,
    end: usize,
    wrong: usize,
}

enum State<'c, R> {
    /// At the beginning of a member, or at the end.
    Between(Source<'c, R>),
    /// Within a member that is read as a stream; how much of the file came before it.
    Within(Box<GzDecoder<Source<'c, R>>>, u64),
    /// Members are not guessed at any more.
    Rest(Box<MultiGzDecoder<Source<'c, R>>>),
    /// An error was returned.
    Ended,
}

impl<'c, R: Read> MemberReader<'c, R> {
    /// What was used of `reader` is added to `packed`; what was only read ahead is not.
    pub(super) fn new(reader: R, packed: &'c Cell<u64>) -> Self {
        let source = Source {
            inner: reader,
            window: Vec::new(),
            start: 0,
            is_end: false,
            packed,
        };
        Self {
            state: State::Between(source),
            inflated: Vec::new(),
            given: 0,
            end: 0,
            wrong: 0,
        }
    }

    /// Inflates the members that come next, or begins to read one as a stream. False at the end.
    fn advance(&mut self, mut source: Source<'c, R>) -> io::Result<bool> {
        let is_end = source.fill_buf()?.is_empty();
        if is_end && source.packed.get() > 0 {
            self.state = State::Between(source);
            return Ok(false);
        }
        // Nothing at all is no gzip file either.
        if is_end || self.wrong > MOST_WRONG {
            self.state = State::Rest(Box::new(MultiGzDecoder::new(source)));
            return Ok(true);
        }
        let helpers = cores::take_free(MOST_HELPERS);
        let most = match helpers.count() {
            0 => BATCH,
            _ => LARGEST,
        };
        let members = source.members(most, helpers.count())?;
        let good = inflate(&source, &members, helpers.count(), &mut self.inflated);
        drop(helpers);
        let whole = members.get(..good).unwrap_or_default();
        self.given = 0;
        self.end = whole.iter().map(|member| member.size).sum();
        self.state = match whole.last() {
            Some(last) => {
                source.consume(last.end);
                State::Between(source)
            }
            None => {
                let before = source.packed.get();
                State::Within(Box::new(GzDecoder::new(source)), before)
            }
        };
        Ok(true)
    }

    /// Goes on behind a member that was read as a stream and began after `before` bytes.
    fn leave(&mut self, source: Source<'c, R>, before: u64) {
        if source.packed.get() - before < WINDOW as u64 {
            self.wrong += 1;
        }
        self.state = State::Between(source);
    }
}

impl<R: Read> Read for MemberReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let rest = self.inflated.get(self.given..self.end).unwrap_or_default();
            if !rest.is_empty() {
                let count = rest.len().min(buffer.len());
                let (from, to) = (rest.get(..count), buffer.get_mut(..count));
                if let (Some(from), Some(to)) = (from, to) {
                    to.copy_from_slice(from);
                }
                self.given += count;
                return Ok(count);
            }
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Between(source) => {
                    if !self.advance(source)? {
                        return Ok(0);
                    }
                }
                State::Within(mut decoder, before) => match decoder.read(buffer)? {
                    0 => self.leave(decoder.into_inner(), before),
                    count => {
                        self.state = State::Within(decoder, before);
                        return Ok(count);
                    }
                },
                State::Rest(mut decoder) => {
                    let count = decoder.read(buffer)?;
                    self.state = State::Rest(decoder);
                    return Ok(count);
                }
                State::Ended => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// A member as far as it was guessed: where it is in what was read, and what it says it inflates to.
#[derive(Debug, Clone, Copy)]
struct Member {
    start: usize,
    end: usize,
    size: usize,
}

/// The packed bytes, as many of them as were read ahead.
struct Source<'c, R> {
    inner: R,
    window: Vec<u8>,
    start: usize,
    is_end: bool,
    packed: &'c Cell<u64>,
}

impl<R: Read> Source<'_, R> {
    fn ahead(&self) -> &[u8] {
        self.window.get(self.start..).unwrap_or_default()
    }

    /// Reads on behind what was read.
    fn read_ahead(&mut self) -> io::Result<()> {
        self.window.drain(..self.start);
        self.start = 0;
        let count = self.inner.by_ref().take(STEP as u64).read_to_end(&mut self.window)?;
        self.is_end = count < STEP;
        Ok(())
    }

    /// The members that come next and inflate to `most` bytes together, at least one unless there is none that can be kept.
    /// With helpers it reads on until there is work for them.
    fn members(&mut self, most: usize, helpers: usize) -> io::Result<Vec<Member>> {
        loop {
            let guessed = self.guess(most);
            let is_enough = match &guessed {
                Guess::Wrong => true,
                Guess::Members(members) => helpers == 0 || members.len() > helpers || self.ahead().len() >= WINDOW / 2,
                Guess::NotYet => self.ahead().len() >= WINDOW,
            };
            if is_enough || self.is_end {
                return Ok(match guessed {
                    Guess::Members(members) => members,
                    Guess::Wrong | Guess::NotYet => Vec::new(),
                });
            }
            self.read_ahead()?;
        }
    }

    fn guess(&self, most: usize) -> Guess {
        let bytes = self.ahead();
        let headers = memmem::find_iter(bytes.get(1..).unwrap_or_default(), &HEADER).map(|at| at + 1);
        let ends = headers.chain(self.is_end.then_some(bytes.len()));
        let (mut members, mut start, mut total) = (Vec::new(), 0, 0);
        for end in ends {
            let Some(size) = bytes.get(start..end).and_then(size_said) else {
                return if members.is_empty() {
                    Guess::Wrong
                } else {
                    Guess::Members(members)
                };
            };
            if !members.is_empty() && total + size > most {
                break;
            }
            total += size;
            members.push(Member { start, end, size });
            start = end;
        }
        match members.is_empty() {
            true => Guess::NotYet,
            false => Guess::Members(members),
        }
    }
}

enum Guess {
    /// No end was seen yet.
    NotYet,
    /// The first one is no member as it stands there, or is too large.
    Wrong,
    Members(Vec<Member>),
}

impl<R: Read> BufRead for Source<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.ahead().is_empty() && !self.is_end {
            self.read_ahead()?;
        }
        Ok(self.ahead())
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        self.packed.set(self.packed.get() + count as u64);
    }
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// What a member says that it inflates to; none when it has another header than those this looks for, or is too large.
fn size_said(member: &[u8]) -> Option<usize> {
    let (body, size) = member.strip_prefix(&HEADER)?.split_last_chunk()?;
    let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
    // A byte of deflate makes 1032 at most, and the checksum still is in `body`.
    (size <= LARGEST && size / 1032 <= body.len()).then_some(size)
}

/// Inflates members to where they belong in `out`; returns how many, from the first on, are what they say.
fn inflate<R: Read>(source: &Source<'_, R>, members: &[Member], helpers: usize, out: &mut Vec<u8>) -> usize {
    let size: usize = members.iter().map(|member| member.size).sum();
    if out.len() < size {
        out.resize(size, 0);
    }
    let mut room = out.as_mut_slice();
    let mut work = Vec::with_capacity(members.len());
    for member in members {
        let (ours, rest) = room.split_at_mut(member.size.min(room.len()));
        room = rest;
        work.push((source.ahead().get(member.start..member.end).unwrap_or_default(), ours));
    }
    let share = work.len().div_ceil(helpers + 1).max(1);
    let mut groups = Vec::new();
    while work.len() > share {
        let rest = work.split_off(share);
        groups.push(std::mem::replace(&mut work, rest));
    }
    thread::scope(|scope| {
        let started: Vec<_> = groups
            .into_iter()
            .map(|group| (group.len(), scope.spawn(move || whole_members(group))))
            .collect();
        let last = whole_members(work);
        let mut good = 0;
        for (count, group) in started {
            let whole = group.join().unwrap_or(0);
            good += whole;
            if whole < count {
                return good;
            }
        }
        good + last
    })
}

/// How many, from the first on, are one whole member each.
fn whole_members(work: Vec<(&[u8], &mut [u8])>) -> usize {
    let Some(mut inflater) = Inflater::new() else { return 0 };
    let is_whole = |(member, out): (&[u8], &mut [u8])| {
        let deflated = member.get(HEADER.len()..member.len().saturating_sub(TRAILER))?;
        let trailer: &[u8; 4] = member.get(HEADER.len() + deflated.len()..)?.first_chunk()?;
        let inflated = inflater.inflate(deflated, out)?;
        let is_exact = inflated.used == deflated.len() && inflated.written == out.len();
        (is_exact && libdeflater::crc32(out) == u32::from_le_bytes(*trailer)).then_some(())
    };
    work.into_iter().map_while(is_whole).count()
}

/// What fuzzing reads of a gzip file: the same bytes and the same verdict as from a reader of one member after the other.
pub(crate) fn read_fuzzed_gzip(bytes: &[u8]) {
    /// More than any input of a fuzzer packs honestly.
    const MOST: u64 = 64 << 20;
    let (mut serial, mut ours, packed) = (Vec::new(), Vec::new(), Cell::new(0));
    let expected = MultiGzDecoder::new(bytes).take(MOST).read_to_end(&mut serial);
    let got = MemberReader::new(bytes, &packed).take(MOST).read_to_end(&mut ours);
    assert_eq!(got.is_ok(), expected.is_ok(), "{got:?}, {expected:?}");
    let both = ours.len().min(serial.len());
    assert!(ours.get(..both) == serial.get(..both));
    assert!(got.is_err() || ours.len() == serial.len());
    assert!(packed.get() <= bytes.len() as u64);
}

#[cfg(test)]
mod tests;
