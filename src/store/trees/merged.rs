//! One tree for many layers, made of hard links to their files.
//!
//! Every layer of an overlay is one more mount at a start and one more directory in which a name is looked for. So the lower
//! layers of an image that has many are seen through one tree, `merged/<hex of chain id>/{fs,stamp.json}`: directories of
//! its own, and in them the files of the layers, which take no room twice. It is called by the chain id of the layers in it (OCI
//! image specification, "Layer ChainID"), so that images which differ in their top layers alone share it.
//!
//! It is made when an image is prepared, of layers that are known to be whole by then, and is of use in that boot: nobody looks
//! whether a power loss damaged one of an earlier boot, which is made again. One of this boot is never replaced, as runs
//! may use it, and goes with the last image that needs it. When a layer has been unpacked again since, nobody else is to use it:
//! its files are those of the tree that was there before.
//!
//! An image is the same without it. Where it cannot be made, for want of room or of hard links, its layers are mounted one
//! by one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{chmodat, fchmod, linkat, mkdirat, openat2, AtFlags, Dir, FileType, Mode, OFlags, CWD};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::folder::LayerFolder;
use super::opaque::is_opaque;
use super::stack::{beneath, join};
use crate::oci::{DiffId, Digest, Hasher};
use crate::store::disk::locks::Locks;
use crate::store::disk::regular;
use crate::store::disk::scratch::Scratch;
use crate::store::disk::stamp::Stamp;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::{fault, lock, tree};

pub(in crate::store) const FOLDER: &str = "merged";
/// Layers on top that are left out: code changes with each build, and what lies below it does not.
const ON_TOP: usize = 4;
/// Fewest layers that are worth a tree.
const FEWEST: usize = 20;
/// A hundred bytes for each layer.
const MOST_OF_A_STAMP: u64 = 64 << 10;
/// statfs(2), `OVERLAYFS_SUPER_MAGIC`.
const OVERLAYFS: rustix::fs::FsWord = 0x794c_7630;

/// Which layers of an image are one tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Merged {
    /// Their chain id.
    pub chain: Digest,
    /// How many of the image's layers they are, from the base on.
    pub layers: usize,
}

/// What `stamp.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct MergedStamp {
    /// Always 1.
    schema: u32,
    /// The boot in which the tree was made.
    boot: Stamp,
    /// Base first, each once.
    layers: Vec<MergedLayer>,
}

/// A layer, and which directory its tree was: one that is unpacked again is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MergedLayer {
    diff_id: DiffId,
    inode: u64,
    /// When it was changed last, in seconds and nanoseconds: numbers are given again.
    changed: (i64, i64),
}

