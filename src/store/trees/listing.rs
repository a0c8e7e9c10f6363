//! What a tree holds, as one JSON document: the same bytes for the same tree, so that two trees are compared by the digests
//! of their listings.
//!
//! ```text
//! {"schema":3,"opaque":false,"entries":{                       whether the root hides lower layers
//! "etc":{"mode":493},                                          a directory; "opaque":true when it hides them
//! "etc/a":{"mode":420,"size":1,"blake3":"..."},                "sha256":"sha256:..." in schema 2
//! "etc/b":{"target":"a"},
//! "etc/c":{"whiteout":true}}}
//! ```
//!
//! A root that hides all lower layers is the first entry, "": other roots have none, as nothing of them is used.
//!
//! Names of a directory come in the order of their bytes, a directory before what is in it. A link is never followed. It
//! holds the names of one directory per level in memory, never those of the whole tree.
//!
//! A tree is compared with its listing in the schema that the listing has: one of an older gantry stays valid.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::file_digest::{blake3_of, sha256_of, FileDigest};
use super::opaque::is_opaque;
use crate::sys::tree;

/// Deeper than any path that can be unpacked (`ExtractionLimits::depth`).
const MAX_DEPTH: usize = 256;

/// What a path of a tree is. A file is read before a directory, which has less.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(in crate::store) enum Entry {
    File {
        mode: u32,
        size: u64,
        #[serde(flatten)]
        digest: FileDigest,
    },
    Directory {
        mode: u32,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        opaque: bool,
    },
    Symlink {
        target: String,
    },
    Whiteout {
        whiteout: bool,
    },
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { mode, size, digest } => write!(f, "a file of {size} bytes, mode {mode:o}, {digest}"),
            Self::Directory { mode, opaque: false } => write!(f, "a directory, mode {mode:o}"),
            Self::Directory { mode, opaque: true } => {
                write!(f, "a directory, mode {mode:o}, that hides the one below it")
            }
            Self::Symlink { target } => write!(f, "a link to {target:?}"),
            Self::Whiteout { .. } => f.write_str("a whiteout"),
        }
    }
}

/// The format of a listing, which says what its files are called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Schema {
    /// By SHA-256: written by an older gantry.
    V2,
    /// By BLAKE3: what is written today.
    V3,
}

impl Schema {
    /// That of the listing which begins in `listing`, of which nothing is used up; none when it is of another version.
    pub(in crate::store) fn of(listing: &mut impl BufRead) -> io::Result<Option<Self>> {
        let start = listing.fill_buf()?;
        let is = |schema: &Self| start.starts_with(schema.start().as_bytes());
        Ok([Self::V2, Self::V3].into_iter().find(is))
    }

    /// What each listing of it begins with.
    fn start(self) -> &'static str {
        match self {
            Self::V2 => r#"{"schema":2,"#,
            Self::V3 => r#"{"schema":3,"#,
        }
    }

    fn digest(self, file: File) -> io::Result<FileDigest> {
        match self {
            Self::V2 => sha256_of(file),
            Self::V3 => blake3_of(file),
        }
    }
}

/// Files that were written just now, by inode: names come and go, and a hard link is one more.
#[derive(Debug, Default)]
pub(in crate::store) struct Written(HashMap<u64, WrittenFile>);

#[derive(Debug)]
struct WrittenFile {
    /// Hash of the path that it was written at.
    path: u64,
    mode: u32,
    size: u64,
    digest: FileDigest,
}

impl Written {
    /// Notes the file of an inode, in the place of what was noted of it before.
    pub(in crate::store) fn note(&mut self, inode: u64, path: &str, mode: u32, size: u64, digest: FileDigest) {
        let path = hash(path);
        let file = WrittenFile {
            path,
            mode,
            size,
            digest,
        };
        self.0.insert(inode, file);
    }

    fn digest(&self, inode: u64) -> Option<FileDigest> {
        self.0.get(&inode).map(|file| file.digest)
    }

    /// What a file is, when a directory says that it has the inode with which it was written at `path`: a stat says the same
    /// then. Where only one of the two is so, the inode may be none that a stat says, or the file has another name.
    fn at(&self, listed: &tree::Listed, path: &str) -> Option<Entry> {
        let file = self.0.get(&listed.inode).filter(|_| listed.is_file)?;
        let WrittenFile { mode, size, digest, .. } = *file;
        (file.path == hash(path)).then_some(Entry::File { mode, size, digest })
    }
}

fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Writes the listing of a `tree` that was made just now. Files that `known` does not have are read.
pub(in crate::store) fn write(tree: BorrowedFd<'_>, known: &Written, out: &mut dyn Write) -> io::Result<()> {
    write_as(Schema::V3, tree, known, out)
}

/// Writes the listing of a `tree` as one of `schema` is, to compare the two; all of its files are read.
pub(in crate::store) fn read_back(schema: Schema, tree: BorrowedFd<'_>, out: &mut dyn Write) -> io::Result<()> {
    write_as(schema, tree, &Written::default(), out)
}

fn write_as(schema: Schema, tree: BorrowedFd<'_>, known: &Written, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "{}\"opaque\":{},\"entries\":{{", schema.start(), is_opaque(tree)?)?;
    let mut walk = Walk {
        schema,
        known,
        out,
        separator: b"\n",
    };
    if is_opaque(tree)? {
        let mode = rustix::fs::fstat(tree)?.st_mode & 0o7777;
        walk.entry("", &Entry::Directory { mode, opaque: true })?;
    }
    walk.directory(tree, "", 0)?;
    out.write_all(b"}}")
}

struct Walk<'a> {
    schema: Schema,
    known: &'a Written,
    out: &'a mut dyn Write,
    separator: &'static [u8],
}

impl Walk<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>, prefix: &str, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        for listed in tree::list(directory, usize::MAX)? {
            let name = listed.name.to_str().ok_or(io::ErrorKind::InvalidData)?;
            let path = format!("{prefix}{name}");
            if let Some(file) = self.known.at(&listed, &path) {
                self.entry(&path, &file)?;
                continue;
            }
            let (kind, stat) = tree::look(directory, name)?;
            let mode = stat.st_mode & 0o7777;
            match kind {
                FileType::Directory => {
                    let below = tree::open_directory(directory, name)?;
                    let opaque = is_opaque(&below)?;
                    self.entry(&path, &Entry::Directory { mode, opaque })?;
                    self.directory(below.as_fd(), &format!("{path}/"), depth + 1)?;
                }
                FileType::RegularFile => {
                    let size = u64::try_from(stat.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
                    let digest = match self.known.digest(stat.st_ino) {
                        Some(digest) => digest,
                        None => self.schema.digest(File::from(tree::open_file(directory, name)?))?,
                    };
                    self.entry(&path, &Entry::File { mode, size, digest })?;
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                    let target = target.into_string().map_err(|_| io::ErrorKind::InvalidData)?;
                    self.entry(&path, &Entry::Symlink { target })?;
                }
                FileType::CharacterDevice if stat.st_rdev == 0 => {
                    self.entry(&path, &Entry::Whiteout { whiteout: true })?;
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, entry: &Entry) -> io::Result<()> {
        self.out.write_all(self.separator)?;
        self.separator = b",\n";
        serde_json::to_writer(&mut *self.out, path)?;
        self.out.write_all(b":")?;
        Ok(serde_json::to_writer(&mut *self.out, entry)?)
    }
}
