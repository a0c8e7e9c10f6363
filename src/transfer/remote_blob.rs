//! A blob as a stream of its bytes, from whichever registries give them.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::candidates::{Candidates, Subject};
use super::connections::Connection;
use super::persist::{pause_before_retry, sleep, Standing};
use super::ranges::{is_worth_it, pause_after, Ranges};
use super::TransferError;
use crate::oci::Descriptor;
use crate::registry::{BlobBody, Contents, Repository};

/// A connection that brought this much before it broke was worth it.
const WORTH_IT: u64 = 1 << 20;
/// The fewest bytes a second that a registry is worth waiting for, over the time that it may be silent.
const SLOWEST: u64 = 1 << 10;

/// Notes of a blob who gave it.
pub(super) type NoteGiver<'a> = dyn Fn(usize) + Send + 'a;

/// A blob that is read from the registries, at whatever byte the one before broke off.
pub(super) struct RemoteBlob<'a> {
    candidates: &'a Candidates<'a>,
    note_giver: Box<NoteGiver<'a>>,
    blob: Descriptor,
    at: u64,
    body: Option<(usize, BlobBody)>,
    /// Held while a body is open.
    connection: Option<Connection>,
    /// Where the connection that is open now began.
    since: u64,
    /// Connections in a row that broke without having brought much.
    broken: u32,
    /// Registries in a row that were given up without having brought much.
    given_up: usize,
    /// When it was last looked how fast it is, and what had come by then.
    looked: (Instant, u64),
    /// When the connection that is open was made, and how long it was waited for since.
    watched: (Instant, Duration),
    /// Several connections in its place, and to whom.
    ranges: Option<(usize, Ranges)>,
    /// Whether they were tried.
    has_tried_ranges: bool,
}

impl<'a> RemoteBlob<'a> {
    pub(super) fn new(
        candidates: &'a Candidates<'a>,
        blob: &Descriptor,
        at: u64,
        note_giver: impl Fn(usize) + Send + 'a,
    ) -> Self {
        Self {
            candidates,
            note_giver: Box::new(note_giver),
            blob: blob.clone(),
            at,
            body: None,
            connection: None,
            since: at,
            broken: 0,
            given_up: 0,
            looked: (Instant::now(), at),
            watched: (Instant::now(), Duration::ZERO),
            ranges: None,
            has_tried_ranges: false,
        }
    }

    fn connect(&mut self) -> Result<(), TransferError> {
        let (at, blob) = (self.at, self.blob.clone());
        self.connection = None;
        // Waited for before the first registry's silence is measured. Whoever is asked beside it waits for none.
        let held = Mutex::new(self.candidates.connect_first());
        let others = self.candidates.connections();
        let work = Arc::new(move |repository: &Repository| {
            let host = repository.host();
            let held = held
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take_if(|(of, _)| of == host);
            let free = || others.iter().find(|(of, _)| of == host).and_then(|(_, all)| all.find());
            let connection = held.map(|(_, connection)| connection).or_else(free);
            Ok((Contents::of(repository).blob(&blob, at)?, connection))
        });
        let (index, (body, connection)) = self.candidates.fetch_first(work)?;
        (self.note_giver)(index);
        self.connection = connection;
        self.body = Some((index, body));
        self.since = at;
        self.looked = (Instant::now(), at);
        self.watched = (Instant::now(), Duration::ZERO);
        Ok(())
    }

    /// What is done about a connection that broke: another one, at once when another registry may have it.
    fn broke(&mut self, index: usize, error: &io::Error) -> Result<(), TransferError> {
        (self.body, self.connection) = (None, None);
        if self.at - self.since >= WORTH_IT {
            (self.broken, self.given_up) = (1, 0);
        } else {
            self.broken += 1;
        }
        let candidates = self.candidates;
        let Some(repository) = candidates.repository(index) else {
            return Ok(());
        };
        let error = Contents::of(repository).broken_blob(&self.blob.digest, error);
        let standing = candidates.standing(index);
        match pause_before_retry(&error, self.broken, standing) {
            Some(_) if standing == Standing::OneOfSeveral => Ok(()),
            Some(pause) => {
                sleep(pause);
                Ok(())
            }
            None => {
                candidates.give_up(Subject::Digest, index, &error);
                (self.broken, self.given_up) = (0, self.given_up + 1);
                match standing {
                    // Those that were given up by others are asked again, but not without end.
                    Standing::OneOfSeveral if self.given_up < candidates.count() => Ok(()),
                    Standing::OneOfSeveral | Standing::Last => Err(candidates.failed(vec![error])),
                }
            }
        }
    }

