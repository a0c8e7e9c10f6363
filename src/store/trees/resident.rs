//! The pages of the files of a tree: which are in memory, and getting some there.
//!
//! A tree is a stranger's: nothing here follows a link, opens anything but a regular file, or looks at more than it is allowed to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{open, openat, openat2, Dir, FileType, Mode, OFlags, ResolveFlags};

use crate::sys::page_cache::{ask_for, read_through, resident, PAGE};

/// Pages between two parts of a file that are read as one: reading them takes less than asking twice.
const GAP: u64 = 16 * PAGE;
/// Parts of one file that are told apart; with more it is one from the first to the last.
const MAX_PARTS: usize = 64;
/// Directories inside directories. An image has a dozen.
const MAX_DEPTH: usize = 64;

/// Bytes of a file: where they begin, and how many.
pub(in crate::store) type Part = (u64, u64);

/// What of a file is in memory.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) struct ResidentFile {
    /// Its path in the tree.
    pub path: String,
    /// The parts, in their order.
    pub parts: Vec<Part>,
}

/// The directory of a tree.
pub(in crate::store) struct Tree(OwnedFd);

impl Tree {
    /// Opens the tree at `path`.
    pub(in crate::store) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    /// Calls `each` with every file that has something in memory, and stops when that is false. Of each entry that is looked at one is
    /// taken off `left`; at 0 no more are. What cannot be read is passed over.
    pub(in crate::store) fn resident_files(&self, left: &mut u64, each: &mut dyn FnMut(ResidentFile) -> bool) {
        if let Ok(root) = self.0.try_clone() {
            walk(root, "", MAX_DEPTH, left, each);
        }
    }

    /// How many of the first pages of a part of a file are in memory, and how many were looked at.
    pub(in crate::store) fn count_resident(&self, path: &str, part: Part) -> io::Result<(usize, usize)> {
        let pages = resident(&self.file(path)?, part.0, part.1)?;
        Ok((pages.iter().filter(|page| **page).count(), pages.len()))
    }

    /// Has the kernel begin to read parts of a file.
    pub(in crate::store) fn ask_for(&self, path: &str, parts: &[Part]) -> io::Result<()> {
        let file = self.file(path)?;
        parts
            .iter()
            .try_for_each(|(offset, length)| ask_for(&file, *offset, *length))
    }

    /// Reads parts of a file, so that they are in memory; returns how many bytes those are.
    pub(in crate::store) fn read_through(&self, path: &str, parts: &[Part]) -> io::Result<u64> {
        let file = self.file(path)?;
        parts.iter().try_fold(0, |all, (offset, length)| {
            Ok(all + read_through(&file, *offset, *length)?)
        })
    }

    fn file(&self, path: &str) -> io::Result<File> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat2(&self.0, path, flags, Mode::empty(), beneath)?.into())
    }
}

fn walk(
    directory: OwnedFd,
    path: &str,
    depth: usize,
    left: &mut u64,
    each: &mut dyn FnMut(ResidentFile) -> bool,
) -> bool {
    let Ok(entries) = Dir::read_from(&directory) else {
        return true;
    };
    let mut found: Vec<(String, FileType)> = Vec::new();
    for entry in entries.flatten() {
        if found.len() as u64 >= *left {
            break;
        }
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => found.push((name.to_owned(), entry.file_type())),
        }
    }
    // As the layer has them, so that disks read in one direction.
    found.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, kind) in found {
        if *left == 0 {
            return true;
        }
        *left -= 1;
        let inner = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}/{name}")
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let goes_on = match kind {
            FileType::Directory if depth > 0 => {
                match openat(&directory, &*name, flags | OFlags::DIRECTORY, Mode::empty()) {
                    Ok(directory) => walk(directory, &inner, depth - 1, left, each),
                    Err(_) => true,
                }
            }
            FileType::RegularFile => match openat(&directory, &*name, flags, Mode::empty()) {
                Ok(file) => match parts_of(&File::from(file)) {
                    Ok(parts) if !parts.is_empty() => each(ResidentFile { path: inner, parts }),
                    Ok(_) | Err(_) => true,
                },
                Err(_) => true,
            },
            _ => true,
        };
        if !goes_on {
            return false;
        }
    }
    true
}

