//! How much room a disk has left, what the kernel says when that is none, and where on the disk new files go.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{ioctl_getflags, ioctl_setflags, statvfs, IFlags};

/// Whether `error` says that the file system is full, or that the user's quota on it is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a write met a full disk, or a quota that is used up, and not somebody who had looked before.
pub(crate) fn has_run_full(error: &io::Error) -> bool {
    is_full(error) && error.raw_os_error().is_some()
}

/// The bytes that a user without rights can still write to the disk of `path`.
pub(crate) fn free(path: &Path) -> Option<u64> {
    let disk = statvfs(path).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Asks for the directories that are made in `path` to be far from each other on the disk, with all that comes into them.
/// ext4 does so below the top of a file system and below what `chattr +T` names; others have their own ways, and refuse.
///
/// Why: for a minute after files were removed ext4 takes none of their inodes again, and looks at each of them for every new
/// file of that place: making 3,000 files takes three times as long.
pub(crate) fn spread(path: &Path) {
    let ask = || -> io::Result<()> {
        let directory = File::open(path)?;
        let flags = ioctl_getflags(&directory)?;
        Ok(ioctl_setflags(&directory, flags | IFlags::TOPDIR)?)
    };
    // Only time is lost without it.
    let _ = ask();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_asks_for_its_own_to_be_far_from_each_other() {
        let scratch = tempfile::tempdir().unwrap();
        let flags = |path: &Path| ioctl_getflags(File::open(path).unwrap()).ok();
        let before = flags(scratch.path());
        spread(scratch.path());
        let is_ext = rustix::fs::statfs(scratch.path()).unwrap().f_type == 0xef53;
        // What is in front of an ext4, such as an overlay, may hand the flag on.
        let (after, set) = (flags(scratch.path()), before.map(|before| before | IFlags::TOPDIR));
        assert!(after == set || (!is_ext && after == before), "{before:?} {after:?}");
        // What is made in it does not hand it on.
        std::fs::create_dir(scratch.path().join("one")).unwrap();
        let one = flags(&scratch.path().join("one"));
        assert!(one.is_none_or(|one| !one.contains(IFlags::TOPDIR)), "{one:?}");
        // Nor is a place that is not there made.
        spread(&scratch.path().join("none"));
        assert!(!scratch.path().join("none").exists());
    }

    #[test]
    fn a_disk_that_is_there_has_a_number_of_free_bytes() {
        assert!(free(Path::new("/")).is_some());
        assert_eq!(free(Path::new("/none")), None);
    }

    #[test]
    fn a_used_up_quota_is_a_full_disk() {
        for (errno, full) in [(libc::ENOSPC, true), (libc::EDQUOT, true), (libc::EIO, false)] {
            assert_eq!(is_full(&io::Error::from_raw_os_error(errno)), full, "{errno}");
        }
    }
}
