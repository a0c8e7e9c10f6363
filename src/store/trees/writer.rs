//! Writes the files of a layer below one directory and never outside of it.
//!
//! No path of the archive is resolved through a link: every parent is opened component by component (`openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), and what an entry replaces is unlinked first. Owners are the caller's, modes
//! lose set-id bits, times are not kept: layers are told apart by their diff id alone. Files are hashed while they are
//! written.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    linkat, mkdirat, openat, openat2, symlinkat, unlinkat, AtFlags, FileType, Mode, OFlags, ResolveFlags, CWD,
};
use rustix::io::Errno;

use super::file_digest::FileHasher;
use super::listing;
use super::opaque::set_opaque;
use crate::archive::layer::TreeSink;
use crate::oci::{Digest, Hashed};
use crate::sys::tree;

/// A directory that is being filled with the files of a layer.
#[derive(Debug)]
pub(super) struct TreeWriter {
    tree: OwnedFd,
    /// The last parent that was opened: entries come in order, most have the same.
    parent: Option<(String, OwnedFd)>,
    written: listing::Written,
    /// Files, directories and links that were made.
    pub entries: u64,
    /// Bytes of the files.
    pub unpacked_bytes: u64,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct OpenFile {
    out: File,
    hasher: FileHasher,
    inode: u64,
    /// As the disk has it.
    mode: u32,
}

impl OpenFile {
    pub(super) fn write(&mut self, contents: &[u8]) -> io::Result<()> {
        self.out.write_all(contents)?;
        self.hasher.update(contents);
        Ok(())
    }
}

impl TreeWriter {
    /// Begins to fill `directory`, which is there and empty.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            tree: openat(CWD, directory, flags, Mode::empty())?,
            parent: None,
            written: listing::Written::default(),
            entries: 0,
            unpacked_bytes: 0,
        })
    }

    /// Writes the listing of the tree to a new file; returns its digest.
    pub(super) fn list(&self, path: &Path) -> io::Result<Digest> {
        let mut out = Hashed::new(io::BufWriter::with_capacity(256 << 10, File::create_new(path)?));
        listing::write(self.tree.as_fd(), &self.written, &mut out)?;
        out.flush()?;
        Ok(out.hasher.digest())
    }

    /// Makes a file, in the place of whatever is there.
    pub(super) fn begin_file(&mut self, path: &str, mode: u32) -> io::Result<OpenFile> {
        // Ours to read, whatever the layer says.
        let mode = Mode::from_raw_mode((mode & 0o777) | 0o400);
        let file = self.create(path, mode)?;
        let mut made = rustix::fs::fstat(&file)?;
        // The umask, or a default of the directory's access list, may have taken bits away.
        if made.st_mode & 0o7777 != mode.as_raw_mode() {
            rustix::fs::fchmod(&file, mode)?;
            made = rustix::fs::fstat(&file)?;
        }
        self.entries += 1;
        crate::sys::lock::beat();
        Ok(OpenFile {
            out: file,
            hasher: FileHasher::default(),
            inode: made.st_ino,
            mode: made.st_mode & 0o7777,
        })
    }

    /// Notes what was written to the file at a path.
    pub(super) fn end_file(&mut self, path: &str, file: OpenFile) {
        let size = file.hasher.bytes();
        self.unpacked_bytes += size;
        self.written
            .note(file.inode, path, file.mode, size, file.hasher.digest());
    }

    /// Makes a symbolic link, in the place of whatever is there.
    pub(super) fn replace_by_link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.replace(path)?;
        self.symlink(path, target)
    }

    /// Makes one more name of a file of the layer.
    pub(super) fn hardlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.replace(path)?;
        let (target_parent, target_name) = split(target);
        let existing = self.open_directory(target_parent)?;
        let (kind, _) = tree::look(&existing, target_name)?;
        if kind != FileType::RegularFile {
            return Err(io::Error::other(
                "a hard link to something that is no file of the layer",
            ));
        }
        let (parent, name) = self.parent(path)?;
        linkat(&existing, target_name, parent, name, AtFlags::empty())?;
        self.entries += 1;
        Ok(())
    }

    /// Makes a directory that the layer lists, with its mode. One that is there is kept and given that mode. Something else
    /// that is there had hidden what lower layers have, so the directory that takes its place is opaque.
    pub(super) fn make_listed_directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let mode = entered(mode);
        let (parent, name) = self.parent(path)?;
        match mkdirat(parent, name, mode) {
            Ok(()) => self.made_directory(path, mode),
            Err(Errno::EXIST) if is_directory(parent, name)? => {
                Ok(rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?)
            }
            Err(Errno::EXIST) => {
                unlinkat(parent, name, AtFlags::empty())?;
                self.parent = None;
                self.make_listed_directory(path, mode.as_raw_mode())?;
                set_opaque(self.open_directory(path)?)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a directory that the layer does not list but has something in. One that is there is kept as it is.
    pub(super) fn make_implied_directory(&mut self, path: &str) -> io::Result<()> {
        let mode = entered(0o755);
        let (parent, name) = self.parent(path)?;
        match mkdirat(parent, name, mode) {
            Ok(()) => self.made_directory(path, mode),
            Err(Errno::EXIST) if is_directory(parent, name)? => Ok(()),
            Err(Errno::EXIST) => Err(Errno::NOTDIR.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn made_directory(&mut self, path: &str, mode: Mode) -> io::Result<()> {
        self.entries += 1;
        // mkdir obeys the umask.
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?)
    }

    fn create(&mut self, path: &str, mode: Mode) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (parent, name) = self.parent(path)?;
        let file = match openat(parent, name, flags, mode) {
            Err(Errno::EXIST) => {
                self.replace(path)?;
                let (parent, name) = self.parent(path)?;
                openat(parent, name, flags, mode)?
            }
            other => other?,
        };
        Ok(File::from(file))
    }

    /// Removes what an entry takes the place of: a file or link, or a directory with all in it.
    fn replace(&mut self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                tree::remove(parent, name)?;
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
                    self.make_implied_directory(parent)?;
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

impl TreeSink for TreeWriter {
    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.make_listed_directory(path, mode)
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        let mut file = self.begin_file(path, mode)?;
        file.write(contents)?;
        self.end_file(path, file);
        Ok(())
    }

    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        symlinkat(target, parent, name)?;
        self.entries += 1;
        Ok(())
    }
}

/// A mode that lets us enter, fill and remove a directory, whatever the layer says.
fn entered(mode: u32) -> Mode {
    Mode::from_raw_mode(mode | 0o700)
}

fn is_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let (kind, _) = tree::look(parent, name)?;
    Ok(kind == FileType::Directory)
}

/// The parent of a path and its last component.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
