//! The entries of a layer on their way from the thread that reads it to its files: in their order, in batches, on a thread of
//! their own while a processor is free for it, else on the one that reads.
//!
//! Batches are written one after the other, so the files are those that one thread would have written, and the first entry
//! that fails is the first of the layer. The reader is at most [`AHEAD`] batches further by then.

use std::io::{self, Read};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use super::budget::Budget;
use super::writer::{OpenFile, TreeWriter};
use crate::archive::tar_reader::Change;
use crate::sys::cores::{self, Taken};
use crate::sys::lock;

/// Most bytes of contents in a batch: a write of that size is one call, and ten layers come at a time.
const BATCH: usize = 512 << 10;
/// Most entries in a batch.
const ENTRIES: usize = 256;
/// Batches that are written or wait for it.
const AHEAD: usize = 2;

/// What is to be made at a path. Contents lie one after the other in the batch.
#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, bytes: usize, is_whole: bool },
    Part { bytes: usize, is_last: bool },
    Symlink { target: String },
    Hardlink { target: String },
}

#[derive(Debug, Default)]
struct Batch {
    entries: Vec<(String, Entry)>,
    /// Contents, and behind them what an earlier use left: memory is made once.
    buffer: Vec<u8>,
    filled: usize,
    /// The processor it is written on, when it is another one than the reader's.
    taken: Option<Taken>,
}

impl Batch {
    /// Where the next `bytes` of contents go.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.filled + bytes;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer.get_mut(self.filled..end).unwrap_or_default()
    }
}

/// The entry that could not be made, and why.
pub(super) type Failure = (String, io::Error);

/// Where batches become files.
#[derive(Debug)]
pub(super) struct Files<'a> {
    writer: &'a mut TreeWriter,
    budget: &'a Budget,
    open: Option<OpenFile>,
    /// Entries that were paid for.
    pub paid: u64,
    /// Nothing is made any more when there is one.
    pub failure: Option<Failure>,
}

impl<'a> Files<'a> {
    /// Everything that is made is paid from `budget`.
    pub(super) fn new(writer: &'a mut TreeWriter, budget: &'a Budget) -> Self {
        Self {
            writer,
            budget,
            open: None,
            paid: 0,
            failure: None,
        }
    }

    /// Whether all of it was made, and all before it.
    fn make_all(&mut self, batch: &mut Batch) -> bool {
        let Batch {
            entries,
            buffer,
            filled,
            ..
        } = batch;
        let mut contents = buffer.get(..*filled).unwrap_or_default();
        for (path, entry) in entries.drain(..) {
            if self.failure.is_some() {
                break;
            }
            if let Err(source) = self.make(&path, entry, &mut contents) {
                self.failure = Some((path, source));
            }
        }
        *filled = 0;
        self.failure.is_none()
    }

    fn make(&mut self, path: &str, entry: Entry, contents: &mut &[u8]) -> io::Result<()> {
        let before = self.writer.entries;
        match entry {
            Entry::Directory { mode } => self.writer.make_listed_directory(path, mode),
            Entry::Symlink { target } => self.writer.replace_by_link(path, &target),
            Entry::Hardlink { target } => self.writer.hardlink(path, &target),
            Entry::File { mode, bytes, is_whole } => {
                let file = self.writer.begin_file(path, mode)?;
                self.write((path, file), bytes, is_whole, contents)
            }
            Entry::Part { bytes, is_last } => {
                let open = self.open.take();
                let file = open.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                self.write((path, file), bytes, is_last, contents)
            }
        }?;
        let made = self.writer.entries - before;
        self.paid += made;
        self.budget.take_entries(made)
    }

    fn write(
        &mut self,
        (path, mut file): (&str, OpenFile),
        bytes: usize,
        is_end: bool,
        contents: &mut &[u8],
    ) -> io::Result<()> {
        let all = *contents;
        let (now, rest) = all.split_at_checked(bytes).unwrap_or((all, &[]));
        *contents = rest;
        file.write(now)?;
        match is_end {
            true => self.writer.end_file(path, file),
            false => self.open = Some(file),
        }
        Ok(())
    }
}

/// The reader's end.
pub(super) struct Relay<'scope, 'env, 'a> {
    scope: &'scope Scope<'scope, 'env>,
    files: &'env Mutex<Files<'a>>,
    /// Started when first a processor was free.
    helper: Option<Helper>,
    batch: Batch,
    /// Emptied batches, for their memory.
    spare: Vec<Batch>,
    under_way: usize,
}

