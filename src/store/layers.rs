//! Unpacked layers: written once over directory descriptors, read-only afterwards, shared by all images.
//!
//! The extractor never resolves a path of the archive through a link: every parent is opened component by component
//! (`openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), and what an entry replaces is unlinked first. Owners are
//! the caller's, modes lose set-id bits, times are not kept: layers are told apart by their diff id alone. Whiteouts
//! become what overlayfs expects of an unprivileged mount (`store/whiteouts.rs`).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    linkat, mkdirat, openat, openat2, symlinkat, unlinkat, AtFlags, FileType, Mode, OFlags, ResolveFlags, CWD,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::whiteouts::{set_opaque, Whiteouts};
use super::{fault, io_error, Scratch, Store, StoreError};
use crate::archive::layer::TreeSink;
use crate::archive::tar_reader::{read_layer, Change, TarError};
use crate::oci::{Descriptor, DiffId, Hasher};
use crate::policy::ExtractionLimits;

/// What is kept about an unpacked layer.
#[derive(Debug, Serialize, Deserialize)]
struct LayerMeta {
    /// Always 1.
    schema: u32,
    /// Bytes of its files.
    unpacked_bytes: u64,
    /// Files, directories and links.
    entries: u64,
}

/// A tree on its way in. Dropped without commit it leaves nothing.
#[derive(Debug)]
pub struct LayerStaging {
    store: Store,
    scratch: Scratch,
    tree: OwnedFd,
    /// The last parent that was opened: entries come in order, most have the same.
    parent: Option<(String, OwnedFd)>,
    pub(super) entries: u64,
    unpacked_bytes: u64,
    whiteouts: Whiteouts,
}

impl Store {
    pub(super) fn layer_folder(&self, diff_id: &DiffId) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// Where the tree of a layer is, once it is unpacked.
    pub fn layer_path(&self, diff_id: &DiffId) -> PathBuf {
        self.layer_folder(diff_id).join("fs")
    }

    /// The tree of a layer that is unpacked.
    pub fn layer_tree(&self, diff_id: &DiffId) -> Option<PathBuf> {
        Some(self.layer_path(diff_id)).filter(|path| path.exists())
    }

    /// Bytes of the files of an unpacked layer.
    pub fn layer_bytes(&self, diff_id: &DiffId) -> Option<u64> {
        let json = fs::read(self.layer_folder(diff_id).join("meta.json")).ok()?;
        serde_json::from_slice::<LayerMeta>(&json)
            .ok()
            .map(|meta| meta.unpacked_bytes)
    }

