//! The run slots of a machine: how many functions run at once, and how much memory they are promised together.
//!
//! Each run that has a slot holds the `flock` of a file of its own, which says how much memory it may use. The kernel frees
//! the lock with the process, however that ends, so there is nothing to repair: a file that nobody holds is the file of a
//! dead run, and whoever looks next removes it. New slots are given by whoever holds the lock of `gate`, one process at a
//! time; it waits there until there is room, so a large run is not overtaken for ever by small ones.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation, OFlags};
use rustix::io::Errno;

use crate::policy::{as_given, Bytes, Kind};
use crate::sandbox::{Signals, Stop};

/// What the file of a run with a slot begins with.
const RUN: &str = "run-";
/// Between two looks for room: nobody notices it beside the start of a run, and a hundred that wait cost little.
const BETWEEN: Duration = Duration::from_millis(20);
/// How long a run that does not wait tries to come to its turn: who is at the gate and does not wait there has left it
/// long before.
const AT_THE_GATE: Duration = Duration::from_secs(1);
/// A turn that comes so soon is not worth a word.
const UNTOLD: Duration = Duration::from_millis(200);
/// A file of a slot holds a number.
const MOST_READ: u64 = 32;

/// How many runs a machine carries at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// Functions at once; without it any number.
    pub most: Option<u32>,
    /// Sum of the memory limits of all of them; without it any.
    pub memory: Option<Bytes>,
    /// Where the files are; without it in the store.
    pub directory: Option<PathBuf>,
}

/// How a run gets a slot.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Those of this machine.
    pub slots: Slots,
    /// How long it waits for one.
    pub patience: Duration,
    /// Is told of a wait.
    pub tell: fn(&str),
}

impl Default for Admission {
    /// Without slots there is nothing to wait for.
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            patience: Duration::ZERO,
            tell: |_| (),
        }
    }
}

/// A slot; it is free again when this is dropped, and when the process ends.
#[derive(Debug)]
pub struct Slot {
    path: PathBuf,
    _lock: File,
}

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The run asks for more than the machine has.
    #[error("memory {} is over memory_total {} of this machine's configuration", as_given(*.asked), as_given(*.total))]
    TooLarge {
        /// The run's limit.
        asked: Bytes,
        /// All there is.
        total: Bytes,
    },
    /// Others kept what there is.
    #[error("no run slot{}: {taken}", within(*.waited))]
    Full {
        /// How long it was waited for.
        waited: Duration,
        /// What is taken.
        taken: String,
    },
    /// The files of the slots cannot be used.
    #[error("use the run slots in {path}")]
    Io {
        /// Their directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The run was to end meanwhile.
    #[error("{stop}")]
    Stopped {
        /// Why.
        stop: Stop,
    },
}

impl SlotError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::TooLarge { .. } => Kind::Usage,
            Self::Full { .. } => Kind::Busy,
            Self::Io { .. } | Self::Stopped { .. } => Kind::Failed,
        }
    }
}

fn within(waited: Duration) -> String {
    match waited.is_zero() {
        true => " is free".to_owned(),
        false => format!(" within {waited:?}"),
    }
}

/// What others have.
#[derive(Debug, Default)]
struct Taken {
    runs: u32,
    memory: u64,
}

impl Slots {
    /// Whether there is nothing to wait for.
    pub fn are_unlimited(&self) -> bool {
        self.most.is_none() && self.memory.is_none()
    }

