//! How much room a disk has left, and what the kernel says when that is none.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

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

#[cfg(test)]
mod tests {
    use super::*;

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