    /// Starts a tree.
    pub fn stage_layer(&self) -> Result<LayerStaging, StoreError> {
        let scratch = self.scratch()?;
        let path = scratch.path().join("layer");
        fs::create_dir_all(path.join("fs")).map_err(io_error("make directory", &path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tree = openat(CWD, path.join("fs"), flags, Mode::empty());
        let tree = tree.map_err(|errno| io_error("open", &path)(errno.into()))?;
        Ok(LayerStaging {
            store: self.clone(),
            scratch,
            tree,
            parent: None,
            entries: 0,
            unpacked_bytes: 0,
            whiteouts: Whiteouts::default(),
        })
    }

    /// Bytes and number of the files of an unpacked layer.
    pub(super) fn layer_cost(&self, diff_id: &DiffId) -> Option<(u64, u64)> {
        let json = fs::read(self.layer_folder(diff_id).join("meta.json")).ok()?;
        let meta: LayerMeta = serde_json::from_slice(&json).ok()?;
        Some((meta.unpacked_bytes, meta.entries))
    }

    /// Unpacks a layer unless it is there; checks digest, size and diff id while reading.
    pub fn ensure_unpacked(
        &self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
    ) -> Result<PathBuf, StoreError> {
        self.unpack_within(layer, diff_id, limits, &Budget::new(limits))
    }

    /// The same for one of several layers that have a budget together.
    pub(super) fn unpack_within(
        &self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
        budget: &Budget,
    ) -> Result<PathBuf, StoreError> {
        if let Some(tree) = self.layer_tree(diff_id) {
            return Ok(tree);
        }
        let _single = self.exclusive(&format!("unpack-{}", diff_id.hex()), &mut || ())?;
        if let Some(tree) = self.layer_tree(diff_id) {
            return Ok(tree);
        }
        let mut verified = Verified {
            file: self.open_blob(&layer.digest)?.take(layer.size),
            hasher: Hasher::new(),
        };
        let mut staging = self.stage_layer()?;
        let refused = |source| StoreError::Layer {
            digest: layer.digest,
            source: budget.exceeded().unwrap_or(source),
        };
        let got = read_layer(&mut verified, limits, &mut |path, change| {
            staging.apply_within(path, change, budget)
        })
        .map_err(refused)?;
        // A gzip reader may stop before the last bytes of the blob; they count for its digest all the same.
        io::copy(&mut verified, &mut io::sink()).map_err(io_error("read", &self.blob_path(&layer.digest)))?;
        super::check_descriptor(layer, verified.hasher.clone().digest(), verified.hasher.bytes())?;
        if got != *diff_id {
            return Err(StoreError::DiffId {
                digest: layer.digest,
                expected: *diff_id,
                got,
            });
        }
        staging.write_whiteouts(budget).map_err(refused)?;
        staging.commit(diff_id)
    }

    /// A tree whose directories are the sandbox's mount points; it goes on top of every image.
    pub fn scaffold_tree(&self) -> Result<PathBuf, StoreError> {
        let path = self.root.join("scaffold");
        if path.exists() {
            return Ok(path);
        }
        let scratch = self.scratch()?;
        let made = scratch.path().join("scaffold");
        for directory in ["proc", "sys", "dev", "tmp", "output", "input", "run/secrets"] {
            let directory = made.join(directory);
            fs::create_dir_all(&directory).map_err(io_error("make directory", &directory))?;
        }
        match fs::rename(&made, &path) {
            Err(_) if path.exists() => Ok(path),
            other => other.map(|()| path.clone()).map_err(io_error("make", &path)),
        }
    }
}

/// Hashes a blob while it is unpacked.
struct Verified {
    file: io::Take<File>,
    hasher: Hasher,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

impl LayerStaging {
    /// Gives the tree its name; another process that was first wins, with the same contents.
    pub fn commit(self, diff_id: &DiffId) -> Result<PathBuf, StoreError> {
        let target = self.store.layer_folder(diff_id);
        let staged = self.scratch.path().join("layer");
        let meta = LayerMeta {
            schema: 1,
            unpacked_bytes: self.unpacked_bytes,
            entries: self.entries,
        };
        let path = staged.join("meta.json");
        let json = serde_json::to_vec(&meta).map_err(|source| StoreError::Json {
            action: "write",
            path: path.clone(),
            source,
        })?;
        fs::write(&path, json).map_err(io_error("write", &path))?;
        fault::point(fault::Step::Tree).map_err(io_error("make", &target))?;
        match fs::rename(&staged, &target) {
            Err(_) if target.join("fs").exists() => {}
            other => other.map_err(io_error("make", &target))?,
        }
        Ok(target.join("fs"))
    }

    fn apply_within(&mut self, path: &str, change: Change<'_>, budget: &Budget) -> io::Result<()> {
        if let Change::File { size, .. } = &change {
            budget.take_bytes(*size)?;
        }
        let before = self.entries;
        self.apply(path, change)?;
        budget.take_entries(self.entries - before)
    }

    /// Applies one change of a foreign layer.
    fn apply(&mut self, path: &str, change: Change<'_>) -> io::Result<()> {
        match change {
            Change::Directory { mode } => self.make_directory(path, mode, true),
            Change::File { mode, size, contents } => {
                let mut file = self.create(path, mode)?;
                let copied = io::copy(contents, &mut file)?;
                self.unpacked_bytes += copied;
                (copied == size)
                    .then_some(())
                    .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
            }
            Change::Symlink { target } => {
                self.replace(path)?;
                self.symlink(path, &target)
            }
            Change::Hardlink { target } => self.hardlink(path, &target),
            Change::Whiteout => self.whiteouts.hide(path),
            Change::Opaque => self.whiteouts.make_opaque(path),
        }
    }

    /// The last step of a foreign layer.
    fn write_whiteouts(&mut self, budget: &Budget) -> Result<(), TarError> {
        let whiteouts = std::mem::take(&mut self.whiteouts);
        whiteouts
            .write(self, budget)
            .map_err(|(path, source)| TarError::Visit { path, source })
    }

    fn hardlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.replace(path)?;
        let (target_parent, target_name) = split(target);
        let existing = self.open_directory(target_parent)?;
        let stat = rustix::fs::statat(&existing, target_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other(
                "a hard link to something that is no file of the layer",
            ));
        }
        let (parent, name) = self.parent(path)?;
        linkat(&existing, target_name, parent, name, AtFlags::empty())?;
        self.entries += 1;
        Ok(())
    }

    /// Makes a directory, or keeps the one that is there; `chmod` it when the layer says its mode itself. Only then may it
    /// take the place of something else, which had hidden what lower layers have there: so it is opaque.
    pub(super) fn make_directory(&mut self, path: &str, mode: u32, explicit: bool) -> io::Result<()> {
        // Ours to enter, fill and remove, whatever the layer says.
        let mode = Mode::from_raw_mode(mode | 0o700);
        let (parent, name) = self.parent(path)?;
        match mkdirat(parent, name, mode) {
            Ok(()) => {
                self.entries += 1;
                // mkdir obeys the umask.
                let (parent, name) = self.parent(path)?;
                rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
                Ok(())
            }
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if !is_directory && !explicit {
                    return Err(Errno::NOTDIR.into());
                }
                if !is_directory {
                    unlinkat(parent, name, AtFlags::empty())?;
                    self.parent = None;
                    self.make_directory(path, mode.as_raw_mode(), explicit)?;
                    return set_opaque(self.open_directory(path)?);
                }
                if explicit {
                    rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
                }
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn create(&mut self, path: &str, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Ours to read, whatever the layer says.
        let mode = Mode::from_raw_mode((mode & 0o777) | 0o400);
        let (parent, name) = self.parent(path)?;
        let file = match openat(parent, name, flags, mode) {
            Err(Errno::EXIST) => {
                self.replace(path)?;
                let (parent, name) = self.parent(path)?;
                openat(parent, name, flags, mode)?
            }
            other => other?,
        };
        rustix::fs::fchmod(&file, mode)?;
        self.entries += 1;
        Ok(File::from(file))
    }

    /// Removes what an entry takes the place of: a file or link, or a directory with all in it.
    fn replace(&mut self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                remove_tree(parent, name, 0)?;
                self.parent = None;
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The open parent of `path`, made with all above it when missing, and the last component.
    fn parent<'p>(&mut self, path: &'p str) -> io::Result<(BorrowedFd<'_>, &'p str)> {
        let (parent, name) = split(path);
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            let opened = match self.open_directory(parent) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_directory(parent, 0o755, false)?;
                    self.open_directory(parent)?
                }
                other => other?,
            };
            self.parent = Some((parent.to_owned(), opened));
        }
        let (_, directory) = self
            .parent
            .as_ref()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok((directory.as_fd(), name))
    }

    pub(super) fn open_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.tree, path, flags, Mode::empty(), resolve)?)
    }
}

impl TreeSink for LayerStaging {
    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.make_directory(path, mode, true)
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.create(path, mode)?.write_all(contents)?;
        self.unpacked_bytes += contents.len() as u64;
        Ok(())
    }

    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        symlinkat(target, parent, name)?;
        self.entries += 1;
        Ok(())
    }
}

pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Removes a directory without following links; `depth` bounds the recursion (paths are bounded already).
fn remove_tree(parent: BorrowedFd<'_>, name: &str, depth: usize) -> io::Result<()> {
    if depth > 256 {
        return Err(io::Error::other("a directory is too deep"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let Ok(child) = entry.file_name().to_str() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if child == "." || child == ".." {
            continue;
        }
        match unlinkat(&directory, child, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(directory.as_fd(), child, depth + 1)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
