//! Trees of files read through directory descriptors. The kernel resolves one name at a time and follows no link, so a tree
//! that changes meanwhile, or that a stranger made, leads nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{chmodat, openat, renameat, statat, unlinkat, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Names that [`remove`] reads at once.
const AT_ONCE: usize = 4096;
/// What `stat` counts blocks in, whatever those of the file system are.
const BLOCK: u64 = 512;

/// A name in a directory, and what the directory says of it. Not every file system says the kind, or the inode that a stat says.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    pub name: OsString,
    pub inode: u64,
    pub is_file: bool,
}

/// The names in a directory without `.` and `..`, in the order of their bytes. Stops after `most` and one more name, so a
/// longer list than `most` means that there are too many.
pub(crate) fn names(directory: impl AsFd, most: usize) -> io::Result<Vec<OsString>> {
    Ok(list(directory, most)?.into_iter().map(|listed| listed.name).collect())
}

/// What is in a directory, as [`names`] has it.
pub(crate) fn list(directory: impl AsFd, most: usize) -> io::Result<Vec<Listed>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        all.push(Listed {
            name: OsString::from_vec(name.to_vec()),
            inode: entry.ino(),
            is_file: entry.file_type() == FileType::RegularFile,
        });
        if all.len() > most {
            break;
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// What a name in a directory stands for. A link is one, wherever it leads.
pub(crate) fn look(directory: impl AsFd, name: impl Arg) -> rustix::io::Result<(FileType, Stat)> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((FileType::from_raw_mode(stat.st_mode), stat))
}

/// Opens a directory in another one for reading.
pub(crate) fn open_directory(directory: impl AsFd, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// Opens a file in a directory for reading. A pipe or a device that has taken its place makes nobody wait.
pub(crate) fn open_file(directory: impl AsFd, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// Whether `error` says that something is there which is no file: it will not be one at the next try.
pub(crate) fn is_of_another_kind(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::ISDIR | Errno::NOTDIR | Errno::LOOP)
    )
}

/// Removes a directory with all that is in it, which nobody else writes to any more. A stranger may have made it: its
/// directories may lack every permission, and be as deep as they like. Two of them are open at a time.
pub(crate) fn remove(parent: impl AsFd, name: impl Arg + Copy) -> io::Result<()> {
    let top = open_to_empty(&parent, name)?;
    let mut moved = 0_u64;
    loop {
        let found = names(&top, AT_ONCE)?;
        if found.is_empty() {
            return Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?);
        }
        for child in &found {
            if !remove_unless_directory(&top, child.as_os_str())? {
                lift(&top, child.as_os_str(), &mut moved)?;
                unlinkat(&top, child.as_os_str(), AtFlags::REMOVEDIR)?;
            }
        }
    }
}

