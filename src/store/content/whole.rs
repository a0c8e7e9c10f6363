//! Whether a blob or a download is what it is called, told without a sync on the way.
//!
//! Blobs of layers and downloads are large and used unread, so each has a file in `stamps/` that says which boot wrote it
//! (see [`stamp`](crate::store::disk::stamp)). One that is missing or damaged says nothing: the file is read, and
//! stamped with this boot, as it may have been written in it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::oci::{Digest, Hasher};
use crate::store::disk::stamp::Stamp;
use crate::store::{io_error, Store, StoreError};

/// A folder of files that are called what they contain.
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

    pub(in crate::store) fn stamp_prefix(self) -> &'static str {
        match self {
            Self::Blob => "blob-",
            Self::Download => "download-",
        }
    }
}

impl Store {
    /// Whether a file is what it is called. One of another boot is read, once; one that is damaged is removed.
    pub(in crate::store) fn content_is_whole(&self, content: Content, digest: &Digest) -> Result<bool, StoreError> {
        let name = stamp_name(content, digest);
        if self.content_stamp(&name).is_some_and(|stamp| self.is_trusted(&stamp)) {
            return Ok(true);
        }
        let _single = self.lock_content(content.stamp_prefix(), digest)?;
        let stamp = self.content_stamp(&name);
        if stamp.as_ref().is_some_and(|stamp| self.is_trusted(stamp)) {
            return Ok(true);
        }
        if !self.content_is(content, digest) {
            let path = self.root.join(content.folder()).join(digest.hex());
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
                _ => Ok(false),
            };
        }
        let stamp = stamp.map_or_else(|| self.boot.clone(), |_| Stamp::durable());
        self.make_stamps()?;
        self.write_atomically(&name, stamp.as_str().as_bytes())?;
        Ok(true)
    }

    /// Reads a file and compares.
    pub(in crate::store) fn content_is(&self, content: Content, digest: &Digest) -> bool {
        let file = File::open(self.root.join(content.folder()).join(digest.hex()));
        file.and_then(hash).is_ok_and(|got| got == *digest)
    }

    /// Stamps a file with this boot. Before it gets its name, so that it never has the stamp of an earlier one.
    pub(in crate::store) fn stamp_content(
        &self,
        content: Content,
        digest: &Digest,
        scratch: &Path,
    ) -> Result<(), StoreError> {
        let (temporary, target) = (scratch.join("stamp"), self.root.join(stamp_name(content, digest)));
        self.make_stamps()?;
        let written = fs::write(&temporary, self.boot.as_str()).and_then(|()| fs::rename(&temporary, &target));
        written.map_err(io_error("write", &target))
    }

    /// A store of an older gantry has no such folder.
    fn make_stamps(&self) -> Result<(), StoreError> {
        let folder = self.root.join("stamps");
        fs::create_dir_all(&folder).map_err(io_error("make directory", &folder))
    }

    fn content_stamp(&self, name: &Path) -> Option<Stamp> {
        let text = fs::read_to_string(self.root.join(name)).ok()?;
        Stamp::of_text(text)
    }

    /// Removes the stamps of files that are gone.
    pub(in crate::store) fn sweep_stamps(&self) {
        for entry in fs::read_dir(self.root.join("stamps")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let found = [Content::Blob, Content::Download].into_iter().find_map(|content| {
                let hex = name.to_str()?.strip_prefix(content.stamp_prefix())?;
                Some(self.root.join(content.folder()).join(hex).exists())
            });
            if found != Some(true) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn stamp_name(content: Content, digest: &Digest) -> PathBuf {
    PathBuf::from("stamps").join(format!("{}{}", content.stamp_prefix(), digest.hex()))
}

/// The digest of what is left to read of a file.
pub(in crate::store) fn hash(mut file: File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher.digest()),
            Ok(count) => hasher.update(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
