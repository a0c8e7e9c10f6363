//! How often a registry is asked for one image in a minute, over all processes of a store, where it takes only so many pulls.
//!
//! ```text
//! registries/_pulls/<host>    a line per pull of the last minute: milliseconds since 1970, repository
//! ```
//!
//! The times of the last pulls are kept, not a number of tokens: in any minute there are no more than are allowed, also at its
//! beginning. Whoever may wait takes a time that is to come, so that those that wait go on one after the other. The file is
//! locked while it is read and written, and nothing is waited for meanwhile. A line that cannot be meant counts for nothing,
//! and so does a pull whose process was killed while it waited: a minute later it is forgotten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::fs::{flock, FlockOperation, OFlags};
use rustix::io::Errno;

use super::note::path_of;
use crate::store::Store;
use crate::sys::clock;

const MINUTE: u64 = 60_000;
/// Nobody takes a time that is further away: such lines are a clock's that was set back.
const FURTHEST: u64 = 10 * MINUTE;
/// Some thousands of lines.
const MOST_READ: u64 = 1 << 20;
/// A process that was stopped with the lock held keeps nobody for longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pulls of one image from one registry.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    path: PathBuf,
    repository: String,
    /// None where nobody counts.
    pub(super) per_minute: Option<u32>,
}

impl Budget {
    /// The pulls of `repository` from `host`.
    pub(super) fn new(store: &Store, host: &str, repository: &str, per_minute: Option<u32>) -> Self {
        Self {
            path: path_of(store, "_pulls").join(host),
            repository: repository.to_owned(),
            per_minute,
        }
    }

    /// Takes a pull that begins after at most `patience`; returns how long it has to wait.
    ///
    /// # Errors
    ///
    /// How long it would have to wait, when that is longer; nothing is taken then.
    pub(super) fn take(&self, patience: Duration) -> Result<Duration, Duration> {
        let Some(most) = self.per_minute else {
            return Ok(Duration::ZERO);
        };
        // Where nothing can be noted, nothing is known.
        self.take_of(most as usize, now(), patience)
            .unwrap_or(Ok(Duration::ZERO))
    }

    fn take_of(&self, most: usize, now: u64, patience: Duration) -> io::Result<Result<Duration, Duration>> {
        let file = self.open()?;
        let mut text = Vec::new();
        (&file).take(MOST_READ).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let is_recent = |time: &u64| *time + MINUTE > now && *time < now + FURTHEST;
        let pull = |line: &'_ str| {
            let (time, repository) = line.split_once(' ')?;
            Some((time.parse().ok().filter(is_recent)?, repository.to_owned()))
        };
        let mut pulls: Vec<(u64, String)> = text.lines().filter_map(pull).collect();
        let mut own: Vec<u64> = pulls
            .iter()
            .filter(|(_, of)| *of == self.repository)
            .map(|(time, _)| *time)
            .collect();
        own.sort_unstable();
        let next = match own.len().checked_sub(most).and_then(|at| own.get(at)) {
            Some(oldest) => now.max(oldest + MINUTE),
            None => now,
        };
        let wait = Duration::from_millis(next - now);
        if wait > patience {
            return Ok(Err(wait));
        }
        pulls.push((next, self.repository.clone()));
        let lines: String = pulls.iter().map(|(time, of)| format!("{time} {of}\n")).collect();
        file.write_all_at(lines.as_bytes(), 0)?;
        file.set_len(lines.len() as u64)?;
        Ok(Ok(wait))
    }

    /// The file, locked.
    fn open(&self) -> io::Result<File> {
        self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(&self.path)?;
        let began = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn now() -> u64 {
    let since = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::store::tests::store;

    const START: u64 = 1_796_000_000_000;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn in_no_minute_are_there_more_than_may_be() {
        let (_scratch, store) = store();
        let budget = Budget::new(&store, "a.example", "team/a", Some(2));
        let take = |at, patience| budget.take_of(2, START + at, ms(patience)).unwrap();
        assert_eq!((take(0, 0), take(10_000, 0)), (Ok(ms(0)), Ok(ms(0))));
        assert_eq!(take(20_000, 0), Err(ms(40_000)));
        // Those that wait go on one after the other.
        assert_eq!(take(20_000, 40_000), Ok(ms(40_000)));
        assert_eq!(take(20_000, 60_000), Ok(ms(50_000)));
        assert_eq!(take(20_000, 60_000), Err(ms(100_000)));
        assert_eq!(take(119_999, 0), Err(ms(1)));
        assert_eq!(take(120_000, 0), Ok(ms(0)));
        // Another image is counted by itself, and so is another registry.
        let other = Budget::new(&store, "a.example", "team/b", Some(2));
        assert_eq!(other.take_of(2, START + 20_000, ms(0)).unwrap(), Ok(ms(0)));
        let other = Budget::new(&store, "b.example", "team/a", Some(2));
        assert_eq!(other.take_of(2, START + 20_000, ms(0)).unwrap(), Ok(ms(0)));
    }

    #[test]
    fn nobody_counts_where_nobody_asks_to() {
        let (_scratch, store) = store();
        let budget = Budget::new(&store, "a.example", "team/a", None);
        for _ in 0..100 {
            assert_eq!(budget.take(ms(0)), Ok(ms(0)));
        }
        assert!(!budget.path.exists());
    }

    #[test]
    fn what_cannot_be_meant_counts_for_nothing() {
        let (_scratch, store) = store();
        let budget = Budget::new(&store, "a.example", "team/a", Some(1));
        fs::create_dir_all(budget.path.parent().unwrap()).unwrap();
        let far = START + 2 * FURTHEST;
        let text = format!("{far} team/a\n-1 team/a\nteam/a\n{START}\n\u{0}\n99999999999999999999999 team/a\n");
        let mut file = File::create(&budget.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.write_all(&[0xff, 0xfe, b'\n']).unwrap();
        assert_eq!(budget.take_of(1, START, ms(0)).unwrap(), Ok(ms(0)));
        assert_eq!(fs::read_to_string(&budget.path).unwrap(), format!("{START} team/a\n"));
        assert_eq!(budget.take_of(1, START, ms(0)).unwrap(), Err(ms(MINUTE)));
    }

    #[test]
    fn those_that_ask_at_once_are_counted_one_by_one() {
        let (_scratch, store) = store();
        let budget = Budget::new(&store, "a.example", "team/a", Some(20));
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..50)
                .map(|_| scope.spawn(|| usize::from(budget.take(ms(0)).is_ok())))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 20);
    }
}