/// A thread that makes what it is given and gives back whether it could.
struct Helper {
    give: SyncSender<Batch>,
    take_back: Receiver<(Batch, bool)>,
}

impl<'scope, 'env: 'scope, 'a: 'env> Relay<'scope, 'env, 'a> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, files: &'env Mutex<Files<'a>>) -> Self {
        Self {
            scope,
            files,
            helper: None,
            batch: Batch::default(),
            spare: Vec::new(),
            under_way: 0,
        }
    }

    /// Takes an entry, with all of its contents. Whiteouts are no entries of a tree.
    ///
    /// # Errors
    /// What reading the contents returned, or that one before failed, which [`Files::failure`] tells when all is done.
    pub(super) fn take(&mut self, path: &str, change: Change<'_>) -> io::Result<()> {
        let entry = match change {
            Change::Directory { mode } => Entry::Directory { mode },
            Change::Symlink { target } => Entry::Symlink { target },
            Change::Hardlink { target } => Entry::Hardlink { target },
            Change::File { mode, size, contents } => return self.take_file(path, mode, size, contents),
            Change::Whiteout | Change::Opaque => return Ok(()),
        };
        self.push(path, entry)
    }

    fn take_file(&mut self, path: &str, mode: u32, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let (mut left, mut is_first) = (size, true);
        loop {
            let now = usize::try_from(left).unwrap_or(BATCH).min(BATCH);
            if self.batch.filled + now > BATCH {
                self.hand_over()?;
            }
            contents.read_exact(self.batch.room(now))?;
            self.batch.filled += now;
            left -= now as u64;
            let (bytes, is_last) = (now, left == 0);
            let entry = match is_first {
                true => Entry::File {
                    mode,
                    bytes,
                    is_whole: is_last,
                },
                false => Entry::Part { bytes, is_last },
            };
            self.push(path, entry)?;
            if is_last {
                return Ok(());
            }
            is_first = false;
        }
    }

    fn push(&mut self, path: &str, entry: Entry) -> io::Result<()> {
        self.batch.entries.push((path.to_owned(), entry));
        match self.batch.entries.len() < ENTRIES {
            true => Ok(()),
            false => self.hand_over(),
        }
    }

    /// Has the batch written: elsewhere when a processor is free for it or those before it are not written yet.
    fn hand_over(&mut self) -> io::Result<()> {
        lock::beat();
        let spare = self.spare.pop().unwrap_or_default();
        let mut batch = std::mem::replace(&mut self.batch, spare);
        let mut is_good = true;
        while let Some(done) = self.helper.as_ref().and_then(|helper| helper.take_back.try_recv().ok()) {
            is_good &= self.returned(done);
        }
        if self.under_way == AHEAD {
            is_good &= self.wait();
        }
        let taken = cores::take_free(1);
        if self.under_way == 0 && taken.count() == 0 {
            is_good &= self
                .files
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .make_all(&mut batch);
            self.spare.push(batch);
        } else {
            batch.taken = Some(taken);
            self.under_way += 1;
            let helper = self.helper.get_or_insert_with(|| start(self.scope, self.files));
            is_good &= helper.give.send(batch).is_ok();
        }
        is_good
            .then_some(())
            .ok_or_else(|| io::Error::other("an entry before it could not be made"))
    }

    /// Waits for the batch that was given first; whether all of it was made.
    fn wait(&mut self) -> bool {
        let done = self.helper.as_ref().and_then(|helper| helper.take_back.recv().ok());
        done.is_some_and(|done| self.returned(done))
    }

    fn returned(&mut self, (batch, is_good): (Batch, bool)) -> bool {
        self.under_way -= 1;
        self.spare.push(batch);
        is_good
    }

    /// Has all written that was taken.
    pub(super) fn finish(mut self) {
        // Whether it failed stands in `files`.
        let _ = self.hand_over();
        while self.under_way > 0 {
            let before = self.under_way;
            self.wait();
            if self.under_way == before {
                // The thread is gone: it panicked, and so does the scope.
                return;
            }
        }
    }
}

fn start<'scope, 'env: 'scope, 'a: 'env>(scope: &'scope Scope<'scope, 'env>, files: &'env Mutex<Files<'a>>) -> Helper {
    let (give, given) = sync_channel::<Batch>(AHEAD);
    let (give_back, take_back) = sync_channel(AHEAD);
    scope.spawn(move || {
        for mut batch in given {
            let is_good = files
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .make_all(&mut batch);
            batch.taken = None;
            if give_back.send((batch, is_good)).is_err() {
                return;
            }
        }
    });
    Helper { give, take_back }
}
