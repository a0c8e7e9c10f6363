//! Where a path of a Debian package lies after usrmerge: `/bin`, `/lib`, `/lib64` and `/sbin` are links into `/usr`.

use std::borrow::Cow;

/// Directories that usrmerge turned into links (Debian policy since 12).
pub(super) const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// The place of `path` after usrmerge; none for the directories that it turned into links.
pub(super) fn merged(path: &str) -> Option<Cow<'_, str>> {
    let (top, below) = path
        .split_once('/')
        .map_or((path, None), |(top, below)| (top, Some(below)));
    match (MERGED.contains(&top), below) {
        (true, Some(below)) => Some(Cow::Owned(format!("usr/{top}/{below}"))),
        (true, None) => None,
        (false, _) => Some(Cow::Borrowed(path)),
    }
}
