//! What a store holds, and what needs what: the facts that evictions and statistics are made of. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::gc::is_old_day;
use super::names::Names;
use super::needs::{Needs, PartName};
use super::room_taken::{entries, Count, RoomTaken};
use super::{origins, pin_marks, unnamed};
use crate::oci::{Digest, Reference};
use crate::store::content::memo::Roots;
use crate::store::disk::locks::Rank;
use crate::store::disk::looks::held_among;
use crate::store::disk::{coming, Disk};
use crate::store::trees::merged;
use crate::store::{io_error, StoreError};
use crate::sys::clock;
use crate::sys::tree::disk_bytes_of;
use crate::sys::tree::is_of_another_kind;

/// Images, what is kept for later builds, and the parts that both need.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Images that have a name, a pin, a lease, or are kept without one.
    pub images: Vec<StoredImage>,
    /// Images that nobody keeps any more.
    pub nameless: Vec<StoredImage>,
    /// Results of steps, and downloads: what no image needs, only a later build.
    pub remembered: Vec<Remembered>,
    /// The folders of programs that gantry fetched, and of what those cache.
    pub tools: Vec<Remembered>,
    /// Blobs, layers and other files that nothing needs, such as what a pull that failed has left.
    pub loose: Vec<Remembered>,
    /// What takes room.
    pub parts: Vec<StoredPart>,
    /// Bytes on the disk, by the first folder of the path.
    pub folders: BTreeMap<String, u64>,
    /// Bytes on the disk, all of them.
    pub total: u64,
    /// What of it is on its way.
    pub coming: ComingTaken,
    /// What was read for it and need not be read again.
    known: Known,
}

/// What images that processes are bringing take already, and what lies in scratch: when it is there, it can go itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComingTaken {
    /// Bytes on the disk that nothing else needs.
    pub bytes: u64,
    /// Of the images.
    pub images: u64,
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

/// A result of a step, a download, or something else with a file of its own.
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

/// What documents and memos were found to need.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Of images whose documents were all read.
    images: BTreeMap<Digest, Arc<Needs>>,
    memos: BTreeMap<PathBuf, Arc<MemoRead>>,
}

#[derive(Debug)]
struct MemoRead {
    /// Which file it was, by number and time of change.
    which: (u64, i64, i64),
    /// None when it is damaged.
    roots: Option<BTreeSet<PartName>>,
}

/// Images by their digests, as far as somebody keeps them.
struct Keepers {
    kept: BTreeMap<Digest, Vec<Reference>>,
    pinned: Vec<Digest>,
    /// Those whose lease somebody holds, and those that somebody is bringing.
    in_use: BTreeSet<Digest>,
    /// Hexadecimal digests of what somebody is bringing.
    coming: BTreeSet<String>,
    nameless: BTreeSet<Digest>,
}

impl Keepers {
    fn list(disk: &Disk) -> Result<Self, StoreError> {
        let mut kept: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for (name, digest) in Names::of(disk).list()? {
            if let Some(digest) = digest {
                kept.entry(digest).or_default().push(name);
            }
        }
        let (pinned, now, mut nameless) = (pin_marks::list(disk)?, clock::now(), BTreeSet::new());
        for note in unnamed::list(disk)? {
            match note.is_over(now) {
                true => drop(nameless.insert(note.digest)),
                false => drop(kept.entry(note.digest).or_default()),
            }
        }
        for (name, _) in entries(&disk.path("snapshots"))? {
            let hex = name.strip_suffix(".json").unwrap_or_default();
            nameless.extend(format!("sha256:{hex}").parse::<Digest>().ok());
        }
        // After what is there was listed: whoever brings an image says so before.
        let (coming, mut in_use) = (coming::list(disk)?, leased(disk)?);
        let known = kept.keys().chain(&nameless);
        in_use.extend(known.filter(|digest| coming.contains(&digest.hex())));
        for digest in pinned.iter().chain(&in_use) {
            kept.entry(*digest).or_default();
        }
        nameless.retain(|digest| !kept.contains_key(digest));
        Ok(Self {
            kept,
            pinned,
            in_use,
            coming,
            nameless,
        })
    }
}

/// What a store takes of the disk, and how many images it keeps: enough to tell whether something has to go.
#[derive(Debug)]
pub struct Tally {
    /// Bytes on the disk, all of them.
    pub total: u64,
    /// Images.
    pub images: u64,
    taken: RoomTaken,
    count: Count,
}

