//! What a store holds, and what needs what: the facts that evictions and statistics are made of. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::documents::Image;
use super::names::Names;
use super::room_taken::{entries, Count, RoomTaken};
use super::snapshot::Snapshot;
use super::{origins, pin_marks, unnamed};
use crate::oci::{DiffId, Digest, Reference};
use crate::store::content::memo::Roots;
use crate::store::disk::locks::Rank;
use crate::store::disk::Disk;
use crate::store::StoreError;
use crate::sys::lock::{self, Mode};

/// Images, what is kept for later builds, and the parts that both need.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Images that have a name, a pin, a lease, or are kept without one.
    pub images: Vec<StoredImage>,
    /// Results of steps, and downloads: what no image needs, only a later build.
    pub remembered: Vec<Remembered>,
    /// What takes room.
    pub parts: Vec<StoredPart>,
    /// Bytes on the disk, by the first folder of the path.
    pub folders: BTreeMap<String, u64>,
    /// Bytes on the disk, all of them.
    pub total: u64,
}

/// An image.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// Its manifest.
    pub digest: Digest,
    /// Its names.
    pub names: Vec<Reference>,
    /// When it was used last; none when that is not known.
    pub used: Option<SystemTime>,
    /// How often it was used, as far as that is counted.
    pub uses: u64,
    /// Whether it is pinned.
    pub is_pinned: bool,
    /// Whether somebody holds its lease.
    pub is_in_use: bool,
    /// Registries that have it, as host and repository.
    pub origins: BTreeSet<String>,
    /// What it needs, as places in the list of parts.
    pub parts: Vec<usize>,
}

/// A result of a step, or a download.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// Its file, below the root.
    pub file: PathBuf,
    /// When it was of use last.
    pub used: Option<SystemTime>,
    /// Bytes of its file on the disk.
    pub bytes: u64,
    /// What it keeps, as places in the list of parts.
    pub parts: Vec<usize>,
}

/// A file or a tree that images and later builds may share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// Which.
    pub what: PartName,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes that a registry sends for it.
    pub fetched: u64,
}

/// What a part is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartName {
    /// A layer as it is shipped, a configuration, a manifest.
    Blob(Digest),
    /// An unpacked layer.
    Layer(DiffId),
    /// A finished download.
    Download(Digest),
}

impl PartName {
    /// Where it is, below the root.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Blob(digest) => Path::new("blobs/sha256").join(digest.hex()),
            Self::Layer(diff_id) => Path::new("layers").join(diff_id.hex()),
            Self::Download(digest) => Path::new("downloads").join(digest.hex()),
        }
    }
}

impl Inventory {
    /// Looks at everything once; waits for nobody. What comes or goes meanwhile may be in it or not.
    pub(in crate::store) fn take(disk: &Disk, count: Count) -> Result<Self, StoreError> {
        let taken = RoomTaken::of(disk, count);
        let mut parts = Parts {
            disk,
            taken: &taken,
            list: Vec::new(),
            numbers: BTreeMap::new(),
        };
        let mut names: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for (name, digest) in Names::of(disk).list()? {
            if let Some(digest) = digest {
                names.entry(digest).or_default().push(name);
            }
        }
        let pinned = pin_marks::list(disk)?;
        let kept = unnamed::list(disk)?.into_iter().map(|kept| kept.digest);
        for digest in kept.chain(pinned.iter().copied()).chain(leased(disk)) {
            names.entry(digest).or_default();
        }
        let images = names.into_iter().map(|(digest, names)| {
            let lease = disk.path("leases").join(digest.hex());
            let found = fs::metadata(&lease).ok();
            let snapshot = || fs::metadata(disk.path("snapshots").join(format!("{}.json", digest.hex())));
            let used = found
                .as_ref()
                .map_or_else(|| snapshot().ok(), |found| Some(found.clone()));
            StoredImage {
                digest,
                names,
                used: used.and_then(|found| found.modified().ok()),
                uses: found.map_or(0, |found| found.len()),
                is_pinned: pinned.binary_search(&digest).is_ok(),
                is_in_use: is_held(&lease),
                origins: origins::of(disk, &digest),
                parts: parts.of_image(&digest),
            }
        });
        let images = images.collect();
        let remembered = remembered(disk, count, &mut parts)?;
        Ok(Self {
            images,
            remembered,
            parts: parts.list,
            folders: taken.folders,
            total: taken.total,
        })
    }
}

