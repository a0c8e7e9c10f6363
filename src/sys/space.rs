//! What the kernel says when a disk has no room left.

use std::io;

/// Whether `error` says that the file system is full, or that the user's quota on it is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_up_quota_is_a_full_disk() {
        for (errno, full) in [(libc::ENOSPC, true), (libc::EDQUOT, true), (libc::EIO, false)] {
            assert_eq!(is_full(&io::Error::from_raw_os_error(errno)), full, "{errno}");
        }
    }
}