    /// Goes on by several connections, where one is what makes it slow.
    fn widen(&mut self) {
        let (since, waited) = self.watched;
        if !self.candidates.ranges
            || self.has_tried_ranges
            || !is_worth_it(self.blob.size - self.at, since.elapsed(), waited)
        {
            return;
        }
        let Some((index, body)) = &self.body else { return };
        let repository = self.candidates.repository(*index);
        let repository = repository.filter(|repository| {
            let is_counted = self.candidates.has_budget(*index) && !body.place().is_elsewhere;
            body.has_parts() && !repository.is_limited() && !is_counted
        });
        let Some((repository, connections)) = repository.zip(self.candidates.connections_to(*index)) else {
            return;
        };
        let place = (repository, body.place());
        match Ranges::begin(place, &self.blob, self.at, connections, &mut self.connection) {
            Some(ranges) => {
                self.ranges = Some((*index, ranges));
                self.has_tried_ranges = true;
                self.body = None;
            }
            // All are in use: it is looked again after a while.
            None => self.watched = (Instant::now(), Duration::ZERO),
        }
    }

    /// What several connections bring; nothing when they are none, or not any more.
    fn read_ranges(&mut self, buffer: &mut [u8]) -> usize {
        let Some((index, ranges)) = &mut self.ranges else {
            return 0;
        };
        let (index, read) = (*index, ranges.read(buffer));
        if let Ok(count @ 1..) = read {
            self.came(index, count);
            return count;
        }
        // What they did not bring one connection does, with all that is done about its failures.
        self.ranges = None;
        if let Err(error) = read {
            sleep(pause_after(&error, self.candidates.standing(index)));
        }
        0
    }

    /// So many bytes more came from a registry.
    fn came(&mut self, index: usize, count: usize) {
        self.at += count as u64;
        if let Some(repository) = self.candidates.repository(index) {
            self.candidates.ledger().moves(repository.host(), count as u64);
        }
    }

    /// Whether what comes is too slow to be waited for.
    fn is_too_slow(&mut self) -> bool {
        let (when, had) = self.looked;
        if when.elapsed() < self.candidates.stall {
            return false;
        }
        self.looked = (Instant::now(), self.at);
        self.at - had < SLOWEST.saturating_mul(when.elapsed().as_secs().max(1))
    }
}

impl Read for RemoteBlob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.at >= self.blob.size || buffer.is_empty() {
                (self.connection, self.ranges) = (None, None);
                return Ok(0);
            }
            match self.read_ranges(buffer) {
                0 => {}
                count => return Ok(count),
            }
            if self.body.is_none() {
                self.connect().map_err(io::Error::other)?;
            }
            let Some((index, body)) = &mut self.body else { continue };
            let (index, asked) = (*index, Instant::now());
            let read = body.read(buffer);
            self.watched.1 += asked.elapsed();
            let read = match read {
                // A part that ends before the blob does.
                Ok(0) if self.at - self.since >= WORTH_IT => {
                    self.body = None;
                    self.given_up = 0;
                    continue;
                }
                // A registry that gives it byte by byte would be asked as often as it has bytes.
                Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a part ends early")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let trouble = match read {
                Ok(count) => {
                    self.came(index, count);
                    if !self.is_too_slow() {
                        self.widen();
                        return Ok(count);
                    }
                    // What came is counted: it is given by the next call, so it must not be lost.
                    self.body = None;
                    let slow = io::Error::new(io::ErrorKind::TimedOut, "it sends less than a kilobyte a second");
                    self.broke(index, &slow).map_err(io::Error::other)?;
                    return Ok(count);
                }
                Err(error) => error,
            };
            self.broke(index, &trouble).map_err(io::Error::other)?;
        }
    }
}
