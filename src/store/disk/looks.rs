//! Looking whether somebody holds a lock. Who looks has it alone for some microseconds, and is not to be taken for a user.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::rank::Rank;
use crate::store::{io_error, StoreError};
use crate::sys::lock::{self, Mode};

/// Which of these files somebody holds the lock of: some milliseconds for all of them, however many are held. One that is not
/// there is not made.
pub(in crate::store) fn held_among<'a>(
    paths: impl Iterator<Item = &'a PathBuf>,
    rank: Rank,
) -> Result<BTreeSet<&'a PathBuf>, StoreError> {
    let mut held: BTreeSet<&PathBuf> = paths.collect();
    past_a_look(|| {
        let mut still = BTreeSet::new();
        for path in &held {
            let file = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(io_error("open lock", path))?,
            };
            let tried = lock::try_lock(file, Mode::Alone, rank as u8).map_err(io_error("lock", path))?;
            if tried.is_err() {
                still.insert(*path);
            }
        }
        held = still;
        Ok(held.is_empty().then_some(()))
    })?;
    Ok(held)
}

/// Looks that are waited for, and how long each time: a look takes some microseconds, and a user is told as one within some
/// milliseconds.
const LOOKS: u32 = 8;
const A_LOOK: Duration = Duration::from_micros(250);

/// Tries again while a lock may be held by somebody who only looks at it. One that is held all the time has a user.
pub(super) fn past_a_look<T>(
    mut tried: impl FnMut() -> Result<Option<T>, StoreError>,
) -> Result<Option<T>, StoreError> {
    for _ in 0..LOOKS {
        if let Some(ours) = tried()? {
            return Ok(Some(ours));
        }
        std::thread::sleep(A_LOOK);
    }
    tried()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_looks_is_taken_for_no_user() {
        let mut tried = 0;
        // The first three times somebody is looking.
        let ours = past_a_look(|| {
            tried += 1;
            Ok((tried > 3).then_some(()))
        });
        assert_eq!((ours.unwrap(), tried), (Some(()), 4));
    }
}