impl Tally {
    pub(in crate::store) fn take(disk: &Disk, count: Count) -> Result<Self, StoreError> {
        let taken = RoomTaken::of(disk, count)?;
        Ok(Self {
            total: taken.total,
            images: Keepers::list(disk)?.kept.len() as u64,
            taken,
            count,
        })
    }
}

impl Inventory {
    /// Looks at everything once; waits for nobody. What comes or goes meanwhile may be in it or not.
    ///
    /// # Errors
    /// [`StoreError`] when something is there and cannot be read: what it needs would look as if nothing needed it.
    pub(in crate::store) fn take(disk: &Disk, tally: Tally) -> Result<Self, StoreError> {
        Self::of(disk, tally.taken, tally.count, &Known::default())
    }

    /// The parts that nothing needs but `images` and the `remembered` files below the root: what goes with them.
    pub fn needed_by_these_alone(
        &self,
        images: &BTreeSet<Digest>,
        remembered: &BTreeSet<&PathBuf>,
    ) -> impl Iterator<Item = &StoredPart> {
        let (mut goes, mut stays) = (BTreeSet::<usize>::new(), BTreeSet::<usize>::new());
        let of_images = self.images.iter().chain(&self.nameless);
        let of_images = of_images.map(|image| (images.contains(&image.digest), &image.parts));
        let of_builds = self.remembered.iter();
        let of_builds = of_builds.map(|kept| (remembered.contains(&kept.file), &kept.parts));
        for (is_doomed, parts) in of_images.chain(of_builds) {
            let of = if is_doomed { &mut goes } else { &mut stays };
            of.extend(parts);
        }
        let alone = goes.into_iter().filter(move |part| !stays.contains(part));
        alone.filter_map(|number| self.parts.get(number))
    }

    /// Looks at what may have changed since this one was taken: who keeps what, and what is there. Documents that were read
    /// are not read again, as they never change; nothing is counted.
    pub(in crate::store) fn again(&self, disk: &Disk) -> Result<Self, StoreError> {
        Self::of(disk, RoomTaken::default(), Count::Nothing, &self.known)
    }

    fn of(disk: &Disk, taken: RoomTaken, count: Count, known: &Known) -> Result<Self, StoreError> {
        let mut parts = Parts {
            disk,
            taken: &taken,
            list: Vec::new(),
            numbers: BTreeMap::new(),
            known,
            read: Known::default(),
        };
        let keepers = Keepers::list(disk)?;
        let mut images = Vec::new();
        for (digest, names) in keepers.kept {
            let is_pinned = keepers.pinned.binary_search(&digest).is_ok();
            let is_in_use = keepers.in_use.contains(&digest);
            images.push(parts.image(digest, names, is_pinned, is_in_use)?);
        }
        let mut nameless = Vec::new();
        for digest in keepers.nameless {
            nameless.push(parts.image(digest, Vec::new(), false, false)?);
        }
        let (remembered, useless) = remembered(disk, count, &mut parts)?;
        let mut tools = Vec::new();
        for (name, path) in entries(&disk.path("tools"))? {
            let bytes = taken.tools.get(&name).copied().unwrap_or_default();
            tools.extend(Remembered::of(disk, &path, bytes, Vec::new()));
        }
        let (mut loose, on_its_way) = loose(disk, count, &parts, images.iter().chain(&nameless))?;
        loose.extend(useless);
        let (list, read) = (parts.list, parts.read);
        let mut coming = coming_taken(&images, &nameless, &remembered, &list, &keepers.coming);
        let in_scratch = taken.folders.get("tmp").copied().unwrap_or_default();
        coming.bytes += on_its_way + in_scratch;
        Ok(Self {
            images,
            nameless,
            remembered,
            tools,
            loose,
            parts: list,
            folders: taken.folders,
            total: taken.total,
            coming,
            known: read,
        })
    }
}

/// The parts that were met so far.
struct Parts<'a> {
    disk: &'a Disk,
    taken: &'a RoomTaken,
    list: Vec<StoredPart>,
    numbers: BTreeMap<PartName, usize>,
    /// What was read by an earlier look, and by this one.
    known: &'a Known,
    read: Known,
}

