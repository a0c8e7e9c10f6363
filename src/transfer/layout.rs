//! An OCI image layout on disk as a place of images (OCI image specification, "Image Layout").
//!
//! A layout is somebody else's directory: files are opened without following links and without waiting on a pipe, and must
//! be regular. Files are written under a new random name and renamed, so that no link that lies there leads a write out
//! of it; what a killed gantry leaves is swept. The index is others' too: see [`put_in_index`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation, OFlags};
use rustix::io::Errno;

use super::error::PATIENCE;
use super::named::{choose, companions_in, name_of, referrers_in, subjects, Listed};
use super::peer::{Destination, Documents, Incoming, Keeps, Kept, Referrer, Source, Written};
use super::small;
use super::verified::check_length;
use super::TransferError;
use crate::oci::{parse_index, parse_layout_version, put_in_index, Descriptor, Digest, LAYOUT_VERSION, REF_NAME};
use crate::store::Store;
use crate::sys::replace::Replacement;

/// Between two tries to lock the directory.
const BETWEEN: Duration = Duration::from_millis(10);

/// An image layout.
#[derive(Debug)]
pub struct Layout<'a> {
    directory: &'a Path,
    /// Sweeps what a killed process was writing here.
    store: &'a Store,
    subjects: OnceLock<Vec<Listed>>,
}

impl<'a> Layout<'a> {
    /// The layout in `directory`, which is made when something is copied into it.
    pub fn new(store: &'a Store, directory: &'a Path) -> Self {
        Self {
            directory,
            store,
            subjects: OnceLock::new(),
        }
    }

    /// What the index says of the image called `name`; without a name, of the only one.
    ///
    /// # Errors
    ///
    /// [`TransferError::NotFound`] with the names there are; an error of the two documents.
    pub fn find(&self, name: Option<&str>) -> Result<Descriptor, TransferError> {
        choose(&self.entries()?, name).map_err(|reason| TransferError::NotFound {
            path: self.directory.to_owned(),
            reason,
        })
    }

    /// The manifests that the index lists, and what each refers to: read once, for whatever image is asked.
    fn subjects(&self) -> Result<&[Listed], TransferError> {
        if let Some(known) = self.subjects.get() {
            return Ok(known);
        }
        let read = subjects(self.entries()?, &|entry| self.open(entry));
        Ok(self.subjects.get_or_init(|| read))
    }

    /// What the index lists.
    fn entries(&self) -> Result<Vec<Descriptor>, TransferError> {
        let path = self.directory.join("oci-layout");
        let version = small::read_document(&mut open_plain(&path)?, &path)?;
        parse_layout_version(&version).map_err(|source| TransferError::Document { path, source })?;
        let path = self.directory.join("index.json");
        let index = parse_index(&small::read_document(&mut open_plain(&path)?, &path)?);
        let index = index.map_err(|source| TransferError::Document { path, source })?;
        Ok(index.manifests)
    }

    /// The index with an entry for the image, other entries and fields as they are.
    fn index_with(&self, image: &Descriptor, name: Option<&str>) -> Result<Vec<u8>, TransferError> {
        let mut entry = image.clone();
        let name = name.map(|name| (REF_NAME.to_owned(), name.to_owned()));
        entry.annotations.extend(name);
        let path = self.directory.join("index.json");
        let there = read_document(&path)?;
        put_in_index(there.as_deref(), &entry).map_err(|source| TransferError::Document { path, source })
    }

    /// Whether the layout says its version already. A link that lies there is as good as nothing and is replaced.
    fn has_version(&self) -> Result<bool, TransferError> {
        let path = self.directory.join("oci-layout");
        match read_document(&path) {
            Err(TransferError::NotAFile { .. }) | Ok(None) => Ok(false),
            Ok(Some(raw)) => parse_layout_version(&raw)
                .map(|()| true)
                .map_err(|source| TransferError::Document { path, source }),
            Err(error) => Err(error),
        }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    /// Puts what `fill` writes in the place of `target`, all of it or nothing.
    fn replace(
        &self,
        target: &Path,
        fill: impl FnOnce(&mut File) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let error = |source| TransferError::Io {
            action: "write",
            path: target.to_owned(),
            source,
        };
        // Goes when we are killed.
        let beside = self.store.beside(target)?;
        let mut file = Replacement::create(beside.path().to_owned()).map_err(error)?;
        fill(file.file())?;
        file.place(target).map_err(error)
    }

    fn write(&self, target: &Path, bytes: &[u8]) -> Result<(), TransferError> {
        self.replace(target, |out| {
            out.write_all(bytes).map_err(|source| TransferError::Io {
                action: "write",
                path: target.to_owned(),
                source,
            })
        })
    }

    fn write_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), TransferError> {
        match has_file(&self.blob(digest), bytes.len() as u64) {
            true => Ok(()),
            false => self.write(&self.blob(digest), bytes),
        }
    }

