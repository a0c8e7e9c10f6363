//! Moves the files of `/output` into the caller's directory.
//!
//! They are copied, or moved where they are on the same disk, into `.gantry-<random>` inside that directory first and renamed into place once all of them are
//! there: until that last step, which takes no time, a failure or a signal leaves the directory as it was. Existing files
//! of the same name are replaced, directories are merged. What a killed gantry staged is swept by the next command.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    fchmod, fremovexattr, fstat, linkat, mkdirat, openat, renameat, AtFlags, FileType, Mode, OFlags, CWD,
};
use rustix::io::Errno;

use crate::policy::Bytes;
use crate::sandbox::{collect, CollectError, CollectLimits, Collected, Stop};
use crate::store::{Beside, Store, StoreError};
use crate::sys::replace::try_directory;
use crate::sys::tree;

/// Most files that are taken: more than the inode limit of `/output` allows.
const ENTRIES: u64 = 100_000;
/// Deepest directory that is taken: two descriptors are held for each level.
const DEPTH: usize = 64;
/// Bytes copied between two looks for a stop. A slow disk takes some ten milliseconds for them, which a deadline has; the look
/// takes two system calls.
const CHUNK: u64 = 1 << 20;

/// Why nothing was taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The run was to end before the last file was copied.
    #[error("take the files of /output: {stop}")]
    Stopped {
        /// What `stop` returned.
        stop: Stop,
    },
    /// A file that the workload left is not taken, or cannot be read.
    #[error("{0}")]
    Collect(#[from] CollectError),
    /// The caller's directory cannot be written.
    #[error("write {path}, for the files of /output (--output)")]
    Write {
        /// The directory, or what would be in it.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The store could not note the staging directory.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Makes sure that files can be put into `directory`, which is made if it is not there. Nothing of the try stays.
pub(super) fn prepare(store: &Store, directory: &Path) -> Result<(), TakeError> {
    fs::create_dir_all(directory).map_err(write(directory))?;
    match try_directory(directory).map_err(write(directory))? {
        true => Ok(()),
        false => Staging::make(store, directory).map(drop),
    }
}

/// Copies everything below `output` to `directory`; at most `size` bytes. Gives up as soon as `stop` returns something.
pub(super) fn take(
    store: &Store,
    output: BorrowedFd<'_>,
    directory: &Path,
    size: Bytes,
    stop: &mut dyn FnMut() -> Option<Stop>,
) -> Result<Taken, TakeError> {
    let staging = Staging::make(store, directory)?;
    let limits = CollectLimits {
        entries: ENTRIES,
        bytes: size.0,
        depth: DEPTH,
    };
    let stopped = Cell::new(None);
    let mut check = || {
        stopped.set(stopped.get().or_else(&mut *stop));
        match stopped.get() {
            None => Ok(()),
            Some(_) => Err(io::Error::from(io::ErrorKind::Interrupted)),
        }
    };
    let mut copy = Copy {
        open: vec![(
            String::new(),
            staging
                .directory
                .as_fd()
                .try_clone_to_owned()
                .map_err(write(directory))?,
        )],
        mode: Mode::from_raw_mode(
            fstat(&staging.directory)
                .map_err(|errno| write(directory)(errno.into()))?
                .st_mode
                & 0o666,
        ),
        taken: Taken::default(),
    };
    let collected = collect(output, limits, &mut |path, collected| {
        check()?;
        copy.take(path, collected, &mut check)
    });
    if let Some(stop) = stopped.get() {
        return Err(TakeError::Stopped { stop });
    }
    collected.map_err(|error| match error {
        // Our side of the copy.
        CollectError::Visit { path, source } => TakeError::Write {
            path: directory.join(path),
            source,
        },
        other => TakeError::Collect(other),
    })?;
    let target = open_directory(rustix::fs::CWD, directory).map_err(|errno| write(directory)(errno.into()))?;
    let merged = check_mergeable(staging.directory.as_fd(), target.as_fd(), "")
        .and_then(|()| merge(staging.directory.as_fd(), target.as_fd(), ""));
    merged.map_err(|(path, source)| TakeError::Write {
        path: directory.join(path),
        source,
    })?;
    Ok(copy.taken)
}

/// The directories that are being filled, from the top down.
struct Copy {
    open: Vec<(String, OwnedFd)>,
    /// What a new file has here: the umask of our caller decides.
    mode: Mode,
    taken: Taken,
}

impl Copy {
    fn take(&mut self, path: &str, collected: Collected, check: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        while self.open.last().is_some_and(|(open, _)| open != parent) {
            self.open.pop();
        }
        let (_, directory) = self.open.last().ok_or(io::ErrorKind::NotFound)?;
        match collected {
            Collected::Directory => {
                mkdirat(directory, name, Mode::from_raw_mode(0o777))?;
                let made = open_directory(directory, Path::new(name))?;
                self.open.push((path.to_owned(), made));
                Ok(())
            }
            Collected::File { mut file, size } => {
                self.taken.files += 1;
                self.taken.bytes += size;
                if self.adopt(&file, name)? {
                    return Ok(());
                }
                let (_, directory) = self.open.last().ok_or(io::ErrorKind::NotFound)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut copy = File::from(openat(directory, name, flags, Mode::from_raw_mode(0o666))?);
                let mut copied = 0;
                while copied < size {
                    check()?;
                    match io::copy(&mut file.by_ref().take(CHUNK.min(size - copied)), &mut copy)? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        count => copied += count,
                    }
                }
                Ok(())
            }
        }
    }

    /// Gives `file` a name here instead of copying it, where it is on the same disk and has one name: the other goes with
    /// its directory. Nothing of it stays but its bytes: what the workload lets others do with it goes.
    fn adopt(&self, file: &File, name: &str) -> io::Result<bool> {
        let (_, directory) = self.open.last().ok_or(io::ErrorKind::NotFound)?;
        if fstat(file)?.st_nlink != 1 {
            return Ok(false);
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // /output in memory, another disk, a file system without links: any answer but success means a copy.
        if linkat(CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW).is_err() {
            return Ok(false);
        }
        match fremovexattr(file, c"system.posix_acl_access") {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        fchmod(file, self.mode)?;
        Ok(true)
    }
}

/// A path below the caller's directory, and why it cannot be written.
type Unwritable = (String, io::Error);

/// Whether everything of `from` can take its place in `to`: nothing is renamed before that is known.
fn check_mergeable(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &str) -> Result<(), Unwritable> {
    for name in names(from).map_err(at(path))? {
        let path = below(path, &name);
        let error = |errno: Errno| at(&path)(errno.into());
        let kind = |parent: BorrowedFd<'_>| tree::look(parent, &name).map(|(kind, _)| kind);
        let there = match kind(to) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(error)?,
        };
        let is_directory = kind(from).map_err(error)? == FileType::Directory;
        match (is_directory, there == FileType::Directory) {
            (true, true) => {
                let from = open_directory(from, Path::new(&name)).map_err(error)?;
                let to = open_directory(to, Path::new(&name)).map_err(error)?;
                check_mergeable(from.as_fd(), to.as_fd(), &path)?;
            }
            (true, false) => return Err(error(Errno::NOTDIR)),
            (false, true) => return Err(error(Errno::ISDIR)),
            (false, false) => {}
        }
    }
    Ok(())
}

fn merge(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &str) -> Result<(), Unwritable> {
    for name in names(from).map_err(at(path))? {
        let path = below(path, &name);
        let error = |errno: Errno| at(&path)(errno.into());
        match renameat(from, &name, to, &name) {
            // A directory is already there: what is new goes into it.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let from = open_directory(from, Path::new(&name)).map_err(error)?;
                let to = open_directory(to, Path::new(&name)).map_err(error)?;
                merge(from.as_fd(), to.as_fd(), &path)?;
            }
            other => other.map_err(error)?,
        }
    }
    Ok(())
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    // They were UTF-8 when they were collected.
    let text = |name: OsString| name.into_string().map_err(|_| io::ErrorKind::InvalidData.into());
    tree::names(directory, usize::MAX)?.into_iter().map(text).collect()
}

fn open_directory(parent: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The caller's own path may lead through links; a name below it may not.
    let flags = if path.is_absolute() {
        flags
    } else {
        flags | OFlags::NOFOLLOW
    };
    openat(parent, path, flags, Mode::empty())
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        return name.to_owned();
    }
    format!("{path}/{name}")
}