/// The parts that were met so far.
struct Parts<'a> {
    disk: &'a Disk,
    taken: &'a RoomTaken,
    list: Vec<StoredPart>,
    numbers: BTreeMap<PartName, usize>,
}

impl Parts<'_> {
    /// The place of a part in the list; none when it is not in the store.
    fn number(&mut self, what: PartName) -> Option<usize> {
        if let Some(number) = self.numbers.get(&what) {
            return Some(*number);
        }
        let found = fs::symlink_metadata(self.disk.path(what.path())).ok()?;
        let (bytes, fetched) = match &what {
            PartName::Blob(digest) => (self.taken.blobs.get(&digest.hex()), found.len()),
            PartName::Layer(diff_id) => (self.taken.layers.get(&diff_id.hex()), 0),
            PartName::Download(digest) => (self.taken.downloads.get(&digest.hex()), found.len()),
        };
        let bytes = bytes.copied().unwrap_or_default();
        self.list.push(StoredPart { what, bytes, fetched });
        self.numbers.insert(what, self.list.len() - 1);
        Some(self.list.len() - 1)
    }

    /// What an image needs of what is there, each once.
    fn of_image(&mut self, digest: &Digest) -> Vec<usize> {
        let mut needed = BTreeSet::from([PartName::Blob(*digest)]);
        if let Ok(Some(snapshot)) = Snapshot::read(self.disk, digest) {
            needed.extend(snapshot.layers.into_iter().map(PartName::Layer));
        }
        if let Ok(image) = Image::open(self.disk, digest) {
            needed.extend(image.blobs().iter().map(|blob| PartName::Blob(blob.digest)));
            needed.extend(image.config.rootfs.diff_ids.into_iter().map(PartName::Layer));
        }
        needed.into_iter().filter_map(|what| self.number(what)).collect()
    }
}

fn remembered(disk: &Disk, count: Count, parts: &mut Parts<'_>) -> Result<Vec<Remembered>, StoreError> {
    let mut all = Vec::new();
    for (_, folder) in entries(&disk.path("memo")) {
        for (_, path) in entries(&folder) {
            let roots = fs::read(&path)
                .ok()
                .and_then(|json| Roots::of_file(&json))
                .unwrap_or_default();
            let blobs = roots.blobs.into_iter().map(PartName::Blob);
            let layers = roots.layers.into_iter().map(PartName::Layer);
            let downloads = roots.downloads.into_iter().map(PartName::Download);
            let names: BTreeSet<PartName> = blobs.chain(layers).chain(downloads).collect();
            let parts = names.into_iter().filter_map(|what| parts.number(what)).collect();
            all.extend(Remembered::of(disk, &path, count, parts));
        }
    }
    for (name, path) in entries(&disk.path("downloads")) {
        let digest = format!("sha256:{name}").parse().ok();
        let part = digest.and_then(|digest| parts.number(PartName::Download(digest)));
        all.extend(Remembered::of(disk, &path, Count::Nothing, part.into_iter().collect()));
    }
    Ok(all)
}

impl Remembered {
    fn of(disk: &Disk, path: &Path, count: Count, parts: Vec<usize>) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self {
            file: path.strip_prefix(disk.root()).ok()?.to_owned(),
            used: found.modified().ok(),
            bytes: match count {
                Count::Nothing => 0,
                Count::Exact | Count::Noted => found.blocks().saturating_mul(512),
            },
            parts,
        })
    }
}

/// The images that somebody holds the lease of.
fn leased(disk: &Disk) -> impl Iterator<Item = Digest> {
    let held = entries(&disk.path("leases"))
        .into_iter()
        .filter(|(_, path)| is_held(path));
    held.filter_map(|(hex, _)| format!("sha256:{hex}").parse().ok())
}

/// Whether somebody holds the lock of a file. One that is not there is not made.
fn is_held(path: &Path) -> bool {
    let opened = File::open(path);
    opened.is_ok_and(|file| matches!(lock::try_lock(file, Mode::Alone, Rank::Lease as u8), Ok(Err(_))))
}
