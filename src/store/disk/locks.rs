//! Locks between processes: which there are, in which order a thread takes several, and how one waits.
//!
//! All are `flock`s ([`crate::sys::lock`]), so the kernel frees them with their holder, however it dies. Single flight is
//! one lock at a time, let go of before the next wait; where one is held meanwhile, the order of [`Rank`] holds.
//!
//! **Waiting** ends when the lock is free, or when its holder makes no progress for too long: then it is an error of kind
//! `Busy` that names the holder. One waits by trying again and again, never in the kernel's queue, where a collector that
//! wants to be alone would keep out those that share.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::looks::past_a_look;
pub(in crate::store) use super::rank::Rank;
use super::Disk;
use crate::oci::{DiffId, Digest};
use crate::progress::{Progress, Silent};
use crate::store::key::Key;
use crate::store::{io_error, StoreError};
use crate::sys::lock::{self, Holder, Lock, Mode};

/// Uses of an image that are counted. What was used often and not for weeks is worth no more than what is used now and then.
pub(in crate::store) const MOST_USES: u64 = 16;

/// What a holder of a lock leaves for the next one.
const MAX_NOTE: usize = 4096;

/// What one process does at a time, while the others wait for its result.
#[derive(Debug, Clone, Copy)]
pub enum Flight<'a> {
    /// Resolving the requirements of this key, building what has no wheel.
    Workshop(&'a Key),
    /// Building the wheel of this key from its source distribution.
    Sdist(&'a Key),
    /// Resolving the requirements of this key, by wheels alone.
    Resolution(&'a Key),
    /// Looking up the packages of the base of this key again.
    Relock(&'a Key),
    /// Making the layer, or the image, of this key.
    Layer(&'a Key),
    /// Fetching the program of this name and version.
    Tool(&'a str),
    /// Asking what a tag means; the digest is of who is asked for what.
    Tag(&'a Digest),
    /// Pulling the image of this manifest.
    Image(&'a Digest),
}

/// What a lock is wanted for, and whom to tell when it has to be waited for.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// A verb and its object, for those that wait for us: `makes wheel numpy 1.26.4`.
    pub does: &'a str,
    /// Is told when we wait.
    pub progress: &'a dyn Progress,
}

/// How long to wait for others to leave.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Then the store is busy.
    pub most: Duration,
    /// Between two tries. Nobody is kept waiting by a try.
    pub between: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            most: Duration::from_secs(10),
            between: Duration::from_millis(50),
        }
    }
}

/// How one waits.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Waits {
    /// Until it is said for whom: most waits are shorter, and a person who waits longer wants to know.
    pub told_after: Duration,
    /// Until a holder that makes no progress is given up: everything that is done with a lock held gives signs of life,
    /// or ends by a deadline of its own, in half of that.
    pub stalled_after: Duration,
    /// As `stalled_after`, where everybody can do by himself what the holder does for all: a little longer than a registry may
    /// be silent.
    pub beside_after: Duration,
    /// Between two tries, at most. A hundred processes that wait with all their threads take two percent of a processor.
    pub longest_pause: Duration,
    /// Is told of long waits that no task speaks of ([`Store::telling`](crate::store::Store::telling)).
    pub tell: fn(&str),
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            told_after: Duration::from_secs(30),
            stalled_after: Duration::from_secs(600),
            beside_after: Duration::from_secs(40),
            longest_pause: Duration::from_millis(100),
            tell: |_| (),
        }
    }
}

/// A promise that garbage collection leaves an image alone; ends when dropped, and with the process.
#[derive(Debug)]
pub struct Lease {
    _lock: Lock,
}

/// A lock between garbage collection and everyone else; ends when dropped, and with the process.
#[derive(Debug)]
pub struct CollectorLock {
    _lock: Lock,
}

/// A lock that one process holds at a time; ends when dropped, and with the process.
#[derive(Debug)]
pub struct ExclusiveLock {
    lock: Lock,
    has_waited: bool,
}

impl ExclusiveLock {
    /// Whether another one held it when it was asked for: what that one made may be there now.
    pub fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// What the last holder left for the next; at most a few kilobytes.
    pub fn note(&self) -> Vec<u8> {
        let mut note = vec![0; MAX_NOTE];
        let read = self.lock.file().read_at(&mut note, 0);
        note.truncate(read.unwrap_or_default());
        note
    }