fn at(path: &str) -> impl Fn(io::Error) -> Unwritable + '_ {
    move |source| (path.to_owned(), source)
}

fn write(path: &Path) -> impl Fn(io::Error) -> TakeError + '_ {
    move |source| TakeError::Write {
        path: path.to_owned(),
        source,
    }
}

/// A directory inside the caller's that goes away with us, or with the next sweep once we are dead.
struct Staging {
    directory: OwnedFd,
    /// Removes it.
    _beside: Beside,
}

impl Staging {
    fn make(store: &Store, directory: &Path) -> Result<Self, TakeError> {
        let error = |source| write(directory)(source);
        let beside = store.beside(&directory.canonicalize().map_err(error)?.join("output"))?;
        fs::create_dir(beside.path()).map_err(error)?;
        let made = open_directory(rustix::fs::CWD, beside.path()).map_err(|errno| error(errno.into()));
        Ok(Self {
            directory: made?,
            _beside: beside,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::StopSignal;

    #[test]
    fn a_stop_names_its_signal_and_leaves_the_directory_as_it_was() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("store")).unwrap();
        let (output, directory) = (scratch.path().join("output"), scratch.path().join("directory"));
        fs::create_dir(&output).unwrap();
        fs::create_dir(&directory).unwrap();
        fs::write(output.join("a"), "1").unwrap();
        fs::write(output.join("b"), "2").unwrap();
        let root = File::open(&output).unwrap();
        let mut looks = 0;
        let mut at_the_second_look = || {
            looks += 1;
            (looks == 2).then_some(Stop::Signal(StopSignal::Interrupt))
        };
        let stopped = take(&store, root.as_fd(), &directory, Bytes(10), &mut at_the_second_look);
        assert!(
            matches!(
                stopped,
                Err(TakeError::Stopped {
                    stop: Stop::Signal(StopSignal::Interrupt)
                })
            ),
            "{stopped:?}"
        );
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        take(&store, root.as_fd(), &directory, Bytes(10), &mut || None).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    }
}
