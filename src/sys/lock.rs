//! Locks between processes, each a `flock` of an open file: the kernel frees it with its holder, however that dies.
//!
//! A flock belongs to the open file description, so every copy of the descriptor holds it too. The file of a [`Lock`]
//! therefore never leaves it: whoever needs the bytes opens them anew.
//!
//! **Order.** Every lock has a rank. A thread waits for a lock only while all the locks it holds have lower ranks, so the
//! waiters of one machine never form a ring. The locks of the thread that it works for count as its own
//! ([`Locks::adopt`]). A try does not wait and is allowed whatever is held. Debug builds panic on a wait against the order.
//!
//! **Signs of life.** A holder signs its lock (who it is and what it does) and moves the file's time whenever its work gets
//! on ([`beat`]), never by a clock alone. Waiters read both; nothing else depends on them.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{flock, FlockOperation, Timespec, Timestamps, XattrFlags, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

/// The signature of a holder. An attribute, as the locked file may be one whose bytes matter.
const HOLDER: &str = "user.gantry.holder";
/// Longer signatures are cut.
const MOST_SIGNED: usize = 256;
/// Between two beats of one thread: far below what a waiter would notice, and a system call now and then costs nothing.
const BETWEEN_BEATS: Duration = Duration::from_secs(1);

/// Whether others may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Any number of holders, none of them alone.
    Shared,
    /// One holder and nobody else.
    Alone,
}

/// A lock that is held; dropping it, or the end of the process, frees it.
#[derive(Debug)]
pub(crate) struct Lock {
    held: Arc<Held>,
    thread: Locks,
}

#[derive(Debug)]
struct Held {
    file: File,
    rank: u8,
    mode: Mode,
}

/// The locks that a thread holds, or that are held for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locks(Arc<Mutex<Vec<Weak<Held>>>>);

thread_local! {
    static HERE: RefCell<Locks> = RefCell::default();
    static BEATEN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its process.
    pub process: u32,
    /// How long it may do without a sign of life, on top of what others may.
    pub quiet: Duration,
    /// A verb and its object: `downloads numpy`.
    pub does: String,
}

/// Locks `file` for this thread; gives it back when somebody else holds it. Never waits.
pub(crate) fn try_lock(file: File, mode: Mode, rank: u8) -> io::Result<Result<Lock, File>> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(&file, operation) {
        Err(Errno::WOULDBLOCK) => return Ok(Err(file)),
        Err(errno) => return Err(errno.into()),
        Ok(()) => {}
    }
    let held = Arc::new(Held { file, rank, mode });
    let thread = Locks::list_of_this_thread();
    thread.list(|list| list.push(Arc::downgrade(&held)));
    Ok(Ok(Lock { held, thread }))
}

/// Panics in debug builds when this thread may not wait for a lock of `rank`, as it holds one that comes after it.
pub(crate) fn check_order(mode: Mode, rank: u8) {
    if !cfg!(debug_assertions) {
        return;
    }
    // A shared lock beside another one of its kind waits for nobody who could wait for us: whoever wants to be alone only tries.
    let blocks =
        |held: &Held| held.rank > rank || held.rank == rank && (mode, held.mode) != (Mode::Shared, Mode::Shared);
    let highest = Locks::list_of_this_thread().list(|list| {
        let held = list.iter().filter_map(Weak::upgrade);
        held.filter(|held| blocks(held)).map(|held| held.rank).max()
    });
    assert!(
        highest.is_none(),
        "a thread waits for a lock of rank {rank} while it holds one of rank {highest:?}"
    );
}

/// Tells those who wait for the locks of this thread that its work gets on. Cheap; call it as often as something is done.
pub(crate) fn beat() {
    if BEATEN.with(|beaten| beaten.get().is_some_and(|beaten| beaten.elapsed() < BETWEEN_BEATS)) {
        return;
    }
    BEATEN.with(|beaten| beaten.set(Some(Instant::now())));
    let held: Vec<_> = Locks::list_of_this_thread().list(|list| list.iter().filter_map(Weak::upgrade).collect());
    // The time of a shared file is not one holder's: that of a lease is the image's last use.
    held.iter()
        .filter(|held| held.mode == Mode::Alone)
        .for_each(|held| held.touch());
}

impl Locks {
    /// The locks that the calling thread holds now.
    pub(crate) fn here() -> Self {
        let now = Self::list_of_this_thread().list(|list| list.clone());
        Self(Arc::new(Mutex::new(now)))
    }

    /// Makes them the locks of the calling thread: one that was just started to work for theirs and ends before it.
    pub(crate) fn adopt(&self) {
        let now = self.list(|list| list.clone());
        HERE.with(|here| *here.borrow_mut() = Self(Arc::new(Mutex::new(now))));
    }

    /// The list that grows and shrinks with the locks of the calling thread.
    fn list_of_this_thread() -> Self {
        HERE.with(|here| here.borrow().clone())
    }