impl MergedLayer {
    fn of(disk: &Disk, diff_id: &DiffId) -> io::Result<Self> {
        let found = fs::symlink_metadata(LayerFolder::of(disk, diff_id).tree())?;
        Ok(Self {
            diff_id: *diff_id,
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    fn is_there(&self, disk: &Disk) -> bool {
        Self::of(disk, &self.diff_id).is_ok_and(|now| now == *self)
    }
}

/// What there is of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    /// None, or one that no run uses.
    Nothing,
    /// It is of use.
    Good,
    /// Runs may use it, and nobody else is to: its layers are not those that there are now, or it does not say what it is.
    Stale,
}

/// What is wrong with a tree, in words.
pub(in crate::store) struct Wrong {
    pub expected: String,
    pub got: String,
}

impl Merged {
    /// What is merged of an image of these layers, base first; none when they are few.
    pub(crate) fn of(layers: &[DiffId]) -> Option<Self> {
        let count = layers.len().checked_sub(ON_TOP).filter(|count| *count >= FEWEST)?;
        Some(Self {
            chain: chain_id(layers.get(..count)?)?,
            layers: count,
        })
    }

    /// The tree, when it is there.
    pub(in crate::store) fn tree(&self, disk: &Disk) -> Option<PathBuf> {
        let tree = folder(disk, &self.chain).join("fs");
        is_directory(&tree).then_some(tree)
    }
}

/// Where a tree is, below the root.
pub(in crate::store) fn name(chain: &Digest) -> PathBuf {
    Path::new(FOLDER).join(chain.hex())
}

fn folder(disk: &Disk, chain: &Digest) -> PathBuf {
    disk.path(name(chain))
}

/// OCI image specification, "Layer ChainID".
fn chain_id(layers: &[DiffId]) -> Option<Digest> {
    let (first, rest) = layers.split_first()?;
    let first: Digest = first.to_string().parse().ok()?;
    Some(rest.iter().fold(first, |chain, layer| {
        let mut hasher = Hasher::new();
        hasher.update(format!("{chain} {layer}").as_bytes());
        hasher.digest()
    }))
}

/// Makes the tree of the lower ones of `layers`, base first, which are unpacked and whole, unless this boot has made it. None
/// when there is nothing to merge, or no tree can be made.
///
/// # Errors
/// [`StoreError`] when a layer cannot be read or the store cannot be written to.
pub(in crate::store) fn ensure(disk: &Disk, layers: &[DiffId]) -> Result<Option<Merged>, StoreError> {
    let Some(merged) = Merged::of(layers) else {
        return Ok(None);
    };
    let of_use = |there: There| (there == There::Good).then(|| merged.clone());
    let there = find(disk, &merged.chain);
    if there != There::Nothing {
        return Ok(of_use(there));
    }
    let _single = Locks::of(disk).merging(&merged.chain)?;
    let there = find(disk, &merged.chain);
    if there != There::Nothing {
        return Ok(of_use(there));
    }
    let below = once_each(layers.get(..merged.layers).unwrap_or_default());
    match make(disk, &merged.chain, &below) {
        Err(StoreError::Io { source, .. } | StoreError::NoSpace { source, .. }) if can_do_without(&source) => Ok(None),
        made => made.map(|()| Some(merged)),
    }
}

/// `layers`, base first, of which one that comes twice is seen where it is on top.
fn once_each(layers: &[DiffId]) -> Vec<DiffId> {
    let mut seen = BTreeSet::new();
    let once = layers.iter().rev().filter(|layer| seen.insert(**layer));
    let mut once: Vec<DiffId> = once.copied().collect();
    once.reverse();
    once
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn find(disk: &Disk, chain: &Digest) -> There {
    let folder = folder(disk, chain);
    if !is_directory(&folder.join("fs")) {
        return There::Nothing;
    }
    match read_stamp(&folder) {
        Some(stamp) if stamp.boot != *disk.boot() => There::Nothing,
        Some(stamp) if stamp.layers.iter().all(|layer| layer.is_there(disk)) => There::Good,
        Some(_) | None => There::Stale,
    }
}

/// Whether all files of the tree at `path`, a folder of `merged/`, are those of layers that are there.
pub(in crate::store) fn is_of_layers(disk: &Disk, path: &Path) -> bool {
    read_stamp(path).is_some_and(|stamp| stamp.layers.iter().all(|layer| layer.is_there(disk)))
}

/// The trees that have files of a layer, as folders below the root.
pub(in crate::store) fn with_layer(disk: &Disk, layer: &DiffId) -> Vec<PathBuf> {
    let folders = fs::read_dir(disk.path(FOLDER)).into_iter().flatten().flatten();
    let is_in = |stamp: MergedStamp| stamp.layers.iter().any(|merged| merged.diff_id == *layer);
    let found = folders.filter(|entry| read_stamp(&entry.path()).is_some_and(is_in));
    found.map(|entry| Path::new(FOLDER).join(entry.file_name())).collect()
}

fn read_stamp(folder: &Path) -> Option<MergedStamp> {
    let json = regular::read(CWD, &folder.join("stamp.json"), MOST_OF_A_STAMP).ok()?;
    let stamp: MergedStamp = serde_json::from_slice(&json).ok()?;
    (stamp.schema == 1).then_some(stamp)
}

/// Whether an error means that there are no hard links, or of a file as many as there can be, or that the disk or the kernel has no
/// room for the tree.
fn can_do_without(error: &io::Error) -> bool {
    const NO_LINKS: [Errno; 5] = [Errno::MLINK, Errno::PERM, Errno::XDEV, Errno::OPNOTSUPP, Errno::NOSYS];
    const NO_ROOM: [Errno; 5] = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| NO_LINKS.contains(&errno) || NO_ROOM.contains(&errno))
}

/// The lock of the tree is held, and what has its name is of another boot.
fn make(disk: &Disk, chain: &Digest, layers: &[DiffId]) -> Result<(), StoreError> {
    let scratch = Scratch::new(disk)?;
    let staged = scratch.path().join(FOLDER);
    let target = folder(disk, chain);
    let write = || {
        let merged = layers.iter().map(|layer| MergedLayer::of(disk, layer));
        let stamp = MergedStamp {
            schema: 1,
            boot: disk.boot().clone(),
            layers: merged.collect::<io::Result<_>>()?,
        };
        let root = staged.join("fs");
        fs::create_dir_all(&root)?;
        let root = File::open(root)?;
        // There a link to a file of a lower layer copies the file.
        if rustix::fs::fstatfs(&root)?.f_type == OVERLAYFS {
            return Err(Errno::OPNOTSUPP.into());
        }
        Layers::open(disk, layers)?.link_into(root.as_fd())?;
        fs::write(staged.join("stamp.json"), serde_json::to_vec(&stamp)?)?;
        fault::point(fault::Step::Merged)
    };
    write().map_err(io_error("merge layers in", &staged))?;
    disk.make_folder(FOLDER)?;
    match fs::rename(&target, scratch.path().join("old")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &target)(error)),
        _ => {}
    }
    fs::rename(&staged, &target).map_err(io_error("make", &target))
}

