//! Names of images: one small file per name, written by rename; `index.json` follows for other tools.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;

use super::documents::Image;
use super::snapshot::Snapshot;
use super::unnamed;
use crate::oci::{
    media_type, parse_index, to_canonical_json, Descriptor, Digest, ImageIndex, Reference, MAX_DOCUMENT_BYTES, REF_NAME,
};
use crate::store::content::blobs::Blobs;
use crate::store::disk::locks::{ExclusiveLock, Locks};
use crate::store::disk::{regular, Disk};
use crate::store::{io_error, StoreError};
use crate::sys::fault;

/// Separates a repository from its tags: no repository component starts with `_`.
const TAGS: &str = "_tags";
/// Holds the names of this store alone: no host starts with `_`.
const LOCAL: &str = "_local";

/// What is in the file of the names' lock while they change.
const CHANGING: &[u8] = b"names change\n";
/// A name holds a digest of 72 bytes.
pub(in crate::store) const MOST_OF_A_NAME: u64 = 1 << 10;
/// As large as any document is.
const MOST_OF_AN_INDEX: u64 = MAX_DOCUMENT_BYTES;

/// Whether an image can get this name: one of a layout is not ours to give, and one with a digest means that image already.
///
/// # Errors
///
/// [`StoreError`] says why it cannot.
pub fn check_name(reference: &Reference) -> Result<(), StoreError> {
    let reference_text = || reference.to_string();
    match reference {
        Reference::Layout { .. } | Reference::Digest { .. } => Err(StoreError::NotAName {
            reference: reference_text(),
        }),
        Reference::Registry { .. } | Reference::Local { .. } if reference.digest().is_some() => {
            Err(StoreError::PinnedName {
                reference: reference_text(),
            })
        }
        Reference::Registry { .. } | Reference::Local { .. } => Ok(()),
    }
}

/// The names of images in a store.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    disk: &'a Disk,
}

impl<'a> Names<'a> {
    pub(in crate::store) fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    /// Names an image. The name may have meant another one before.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the name means what it meant before.
    pub fn set(self, reference: &Reference, digest: &Digest) -> Result<(), StoreError> {
        check_name(reference)?;
        let name = ref_path(reference)?;
        let single = self.begin_change()?;
        if let Some(folder) = name.parent() {
            self.disk.make_folder(folder)?;
        }
        self.disk.write_atomically(&name, format!("{digest}\n").as_bytes())?;
        // From here on the name keeps it.
        unnamed::forget(self.disk, digest)?;
        self.write_index()?;
        single.leave(b"");
        Ok(())
    }

    /// Names an image unless it is called so, and is offered so to other tools, already. Reads two small files then.
    pub fn ensure(self, reference: &Reference, digest: &Digest) -> Result<(), StoreError> {
        // A damaged name is given anew.
        let is_named = matches!(self.find(reference), Ok(Some(named)) if named == *digest);
        if is_named && self.is_indexed(reference, digest)? {
            // Whoever named it may have been killed before that.
            return unnamed::forget(self.disk, digest).map(drop);
        }
        self.set(reference, digest)
    }

    /// Whether `index.json` has the name in the words we would write; parsing thousands of names takes longer.
    fn is_indexed(self, reference: &Reference, digest: &Digest) -> Result<bool, StoreError> {
        // With the tag it means, as it is listed.
        let listed = ref_path(reference)?.strip_prefix("refs").ok().and_then(name_of);
        let listed = listed.as_ref().unwrap_or(reference);
        let Some(descriptor) = self.indexed(listed, digest) else {
            return Ok(true);
        };
        let path = self.disk.path("index.json");
        let wanted = to_canonical_json(&descriptor).map_err(|source| StoreError::Json {
            action: "write",
            path: path.clone(),
            source,
        })?;
        let wanted = String::from_utf8_lossy(&wanted);
        Ok(fs::read_to_string(&path).is_ok_and(|index| index.contains(&*wanted)))
    }

    /// How the index has a name: not at all when the manifest is gone, as a pulled image keeps no blobs.
    pub(in crate::store) fn indexed(self, reference: &Reference, digest: &Digest) -> Option<Descriptor> {
        let mut descriptor = Descriptor::new(media_type::MANIFEST, *digest, Blobs::of(self.disk).size(digest)?);
        let name = (REF_NAME.to_owned(), reference.to_string());
        descriptor.annotations.extend([name]);
        Some(descriptor)
    }