    fn list<T>(&self, act: impl FnOnce(&mut Vec<Weak<Held>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Lock {
    /// The locked file. Do not copy it: a copy would hold the lock as well.
    pub(crate) fn file(&self) -> &File {
        &self.held.file
    }

    /// Signs the lock: this process holds it, does what `does` says, and may go without a beat for `quiet` longer than
    /// others. Where the file system keeps no attributes, waiters are told less.
    pub(crate) fn sign(&self, does: &str, quiet: Duration) {
        let mut text = format!("{} {} {does}", std::process::id(), quiet.as_secs());
        let end = (0..=MOST_SIGNED.min(text.len()))
            .rev()
            .find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        let _ = rustix::fs::fsetxattr(&self.held.file, HOLDER, text.as_bytes(), XattrFlags::empty());
        self.held.touch();
    }

    /// Moves the time of the file to now, as far as that is possible.
    #[cfg(test)]
    pub(crate) fn touch(&self) {
        self.held.touch();
    }

    /// Adds a byte to the file unless it has `most`, and moves its time to now, as far as that is possible.
    pub(crate) fn count(&self, most: u64) {
        let file = &self.held.file;
        let may_grow = file.metadata().is_ok_and(|found| found.len() < most);
        let byte = [io::IoSlice::new(b".")];
        if !may_grow || rustix::io::pwritev2(file, &byte, 0, rustix::io::ReadWriteFlags::APPEND).is_err() {
            self.held.touch();
        }
    }

    /// Removes the signature, from a file that will be something else than a lock.
    pub(crate) fn unsign(&self) {
        let _ = rustix::fs::fremovexattr(&self.held.file, HOLDER);
    }
}

impl Held {
    fn touch(&self) {
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let now = Timestamps {
            last_access: time(UTIME_OMIT),
            last_modification: time(UTIME_NOW),
        };
        let _ = rustix::fs::futimens(&self.file, &now);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.thread
            .list(|list| list.retain(|held| !std::ptr::eq(held.as_ptr(), Arc::as_ptr(&self.held))));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A copy of the descriptor, which a process that is being started has for a moment, would keep the lock.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Who signed the lock of `file` last; none when nobody did, or it is no signature.
pub(crate) fn holder(file: &File) -> Option<Holder> {
    let mut value = [0; MOST_SIGNED];
    let length = rustix::fs::fgetxattr(file, HOLDER, &mut value).ok()?;
    let text = std::str::from_utf8(value.get(..length)?).ok()?;
    let (process, rest) = text.split_once(' ')?;
    let (quiet, does) = rest.split_once(' ')?;
    Some(Holder {
        process: process.parse().ok()?,
        quiet: Duration::from_secs(quiet.parse().ok()?),
        does: does.to_owned(),
    })
}

/// What changes when the holder of the lock of `file` gets on or is another one: length, time and signature.
pub(crate) fn signs(file: &File) -> io::Result<(u64, Option<SystemTime>, Option<Holder>)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok(), holder(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(directory: &tempfile::TempDir, name: &str) -> File {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(directory.path().join(name)).unwrap()
    }

    fn alone(directory: &tempfile::TempDir, name: &str, rank: u8) -> Lock {
        try_lock(file(directory, name), Mode::Alone, rank).unwrap().unwrap()
    }

    #[test]
    fn a_lock_is_free_again_once_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let lock = alone(&directory, "a", 1);
        assert!(try_lock(file(&directory, "a"), Mode::Shared, 1).unwrap().is_err());
        drop(lock);
        let one = try_lock(file(&directory, "a"), Mode::Shared, 1).unwrap();
        let other = try_lock(file(&directory, "a"), Mode::Shared, 1).unwrap();
        assert!(one.is_ok() && other.is_ok());
        assert!(try_lock(file(&directory, "a"), Mode::Alone, 1).unwrap().is_err());
    }

    #[test]
    fn locks_may_be_waited_for_in_rising_order() {
        let directory = tempfile::tempdir().unwrap();
        let _one = alone(&directory, "a", 1);
        check_order(Mode::Alone, 2);
        let two = alone(&directory, "b", 2);
        check_order(Mode::Shared, 3);
        drop(two);
        check_order(Mode::Alone, 2);
    }

    #[test]
    #[should_panic(expected = "waits for a lock of rank 2 while it holds one of rank Some(2)")]
    fn a_wait_beside_a_lock_of_the_same_rank_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _one = alone(&directory, "a", 2);
        check_order(Mode::Alone, 2);
    }

    #[test]
    fn a_thread_that_works_for_another_waits_by_the_same_order() {
        let directory = tempfile::tempdir().unwrap();
        let _one = alone(&directory, "a", 3);
        let locks = Locks::here();
        let refused = std::thread::spawn(move || {
            locks.adopt();
            check_order(Mode::Alone, 2);
        });
        assert!(refused.join().is_err());
        std::thread::spawn(|| check_order(Mode::Alone, 2)).join().unwrap();
    }

    #[test]
    fn a_signature_says_who_and_what() {
        let directory = tempfile::tempdir().unwrap();
        let lock = alone(&directory, "a", 1);
        assert_eq!(holder(lock.file()), None);
        lock.sign("makes wheel numpy 1", Duration::from_secs(5));
        let expected = Holder {
            process: std::process::id(),
            quiet: Duration::from_secs(5),
            does: "makes wheel numpy 1".to_owned(),
        };
        assert_eq!(holder(&file(&directory, "a")), Some(expected));
        lock.sign(&"é".repeat(MOST_SIGNED), Duration::ZERO);
        assert!(holder(lock.file()).unwrap().does.ends_with('é'));
        lock.unsign();
        assert_eq!(holder(lock.file()), None);
    }

    #[test]
    fn work_that_gets_on_can_be_seen_on_each_lock_of_its_thread() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (alone(&directory, "a", 1), alone(&directory, "b", 2));
        for lock in [&one, &two] {
            lock.file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        let locks = Locks::here();
        std::thread::spawn(move || {
            locks.adopt();
            beat();
        })
        .join()
        .unwrap();
        for lock in [&one, &two] {
            assert!(lock.file().metadata().unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH);
        }
    }
}