/// The parts of a file that are in memory.
fn parts_of(file: &File) -> io::Result<Vec<Part>> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Ok(Vec::new());
    }
    let size = found.len();
    Ok(parts(&resident(&file.as_fd(), 0, size)?, size))
}

/// The parts of a file of `size` bytes whose `pages` are in memory.
fn parts(pages: &[bool], size: u64) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut at = 0;
    for page in pages {
        let end = (at + PAGE).min(size);
        if *page {
            match parts.last_mut().filter(|(begin, length)| begin + length + GAP >= at) {
                Some((begin, length)) => *length = end - *begin,
                None => parts.push((at, end - at)),
            }
        }
        at += PAGE;
    }
    if parts.len() > MAX_PARTS {
        if let (Some(first), Some(last)) = (parts.first(), parts.last()) {
            return vec![(first.0, last.0 + last.1 - first.0)];
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::page_cache::let_go;

    #[test]
    fn parts_that_are_near_are_one_and_none_reaches_behind_the_end() {
        let pages = |text: &str| -> Vec<bool> { text.bytes().map(|byte| byte == b'x').collect() };
        assert_eq!(parts(&pages(""), 0), []);
        assert_eq!(parts(&pages("...."), 4 * PAGE), []);
        assert_eq!(parts(&pages("x..x"), 3 * PAGE + 5), [(0, 3 * PAGE + 5)]);
        let far = format!(".x{}x.", ".".repeat(17));
        assert_eq!(parts(&pages(&far), 21 * PAGE), [(PAGE, PAGE), (19 * PAGE, PAGE)]);
        let many = format!("x{}", ".".repeat(19)).repeat(65);
        assert_eq!(parts(&pages(&many), 1300 * PAGE), [(0, (64 * 20 + 1) * PAGE)]);
    }

    #[test]
    fn only_regular_files_below_the_tree_are_looked_at() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("fs");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(scratch.path().join("outside"), "secret").unwrap();
        fs::write(root.join("a/b/file"), vec![1; 9000]).unwrap();
        fs::write(root.join("a/empty"), "").unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink(scratch.path(), root.join("up")).unwrap();
        symlink("b", root.join("a/link")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        let tree = Tree::open(&root).unwrap();
        let look = |most: u64| {
            let (mut left, mut found) = (most, Vec::new());
            tree.resident_files(&mut left, &mut |file| {
                found.push(file);
                true
            });
            (found, left)
        };
        let file = |path: &str| ResidentFile {
            path: path.to_owned(),
            parts: vec![(0, 9000)],
        };
        let (found, left) = look(100);
        assert_eq!((found, left), (vec![file("a/b/file")], 91));
        assert!(look(2).0.is_empty());
        assert_eq!(tree.count_resident("a/b/file", (0, 9000)).unwrap(), (3, 3));
        assert_eq!(
            tree.read_through("a/b/file", &[(0, PAGE), (PAGE, 1 << 40)]).unwrap(),
            9000
        );
        for outside in [
            "../outside",
            "out",
            "up/outside",
            "/etc/passwd",
            "a/link/file",
            "loop",
            "none",
            "a/b/file/x",
        ] {
            assert!(tree.count_resident(outside, (0, PAGE)).is_err(), "{outside}");
            assert!(tree.ask_for(outside, &[(0, PAGE)]).is_err() && tree.read_through(outside, &[(0, 1)]).is_err());
        }
        // A directory has no pages, and a pipe keeps nobody waiting.
        assert!(tree.read_through("a", &[(0, 1)]).is_err() && tree.count_resident("pipe", (0, PAGE)).is_err());
        assert!(Tree::open(&root.join("up")).is_err());
    }

    #[test]
    fn a_file_that_left_memory_is_not_found_and_comes_back() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        fs::write(&path, vec![1; 300 * PAGE as usize]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let_go(&file).unwrap();
        let tree = Tree::open(scratch.path()).unwrap();
        let all = (0, 300 * PAGE);
        assert_eq!(tree.count_resident("file", all).unwrap(), (0, 300));
        let mut none = true;
        tree.resident_files(&mut 10, &mut |_| {
            none = false;
            true
        });
        assert!(none);
        tree.ask_for("file", &[all]).unwrap();
        assert_eq!(tree.read_through("file", &[all]).unwrap(), 300 * PAGE);
        assert_eq!(tree.count_resident("file", all).unwrap(), (300, 300));
    }
}