    /// Leaves that for the next holder, or says why it cannot be kept.
    pub(in crate::store) fn note_down(&self, note: &[u8]) -> std::io::Result<()> {
        let file = self.lock.file();
        file.write_all_at(note, 0)?;
        file.set_len(note.len() as u64)
    }

    /// Leaves that for the next holder. A note that cannot be kept is none: whoever misses it does the work again.
    pub fn leave(&self, note: &[u8]) {
        let _ = self.note_down(note);
    }
}

impl Flight<'_> {
    fn rank(&self) -> Rank {
        match self {
            Self::Workshop(_) => Rank::Workshop,
            Self::Sdist(_) => Rank::Sdist,
            Self::Resolution(_) => Rank::Resolution,
            Self::Relock(_) => Rank::Relock,
            Self::Layer(_) => Rank::Layer,
            Self::Tool(_) => Rank::Tool,
            Self::Tag(_) => Rank::Tag,
            Self::Image(_) => Rank::Image,
        }
    }

    /// The file below `locks/`.
    fn file_name(&self) -> String {
        match self {
            Self::Workshop(key) => format!("workshop-{}", key.hex()),
            Self::Sdist(key) => format!("sdist-{}", key.hex()),
            Self::Resolution(key) => format!("resolution-{}", key.hex()),
            Self::Relock(key) => format!("relock-{}", key.hex()),
            Self::Layer(key) => format!("layer-{}", key.hex()),
            Self::Tool(name) => format!("tool-{name}"),
            Self::Tag(question) => format!("tag-{}", question.hex()),
            Self::Image(manifest) => format!("image-{}", manifest.hex()),
        }
    }
}

/// The locks of a store.
#[derive(Debug, Clone, Copy)]
pub struct Locks<'a> {
    disk: &'a Disk,
}

impl<'a> Locks<'a> {
    pub(in crate::store) fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    /// Keeps the image `digest`, and with it its layers, until the lease is dropped; notes the time of use, and counts it.
    ///
    /// # Errors
    /// [`StoreError`] when the lease cannot be written; without one the image may be collected.
    pub fn lease(self, digest: &Digest) -> Result<Lease, StoreError> {
        let path = self.disk.path("leases").join(digest.hex());
        let task = Task::silent("removes an image");
        let (lock, _) = self.wait_for(Rank::Lease, Mode::Shared, &path, task)?;
        // The mtime is the image's last use, the length the first of its uses; a failure only makes it look older.
        lock.count(MOST_USES);
        Ok(Lease { _lock: lock })
    }

    /// Keeps the image `digest` as a [`lease`](Self::lease) does, which is no use of it.
    pub fn hold(self, digest: &Digest) -> Result<Lease, StoreError> {
        let path = self.disk.path("leases").join(digest.hex());
        let task = Task::silent("removes an image");
        let (lock, _) = self.wait_for(Rank::Lease, Mode::Shared, &path, task)?;
        Ok(Lease { _lock: lock })
    }

    /// The lock of `flight`, once nobody else is at it. Whoever has waited looks whether the result is there.
    ///
    /// # Errors
    /// [`StoreError::Stalled`] when the one that holds it makes no progress for ten minutes; for forty seconds, where what it does
    /// can be done beside it.
    pub fn exclusive(self, flight: Flight<'_>, task: Task<'_>) -> Result<ExclusiveLock, StoreError> {
        self.exclusive_file(flight.rank(), &flight.file_name(), task)
    }

    /// The lock of a layer's tree.
    pub(in crate::store) fn layer(self, diff_id: &DiffId) -> Result<ExclusiveLock, StoreError> {
        let does = format!("unpacks layer {diff_id}");
        self.exclusive_file(Rank::Unpack, &format!("unpack-{}", diff_id.hex()), Task::silent(&does))
    }

    /// The lock of a tree of several layers.
    pub(in crate::store) fn merging(self, chain: &Digest) -> Result<ExclusiveLock, StoreError> {
        let does = "makes one tree of several layers";
        self.exclusive_file(Rank::Unpack, &format!("merge-{}", chain.hex()), Task::silent(does))
    }