    /// Takes a slot for a run that is limited to `memory`; waits for `patience` at most. `tell` hears of a wait once.
    ///
    /// # Errors
    ///
    /// [`SlotError`] when there is none in time, or a signal, the deadline or the end of the caller came first.
    pub fn take(
        &self,
        store: &Path,
        memory: Bytes,
        patience: Duration,
        signals: &Signals,
        tell: &dyn Fn(&str),
    ) -> Result<Slot, SlotError> {
        if let Some(total) = self.memory.filter(|total| memory > *total) {
            return Err(SlotError::TooLarge { asked: memory, total });
        }
        let directory = self.directory.clone().unwrap_or_else(|| store.join("slots"));
        let failed = |source| SlotError::Io {
            path: directory.clone(),
            source,
        };
        make(&directory).map_err(failed)?;
        let gate = Gate(open_gate(&directory.join("gate")).map_err(failed)?);
        let begun = Instant::now();
        let mut is_ours = false;
        let mut told = false;
        loop {
            is_ours = is_ours || try_lock(&gate.0).map_err(failed)?;
            let mut taken = String::from("others wait for one, too");
            if is_ours {
                let others = look(&directory).map_err(failed)?;
                match self.full(&others, memory) {
                    None => return begin(&directory, memory).map_err(failed),
                    Some(said) => taken = said,
                }
            }
            let patient = match is_ours {
                true => patience,
                false => patience.max(AT_THE_GATE),
            };
            let left = patient.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(SlotError::Full {
                    waited: patience,
                    taken,
                });
            }
            if !told && (is_ours || begun.elapsed() >= UNTOLD) {
                tell(&format!("a run slot for at most {patience:?}: {taken}"));
                told = true;
            }
            if let Some(stop) = signals.wait(BETWEEN.min(left)).map_err(failed)? {
                return Err(SlotError::Stopped { stop });
            }
        }
    }

    /// Why there is no room for another run with `memory` beside the `others`, if there is none.
    fn full(&self, others: &Taken, memory: Bytes) -> Option<String> {
        if let Some(most) = self.most.filter(|most| others.runs >= *most) {
            return Some(format!("{} of {most} are taken", others.runs));
        }
        let total = self.memory?;
        (others.memory.saturating_add(memory.0) > total.0).then(|| {
            let [promised, total, memory] = [Bytes(others.memory), total, memory].map(as_given);
            format!("{promised} of {total} of memory are promised, and this run asks for {memory}")
        })
    }
}

/// The lock of whoever is next.
struct Gate(File);

impl Drop for Gate {
    fn drop(&mut self) {
        // A copy of the descriptor, which a process that is being started has for a moment, would keep the lock.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Before the lock is: whoever finds the file either finds it held or not at all.
        let _ = fs::remove_file(&self.path);
    }
}

/// The directory of the slots, for its owner alone when it is ours to make.
fn make(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn open_gate(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        // Another user's file is read; a lock needs no more.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .append(true)
                .create(true)
                .mode(0o644)
                .custom_flags(flags);
            options.open(path)
        }
        opened => opened,
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// What the runs in `directory` have; removes the files of the dead. For the holder of the gate only.
fn look(directory: &Path) -> io::Result<Taken> {
    let mut taken = Taken::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(RUN) {
            continue;
        }
        // In a directory of many users anybody may put anything there: what is no file is nobody's run.
        if !entry.file_type()?.is_file() {
            continue;
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(entry.path()) {
            // Its run has just ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // A run all the same; how much memory it has is not for us to know.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                taken.runs = taken.runs.saturating_add(1);
                continue;
            }
            opened => opened?,
        };
        if try_lock(&file)? {
            let _ = fs::remove_file(entry.path());
            continue;
        }
        let mut text = String::new();
        let _ = (&file).take(MOST_READ).read_to_string(&mut text);
        let memory: u64 = text.trim_end().parse().unwrap_or(0);
        taken.runs = taken.runs.saturating_add(1);
        taken.memory = taken.memory.saturating_add(memory);
    }
    Ok(taken)
}

