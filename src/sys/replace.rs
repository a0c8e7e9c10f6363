//! Files that are whole or not there: written under another name, which is then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// Between two looks whether a file is free that another process writes.
const AGAIN: Duration = Duration::from_millis(5);

/// A new file under a name of its own, until it takes the place of another one. Dropped before that, it is removed.
#[derive(Debug)]
pub(crate) struct Replacement {
    path: PathBuf,
    file: File,
    is_placed: bool,
}

impl Replacement {
    /// Creates the file. `path` must be on the file system of what it will replace.
    ///
    /// # Errors
    /// `AlreadyExists` when anything has that name, a link as well.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let file = File::create_new(&path)?;
        Ok(Self {
            path,
            file,
            is_placed: false,
        })
    }

    /// The file of this name that one process at a time may have: others wait for at most `patience`, and what one left that was
    /// killed is taken over. For nobody but the owner to read.
    ///
    /// # Errors
    /// `TimedOut` when another one has it all the time.
    pub(crate) fn create_alone(path: PathBuf, patience: Duration) -> io::Result<Self> {
        let began = Instant::now();
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
                .open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let is_still = |there: fs::Metadata| Ok::<_, io::Error>(there.ino() == file.metadata()?.ino());
                    // Whoever had it before us has renamed it or removed it: this one is no longer called so.
                    if fs::symlink_metadata(&path).map_or(Ok(false), is_still)? {
                        file.set_len(0)?;
                        let is_placed = false;
                        return Ok(Self { path, file, is_placed });
                    }
                }
                Err(Errno::WOULDBLOCK) if began.elapsed() < patience => std::thread::sleep(AGAIN),
                Err(Errno::WOULDBLOCK) => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The file, to write to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its name `target`. Whoever reads `target` meanwhile finds the old file or the new one, whole.
    pub(crate) fn place(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.is_placed = true;
        Ok(())
    }
}

/// Tries whether a file can be made in `directory`, by one without a name: nothing is left, even when we are killed.
/// Whether the file system has such files; where it has not, nothing is known.
pub(crate) fn try_directory(directory: &Path) -> io::Result<bool> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600)) {
        Ok(_) => Ok(true),
        // What file systems and kernels say that do not know the flag (open(2), O_TMPFILE).
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_tried_without_a_name_in_it() {
        let scratch = tempfile::tempdir().unwrap();
        let before = fs::metadata(scratch.path()).unwrap().modified().unwrap();
        assert!(
            try_directory(scratch.path()).unwrap(),
            "this file system has no files without a name"
        );
        assert_eq!(fs::metadata(scratch.path()).unwrap().modified().unwrap(), before);
        let missing = try_directory(&scratch.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let mut locked = fs::metadata(scratch.path()).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut locked, 0o500);
        fs::set_permissions(scratch.path(), locked).unwrap();
        let refused = try_directory(scratch.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn one_at_a_time_has_a_file_and_what_a_killed_one_left_is_taken_over() {
        let scratch = tempfile::tempdir().unwrap();
        let (target, own) = (scratch.path().join("target"), scratch.path().join("own"));
        fs::write(&own, "of one that was killed").unwrap();
        let count = || fs::read_to_string(&target).map_or(0, |text| text.parse::<u32>().unwrap());
        let add = || {
            let mut file = Replacement::create_alone(own.clone(), Duration::from_secs(60)).unwrap();
            file.write_all((count() + 1).to_string().as_bytes()).unwrap();
            file.place(&target).unwrap();
        };
        std::thread::scope(|scope| (0..20).for_each(|_| drop(scope.spawn(add))));
        assert_eq!(count(), 20);
        let held = Replacement::create_alone(own.clone(), Duration::ZERO).unwrap();
        let refused = Replacement::create_alone(own.clone(), Duration::from_millis(10)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        drop(held);
        assert!(!own.exists());
    }

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let (target, other) = (scratch.path().join("target"), scratch.path().join("other"));
        fs::write(&target, "old").unwrap();
        let mut replacement = Replacement::create(other.clone()).unwrap();
        replacement.write_all(b"ne").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        drop(replacement);
        assert!(!other.exists());
        let mut replacement = Replacement::create(other.clone()).unwrap();
        replacement.write_all(b"new").unwrap();
        replacement.place(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(!other.exists());
        fs::create_dir(&other).unwrap();
        assert!(Replacement::create(other).is_err());
    }
}