/// Empties the directory `name` in `top`: the directories in it move up to `top`, so that none is ever deeper than two.
fn lift(top: &OwnedFd, name: &OsStr, moved: &mut u64) -> io::Result<()> {
    // Somebody may wait for what goes.
    super::lock::beat();
    let directory = open_to_empty(top, name)?;
    for child in names(&directory, usize::MAX)? {
        let child = child.as_os_str();
        if remove_unless_directory(&directory, child)? {
            continue;
        }
        // To move a directory is to write to it.
        open_to_empty(&directory, child)?;
        loop {
            *moved += 1;
            match renameat(&directory, child, top, format!(".moved-{moved}")) {
                Ok(()) => break,
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// Whether it was none, and is gone.
fn remove_unless_directory(directory: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a directory of ours, whose owner gets every permission that is needed to empty it.
fn open_to_empty(parent: impl AsFd, name: impl Arg + Copy) -> io::Result<OwnedFd> {
    let (kind, stat) = look(&parent, name)?;
    if kind != FileType::Directory {
        return Err(Errno::NOTDIR.into());
    }
    if stat.st_mode & 0o700 != 0o700 {
        chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
    }
    Ok(open_directory(&parent, name)?)
}

/// Bytes of a file, or of all files below a directory, as their sizes say; a file of several names once. What cannot be read
/// counts nothing.
pub(crate) fn bytes_of(path: &Path) -> u64 {
    let (mut sum, mut seen) = (0u64, BTreeSet::new());
    walk(path, &mut |found| {
        if !found.is_dir() && (found.nlink() == 1 || seen.insert((found.dev(), found.ino()))) {
            sum = sum.saturating_add(found.len());
        }
    });
    sum
}

/// Bytes that a file, or a directory with all below it, takes on the disk, as `du` counts them: blocks, and a file of several
/// names once, as far as they are among those that `seen` is for. What cannot be read counts nothing.
pub(crate) fn disk_bytes_of(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> u64 {
    let mut sum = 0u64;
    walk(path, &mut |found| {
        if found.is_dir() || found.nlink() == 1 || seen.insert((found.dev(), found.ino())) {
            sum = sum.saturating_add(disk_bytes(found));
        }
    });
    sum
}

/// Bytes that what was looked at takes on the disk.
pub(crate) fn disk_bytes(found: &fs::Metadata) -> u64 {
    found.blocks().saturating_mul(BLOCK)
}

/// Bytes that are free once `paths` are gone with all below them, as `bytes` counts each: a file of several names when all of
/// them go.
pub(crate) fn freed_bytes_of<'a>(paths: impl Iterator<Item = &'a Path>, bytes: &dyn Fn(&fs::Metadata) -> u64) -> u64 {
    let (mut sum, mut named) = (0u64, BTreeMap::new());
    for path in paths {
        walk(path, &mut |found| {
            let is_last = found.is_dir() || found.nlink() == 1 || {
                let names = named.entry((found.dev(), found.ino())).or_insert(0);
                *names += 1;
                *names == found.nlink()
            };
            if is_last {
                sum = sum.saturating_add(bytes(found));
            }
        });
    }
    sum
}

/// Calls `each` with what is at `path`, and with all below it. What cannot be read is passed over.
fn walk(path: &Path, each: &mut dyn FnMut(&fs::Metadata)) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    each(&found);
    if found.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), each);
        }
    }
}

/// Bytes on the disk of a directory and those below it, without the files in them, which are not looked at.
pub(crate) fn disk_bytes_of_directories(path: &Path) -> u64 {
    let mut sum = fs::symlink_metadata(path).map_or(0, |found| disk_bytes(&found));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sum = sum.saturating_add(disk_bytes_of_directories(&entry.path()));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_come_sorted_and_one_more_than_asked_for_tells_that_there_are_more() {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["b", "a", "C"] {
            fs::write(scratch.path().join(name), "").unwrap();
        }
        let directory = File::open(scratch.path()).unwrap();
        assert_eq!(names(&directory, 3).unwrap(), ["C", "a", "b"]);
        assert_eq!(names(&directory, 1).unwrap().len(), 2);
    }

    #[test]
    fn links_are_neither_opened_nor_followed_when_a_directory_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let (kept, gone) = (scratch.path().join("kept"), scratch.path().join("gone"));
        fs::create_dir_all(gone.join("deep/er")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        symlink(&kept, gone.join("link")).unwrap();
        symlink(kept.join("file"), gone.join("deep/file")).unwrap();
        let top = File::open(scratch.path()).unwrap();
        let directory = open_directory(&top, "gone").unwrap();
        assert_eq!(open_directory(&directory, "link").unwrap_err(), Errno::NOTDIR);
        assert_eq!(open_file(&directory, "link").unwrap_err(), Errno::LOOP);
        assert_eq!(look(&directory, "link").unwrap().0, FileType::Symlink);
        assert!(remove(&directory, "link").is_err() && remove(&top, "no-such").is_err());
        remove(&top, "gone").unwrap();
        assert!(!gone.exists() && kept.join("file").exists());
    }

    #[test]
    fn a_tree_that_is_too_deep_for_paths_and_closed_to_its_owner_goes() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let top = File::open(scratch.path()).unwrap();
        fs::create_dir(scratch.path().join("gone")).unwrap();
        let mut directory = open_directory(&top, "gone").unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&directory, ".moved-1", Mode::RWXU).unwrap();
            directory = open_directory(&directory, "d").unwrap();
        }
        for closed in ["gone/d/d", "gone/d", "gone"] {
            fs::set_permissions(scratch.path().join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove(&top, "gone").unwrap();
        assert!(!scratch.path().join("gone").exists());
    }
}
