//! Unpacked layers: written once over directory descriptors, read-only afterwards, shared by all images.
//!
//! The extractor never resolves a path of the archive through a link: every parent is opened component by component
//! (`openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), and what an entry replaces is unlinked first. Owners are
//! the caller's, modes lose set-id bits, times are not kept: layers are told apart by their diff id alone. Whiteouts
//! become what overlayfs expects of an unprivileged mount (see [`whiteouts`](super::whiteouts)). Files are hashed while they
//! are written; `meta.json` lists them (see [`listing`]), `stamp.json` says whether it may be trusted.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    linkat, mkdirat, openat, openat2, symlinkat, unlinkat, AtFlags, FileType, Mode, OFlags, ResolveFlags, CWD,
};
use rustix::io::Errno;

use super::budget::Budget;
use super::durability::{Content, LayerStamp};
use super::whiteouts::{set_opaque, Whiteouts};
use super::{fault, io_error, listing, Scratch, Store, StoreError};
use crate::archive::layer::TreeSink;
use crate::archive::tar_reader::{read_layer, Change, TarError};
use crate::oci::{Compression, Descriptor, DiffId, Digest, Hashed, Hasher};
use crate::policy::ExtractionLimits;

/// A tree on its way in. Dropped without commit it leaves nothing.
#[derive(Debug)]
pub struct LayerStaging {
    store: Store,
    scratch: Scratch,
    tree: OwnedFd,
    /// The last parent that was opened: entries come in order, most have the same.
    parent: Option<(String, OwnedFd)>,
    digests: listing::Digests,
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

