//! The room that an archive takes while it is read: asked for as its bytes come, as what a stranger's header says of a size has
//! no bytes behind it yet.

use std::io::{self, Read};

use super::TransferError;
use crate::store::{Reservation, RoomNeeded, Store, StoreError};

/// So much of a stream is asked for at once. By less, a load of gigabytes would take stock of the store again and again; by more,
/// others would go for what may never come.
const STEP: u64 = 64 << 20;
/// So much comes without being asked for: it fits where others fit.
const SMALL: u64 = 1 << 20;

/// What an archive takes.
pub(super) struct ArchiveRoom<'a> {
    store: &'a Store,
    /// Bytes that are there and have not been asked for: 0 of a stream.
    expected: u64,
    /// Bytes that may come before there is to be asked again.
    granted: u64,
    /// Bytes that came and that the reservation still counts.
    unnoted: u64,
    room: Option<Reservation>,
}

impl<'a> ArchiveRoom<'a> {
    /// The room of an archive of which `expected` bytes are sure to be there.
    pub(super) fn new(store: &'a Store, expected: u64) -> Self {
        Self {
            store,
            expected,
            granted: if expected > 0 { 0 } else { SMALL },
            unnoted: 0,
            room: None,
        }
    }

    /// Lets `write` read a file that says it has `size` bytes; for what comes of them there is room.
    ///
    /// # Errors
    ///
    /// What `write` failed with, or the store, which has no room.
    pub(super) fn pass<R: Read, T>(
        &mut self,
        content: R,
        size: u64,
        write: impl FnOnce(&mut Passing<'_, 'a, R>) -> Result<T, TransferError>,
    ) -> Result<T, TransferError> {
        let mut passing = Passing {
            content,
            left: size,
            room: self,
            refused: None,
        };
        let written = write(&mut passing);
        match passing.refused {
            Some(refused) => Err(refused.into()),
            None => written,
        }
    }

    /// Asks for room where `bytes` came and `follow` are said to follow.
    fn take(&mut self, bytes: u64, follow: u64) -> Result<(), StoreError> {
        if bytes > self.granted {
            // What it was promised is there, and is not to be counted twice.
            self.room = None;
            let wanted = bytes.saturating_add(follow).min(STEP).max(bytes).max(self.expected);
            (self.expected, self.unnoted) = (0, 0);
            self.room = Some(self.store.reserve_passing(passing(wanted))?);
            self.granted = wanted.saturating_add(SMALL);
        }
        self.granted = self.granted.saturating_sub(bytes);
        self.unnoted = self.unnoted.saturating_add(bytes);
        if let (Some(room), true) = (&self.room, self.unnoted >= STEP) {
            room.arrived(passing(self.unnoted));
            self.unnoted = 0;
        }
        Ok(())
    }
}

/// The room for `bytes` that come into scratch. What becomes of them asks for its own, once it is known what is there already.
fn passing(bytes: u64) -> RoomNeeded {
    RoomNeeded {
        certain: bytes,
        likely: bytes,
        ..RoomNeeded::default()
    }
}

/// A file of an archive on its way into scratch.
pub(super) struct Passing<'r, 'a, R> {
    content: R,
    /// Bytes that it says will still come.
    left: u64,
    room: &'r mut ArchiveRoom<'a>,
    /// Why there is no room.
    refused: Option<StoreError>,
}

impl<R: Read> Read for Passing<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        if let Err(refused) = self.room.take(count as u64, self.left) {
            self.refused = Some(refused);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::store::tests::store;
    use crate::store::{Claim, RoomCall, RoomMade, RoomMaker};
    use crate::sys::space;

    /// Bytes that are promised in `store`.
    fn promised(store: &Store) -> u64 {
        let notes = fs::read_dir(store.root().join("tmp")).unwrap();
        let notes = notes.filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("reserved")).ok());
        notes
            .map(|note| note.split(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// What a store is asked for when files come, each of as many bytes as it says and as really come; and what is promised at
    /// the end.
    fn asked(expected: u64, files: &[(u64, u64)]) -> (Vec<u64>, u64) {
        let (_scratch, store) = store();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        let make = move |store: &Store, call, _: Option<&Claim<'_>>| {
            assert_eq!(call, RoomCall::Passing(0));
            told.lock().unwrap().push(promised(store));
            Ok(RoomMade::default())
        };
        let store = store.making_room_by(RoomMaker::new(make, |_, _| Ok(false)));
        let mut room = ArchiveRoom::new(&store, expected);
        for (says, comes) in files {
            let passed = room.pass(io::repeat(0).take(*comes), *says, |content| {
                Ok(io::copy(content, &mut io::sink()).unwrap())
            });
            assert_eq!(passed.unwrap(), *comes);
        }
        let left = promised(&store);
        let asked = asked.lock().unwrap().clone();
        (asked, left)
    }

    const MB: u64 = 1 << 20;

    #[test]
    fn room_is_asked_for_what_comes_and_not_for_what_is_said_to_come() {
        assert_eq!(asked(0, &[(u64::MAX, 0)]), (vec![], 0));
        assert_eq!(asked(0, &[(MB / 2, MB / 2), (u64::MAX, MB / 2)]), (vec![], 0));
        // More than fits anywhere is said to follow, and a step is asked for.
        assert_eq!(asked(0, &[(u64::MAX, MB + 1)]).0, [STEP]);
        assert_eq!(asked(0, &[(200 * MB, 200 * MB)]).0.len(), 4);
        let (asked_of_small, _) = asked(0, &[(3 * MB, 3 * MB); 2]);
        assert!(asked_of_small.len() == 2 && asked_of_small.iter().all(|wanted| *wanted <= 3 * MB));
    }

    #[test]
    fn room_for_a_file_is_asked_for_once_when_the_first_of_it_comes() {
        assert_eq!(asked(100 * MB, &[(50 * MB, 0)]), (vec![], 0));
        let (asked, left) = asked(100 * MB, &[(1, 1), (99 * MB, 99 * MB)]);
        assert_eq!(asked, [100 * MB]);
        // What has come is not counted again.
        assert!(left <= 100 * MB - STEP, "{left}");
    }

    #[test]
    fn who_has_no_room_is_told_so_by_the_store() {
        let (_scratch, store) = store();
        let lacking = space::free(store.root()).unwrap().saturating_mul(2);
        let mut room = ArchiveRoom::new(&store, lacking);
        let passed = room.pass(&b"x"[..], 1, |content| {
            io::copy(content, &mut io::sink()).map_err(|source| TransferError::Io {
                action: "read",
                path: "archive".into(),
                source,
            })
        });
        assert!(
            matches!(passed, Err(TransferError::Store(StoreError::NoSpace { .. }))),
            "{passed:?}"
        );
    }
}
