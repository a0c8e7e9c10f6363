//! Whether a blob or a download is what it is called, told without a sync on the way.
//!
//! Blobs of layers and downloads are large and used unread, so each has a file in `stamps/` that says which boot wrote it
//! (see [`stamp`](crate::store::disk::stamp)). One that is missing or damaged says nothing: the file is read, and
//! stamped with this boot, as it may have been written in it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::oci::{Digest, Hasher};
use crate::store::disk::locks::Locks;
use crate::store::disk::stamp::Stamp;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::replace::Replacement;

/// The folder of stamps. A store of an older gantry has none.
const STAMPS: &str = "stamps";
/// Read at a time: few enough to stay in the second-level cache.
const CHUNK: usize = 256 << 10;

/// A folder of files that are called by what they contain.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Content {
    Blob,
    Download,
}

impl Content {
    fn folder(self) -> &'static str {
        match self {
            Self::Blob => "blobs/sha256",
            Self::Download => "downloads",
        }
    }

    fn stamp_prefix(self) -> &'static str {
        match self {
            Self::Blob => "blob-",
            Self::Download => "download-",
        }
    }

    /// Where the file of this digest is, when it is there.
    pub(in crate::store) fn path(self, disk: &Disk, digest: &Digest) -> PathBuf {
        disk.path(self.folder()).join(digest.hex())
    }

    fn stamp_name(self, digest: &Digest) -> PathBuf {
        PathBuf::from(STAMPS).join(format!("{}{}", self.stamp_prefix(), digest.hex()))
    }

    fn read_stamp(self, disk: &Disk, digest: &Digest) -> Option<Stamp> {
        let text = fs::read_to_string(disk.path(self.stamp_name(digest))).ok()?;
        Stamp::of_text(text)
    }

    /// Whether a file is known to be what it is called, without reading it.
    pub(in crate::store) fn is_trusted(self, disk: &Disk, digest: &Digest) -> bool {
        self.read_stamp(disk, digest)
            .is_some_and(|stamp| disk.is_trusted(&stamp))
    }

    /// Whether a file is what it is called. One of another boot is read, once; one that is damaged is removed.
    pub(in crate::store) fn is_whole(self, disk: &Disk, digest: &Digest) -> Result<bool, StoreError> {
        if self.is_trusted(disk, digest) {
            return Ok(true);
        }
        let _single = Locks::of(disk).content(self.stamp_prefix(), digest)?;
        let stamp = self.read_stamp(disk, digest);
        if stamp.as_ref().is_some_and(|stamp| disk.is_trusted(stamp)) {
            return Ok(true);
        }
        if !self.has_digest(disk, digest) {
            let path = self.path(disk, digest);
            let gone = fault::point(fault::Step::DamagedBlob).and_then(|()| fs::remove_file(&path));
            return match gone {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
                _ => Ok(false),
            };
        }
        let stamp = stamp.map_or_else(|| disk.boot().clone(), |_| Stamp::durable());
        disk.make_folder(STAMPS)?;
        disk.write_atomically(&self.stamp_name(digest), stamp.as_str().as_bytes())?;
        Ok(true)
    }

    /// Reads a file whole: whether its digest is the one it is called by.
    pub(in crate::store) fn has_digest(self, disk: &Disk, digest: &Digest) -> bool {
        let file = File::open(self.path(disk, digest));
        file.and_then(hash).is_ok_and(|got| got == *digest)
    }

    /// Stamps a file with this boot. Before it gets its name, so that it never has the stamp of an earlier one.
    pub(in crate::store) fn stamp(self, disk: &Disk, digest: &Digest, scratch: &Path) -> Result<(), StoreError> {
        let (temporary, target) = (scratch.join("stamp"), disk.path(self.stamp_name(digest)));
        disk.make_folder(STAMPS)?;
        let place = || {
            let mut file = Replacement::create(temporary)?;
            file.write_all(disk.boot().as_str().as_bytes())?;
            fault::point(fault::Step::ContentStamp)?;
            file.place(&target)
        };
        place().map_err(io_error("write", &target))
    }
}

/// Removes the stamps of files that are gone.
pub(in crate::store) fn sweep_stamps(disk: &Disk) {
    for entry in fs::read_dir(disk.path(STAMPS)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let found = [Content::Blob, Content::Download].into_iter().find_map(|content| {
            let hex = name.to_str()?.strip_prefix(content.stamp_prefix())?;
            Some(disk.path(content.folder()).join(hex).try_exists().unwrap_or(true))
        });
        if found != Some(true) {
            let _ = fault::point(fault::Step::StampRemoved).and_then(|()| fs::remove_file(entry.path()));
        }
    }
}

/// The digest of what is left to read of a file.
pub(in crate::store) fn hash(file: File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    read_in_chunks(file, &mut |chunk| hasher.update(chunk))?;
    Ok(hasher.digest())
}

/// Calls `each` with what is left to read of a file, part by part.
pub(in crate::store) fn read_in_chunks(mut file: File, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => each(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