    /// The image that a reference means. A digest in it is its own answer when that image is here; digits that begin
    /// a digest mean the only image whose digest begins so, when no image has them for a name.
    ///
    /// # Errors
    /// [`StoreError::Ambiguous`] when several images' digests begin so.
    pub fn find(self, reference: &Reference) -> Result<Option<Digest>, StoreError> {
        match (self.find_named(reference)?, reference.id()) {
            (None, Some(hex)) if reference.digest().is_none() => self.find_id(hex),
            (found, _) => Ok(found),
        }
    }

    fn find_named(self, reference: &Reference) -> Result<Option<Digest>, StoreError> {
        if let Some(digest) = reference.digest() {
            let is_image =
                || matches!(Snapshot::read(self.disk, digest), Ok(Some(_))) || Image::open(self.disk, digest).is_ok();
            return Ok(is_image().then_some(*digest));
        }
        if matches!(reference, Reference::Digest { .. }) {
            return Ok(None);
        }
        let path = self.disk.path(ref_path(reference)?);
        match fs::read_to_string(&path) {
            Ok(text) => text.trim_end().parse().map(Some).map_err(|_| StoreError::DamagedName {
                reference: reference.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(StoreError::DamagedName {
                reference: reference.to_string(),
            }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(source) => Err(io_error("read", &path)(source)),
        }
    }

    /// The only image whose digest begins with `hex`.
    fn find_id(self, hex: &str) -> Result<Option<Digest>, StoreError> {
        let mut found = BTreeSet::new();
        let folder = self.disk.path("snapshots");
        for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let name = entry.map_err(io_error("list", &folder))?.file_name();
            let digest = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let digest = digest.filter(|digest| digest.starts_with(hex));
            found.extend(digest.and_then(|digest| format!("sha256:{digest}").parse::<Digest>().ok()));
        }
        match found.len() {
            0 | 1 => Ok(found.pop_first()),
            _ => Err(StoreError::Ambiguous {
                id: hex.to_owned(),
                images: found
                    .iter()
                    .map(|digest| format!("{digest}"))
                    .take(3)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// Keeps an image without a name from garbage collection for a day from now.
    pub fn keep_unnamed(self, digest: &Digest) -> Result<(), StoreError> {
        unnamed::keep(self.disk, digest)
    }

    /// The images without a name that are kept so.
    pub fn unnamed(self) -> Result<Vec<Digest>, StoreError> {
        let named: BTreeSet<Digest> = self.list()?.into_iter().filter_map(|(_, digest)| digest).collect();
        let kept = unnamed::list(self.disk)?.into_iter().map(|kept| kept.digest);
        Ok(kept.filter(|digest| !named.contains(digest)).collect())
    }

    /// Keeps an image without a name no longer; whether it was kept.
    pub fn forget_unnamed(self, digest: &Digest) -> Result<bool, StoreError> {
        unnamed::forget(self.disk, digest)
    }

    /// Whether there is such a name, damaged or not.
    pub fn has(self, reference: &Reference) -> Result<bool, StoreError> {
        check_name(reference)?;
        Ok(self.disk.path(ref_path(reference)?).is_file())
    }

    /// Forgets a name; whether there was one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the name cannot be removed; it means what it meant before.
    pub fn remove(self, reference: &Reference) -> Result<bool, StoreError> {
        check_name(reference)?;
        let path = self.disk.path(ref_path(reference)?);
        if !path.is_file() {
            return Ok(false);
        }
        let single = self.begin_change()?;
        let gone = fault::point(fault::Step::NameRemoved).and_then(|()| fs::remove_file(&path));
        match gone {
            Ok(()) => {
                self.write_index()?;
                single.leave(b"");
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                single.leave(b"");
                Ok(false)
            }
            Err(source) => Err(io_error("remove", &path)(source)),
        }
    }

    /// Forgets a name if it is there; `index.json` follows later. Call it with the lock `index` held.
    pub(super) fn forget(self, reference: &Reference) -> Result<(), StoreError> {
        let path = self.disk.path(ref_path(reference)?);
        match fault::point(fault::Step::NameRemoved).and_then(|()| fs::remove_file(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(io_error("remove", &path)),
        }
    }

    /// Every name and what it means, sorted by name; none for a name that is damaged.
    pub fn list(self) -> Result<Vec<(Reference, Option<Digest>)>, StoreError> {
        let root = self.disk.path("refs");
        let mut found = Vec::new();
        let mut pending = vec![root.clone()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(&directory).map_err(io_error("list", &directory))? {
                let entry = entry.map_err(io_error("list", &directory))?;
                let path = entry.path();
                // A link is none of ours, wherever it leads.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    pending.push(path);
                    continue;
                }
                let name = path.strip_prefix(&root).ok().and_then(name_of);
                let digest = match regular::read(CWD, &path, MOST_OF_A_NAME) {
                    // Its image would look as if nothing led to it.
                    Err(regular::Unread::Failed(errno)) => return Err(io_error("read", &path)(errno.into())),
                    read => read.ok(),
                };
                let digest = digest.and_then(|text| String::from_utf8(text).ok()?.trim_end().parse().ok());
                found.extend(name.map(|name| (name, digest)));
            }
        }
        found.sort_by_key(|(reference, _)| reference.to_string());
        Ok(found)
    }

    /// Rewrites an `index.json` that a power loss damaged, or that a killed process left as it was before a name changed: it
    /// only follows the names. One small file is read when all is well, and the index.
    pub fn mend_index(self) -> Result<(), StoreError> {
        let read = || regular::read(CWD, &self.disk.path("index.json"), MOST_OF_AN_INDEX);
        let is_fine = || !self.is_changing() && read().is_ok_and(|json| parse_index(&json).is_ok());
        if is_fine() {
            return Ok(());
        }
        let single = match self.is_changing() {
            // Whoever is at it writes the index; nobody waits for that.
            true => Locks::of(self.disk).try_index()?,
            false => Some(Locks::of(self.disk).index()?),
        };
        let Some(single) = single else { return Ok(()) };
        self.write_index()?;
        single.leave(b"");
        Ok(())
    }

    /// Rewrites `index.json` when manifests came back that names mean: it had left those names out.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written; the next command that opens the store to change it tries again.
    pub fn rewrite_index(self) -> Result<(), StoreError> {
        let single = self.begin_change()?;
        self.write_index()?;
        single.leave(b"");
        Ok(())
    }

    /// Whether names are being changed, or were when a process was killed.
    pub(in crate::store) fn is_changing(self) -> bool {
        fs::symlink_metadata(self.disk.path("locks/index")).is_ok_and(|found| found.len() > 0)
    }

    /// The lock of the names, with a note in it that `index.json` may not follow them: it stays when we are killed, or cannot
    /// write the index, until somebody has.
    pub(super) fn begin_change(self) -> Result<ExclusiveLock, StoreError> {
        let lock = Locks::of(self.disk).index()?;
        let path = self.disk.path("locks/index");
        let noted = fault::point(fault::Step::IndexMark).and_then(|()| lock.note_down(CHANGING));
        noted.map_err(io_error("write", &path))?;
        Ok(lock)
    }

    /// Rewrites `index.json` from the names; call it with the lock `index` held, or before anyone else can know the store.
    pub(in crate::store) fn write_index(self) -> Result<(), StoreError> {
        let mut manifests = Vec::new();
        for (reference, digest) in self.list()? {
            manifests.extend(digest.and_then(|digest| self.indexed(&reference, &digest)));
        }
        let index = ImageIndex {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests,
        };
        let path = PathBuf::from("index.json");
        let json = to_canonical_json(&index);
        let json = json.map_err(|source| StoreError::Json {
            action: "write",
            path: path.clone(),
            source,
        })?;
        self.disk.write_atomically(&path, &json)
    }
}

fn ref_path(reference: &Reference) -> Result<PathBuf, StoreError> {
    let refs = Path::new("refs");
    let tag = reference.tag_or_latest();
    match reference {
        Reference::Registry { host, repository, .. } => Ok(refs.join(host).join(repository).join(TAGS).join(tag)),
        Reference::Local { name, .. } => Ok(refs.join(LOCAL).join(name).join(tag)),
        Reference::Layout { .. } | Reference::Digest { .. } => Err(StoreError::NotAName {
            reference: reference.to_string(),
        }),
    }
}

/// The inverse of [`ref_path`]; none for a file that is not ours.
pub(in crate::store) fn name_of(path: &Path) -> Option<Reference> {
    let text = path.to_str()?;
    let printed = match text.strip_prefix(LOCAL) {
        Some(local) => {
            let (name, tag) = local.strip_prefix('/')?.split_once('/')?;
            let plain = |text: &str| {
                let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                !text.is_empty() && text.bytes().all(is_word)
            };
            // Also a name that was given when more words were names: its image is kept, and listed.
            return (plain(name) && plain(tag)).then(|| Reference::Local {
                name: name.to_owned(),
                tag: Some(tag.to_owned()),
                digest: None,
            });
        }
        None => {
            let (repository, tag) = text.split_once(&format!("/{TAGS}/"))?;
            format!("{repository}:{tag}")
        }
    };
    printed.parse().ok()
}
