//! Opens files that have to be regular ones, whatever has taken their place: a pipe makes nobody wait, a link leads nowhere,
//! and a file that has grown beyond all measure fills no memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::sys::tree::{self, is_of_another_kind};

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Unread {
    /// Nothing has that name.
    Gone,
    /// What is there instead, in words.
    Wrong(String),
    /// It is there, and reading it failed with this error of the kernel: what is in it is not known.
    Failed(Errno),
}

impl Unread {
    /// What is there, in words.
    pub(in crate::store) fn found(self) -> String {
        match self {
            Self::Gone => "nothing".to_owned(),
            Self::Wrong(found) => found,
            Self::Failed(errno) => format!("it cannot be read: {}", io::Error::from(errno)),
        }
    }

    pub(in crate::store) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ => match Errno::from_io_error(error).filter(|_| !is_of_another_kind(error)) {
                Some(errno) => Self::Failed(errno),
                None => Self::Wrong(format!("it cannot be read: {error}")),
            },
        }
    }

    /// Why nobody can tell now: this process, or the machine, has none left of what reading takes.
    pub(in crate::store) fn exhausted(&self) -> Option<io::Error> {
        match self {
            Self::Failed(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Some((*errno).into()),
            Self::Failed(_) | Self::Gone | Self::Wrong(_) => None,
        }
    }
}

/// What a name stands for, in words.
fn kind_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something unknown",
    }
}

/// Opens the regular file `name` of the directory `at`.
pub(in crate::store) fn open(at: impl AsFd, name: &Path) -> Result<File, Unread> {
    // A directory and a socket can be told before they are opened; what takes their place after that waits for nobody.
    look(&at, name, FileType::RegularFile)?;
    let file = File::from(tree::open_file(&at, name).map_err(|errno| match errno {
        Errno::LOOP => Unread::Wrong(kind_of(FileType::Symlink).to_owned()),
        errno => Unread::of(&errno.into()),
    })?);
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(file),
        Ok(_) => look(&at, name, FileType::RegularFile).map(|_| file),
        Err(error) => Err(Unread::of(&error)),
    }
}

/// Whether `name` in `at` is a `wanted`; the size that it has.
pub(in crate::store) fn look(at: impl AsFd, name: &Path, wanted: FileType) -> Result<u64, Unread> {
    match tree::look(at, name) {
        Ok((kind, stat)) if kind == wanted => Ok(u64::try_from(stat.st_size).unwrap_or_default()),
        Ok((kind, _)) => Err(Unread::Wrong(kind_of(kind).to_owned())),
        Err(errno) => Err(Unread::of(&errno.into())),
    }
}

/// Reads the regular file `name` of the directory `at`, which has at most `most` bytes.
pub(in crate::store) fn read(at: impl AsFd, name: &Path, most: u64) -> Result<Vec<u8>, Unread> {
    let file = open(at, name)?;
    let mut bytes = Vec::new();
    let read = file.take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| Unread::of(&error))?;
    match bytes.len() as u64 > most {
        true => Err(Unread::Wrong(format!("more than {most} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{mkfifoat, Mode, CWD};

    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_nothing_is_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        fs::write(path("file"), "text").unwrap();
        symlink("file", path("link")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        mkfifoat(CWD, path("pipe"), Mode::RWXU).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        assert_eq!(read(CWD, &path("file"), 4).unwrap(), b"text");
        for (name, found) in [
            ("link", "a symbolic link"),
            ("directory", "a directory"),
            ("pipe", "a pipe"),
            ("socket", "a socket"),
            ("none", "nothing"),
        ] {
            assert_eq!(read(CWD, &path(name), 4).unwrap_err().found(), found);
        }
        assert_eq!(read(CWD, &path("file"), 3).unwrap_err().found(), "more than 3 bytes");
    }
}
