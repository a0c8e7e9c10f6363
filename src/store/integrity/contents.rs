//! What is called by a digest: blobs, downloads and unpacked layers are read whole, by several threads, and compared with it;
//! trees of several layers are compared with those.
//!
//! Nobody waits for this: files are read without a lock. One that does not look right is looked at once more while nothing can
//! change it; what is gone by then was removed, which is no finding.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use rustix::fs::{FileType, CWD};

use super::finding::{Finding, Part};
use super::tree_difference::TreeDifference;
use crate::oci::{DiffId, Digest, Hasher};
use crate::policy::Sample;
use crate::progress::{Progress, Silent};
use crate::store::content::whole::read_in_chunks;
use crate::store::disk::locks::Locks;
use crate::store::disk::regular::{self, Unread};
use crate::store::disk::Disk;
use crate::store::trees::folder::LayerStamp;
use crate::store::trees::listing::{self, Schema};
use crate::store::trees::merged;
use crate::store::{io_error, StoreError};
use crate::sys::{pool, tree};

/// A `stamp.json` has half a kilobyte.
const MOST_OF_A_STAMP: u64 = 64 << 10;

/// Something that is called by a digest.
pub(super) struct Item {
    pub part: Part,
    name: OsString,
    /// What there is to read; less is known of what is not as it should be.
    bytes: u64,
}

/// What a look at something came to.
enum Seen {
    Fine,
    Gone,
    Wrong {
        expected: String,
        got: String,
    },
    /// It cannot be looked at now.
    Unknown(io::Error),
}

impl Seen {
    /// What `unread` means where `expected` has to be.
    fn of(unread: Unread, expected: &str) -> Self {
        match (unread.exhausted(), unread) {
            (Some(error), _) => Self::Unknown(error),
            (None, Unread::Gone) => Self::Gone,
            (None, unread) => Self::wrong(expected, unread.found()),
        }
    }

    /// What `unread` means of a part of a layer that is there.
    fn part(unread: Unread, expected: &str) -> Self {
        match unread {
            Unread::Gone => Self::wrong(expected, unread.found()),
            unread => Self::of(unread, expected),
        }
    }

    fn wrong(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self::Wrong {
            expected: expected.into(),
            got: got.into(),
        }
    }
}

impl Item {
    fn folder(&self) -> &'static str {
        match self.part {
            Part::Download => "downloads",
            Part::Layer => "layers",
            Part::Merged => merged::FOLDER,
            _ => "blobs/sha256",
        }
    }

    /// Its path below the root.
    fn which(&self) -> PathBuf {
        Path::new(self.folder()).join(&self.name)
    }

    fn digest(&self) -> Option<Digest> {
        format!("sha256:{}", self.name.to_str()?).parse().ok()
    }
}

/// All of them, in no particular order.
pub(super) fn list(disk: &Disk) -> Result<Vec<Item>, StoreError> {
    let mut items = Vec::new();
    for part in [Part::Blob, Part::Download, Part::Layer, Part::Merged] {
        let empty = Item {
            part,
            name: OsString::new(),
            bytes: 0,
        };
        let folder = disk.path(empty.folder());
        for name in names(&folder)? {
            let mut item = Item { part, name, bytes: 0 };
            item.bytes = match part {
                Part::Layer => {
                    read_stamp(CWD, &disk.path(item.which()).join("stamp.json")).map_or(0, |stamp| stamp.unpacked_bytes)
                }
                // Its files are those of layers.
                Part::Merged => 0,
                _ => regular::look(CWD, &disk.path(item.which()), FileType::RegularFile).unwrap_or_default(),
            };
            items.push(item);
        }
    }
    Ok(items)
}

