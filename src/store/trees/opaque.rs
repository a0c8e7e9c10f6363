//! The attribute of a directory that hides what lower layers have below it.
//!
//! An unprivileged overlay reads it under `user.` (Linux, "Overlay Filesystem", `userxattr`).

use std::io;
use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

const OPAQUE: &str = "user.overlay.opaque";

/// Whether the directory hides lower layers. A file system without attributes has no such directory.
pub(in crate::store) fn is_opaque(directory: impl AsFd) -> io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value) {
        Ok(length) => Ok(length == 1 && value == *b"y"),
        // Ours is one byte long.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes the directory hide lower layers.
pub(in crate::store) fn set_opaque(directory: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())?)
}