    /// Bytes of the files of an unpacked layer.
    pub fn layer_bytes(&self, diff_id: &DiffId) -> Option<u64> {
        self.layer_stamp(diff_id).map(|stamp| stamp.unpacked_bytes)
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
            digests: listing::Digests::new(),
            entries: 0,
            unpacked_bytes: 0,
            whiteouts: Whiteouts::default(),
        })
    }

    /// Unpacks a layer unless it is there, whole, and known to be this blob's; checks digest, size and diff id while reading.
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
        let is_ours = || self.is_origin(diff_id, &layer.digest);
        if let Some(tree) = self.layer_tree(diff_id).filter(|_| is_ours()) {
            return Ok(tree);
        }
        let _single = self.lock_layer(diff_id)?;
        let is_whole = self.verify_layer(diff_id)?;
        let done = match is_whole {
            true if is_ours() => return Ok(self.layer_path(diff_id)),
            true => self
                .read_whole(layer, diff_id, limits, &mut |_, _| Ok(()))
                .map(|()| self.layer_path(diff_id)),
            false => self.unpack(layer, diff_id, limits, budget),
        };
        match done {
            Ok(tree) => self.add_origin(diff_id, &layer.digest).map(|()| tree),
            Err(StoreError::NoBlob { digest }) if !is_whole => Err(StoreError::LayerLost {
                diff_id: *diff_id,
                digest,
            }),
            Err(
                StoreError::Layer { .. }
                | StoreError::Digest { .. }
                | StoreError::Size { .. }
                | StoreError::DiffId { .. },
            ) if !self.content_is(Content::Blob, &layer.digest) => {
                let path = self.blob_path(&layer.digest);
                fs::remove_file(&path).map_err(io_error("remove damaged", &path))?;
                Err(StoreError::LayerLost {
                    diff_id: *diff_id,
                    digest: layer.digest,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a layer's blob to its end; what `visit` was told is the layer's only when this succeeds.
    fn read_whole(
        &self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
        visit: &mut dyn FnMut(&str, Change<'_>) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let compression = Compression::of_layer(layer).map_err(|source| StoreError::Document {
            digest: layer.digest,
            source,
        })?;
        let mut verified = Verified::new(self.open_blob(&layer.digest)?, layer.size);
        let got = read_layer(&mut verified, compression, limits, visit).map_err(|source| StoreError::Layer {
            digest: layer.digest,
            source,
        })?;
        // A gzip reader may stop before the last bytes of the blob; they count for its digest all the same.
        io::copy(&mut verified, &mut io::sink()).map_err(io_error("read", &self.blob_path(&layer.digest)))?;
        verified.check(layer)?;
        if got != *diff_id {
            return Err(StoreError::DiffId {
                digest: layer.digest,
                expected: *diff_id,
                got,
            });
        }
        Ok(())
    }

    fn unpack(
        &self,
        layer: &Descriptor,
        diff_id: &DiffId,
        limits: &ExtractionLimits,
        budget: &Budget,
    ) -> Result<PathBuf, StoreError> {
        let mut staging = self.stage_layer()?;
        let read = self
            .read_whole(layer, diff_id, limits, &mut |path, change| {
                staging.apply_within(path, change, budget)
            })
            .and_then(|()| staging.write_whiteouts(layer, budget));
        if let (Err(StoreError::Layer { digest, .. }), Some(source)) = (&read, budget.exceeded()) {
            return Err(StoreError::Layer {
                digest: *digest,
                source,
            });
        }
        read?;
        staging.describe()?;
        staging.take_place(diff_id)
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

/// Hashes a blob while it is read.
pub(super) struct Verified {
    file: io::Take<File>,
    hasher: Hasher,
}

impl Verified {
    pub(super) fn new(file: File, size: u64) -> Self {
        Self {
            file: file.take(size),
            hasher: Hasher::new(),
        }
    }

    /// What was read against what it is called.
    pub(super) fn check(&self, blob: &Descriptor) -> Result<(), StoreError> {
        super::check_descriptor(blob, self.hasher.clone().digest(), self.hasher.bytes())
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        crate::sys::lock::beat();
        Ok(count)
    }
}

impl LayerStaging {
    /// Gives the tree its name; another process that was first wins, with the same contents. `blob` was written with it.
    pub fn commit(self, diff_id: &DiffId, blob: &Digest) -> Result<PathBuf, StoreError> {
        let store = self.store.clone();
        let tree = self.take_name(diff_id)?;
        store.add_origin(diff_id, blob)?;
        Ok(tree)
    }

    fn take_name(mut self, diff_id: &DiffId) -> Result<PathBuf, StoreError> {
        let target = self.store.layer_folder(diff_id);
        self.describe()?;
        match fs::rename(self.staged(), &target) {
            Err(_) if self.store.layer_tree(diff_id).is_some() => Ok(target.join("fs")),
            Err(_) if target.exists() => {
                let _single = self.store.lock_layer(diff_id)?;
                if self.store.verify_layer(diff_id)? {
                    return Ok(target.join("fs"));
                }
                self.take_place(diff_id)
            }
            other => other.map(|()| target.join("fs")).map_err(io_error("make", &target)),
        }
    }

    /// The same with the layer's lock held, in place of a tree that is not whole.
    fn take_place(self, diff_id: &DiffId) -> Result<PathBuf, StoreError> {
        let target = self.store.layer_folder(diff_id);
        let trusted = || self.store.layer_tree(diff_id);
        if let Some(theirs) = trusted() {
            return Ok(theirs);
        }
        match fs::rename(&target, self.scratch.path().join("damaged")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &target)(error)),
            _ => {}
        }
        match fs::rename(self.staged(), &target) {
            Err(error) => trusted().ok_or_else(|| io_error("make", &target)(error)),
            Ok(()) => Ok(target.join("fs")),
        }
    }

    fn staged(&self) -> PathBuf {
        self.scratch.path().join("layer")
    }

    /// Writes `meta.json` and `stamp.json` beside the finished tree.
    fn describe(&mut self) -> Result<(), StoreError> {
        let path = self.staged().join("meta.json");
        let meta = self.list(&path).map_err(io_error("write", &path))?;
        let stamp = LayerStamp {
            schema: 2,
            boot: self.store.boot.clone(),
            meta,
            unpacked_bytes: self.unpacked_bytes,
            entries: self.entries,
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

    fn list(&self, path: &Path) -> io::Result<Digest> {
        let mut out = Hashed::new(io::BufWriter::with_capacity(256 << 10, File::create_new(path)?));
        listing::write(self.tree.as_fd(), &self.digests, &mut out)?;
        out.flush()?;
        Ok(out.hasher.digest())
    }

    /// Notes what was written to a file, for its inode: names come and go, and a hard link is one more.
    fn note(&mut self, file: &File, digest: Digest) -> io::Result<()> {
        self.digests.insert(rustix::fs::fstat(file)?.st_ino, digest);
        Ok(())
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
                let mut out = Hashed::new(self.create(path, mode)?);
                let copied = io::copy(contents, &mut out)?;
                self.note(&out.out, out.hasher.digest())?;
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
    fn write_whiteouts(&mut self, layer: &Descriptor, budget: &Budget) -> Result<(), StoreError> {
        let whiteouts = std::mem::take(&mut self.whiteouts);
        whiteouts
            .write(self, budget)
            .map_err(|(path, source)| StoreError::Layer {
                digest: layer.digest,
                source: TarError::Visit { path, source },
            })
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
        crate::sys::lock::beat();
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
        let mut file = self.create(path, mode)?;
        file.write_all(contents)?;
        self.note(&file, Digest::of(contents))?;
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
