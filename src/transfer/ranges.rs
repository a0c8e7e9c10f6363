//! The rest of a large blob by several connections at once, given in order: some registries, and what lies between, limit each
//! connection to less than the link has.
//!
//! ```text
//! at ... [part being read] [part] [part] [part]    each asked for as a range of its own, at most four at once
//! ```
//!
//! Each takes a connection of those that the store's processes have to the registry. The first is the one that the blob came by;
//! more are taken as long as some are free and nobody waits for one, as whoever waits here would hold one meanwhile.
//!
//! Parts are asked of the address that the registry led to, where it led to one: those it does not count as requests of its
//! own. Of a registry that says that it is asked too often (429) this process fetches no further blob so.
//!
//! Whoever reads it sees one stream, so resumption, unpacking on the way and the digest of the whole are as with one
//! connection. A part that is refused, or is not exactly what was asked for, ends it: then the blob goes on by one connection, which
//! tries again, and elsewhere, as always.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::connections::{Connection, Connections};
use super::persist::Standing;
use crate::oci::Descriptor;
use crate::registry::{BlobPlace, Contents, RegistryError, Repository};
use crate::sys::lock::beat;

/// With less than that to come one connection is about to be done: at a megabyte a second, where four would save most, this
/// is a minute, and at a hundred it is less than the second after which it is looked.
const WORTH_IT: u64 = 64 << 20;
/// How long one connection is watched before it is judged.
const WATCHED: Duration = Duration::from_secs(1);
/// Connections for one blob: more are what registries count as an attack.
const CONNECTIONS: usize = 4;
/// Bytes of a part: a third of a second at 100 Mbit/s, so that the way there and back does not count, and little enough to
/// be kept in memory.
const PART: u64 = 4 << 20;
/// Registries that limit requests do so by the minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(90);
/// Blobs that are fetched so at once, in this process: each takes 20 MiB of memory.
const BLOBS: usize = 2;

static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// One of those that may be at work.
struct Permit;

/// The bytes of a part, and the connection that they came by.
type Part = (Result<Vec<u8>, RegistryError>, Connection);

/// The rest of a blob.
pub(super) struct Ranges {
    repository: Repository,
    place: BlobPlace,
    blob: Descriptor,
    /// The first byte that was not asked for yet.
    next: u64,
    connections: Connections,
    /// Those that are held and not in use: one, when no part is under way.
    free: Vec<Connection>,
    /// What was asked for, in order.
    coming: VecDeque<Receiver<Part>>,
    current: io::Cursor<Vec<u8>>,
    _permit: Permit,
}

/// Whether the `left` bytes of a blob are worth several connections, of which one was watched for `time` and waited for
/// during `waited` of it. When what reads it is slower than what comes, more would come for nothing.
pub(super) fn is_worth_it(left: u64, time: Duration, waited: Duration) -> bool {
    left >= WORTH_IT && time >= WATCHED && waited * 2 >= time
}

impl Ranges {
    /// The bytes of `blob` from `at` on by some of the `connections`, of which `held` is one; none when as many blobs as may are
    /// fetched so, or no connection is free but that.
    pub(super) fn begin(
        (repository, place): (&Repository, &BlobPlace),
        blob: &Descriptor,
        at: u64,
        connections: &Connections,
        held: &mut Option<Connection>,
    ) -> Option<Self> {
        let permit = Permit::take()?;
        let second = connections.find()?;
        // One that was asked beside the first registry may have none.
        let first = held.take().or_else(|| connections.find())?;
        Some(Self {
            repository: repository.clone(),
            place: place.clone(),
            blob: blob.clone(),
            next: at,
            connections: connections.clone(),
            free: vec![first, second],
            coming: VecDeque::new(),
            current: io::Cursor::default(),
            _permit: permit,
        })
    }

    /// Asks for as many parts as may be under way.
    fn ask(&mut self) -> io::Result<()> {
        while self.coming.len() < CONNECTIONS && self.next < self.blob.size {
            let Some(connection) = self.free.pop().or_else(|| self.connections.find()) else {
                break;
            };
            let (from, end) = (self.next, self.blob.size.min(self.next.saturating_add(PART)) - 1);
            let (repository, place, blob) = (self.repository.clone(), self.place.clone(), self.blob.clone());
            let (tell, told) = mpsc::channel();
            // Left behind when the blob is given up: it ends by the time that so many bytes may take.
            std::thread::Builder::new().spawn(move || {
                let part = Contents::of(&repository).part(&place, &blob, from, end);
                let _ = tell.send((part, connection));
            })?;
            self.coming.push_back(told);
            self.next = end + 1;
        }
        Ok(())
    }
}

/// How long to wait before one connection goes on where a part was refused with `error`: as long as the registry asks for, which
/// is more than is waited for otherwise. Bytes of the blob have come, and it were a pity to lose them because of too many requests.
pub(super) fn pause_after(error: &io::Error, standing: Standing) -> Duration {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<RegistryError>());
    match (standing, error.and_then(RegistryError::after)) {
        (Standing::Last, Some(asked)) => asked.min(LONGEST_PAUSE),
        _ => Duration::ZERO,
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.ask()?;
            let Some(first) = self.coming.front() else {
                return Ok(0);
            };
            let part = match first.recv_timeout(Duration::from_secs(1)) {
                Ok((part, connection)) => {
                    // Others may wait for one that is not needed; one is kept.
                    self.free.truncate(1);
                    self.free.push(connection);
                    part.map_err(io::Error::other)?
                }
                Err(RecvTimeoutError::Timeout) => {
                    beat();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            self.coming.pop_front();
            self.current = io::Cursor::new(part);
            self.ask()?;
        }
    }
}

impl Permit {
    fn take() -> Option<Self> {
        let more = |at_work: usize| (at_work < BLOBS).then_some(at_work + 1);
        let taken = AT_WORK.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_got_too_many_requests_is_waited_for_as_long_as_it_says() {
        let busy = |after| io::Error::other(RegistryError::busy("https://a.example/", after));
        let asked = Duration::from_secs(57);
        for (error, standing, pause) in [
            (busy(Some(asked)), Standing::Last, asked),
            (busy(Some(asked)), Standing::OneOfSeveral, Duration::ZERO),
            (busy(Some(Duration::MAX)), Standing::Last, LONGEST_PAUSE),
            (busy(None), Standing::Last, Duration::ZERO),
            (io::ErrorKind::BrokenPipe.into(), Standing::Last, Duration::ZERO),
        ] {
            assert_eq!(pause_after(&error, standing), pause, "{error} {standing:?}");
        }
    }

    #[test]
    fn several_connections_are_for_what_is_large_and_waited_for() {
        let second = Duration::from_secs(1);
        assert!(is_worth_it(WORTH_IT, second, second / 2));
        for (left, time, waited) in [
            (WORTH_IT - 1, second, second),
            (WORTH_IT, second / 2, second / 2),
            (WORTH_IT, second, second / 3),
        ] {
            assert!(!is_worth_it(left, time, waited), "{left} {time:?} {waited:?}");
        }
    }
}