    /// The lock of a file that is read whole: `kind` is what its stamp's name begins with.
    pub(in crate::store) fn content(self, kind: &str, digest: &Digest) -> Result<ExclusiveLock, StoreError> {
        let (does, name) = (format!("reads {digest}"), format!("{kind}{}", digest.hex()));
        self.exclusive_file(Rank::Stamp, &name, Task::silent(&does))
    }

    /// The lock of the names.
    pub(in crate::store) fn index(self) -> Result<ExclusiveLock, StoreError> {
        self.exclusive_file(Rank::Index, "index", Task::silent("writes index.json"))
    }

    /// The lock of the names, when nobody has it; never waits.
    pub(in crate::store) fn try_index(self) -> Result<Option<ExclusiveLock>, StoreError> {
        let lock = try_file(&self.disk.path("locks/index"), Rank::Index, Mode::Alone)?;
        let has_waited = false;
        Ok(lock.map(|lock| ExclusiveLock { lock, has_waited }))
    }

    /// The lock of `flight` when nobody is at it; never waits. `does` is for those that will wait for us.
    pub fn try_exclusive(self, flight: Flight<'_>, does: &str) -> Result<Option<ExclusiveLock>, StoreError> {
        let path = self.disk.path("locks").join(flight.file_name());
        let Some(lock) = try_file(&path, flight.rank(), Mode::Alone)? else {
            return Ok(None);
        };
        lock.sign(does, flight.rank().quiet());
        let has_waited = false;
        Ok(Some(ExclusiveLock { lock, has_waited }))
    }

    /// Waits until whoever is at `flight` has ended. All that wait so go on at once, and not one after the other.
    ///
    /// # Errors
    /// As [`exclusive`](Self::exclusive).
    pub fn wait_out(self, flight: Flight<'_>, task: Task<'_>) -> Result<(), StoreError> {
        let path = self.disk.path("locks").join(flight.file_name());
        self.wait_for(flight.rank(), Mode::Shared, &path, task).map(drop)
    }

    fn exclusive_file(self, rank: Rank, name: &str, task: Task<'_>) -> Result<ExclusiveLock, StoreError> {
        let path = self.disk.path("locks").join(name);
        let (lock, has_waited) = self.wait_for(rank, Mode::Alone, &path, task)?;
        Ok(ExclusiveLock { lock, has_waited })
    }

    /// Keeps garbage collection out until the returned lock is dropped; any number of processes may hold one. Whoever makes
    /// or looks up something that no name leads to yet needs it.
    ///
    /// # Errors
    /// [`StoreError`]; `Busy` when a collector makes no progress for too long.
    pub fn keep_collector_out(self) -> Result<CollectorLock, StoreError> {
        let task = Task::silent("collects garbage");
        match self.wait_for(Rank::Collector, Mode::Shared, &self.collector_path(), task) {
            Err(StoreError::Io { source, .. }) if is_unwritable(&source) => self.lock_to_read(),
            other => other.map(|(lock, _)| CollectorLock { _lock: lock }),
        }
    }

    /// The lock of a store that we cannot write to: images can be listed and saved. Whoever can write there may collect
    /// garbage meanwhile; then a file is missing, and we say so.
    fn lock_to_read(self) -> Result<CollectorLock, StoreError> {
        let path = self.disk.path("version");
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let tried = lock::try_lock(file, Mode::Shared, Rank::Collector as u8).map_err(io_error("lock", &path))?;
        tried
            .map(|lock| CollectorLock { _lock: lock })
            .map_err(|_| StoreError::Busy {
                path: self.disk.root().to_owned(),
            })
    }

    /// Keeps what only memos lead to from evictions until the returned lock is dropped; any number of builds may hold one.
    ///
    /// # Errors
    /// [`StoreError`]; `Busy` when an eviction makes no progress for too long.
    pub fn building(self) -> Result<CollectorLock, StoreError> {
        let task = Task::silent("evicts what builds use");
        let path = self.disk.path("locks/builds");
        let (lock, _) = self.wait_for(Rank::Builds, Mode::Shared, &path, task)?;
        Ok(CollectorLock { _lock: lock })
    }

    /// Whether a build is at work now.
    pub fn is_building(self) -> Result<bool, StoreError> {
        Ok(try_idle(&self.disk.path("locks/builds"), Rank::Builds)?.is_none())
    }