/// What is wrong with the tree at `path`, a folder of `merged/`: each of its files has to be the very file of a layer. Nothing
/// is, of one that no run uses: it is of an earlier boot.
pub(in crate::store) fn look(disk: &Disk, path: &Path) -> io::Result<Option<Wrong>> {
    let wrong = |expected: &str, got: String| Wrong {
        expected: expected.to_owned(),
        got,
    };
    let Some(stamp) = read_stamp(path) else {
        let gone = fs::symlink_metadata(path).is_err();
        return Ok((!gone).then(|| wrong("stamp.json, which says of which layers it is", "none".to_owned())));
    };
    if stamp.boot != *disk.boot() {
        return Ok(None);
    }
    for MergedLayer { diff_id, .. } in &stamp.layers {
        if fs::symlink_metadata(LayerFolder::of(disk, diff_id).tree()).is_err() {
            return Ok(Some(wrong(
                "layers that are there",
                format!("layer {diff_id}, which is not"),
            )));
        }
    }
    let root = match tree::open_directory(CWD, path.join("fs")) {
        // It goes just now.
        Err(Errno::NOENT) if fs::symlink_metadata(path).is_err() => return Ok(None),
        Err(Errno::NOENT) => return Ok(Some(wrong("fs, a directory", "nothing".to_owned()))),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Some(wrong("fs, a directory", "something else".to_owned()))),
        other => other?,
    };
    let layers: Vec<DiffId> = stamp.layers.iter().map(|layer| layer.diff_id).collect();
    Layers::open(disk, &layers)?.compare(root.as_fd())
}

/// The trees of layers, top first.
struct Layers(Vec<OwnedFd>);

/// A directory of the whole: its path, and the layers that it is made of, top first.
struct Level {
    path: String,
    layers: Vec<usize>,
}

/// What the layers make of a name.
enum Piece {
    /// Of these layers, top first; whether what lies below them is hidden.
    Directory { layers: Vec<usize>, is_closed: bool },
    /// Anything else, of the layer that has it.
    Other(usize),
    /// A whiteout.
    Nothing,
}

/// The directories of a level, by layer, and what is in them.
struct Opened {
    directories: BTreeMap<usize, OwnedFd>,
    pieces: BTreeMap<OsString, Piece>,
}

impl Opened {
    fn directory(&self, layer: usize) -> io::Result<BorrowedFd<'_>> {
        let found = self.directories.get(&layer).map(AsFd::as_fd);
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Layers {
    fn open(disk: &Disk, layers: &[DiffId]) -> io::Result<Self> {
        let open = |layer: &DiffId| Ok(tree::open_directory(CWD, LayerFolder::of(disk, layer).tree())?);
        Ok(Self(layers.iter().rev().map(open).collect::<io::Result<_>>()?))
    }

    fn root(&self) -> Level {
        Level {
            path: String::new(),
            layers: (0..self.0.len()).collect(),
        }
    }

    /// What the overlay would show in a directory: of each name what the topmost layer has, and of directories all, down to one
    /// that is opaque or to something else.
    fn read(&self, level: &Level) -> io::Result<Opened> {
        let mut opened = Opened {
            directories: BTreeMap::new(),
            pieces: BTreeMap::new(),
        };
        for number in &level.layers {
            let Some(root) = self.0.get(*number) else { continue };
            lock::beat();
            let directory = open_beneath(root, &level.path)?;
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                let (kind, is_whiteout) = match entry.file_type() {
                    FileType::Unknown | FileType::CharacterDevice => {
                        let (kind, stat) = tree::look(&directory, name)?;
                        (kind, kind == FileType::CharacterDevice && stat.st_rdev == 0)
                    }
                    kind => (kind, false),
                };
                let is_directory = kind == FileType::Directory;
                match opened.pieces.entry(name.to_owned()) {
                    Entry::Vacant(place) => drop(place.insert(match (is_directory, is_whiteout) {
                        (true, _) => Piece::Directory {
                            layers: vec![*number],
                            is_closed: false,
                        },
                        (false, true) => Piece::Nothing,
                        (false, false) => Piece::Other(*number),
                    })),
                    Entry::Occupied(mut place) => match place.get_mut() {
                        Piece::Directory { layers, is_closed } if !*is_closed => match is_directory {
                            true => layers.push(*number),
                            false => *is_closed = true,
                        },
                        Piece::Directory { .. } | Piece::Other(_) | Piece::Nothing => {}
                    },
                }
            }
            let hides = is_opaque(&directory)?;
            opened.directories.insert(*number, directory);
            if hides {
                break;
            }
        }
        Ok(opened)
    }