impl Parts<'_> {
    /// The place of a part in the list; none when it is not in the store.
    fn number(&mut self, what: PartName) -> Result<Option<usize>, StoreError> {
        if let Some(number) = self.numbers.get(&what) {
            return Ok(Some(*number));
        }
        let path = self.disk.path(what.path());
        let Some(found) = look(&path)? else { return Ok(None) };
        let (bytes, fetched) = match &what {
            PartName::Blob(digest) => (self.taken.blobs.get(&digest.hex()), found.len()),
            PartName::Layer(diff_id) => (self.taken.layers.get(&diff_id.hex()), 0),
            PartName::Merged(chain) => (self.taken.merged.get(&chain.hex()), 0),
            PartName::Download(digest) => (self.taken.downloads.get(&digest.hex()), found.len()),
        };
        let bytes = bytes.copied().unwrap_or_default();
        self.list.push(StoredPart { what, bytes, fetched });
        self.numbers.insert(what, self.list.len() - 1);
        Ok(Some(self.list.len() - 1))
    }

    /// The places of those that are there.
    fn numbers(&mut self, needed: &BTreeSet<PartName>) -> Result<Vec<usize>, StoreError> {
        let mut numbers = Vec::new();
        for what in needed {
            numbers.extend(self.number(*what)?);
        }
        Ok(numbers)
    }

    fn image(
        &mut self,
        digest: Digest,
        names: Vec<Reference>,
        is_pinned: bool,
        is_in_use: bool,
    ) -> Result<StoredImage, StoreError> {
        let disk = self.disk;
        let needs = match self.known.images.get(&digest) {
            Some(known) => Arc::clone(known),
            None => Arc::new(Needs::of(disk, &digest)?),
        };
        let parts = self.numbers(&needs.parts)?;
        if needs.is_all {
            self.read.images.insert(digest, needs);
        }
        let lease = disk.path("leases").join(digest.hex());
        let found = look(&lease)?;
        let used = match &found {
            Some(found) => found.modified().ok(),
            None => look(&disk.path("snapshots").join(format!("{}.json", digest.hex())))?
                .and_then(|found| found.modified().ok()),
        };
        Ok(StoredImage {
            digest,
            names,
            used,
            uses: found.map_or(0, |found| found.len()),
            is_pinned,
            is_in_use,
            origins: origins::of(disk, &digest),
            parts,
        })
    }

    /// What a memo needs: none in it when it is damaged, none at all when it is gone.
    fn memo(&mut self, path: &Path) -> Result<Option<Arc<MemoRead>>, StoreError> {
        use std::os::unix::fs::MetadataExt;
        let Some(found) = look(path)? else { return Ok(None) };
        let which = (found.ino(), found.ctime(), found.ctime_nsec());
        let known = self.known.memos.get(path).filter(|known| known.which == which);
        let memo = match known {
            Some(known) => Arc::clone(known),
            None => {
                let json = match fs::read(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) if is_of_another_kind(&error) => Vec::new(),
                    other => other.map_err(io_error("read", path))?,
                };
                let roots = Roots::of_file(&json).map(|roots| {
                    let blobs = roots.blobs.into_iter().map(PartName::Blob);
                    let layers = roots.layers.into_iter().map(PartName::Layer);
                    let downloads = roots.downloads.into_iter().map(PartName::Download);
                    blobs.chain(layers).chain(downloads).collect()
                });
                Arc::new(MemoRead { which, roots })
            }
        };
        self.read.memos.insert(path.to_owned(), Arc::clone(&memo));
        Ok(Some(memo))
    }
}

/// What builds remember, and what of it is of no use any more.
fn remembered(
    disk: &Disk,
    count: Count,
    parts: &mut Parts<'_>,
) -> Result<(Vec<Remembered>, Vec<Remembered>), StoreError> {
    let (mut all, mut useless) = (Vec::new(), Vec::new());
    for (_, folder) in entries(&disk.path("memo"))? {
        for (_, path) in entries(&folder)? {
            let Some(memo) = parts.memo(&path)? else { continue };
            let bytes = own_bytes(&path, count);
            let Some(roots) = &memo.roots else {
                useless.extend(Remembered::of(disk, &path, bytes, Vec::new()));
                continue;
            };
            let mut is_of_use = true;
            for root in roots {
                // A layer can be unpacked again.
                is_of_use &= matches!(root, PartName::Layer(_)) || look(&disk.path(root.path()))?.is_some();
            }
            match is_of_use {
                true => all.extend(Remembered::of(disk, &path, bytes, parts.numbers(roots)?)),
                false => useless.extend(Remembered::of(disk, &path, bytes, Vec::new())),
            }
        }
    }
    for (name, path) in entries(&disk.path("downloads"))? {
        let part = match format!("sha256:{name}").parse() {
            Ok(digest) => parts.number(PartName::Download(digest))?,
            Err(_) => None,
        };
        all.extend(Remembered::of(disk, &path, 0, part.into_iter().collect()));
    }
    Ok((all, useless))
}