    /// Lets one process at a time look what has to go, and take it away.
    ///
    /// # Errors
    /// [`StoreError`]; `Stalled` when another makes no progress for too long.
    pub fn making_room(self) -> Result<ExclusiveLock, StoreError> {
        self.exclusive_file(Rank::Room, "making-room", Task::silent("makes room in the store"))
    }

    /// Waits until an eviction has ended that may not have seen what this process has put into the store.
    pub(in crate::store) fn wait_out_eviction(self) -> Result<(), StoreError> {
        self.keep_evictions_out().map(drop)
    }

    /// Waits out an eviction under way, and keeps others out until the returned lock is dropped: for as long as some renames take.
    pub(in crate::store) fn keep_evictions_out(self) -> Result<Lock, StoreError> {
        let task = Task::silent("evicts images");
        let path = self.disk.path("locks/eviction");
        Ok(self.wait_for(Rank::Eviction, Mode::Shared, &path, task)?.0)
    }

    /// The lock of [`keep_collector_out`](Self::keep_collector_out), when no collector is at work; never waits.
    pub fn try_keep_collector_out(self) -> Result<Option<CollectorLock>, StoreError> {
        let lock = try_file(&self.collector_path(), Rank::Collector, Mode::Shared)?;
        Ok(lock.map(|lock| CollectorLock { _lock: lock }))
    }

    /// Keeps everybody else out, once nobody keeps us out. Only tries, so that nobody is kept waiting by it.
    pub(in crate::store) fn collector_alone(
        self,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<CollectorLock, StoreError> {
        let path = self.collector_path();
        let until = Instant::now() + patience.most;
        let mut announced = false;
        loop {
            if let Some(lock) = try_file(&path, Rank::Collector, Mode::Alone)? {
                lock.sign("collects garbage", Duration::ZERO);
                return Ok(CollectorLock { _lock: lock });
            }
            if Instant::now() >= until {
                return Err(StoreError::Busy {
                    path: self.disk.root().to_owned(),
                });
            }
            if !announced {
                waiting();
                announced = true;
            }
            std::thread::sleep(patience.between);
        }
    }

    fn collector_path(self) -> PathBuf {
        self.disk.path("locks/collector")
    }

    /// The lock of the file that is called `path` when it is ours, and whether it had to be waited for.
    pub(in crate::store) fn wait_for(
        self,
        rank: Rank,
        mode: Mode,
        path: &Path,
        task: Task<'_>,
    ) -> Result<(Lock, bool), StoreError> {
        lock::check_order(mode, rank as u8);
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            match try_opened(open_lock(path)?, path, rank, mode)? {
                Tried::Ours(lock) => {
                    if mode == Mode::Alone {
                        lock.sign(task.does, rank.quiet());
                    }
                    return Ok((lock, waiting.is_some()));
                }
                Tried::Gone => {}
                Tried::Held(held) => {
                    let waiting = waiting.get_or_insert_with(|| Waiting::begin(self.disk.waits(), rank, path, task));
                    waiting.look(&held)?;
                    waiting.pause();
                }
            }
        }
    }
}

impl<'a> Task<'a> {
    /// What is mostly too short for anybody to be told of.
    pub(in crate::store) fn silent(does: &'a str) -> Self {
        Self {
            does,
            progress: &Silent,
        }
    }
}

/// Whom one waits for that is a thread of this process.
const SAME_PROCESS: &str = "another part of this command";