    /// Calls `visit` with each directory, a directory before those in it.
    fn walk(&self, visit: &mut dyn FnMut(&Level, &Opened) -> io::Result<bool>) -> io::Result<()> {
        let mut pending = vec![self.root()];
        while let Some(level) = pending.pop() {
            let opened = self.read(&level)?;
            if !visit(&level, &opened)? {
                return Ok(());
            }
            for (name, piece) in opened.pieces {
                if let Piece::Directory { layers, .. } = piece {
                    let name = name.to_str().ok_or(io::ErrorKind::InvalidData)?;
                    let path = join(&level.path, name);
                    pending.push(Level { path, layers });
                }
            }
        }
        Ok(())
    }

    /// Makes the whole in `root`, an empty directory.
    fn link_into(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(top) = self.0.first() {
            fchmod(root, Mode::from_raw_mode(rustix::fs::fstat(top)?.st_mode & 0o7777))?;
        }
        self.walk(&mut |level, opened| {
            let here = open_beneath(root, &level.path)?;
            for (name, piece) in &opened.pieces {
                lock::beat();
                match piece {
                    Piece::Directory { layers, .. } => {
                        let top = layers.first().copied().unwrap_or_default();
                        let (_, stat) = tree::look(opened.directory(top)?, name)?;
                        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                        mkdirat(&here, name, mode)?;
                        // mkdir obeys the umask.
                        chmodat(&here, name, mode, AtFlags::empty())?;
                    }
                    Piece::Other(layer) => linkat(opened.directory(*layer)?, name, &here, name, AtFlags::empty())?,
                    Piece::Nothing => {}
                }
            }
            Ok(true)
        })
    }

    /// The first difference between the whole and what is in `root`.
    fn compare(&self, root: BorrowedFd<'_>) -> io::Result<Option<Wrong>> {
        if let Some(top) = self.0.first() {
            let (expected, got) = (rustix::fs::fstat(top)?.st_mode, rustix::fs::fstat(root)?.st_mode);
            if expected != got {
                return Ok(Some(Wrong {
                    expected: format!("its root with mode {:o}", expected & 0o7777),
                    got: format!("{:o}", got & 0o7777),
                }));
            }
        }
        let mut wrong = None;
        self.walk(&mut |level, opened| {
            let here = open_beneath(root, &level.path)?;
            wrong = difference(level, opened, &here)?;
            Ok(wrong.is_none())
        })?;
        Ok(wrong)
    }
}

fn difference(level: &Level, opened: &Opened, here: &OwnedFd) -> io::Result<Option<Wrong>> {
    let wrong = |name: &OsStr, expected: &str, got: &str| Wrong {
        expected: format!("{} {expected}", join(&level.path, &name.to_string_lossy())),
        got: got.to_owned(),
    };
    let there = |piece: &Piece| !matches!(piece, Piece::Nothing);
    for name in tree::names(here, usize::MAX)? {
        if !opened.pieces.get(&name).is_some_and(there) {
            return Ok(Some(wrong(&name, "not to be there", "something")));
        }
    }
    for (name, piece) in opened.pieces.iter().filter(|(_, piece)| there(piece)) {
        let (layer, said) = match piece {
            Piece::Directory { layers, .. } => (layers.first().copied(), "as a directory"),
            Piece::Other(layer) => (Some(*layer), "as in its layer"),
            Piece::Nothing => continue,
        };
        let (kind, expected) = tree::look(opened.directory(layer.unwrap_or_default())?, name)?;
        let (got_kind, got) = match tree::look(here, name) {
            Err(Errno::NOENT) => return Ok(Some(wrong(name, said, "nothing"))),
            other => other?,
        };
        let is_equal = match kind {
            FileType::Directory => got_kind == kind && got.st_mode == expected.st_mode,
            _ => (got.st_dev, got.st_ino) == (expected.st_dev, expected.st_ino),
        };
        if !is_equal {
            return Ok(Some(wrong(name, said, "something else")));
        }
    }
    Ok(None)
}

fn open_beneath(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(root, path, flags, Mode::empty(), beneath())?)
}

#[cfg(test)]
mod tests;