/// What the images among `coming` take that nothing else needs.
fn coming_taken(
    images: &[StoredImage],
    nameless: &[StoredImage],
    remembered: &[Remembered],
    parts: &[StoredPart],
    coming: &BTreeSet<String>,
) -> ComingTaken {
    let is_coming = |image: &&StoredImage| coming.contains(&image.digest.hex());
    let (ours, others): (Vec<_>, Vec<_>) = images.iter().partition(is_coming);
    let mut own: BTreeSet<usize> = ours.iter().flat_map(|image| &image.parts).copied().collect();
    let needed = others.iter().copied().chain(nameless).flat_map(|image| &image.parts);
    for part in needed.chain(remembered.iter().flat_map(|kept| &kept.parts)) {
        own.remove(part);
    }
    ComingTaken {
        bytes: own
            .iter()
            .filter_map(|part| parts.get(*part))
            .map(|part| part.bytes)
            .sum(),
        images: ours.len() as u64,
    }
}

/// Files that nothing needs: neither `images`, nor what builds remember, nor a process that brings something; and the bytes of
/// what only the latter need.
fn loose<'a>(
    disk: &Disk,
    count: Count,
    parts: &Parts<'_>,
    images: impl Iterator<Item = &'a StoredImage>,
) -> Result<(Vec<Remembered>, u64), StoreError> {
    let needed: BTreeSet<PathBuf> = parts.numbers.keys().map(PartName::path).collect();
    let images: BTreeSet<String> = images.map(|image| image.digest.hex()).collect();
    let mut found = Vec::new();
    let taken = parts.taken;
    let folders = [
        ("blobs/sha256", &taken.blobs),
        ("layers", &taken.layers),
        (merged::FOLDER, &taken.merged),
    ];
    for (folder, taken) in folders {
        for (name, path) in entries(&disk.path(folder))? {
            if !needed.contains(&Path::new(folder).join(&name)) {
                found.push((taken.get(&name).copied().unwrap_or_default(), name, path));
            }
        }
    }
    for (name, path) in entries(&disk.path("profiles"))? {
        if !images.contains(&name) {
            found.push((own_bytes(&path, count), name, path));
        }
    }
    let partial = entries(&disk.path("partial"))?;
    let held = held_among(partial.iter().map(|(_, path)| path), Rank::Download)?;
    let mut on_its_way = 0;
    for (name, path) in &partial {
        match held.contains(path) {
            true => on_its_way += own_bytes(path, count),
            false => found.push((own_bytes(path, count), name.clone(), path.clone())),
        }
    }
    for (name, path) in entries(&disk.path(crate::journal::FOLDER))? {
        if is_old_day(&path, clock::now()) {
            found.push((own_bytes(&path, count), name, path));
        }
    }
    // After all that was put there so far: whoever brings something says so before.
    let coming = coming::list(disk)?;
    let (ours, found): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, name, _)| coming.contains(name));
    on_its_way += ours.iter().map(|(bytes, ..)| bytes).sum::<u64>();
    let loose = found
        .into_iter()
        .filter_map(|(bytes, _, path)| Remembered::of(disk, &path, bytes, Vec::new()));
    Ok((loose.collect(), on_its_way))
}

/// Bytes of a file on the disk, as far as they are to be counted.
fn own_bytes(path: &Path, count: Count) -> u64 {
    match count {
        Count::Nothing => 0,
        Count::Exact | Count::Noted => disk_bytes_of(path, &mut BTreeSet::new()),
    }
}

/// What is at `path`; none when nothing is.
fn look(path: &Path) -> Result<Option<fs::Metadata>, StoreError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_of_another_kind(&error) => Ok(None),
        other => other.map(Some).map_err(io_error("look at", path)),
    }
}

impl Remembered {
    fn of(disk: &Disk, path: &Path, bytes: u64, parts: Vec<usize>) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self {
            file: path.strip_prefix(disk.root()).ok()?.to_owned(),
            used: found.modified().ok(),
            bytes,
            parts,
        })
    }
}

/// The images that somebody holds the lease of.
fn leased(disk: &Disk) -> Result<BTreeSet<Digest>, StoreError> {
    let leases = entries(&disk.path("leases"))?;
    let held = held_among(leases.iter().map(|(_, path)| path), Rank::Lease)?;
    let held = leases.iter().filter(|(_, path)| held.contains(path));
    Ok(held
        .filter_map(|(hex, _)| format!("sha256:{hex}").parse().ok())
        .collect())
}