/// The names in a folder of the store; none when it is not there.
pub(super) fn names(folder: &Path) -> Result<Vec<OsString>, StoreError> {
    let entries = match fs::read_dir(folder) {
        // A store of an older gantry has not every folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error("list", folder))?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(io_error("list", folder)));
    names.collect()
}

/// Leaves `sample` of `items`, by chance.
pub(super) fn choose(items: &mut Vec<Item>, sample: Sample) {
    let wanted = sample.of(items.len());
    for at in 0..wanted {
        let mut random = [0; 8];
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        let left = items.len().saturating_sub(at).max(1);
        let other = usize::try_from(u64::from_ne_bytes(random) % left as u64).unwrap_or_default();
        items.swap(at, at.saturating_add(other));
    }
    items.truncate(wanted);
}

/// Reads all `items` on `threads` threads; returns what is wrong, and how many bytes the items have.
pub(super) fn look(
    disk: &Disk,
    items: &[Item],
    threads: usize,
    progress: &dyn Progress,
) -> Result<(Vec<Finding>, u64), StoreError> {
    let reading = Reading {
        disk,
        progress,
        done: AtomicU64::new(0),
        total: items.iter().map(|item| item.bytes).sum(),
        shown: Mutex::default(),
    };
    let found = pool::each(threads, items, |item, _| reading.look_twice(item))?;
    Ok((found.into_iter().flatten().collect(), reading.total))
}

/// Whether what a finding is about is still wrong, now that nobody else is in the store.
///
/// # Errors
/// [`StoreError`] when nobody can tell.
pub(super) fn is_still_wrong(disk: &Disk, finding: &Finding) -> Result<bool, StoreError> {
    if finding.is_unchanged() {
        return Ok(true);
    }
    let item = Item {
        part: finding.what,
        name: Path::new(&finding.which).file_name().unwrap_or_default().to_owned(),
        bytes: 0,
    };
    let reading = Reading {
        disk,
        progress: &Silent,
        done: AtomicU64::new(0),
        total: 0,
        shown: Mutex::default(),
    };
    match reading.look(&item) {
        Seen::Fine | Seen::Gone => Ok(false),
        Seen::Wrong { .. } => Ok(true),
        Seen::Unknown(source) => Err(io_error("read", &disk.path(item.which()))(source)),
    }
}

/// Items that are being read.
struct Reading<'a> {
    disk: &'a Disk,
    progress: &'a dyn Progress,
    done: AtomicU64,
    total: u64,
    /// Held while progress is told, so that it only grows.
    shown: Mutex<u64>,
}