/// Makes the file of a run. For the holder of the gate only, so nobody takes it for that of a dead one before it is locked.
fn begin(directory: &Path, memory: Bytes) -> io::Result<Slot> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let path = directory.join(format!("{RUN}{:016x}", u64::from_ne_bytes(random)));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o644).open(&path)?;
    let made = writeln!(file, "{}", memory.0).and_then(|()| try_lock(&file));
    if !matches!(made, Ok(true)) {
        let _ = fs::remove_file(&path);
        made?;
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(Slot { path, _lock: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn slots(most: Option<u32>, memory: Option<u64>) -> Slots {
        Slots {
            most,
            memory: memory.map(Bytes),
            directory: None,
        }
    }

    fn take(slots: &Slots, scratch: &Path, memory: u64) -> Result<Slot, SlotError> {
        let signals = Signals::ignored();
        slots.take(scratch, Bytes(memory), NO_TIME, &signals, &|_| ())
    }

    fn files(scratch: &Path) -> usize {
        let entries = fs::read_dir(scratch.join("slots")).unwrap();
        let is_run = |name: String| name.starts_with(RUN);
        entries
            .filter(|entry| is_run(entry.as_ref().unwrap().file_name().into_string().unwrap()))
            .count()
    }

    #[test]
    fn there_are_as_many_as_are_configured_and_a_dropped_one_is_free() {
        let scratch = tempfile::tempdir().unwrap();
        let two = slots(Some(2), None);
        let first = take(&two, scratch.path(), 1).unwrap();
        let _second = take(&two, scratch.path(), 1).unwrap();
        let full = take(&two, scratch.path(), 1).unwrap_err();
        assert!(
            matches!(&full, SlotError::Full { taken, .. } if taken == "2 of 2 are taken"),
            "{full}"
        );
        assert_eq!(full.kind(), Kind::Busy);
        drop(first);
        let _third = take(&two, scratch.path(), 1).unwrap();
        assert_eq!(files(scratch.path()), 2);
    }

    #[test]
    fn memory_is_promised_once() {
        let scratch = tempfile::tempdir().unwrap();
        let ten = slots(None, Some(10));
        let _six = take(&ten, scratch.path(), 6).unwrap();
        let four = take(&ten, scratch.path(), 4).unwrap();
        let full = take(&ten, scratch.path(), 1).unwrap_err();
        assert_eq!(
            full.to_string(),
            "no run slot is free: 10 B of 10 B of memory are promised, and this run asks for 1 B"
        );
        drop(four);
        let _one = take(&ten, scratch.path(), 4).unwrap();
        let never = take(&ten, scratch.path(), 11).unwrap_err();
        assert!(matches!(never, SlotError::TooLarge { .. }) && never.kind() == Kind::Usage);
    }

    #[test]
    fn the_slot_of_a_dead_run_is_free_and_its_file_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let one = slots(Some(1), Some(10));
        drop(take(&one, scratch.path(), 1).unwrap());
        // What a killed run leaves: its file, which nobody holds.
        fs::write(scratch.path().join("slots/run-dead"), "10\n").unwrap();
        let _slot = take(&one, scratch.path(), 10).unwrap();
        assert_eq!(files(scratch.path()), 1);
    }

    #[test]
    fn a_run_that_does_not_wait_for_a_slot_waits_for_its_turn() {
        let scratch = tempfile::tempdir().unwrap();
        let two = slots(Some(2), None);
        let first = take(&two, scratch.path(), 1).unwrap();
        let at_the_gate = || {
            let gate = Gate(open_gate(&scratch.path().join("slots/gate")).unwrap());
            assert!(try_lock(&gate.0).unwrap());
            gate
        };
        let gate = at_the_gate();
        let (begun, refused) = (Instant::now(), take(&two, scratch.path(), 1).unwrap_err());
        assert_eq!(refused.to_string(), "no run slot is free: others wait for one, too");
        assert!(begun.elapsed() >= AT_THE_GATE);
        drop(gate);

        // Somebody who passes is nobody who waits. This machine may be slow to let it pass.
        let passes = |_| {
            let gate = at_the_gate();
            std::thread::scope(|scope| {
                let taken = scope.spawn(|| take(&two, scratch.path(), 1));
                std::thread::sleep(BETWEEN);
                drop(gate);
                taken.join().unwrap().ok()
            })
        };
        assert!((0..100).find_map(passes).is_some());
        drop(first);
    }

    #[test]
    fn a_wait_is_told_once_and_ends_with_its_time() {
        let scratch = tempfile::tempdir().unwrap();
        let one = slots(Some(1), None);
        let _slot = take(&one, scratch.path(), 1).unwrap();
        let said = std::cell::RefCell::new(Vec::new());
        let tell = |text: &str| said.borrow_mut().push(text.to_owned());
        let (time, signals) = (Duration::from_millis(50), Signals::ignored());
        let full = one.take(scratch.path(), Bytes(1), time, &signals, &tell).unwrap_err();
        assert!(matches!(full, SlotError::Full { waited, .. } if waited == time));
        assert_eq!(said.into_inner(), ["a run slot for at most 50ms: 1 of 1 are taken"]);
    }
}
