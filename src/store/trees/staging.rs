//! A tree on its way into the store: written in scratch, described by `meta.json` and `stamp.json`, renamed.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::budget::Budget;
use super::folder::{LayerFolder, LayerStamp};
use super::relay::{Files, Relay};
use super::whiteouts::Whiteouts;
use super::writer::TreeWriter;
use crate::archive::layer::TreeSink;
use crate::archive::tar_reader::{Change, TarError};
use crate::oci::{Descriptor, DiffId, Digest};
use crate::store::disk::locks::Locks;
use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::space;

/// What is told of each entry of a layer.
pub(super) type Visit<'v> = &'v mut dyn FnMut(&str, Change<'_>) -> io::Result<()>;

/// Where the tree of a scratch directory is. Its name is as random as that one's, as file systems choose a place by names.
fn staged_in(scratch: &Scratch) -> PathBuf {
    let path = scratch.path();
    path.join(path.file_name().unwrap_or_default())
}

/// A tree on its way in. Dropped without commit it leaves nothing.
#[derive(Debug)]
pub struct LayerStaging {
    disk: Disk,
    scratch: Scratch,
    writer: TreeWriter,
    whiteouts: Whiteouts,
    /// What was paid for it from the budget of its image: bytes and entries.
    paid: (u64, u64),
}

impl LayerStaging {
    /// Starts a tree.
    pub(super) fn begin(disk: &Disk) -> Result<Self, StoreError> {
        let scratch = Scratch::new(disk)?;
        // Layers that were removed just now make the disk slow where they were.
        space::spread(scratch.path());
        let path = staged_in(&scratch);
        fs::create_dir_all(path.join("fs")).map_err(io_error("make directory", &path))?;
        let writer = TreeWriter::open(&path.join("fs")).map_err(io_error("open", &path))?;
        Ok(Self {
            disk: disk.clone(),
            scratch,
            writer,
            whiteouts: Whiteouts::default(),
            paid: (0, 0),
        })
    }

    /// Gives the tree its name; another process that was first wins, with the same contents. `blob` was written with it.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; no tree of that name stays.
    pub fn commit(self, diff_id: &DiffId, blob: &Digest) -> Result<PathBuf, StoreError> {
        let disk = self.disk.clone();
        let tree = self.take_name(diff_id)?;
        LayerFolder::of(&disk, diff_id).note_origin(blob)?;
        Ok(tree)
    }

    fn take_name(mut self, diff_id: &DiffId) -> Result<PathBuf, StoreError> {
        self.describe()?;
        let folder = LayerFolder::of(&self.disk, diff_id);
        let target = folder.path();
        match fs::rename(self.staged(), &target) {
            Err(_) if folder.trusted_tree().is_some() => Ok(target.join("fs")),
            Err(_) if target.exists() => {
                let _single = Locks::of(&self.disk).layer(diff_id)?;
                if folder.verify()? {
                    return Ok(target.join("fs"));
                }
                self.take_place(diff_id)
            }
            other => other.map(|()| target.join("fs")).map_err(io_error("make", &target)),
        }
    }

    /// Gives the tree its name in place of one that is not whole. The lock of the layer is held.
    pub(super) fn take_place(self, diff_id: &DiffId) -> Result<PathBuf, StoreError> {
        let folder = LayerFolder::of(&self.disk, diff_id);
        let target = folder.path();
        if let Some(theirs) = folder.trusted_tree() {
            return Ok(theirs);
        }
        let away = || fs::rename(&target, self.scratch.path().join("damaged"));
        let moved = match target.exists() {
            true => fault::point(fault::Step::DamagedTree).and_then(|()| away()),
            false => Ok(()),
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &target)(error)),
            _ => {}
        }
        match fs::rename(self.staged(), &target) {
            Err(error) => folder.trusted_tree().ok_or_else(|| io_error("make", &target)(error)),
            Ok(()) => Ok(target.join("fs")),
        }
    }

    /// The directory of the files, which has another name once they are committed.
    pub fn path(&self) -> PathBuf {
        self.staged().join("fs")
    }

    fn staged(&self) -> PathBuf {
        staged_in(&self.scratch)
    }

    /// Writes `meta.json` and `stamp.json` beside the finished tree.
    pub(super) fn describe(&mut self) -> Result<(), StoreError> {
        let path = self.staged().join("meta.json");
        let meta = self.writer.list(&path).map_err(io_error("write", &path))?;
        let stamp = LayerStamp {
            schema: 2,
            boot: self.disk.boot().clone(),
            meta,
            unpacked_bytes: self.writer.unpacked_bytes,
            entries: self.writer.entries,
        };
        let path = self.staged().join("stamp.json");
        let json = serde_json::to_vec(&stamp).map_err(|source| StoreError::Json {
            action: "write",
            path: path.clone(),
            source,
        })?;
        fs::write(&path, json).map_err(io_error("write", &path))?;
        fault::point(fault::Step::Tree).map_err(io_error("make", &path))
    }

    /// Makes what `read` says of a layer from elsewhere, which is all made, or failed, when this returns; it is paid from `budget`.
    ///
    /// # Errors
    /// Of an entry that could not be made, before those of what follows it.
    pub(super) fn fill(
        &mut self,
        layer: &Descriptor,
        budget: &Budget,
        read: impl FnOnce(Visit<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (whiteouts, paid) = (&mut self.whiteouts, &mut self.paid);
        let files = Mutex::new(Files::new(&mut self.writer, budget));
        let read = thread::scope(|scope| {
            let mut relay = Relay::new(scope, &files);
            let read = read(&mut |path, change| match change {
                Change::Whiteout => whiteouts.hide(path, budget),
                Change::Opaque => whiteouts.make_opaque(path, budget),
                change => {
                    if let Change::File { size, .. } = &change {
                        paid.0 += size;
                        budget.take_bytes(*size)?;
                    }
                    relay.take(path, change)
                }
            });
            relay.finish();
            read
        });
        let files = files.into_inner().unwrap_or_else(PoisonError::into_inner);
        paid.1 += files.paid;
        match files.failure {
            Some((path, source)) => Err(StoreError::Layer {
                digest: layer.digest,
                source: TarError::Visit { path, source },
            }),
            None => read,
        }
    }

    /// Gives back to `budget` what was paid for a tree that is not wanted any more.
    pub(in crate::store) fn pay_back(&self, budget: &Budget) {
        budget.give_back(self.paid.0, self.paid.1, self.whiteouts.bytes());
    }

    /// Puts the whiteouts into the tree, when all changes of a layer from elsewhere are applied.
    pub(super) fn write_whiteouts(&mut self, layer: &Descriptor, budget: &Budget) -> Result<(), StoreError> {
        let written = self.whiteouts.write(&mut self.writer, budget);
        written.map_err(|(path, source)| StoreError::Layer {
            digest: layer.digest,
            source: TarError::Visit { path, source },
        })
    }
}

impl TreeSink for LayerStaging {
    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.writer.directory(path, mode)
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.writer.file(path, mode, contents)
    }

    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.writer.symlink(path, target)
    }
}