impl Reading<'_> {
    fn look_twice(&self, item: &Item) -> Result<Option<Finding>, StoreError> {
        match self.look(item) {
            Seen::Fine | Seen::Gone => return Ok(None),
            Seen::Wrong { .. } => {}
            Seen::Unknown(source) => return Err(io_error("read", &self.disk.path(item.which()))(source)),
        }
        let locks = Locks::of(self.disk);
        let _kept_out = locks.keep_collector_out()?;
        // Where we cannot write, nobody else of us is at it either.
        let _single = item.digest().and_then(|digest| match item.part {
            Part::Layer => diff_id(&digest).and_then(|diff_id| locks.layer(&diff_id).ok()),
            Part::Merged => locks.merging(&digest).ok(),
            Part::Download => locks.content("download-", &digest).ok(),
            _ => locks.content("blob-", &digest).ok(),
        });
        Ok(match self.look(item) {
            Seen::Fine | Seen::Gone => None,
            Seen::Unknown(source) => return Err(io_error("read", &self.disk.path(item.which()))(source)),
            Seen::Wrong { expected, got } => {
                let which = item.which();
                let finding = Finding::new(item.part, which.display().to_string(), expected, got);
                Some(finding.at(self.disk.path(which)))
            }
        })
    }

    fn look(&self, item: &Item) -> Seen {
        let Some(digest) = item.digest() else {
            return Seen::wrong("something called by its digest", "another name");
        };
        let path = self.disk.path(item.which());
        match item.part {
            Part::Layer => self.look_at_layer(&path),
            Part::Merged => self.look_at_merged(&path),
            _ => self.look_at_file(&path, &digest),
        }
    }

    fn look_at_file(&self, path: &Path, digest: &Digest) -> Seen {
        let read = regular::open(CWD, path).and_then(|file| self.hash(file).map_err(|error| Unread::of(&error)));
        match read {
            Ok(got) if got == *digest => Seen::Fine,
            Ok(got) => Seen::wrong(digest.to_string(), got.to_string()),
            Err(unread) => Seen::of(unread, "a file"),
        }
    }

    fn look_at_layer(&self, path: &Path) -> Seen {
        if let Err(unread) = regular::look(CWD, path, FileType::Directory) {
            return Seen::of(unread, "a directory");
        }
        let folder = match tree::open_directory(CWD, path) {
            Ok(folder) => folder,
            Err(errno) => return Seen::of(Unread::of(&errno.into()), "a directory"),
        };
        let stamp = match read_stamp(&folder, Path::new("stamp.json")) {
            Ok(stamp) => stamp,
            Err(unread) => return Seen::part(unread, "stamp.json, which says that it is whole"),
        };
        let listed = regular::open(&folder, Path::new("meta.json"))
            .and_then(|file| self.hash(file).map_err(|error| Unread::of(&error)));
        match listed {
            Ok(meta) if meta == stamp.meta => {}
            Ok(other) => return Seen::wrong(format!("meta.json with {}", stamp.meta), other.to_string()),
            Err(unread) => return Seen::part(unread, "meta.json"),
        }
        let found = self.compare(folder.as_fd());
        self.count(stamp.unpacked_bytes);
        match found {
            Ok(seen) => seen,
            Err(error) => Seen::part(Unread::of(&error), "files that can be read"),
        }
    }

    fn look_at_merged(&self, path: &Path) -> Seen {
        match regular::look(CWD, path, FileType::Directory).map(|_| merged::look(self.disk, path)) {
            Err(unread) => Seen::of(unread, "a directory"),
            Ok(Err(error)) => Seen::of(Unread::of(&error), "directories that can be read"),
            Ok(Ok(wrong)) => wrong.map_or(Seen::Fine, |wrong| Seen::wrong(wrong.expected, wrong.got)),
        }
    }

    /// Compares the tree of a layer with its listing.
    fn compare(&self, folder: std::os::fd::BorrowedFd<'_>) -> io::Result<Seen> {
        let listed = File::from(tree::open_file(folder, "meta.json")?);
        let tree = match tree::open_directory(folder, "fs") {
            Ok(tree) => tree,
            Err(errno) => return Ok(Seen::part(Unread::of(&errno.into()), "fs, a directory")),
        };
        let mut listed = BufReader::new(listed);
        let Some(schema) = Schema::of(&mut listed)? else {
            return Ok(Seen::wrong(
                "meta.json that this version reads",
                "one of another version of gantry",
            ));
        };
        let mut difference = TreeDifference::from(listed);
        if let Err(error) = listing::read_back(schema, tree.as_fd(), &mut difference) {
            if let Some(error) = Unread::of(&error).exhausted() {
                return Ok(Seen::Unknown(error));
            }
            let got = format!("what no layer has, after {}: {error}", difference.last());
            return Ok(Seen::wrong("files, directories, links and whiteouts", got));
        }
        Ok(difference
            .finish()?
            .map_or(Seen::Fine, |found| Seen::wrong(found.expected, found.got)))
    }

    fn hash(&self, file: File) -> io::Result<Digest> {
        let mut hasher = Hasher::new();
        read_in_chunks(file, &mut |chunk| {
            hasher.update(chunk);
            self.count(chunk.len() as u64);
        })?;
        Ok(hasher.digest())
    }

    fn count(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        // Who finds another one telling goes on.
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if done > *shown {
            *shown = done;
            self.progress.bytes(done.min(self.total), self.total);
        }
    }
}

/// The diff id that is written as a digest is.
pub(super) fn diff_id(digest: &Digest) -> Option<DiffId> {
    digest.to_string().parse().ok()
}

/// What the stamp of a layer says, or what is there instead.
fn read_stamp(at: impl AsFd, path: &Path) -> Result<LayerStamp, Unread> {
    let json = regular::read(at, path, MOST_OF_A_STAMP)?;
    let stamp: Result<LayerStamp, _> = serde_json::from_slice(&json);
    stamp
        .ok()
        .filter(|stamp| stamp.schema == 2)
        .ok_or_else(|| Unread::Wrong("no stamp of this version".to_owned()))
}