/// A wait under way.
struct Waiting<'a> {
    waits: Waits,
    rank: Rank,
    path: &'a Path,
    task: Task<'a>,
    begun: Instant,
    pause: Duration,
    /// Whether it is said that there is a wait, and for whom in the long run.
    is_announced: bool,
    is_told: bool,
    /// The last signs of life, and since when there have been no others.
    signs: Option<(u64, Option<SystemTime>, Option<Holder>)>,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn begin(waits: Waits, rank: Rank, path: &'a Path, task: Task<'a>) -> Self {
        let now = Instant::now();
        Self {
            waits,
            rank,
            path,
            task,
            begun: now,
            pause: Duration::from_millis(1).min(waits.longest_pause),
            is_announced: false,
            is_told: false,
            signs: None,
            since: now,
        }
    }

    /// Looks for signs of life of the holder: `held` is the file that it has locked.
    fn look(&mut self, held: &File) -> Result<(), StoreError> {
        let (length, time, holder) = lock::signs(held).map_err(io_error("look at lock", self.path))?;
        let quiet = holder.as_ref().map_or(Duration::ZERO, |holder| holder.quiet);
        // Who has just locked it signs at once.
        if !self.is_announced && (holder.is_some() || self.signs.is_some()) {
            self.is_announced = true;
            let other = match is_ours(holder.as_ref()) {
                true => SAME_PROCESS,
                false => self.rank.other(),
            };
            let object = format!("{other} that {}", self.task.does);
            self.task.progress.step("Waiting for", &object);
        }
        // One after the other may try a download and fail: only bytes are progress.
        let signs = match self.rank {
            Rank::Download => (length, None, None),
            _ => (length, time, holder.clone()),
        };
        if self.signs.as_ref() != Some(&signs) {
            self.signs = Some(signs);
            self.since = Instant::now();
            // Who waits for one that gets on gets on.
            lock::beat();
        }
        if !self.is_told && self.begun.elapsed() >= self.waits.told_after {
            self.is_told = true;
            let seconds = self.begun.elapsed().as_secs();
            let object = format!("{} (for {seconds} s so far)", self.describe(holder.as_ref()));
            match self.rank.is_shown() {
                true => self.task.progress.step("Waiting for", &object),
                false => (self.waits.tell)(&object),
            }
        }
        let silence = self.since.elapsed();
        let most = match self.rank.can_be_done_beside() {
            true => self.waits.beside_after,
            false => self.waits.stalled_after + quiet,
        };
        if silence < most {
            return Ok(());
        }
        Err(StoreError::Stalled {
            holder: self.describe(holder.as_ref()),
            silence,
        })
    }

    fn describe(&self, holder: Option<&Holder>) -> String {
        // The signature of a dead one is there until the next one has signed.
        match holder.filter(|holder| crate::sys::kernel::has_process(holder.process)) {
            Some(holder) => format!("process {}, which {}", holder.process, holder.does),
            None => format!("{} that {}", self.rank.other(), self.task.does),
        }
    }

    fn pause(&mut self) {
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(self.waits.longest_pause);
    }
}

/// Whether a thread of this process holds it.
fn is_ours(holder: Option<&Holder>) -> bool {
    holder.is_some_and(|holder| holder.process == std::process::id())
}

/// The lock of the file that is called `path`, if nobody has it.
pub(in crate::store) fn try_file(path: &Path, rank: Rank, mode: Mode) -> Result<Option<Lock>, StoreError> {
    loop {
        match try_opened(open_lock(path)?, path, rank, mode)? {
            Tried::Ours(lock) => return Ok(Some(lock)),
            Tried::Held(_) => return Ok(None),
            Tried::Gone => {}
        }
    }
}

/// The lock of the file that is called `path`, if nobody uses it: who only looks whether somebody does
/// ([`held_among`](super::looks::held_among), [`Locks::is_building`]) has it alone for some microseconds, and is no user.
pub(in crate::store) fn try_idle(path: &Path, rank: Rank) -> Result<Option<Lock>, StoreError> {
    past_a_look(|| try_file(path, rank, Mode::Alone))
}

/// What came of trying to lock a file.
enum Tried {
    Ours(Lock),
    /// By another one; the file.
    Held(File),
    /// It was locked, and is not what the name means any more: its holder, or a collector, removed or renamed it before letting go.
    Gone,
}

fn try_opened(file: File, path: &Path, rank: Rank, mode: Mode) -> Result<Tried, StoreError> {
    let tried = lock::try_lock(file, mode, rank as u8).map_err(io_error("lock", path))?;
    Ok(match tried {
        Ok(lock) if is_still(lock.file(), path) => Tried::Ours(lock),
        Ok(_) => Tried::Gone,
        Err(held) => Tried::Held(held),
    })
}

/// Whether a file cannot be written because of where it is or whose it is.
fn is_unwritable(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied
    )
}

/// Opens the file of a lock, making it when it is not there.
fn open_lock(path: &Path) -> Result<File, StoreError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    opened.map_err(io_error("open lock", path))
}

/// Whether the locked file is the one that has the name.
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => ours.ino() == named.ino() && ours.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