    /// Keeps other gantry processes from replacing the index between our reading and our writing it.
    ///
    /// It is the directory that is locked, so that no file is left behind that no layout has. A file system without locks
    /// (some network ones) has none here. Nothing else is waited for while it is held.
    fn lock(&self) -> Result<File, TransferError> {
        let failed = |source| TransferError::Io {
            action: "lock",
            path: self.directory.to_owned(),
            source,
        };
        let file = File::open(self.directory).map_err(failed)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if Instant::now() >= until => {
                    return Err(TransferError::Busy {
                        path: self.directory.to_owned(),
                    });
                }
                Err(Errno::WOULDBLOCK) => std::thread::sleep(BETWEEN),
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::BADF | Errno::NOSYS) => return Ok(file),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

impl Source for Layout<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        Ok(Box::new(open_plain(&self.blob(&blob.digest))?))
    }

    fn look_at(&self, blob: &Descriptor) -> Result<(), TransferError> {
        check_length(&open_plain(&self.blob(&blob.digest))?, blob)
    }

    fn referrers(&self, image: &Digest) -> Result<Vec<Descriptor>, TransferError> {
        Ok(referrers_in(self.subjects()?, image))
    }

    fn companions(&self, image: &Digest) -> Result<Vec<Referrer>, TransferError> {
        Ok(companions_in(&self.entries()?, image))
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.blob(digest)
    }
}

impl Destination for Layout<'_> {
    /// An index that cannot be read is somebody's all the same: the layout is refused and stays as it is.
    fn begin(&self, image: &Documents) -> Result<(), TransferError> {
        self.index_with(&image.descriptor, None)?;
        self.has_version()?;
        let folder = self.directory.join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(|source| TransferError::Io {
            action: "make directory",
            path: folder.clone(),
            source,
        })?;
        for path in [self.directory.join("blobs"), folder] {
            if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                return Err(TransferError::NotADirectory { path });
            }
        }
        Ok(())
    }

    fn has(&self, layer: &Descriptor) -> Result<bool, TransferError> {
        Ok(has_file(&self.blob(&layer.digest), layer.size))
    }

    fn put(&self, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError> {
        let target = self.blob(&layer.digest);
        self.replace(&target, |out| {
            incoming.verify_into(out, &|source| TransferError::Io {
                action: "write",
                path: target.clone(),
                source,
            })
        })
    }

    fn finish(&self, image: &Documents, name: Option<&str>) -> Result<(), TransferError> {
        self.write_document(&image.manifest.config.digest, &image.config_raw)?;
        self.write_document(&image.descriptor.digest, &image.manifest_raw)?;
        self.list(&image.descriptor, name)
    }

    fn keeps_referrers(&self) -> Option<&dyn Keeps> {
        Some(self)
    }
}

impl Keeps for Layout<'_> {
    fn put_artifact(&self, written: &Written<'_>) -> Result<Kept, TransferError> {
        self.write_document(&written.descriptor.digest, written.raw)?;
        if written.is_part {
            return Ok(Kept::There);
        }
        // One that is no layout yet has none.
        let entries = written.tag.and_then(|_| self.entries().ok()).unwrap_or_default();
        let there = entries.iter().find(|entry| name_of(entry) == written.tag);
        self.list(&listed_entry(written), written.tag)?;
        Ok(match there {
            Some(there) if written.tag.is_some() && there.digest != written.descriptor.digest => {
                Kept::InPlaceOf(there.digest)
            }
            _ => Kept::There,
        })
    }
}

impl Layout<'_> {
    /// Puts an entry into the index.
    fn list(&self, entry: &Descriptor, name: Option<&str>) -> Result<(), TransferError> {
        if !self.has_version()? {
            self.write(&self.directory.join("oci-layout"), LAYOUT_VERSION.as_bytes())?;
        }
        let _alone = self.lock()?;
        self.write(&self.directory.join("index.json"), &self.index_with(entry, name)?)
    }
}

/// How an index lists what belongs to an image.
pub(super) fn listed_entry(written: &Written<'_>) -> Descriptor {
    let Descriptor {
        media_type,
        digest,
        size,
        ..
    } = written.descriptor;
    let mut entry = Descriptor::new(media_type, *digest, *size);
    let kind = written.artifact.artifact_type.as_deref().unwrap_or(media_type);
    entry.artifact_type = Some(kind.to_owned());
    entry
}

/// Whether a regular file of that size is there. Blobs are renamed into their place when they are complete.
fn has_file(path: &Path, size: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// A document of the layout, if it is there.
fn read_document(path: &Path) -> Result<Option<Vec<u8>>, TransferError> {
    match open_plain(path) {
        Err(TransferError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        file => small::read_document(&mut file?, path).map(Some),
    }
}

fn open_plain(path: &Path) -> Result<File, TransferError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let error = |source| TransferError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    // A link, of which nothing more is wanted to be known.
    let is_link = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::LOOP);
    if file.as_ref().is_err_and(is_link) {
        return Err(TransferError::NotAFile { path: path.to_owned() });
    }
    let file = file.map_err(error)?;
    if file.metadata().map_err(error)?.is_file() {
        return Ok(file);
    }
    Err(TransferError::NotAFile { path: path.to_owned() })
}

#[cfg(test)]
mod tests;
