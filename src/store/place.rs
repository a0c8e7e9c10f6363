//! Whether a store can be where it is: it has one owner, its file system tells names apart, and keeps attributes.
//!
//! Each is refused as a whole: a store that works until somebody's umask, a name or a layer is in the way is worse than none.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{access, fremovexattr, fsetxattr, Access, XattrFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::StoreError;

/// Set and removed again to see whether the file system keeps such attributes.
const PROBE: &str = "user.gantry.probe";

/// Whether this user may use the store at `root`, whose `version` is `found`, for all that it does. Costs two system calls.
pub(super) fn check(root: &Path, found: &Metadata) -> Result<(), StoreError> {
    let can_write = || access(root.join("tmp"), Access::WRITE_OK).is_ok();
    check_owner(root, found.uid(), geteuid().as_raw(), can_write)?;
    check_case(root, "version", "VERSION")
}

/// Whether the file system of `root`, where the folders of a new store are, can have one.
pub(super) fn check_new(root: &Path) -> Result<(), StoreError> {
    check_case(root, "tmp", "TMP")?;
    let Ok(directory) = File::open(root.join("tmp")) else {
        return Ok(());
    };
    let kept = fsetxattr(&directory, PROBE, b"", XattrFlags::empty());
    let _ = fremovexattr(&directory, PROBE);
    // Whatever else it says, such as that it is full, is no matter of what it can.
    match kept {
        Err(Errno::NOTSUP) => Err(refused(
            root,
            "its file system keeps no attributes of users (user.*), by which a layer hides directories of others; a tmpfs has them since Linux 6.6",
        )),
        _ => Ok(()),
    }
}

/// A store that another user owns can be read where it can only be read: files that two users write have two owners, and
/// each is shut out of the other's.
fn check_owner(root: &Path, owner: u32, user: u32, can_write: impl FnOnce() -> bool) -> Result<(), StoreError> {
    if owner == user || !can_write() {
        return Ok(());
    }
    let reason = format!("it belongs to user {owner}, and this is user {user}: a store is written to by one user");
    Err(refused(root, &reason))
}

/// Whether the two names, which differ in case, are those of two things.
fn check_case(root: &Path, name: &str, other: &str) -> Result<(), StoreError> {
    let (Ok(found), Ok(one)) = (
        fs::symlink_metadata(root.join(other)),
        fs::symlink_metadata(root.join(name)),
    ) else {
        return Ok(());
    };
    if (found.dev(), found.ino()) != (one.dev(), one.ino()) {
        return Ok(());
    }
    Err(refused(
        root,
        "its file system does not tell upper case from lower case (casefold), and images have names that differ in nothing else",
    ))
}

fn refused(root: &Path, reason: &str) -> StoreError {
    StoreError::Place {
        path: root.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::store;
    use crate::store::Store;

    #[test]
    fn only_the_owner_writes_to_a_store() {
        let root = Path::new("store");
        for (owner, user, can_write, fits) in [
            (1000, 1000, true, true),
            (1000, 1001, true, false),
            (1000, 0, true, false),
            (1000, 1001, false, true),
        ] {
            let checked = check_owner(root, owner, user, || can_write);
            assert_eq!(checked.is_ok(), fits, "{owner} {user} {can_write}");
            if let Err(error) = checked {
                assert!(matches!(&error, StoreError::Place { reason, .. } if reason.contains("belongs to user 1000")));
            }
        }
    }

    #[test]
    fn a_file_system_that_folds_case_is_refused() {
        // Where case is folded, both names lead to one file; so do they here.
        let (_scratch, made) = store();
        fs::hard_link(made.root().join("version"), made.root().join("VERSION")).unwrap();
        let refused = Store::open(made.root()).unwrap_err();
        assert!(
            matches!(&refused, StoreError::Place { reason, .. } if reason.contains("casefold")),
            "{refused}"
        );
        fs::remove_file(made.root().join("VERSION")).unwrap();
        fs::write(made.root().join("VERSION"), "").unwrap();
        Store::open(made.root()).unwrap();
    }
}
