//! Takes images, and what is kept for later builds, out of the store while others use it.
//!
//! **Who is safe.** An image whose lease somebody holds is left alone, and so is all that it needs; what builds remember is left
//! alone while one is at work. Everything that stays is looked at again under the lock, so a plan may be old.
//!
//! **Locks.** `locks/eviction` and then `index`, held while files are renamed; the collector's lock is not taken alone, so nobody
//! waits for a build to end, and no build for an eviction. Leases and `locks/builds` are only tried, and whoever has one
//! alone waits for nothing but these two, whose holders wait for nothing.
//!
//! **Others.** An image that comes in shares layers that may go just then. Whoever brings it holds its lease, puts its documents
//! into the store, waits out the eviction under way ([`Locks::wait_out_eviction`]) and then looks whether all is there: what was
//! taken before is missing then, and is fetched again; any later eviction sees the lease, and what the image needs.
//!
//! **Crash.** Names go first, so that none leads to half an image; the rest leaves its place by a rename into scratch. What a
//! killed process leaves is garbage, and a collection ends the work.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::inventory::{Inventory, PartName};
use super::names::Names;
use super::room_taken::{entries, Count};
use super::{origins, pin_marks, start_files, unnamed};
use crate::oci::Digest;
use crate::store::disk::locks::{try_file, Locks, Rank, Task};
use crate::store::disk::scratch::Scratch;
use crate::store::disk::Disk;
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::lock::{Lock, Mode};
use crate::sys::tree::disk_bytes_of;

/// What is to go.
#[derive(Debug, Clone, Default)]
pub struct Doomed {
    /// Images, and when each was used last as far as was known: one that was used since stays.
    pub images: Vec<(Digest, Option<SystemTime>)>,
    /// Files of what is kept for later builds, below the root.
    pub remembered: Vec<PathBuf>,
}

/// What went.
#[derive(Debug, Clone, Default)]
pub struct Evicted {
    /// Images.
    pub images: Vec<Digest>,
    /// What was kept for later builds.
    pub remembered: Vec<PathBuf>,
    /// Bytes that the disk has back.
    pub bytes: u64,
}

/// Takes `doomed` out of the store, but for what is in use by now.
pub(in crate::store) fn evict(disk: &Disk, doomed: &Doomed) -> Result<Evicted, StoreError> {
    let scratch = Scratch::new(disk)?;
    let (mut evicted, follows) = set_aside(disk, doomed, &scratch)?;
    let mut seen = BTreeSet::new();
    evicted.bytes = entries(scratch.path())
        .iter()
        .map(|(_, path)| disk_bytes_of(path, &mut seen))
        .sum();
    drop(scratch);
    if !follows {
        // There is room for it now. If not, the note in the lock has the next command write it.
        if let Ok(single) = Locks::of(disk).index() {
            if Names::of(disk).write_index().is_ok() {
                single.leave(b"");
            }
        }
    }
    Ok(evicted)
}

/// Moves what goes into `scratch`; and whether `index.json` follows the names, which a full disk may not allow yet.
fn set_aside(disk: &Disk, doomed: &Doomed, scratch: &Scratch) -> Result<(Evicted, bool), StoreError> {
    let locks = Locks::of(disk);
    let task = Task::silent("evicts images");
    let (_alone, _) = locks.wait_for(Rank::Eviction, Mode::Alone, &disk.path("locks/eviction"), task)?;
    let names = Names::of(disk);
    let index = match names.begin_change() {
        // The note that names change has no room; what goes makes some.
        Err(error) if error.is_full() => locks.index()?,
        other => other?,
    };
    let builders = try_file(&disk.path("locks/builds"), Rank::Builds, Mode::Alone)?;
    let held = hold(disk, &doomed.images)?;
    let images: BTreeSet<Digest> = held.iter().map(|(digest, _)| *digest).collect();
    let remembered: BTreeSet<&PathBuf> = match builders {
        Some(_) => doomed.remembered.iter().collect(),
        None => BTreeSet::new(),
    };
    let inventory = Inventory::take(disk, Count::Nothing)?;
    let mut goes: BTreeSet<usize> = BTreeSet::new();
    let mut stays: BTreeSet<usize> = BTreeSet::new();
    for image in &inventory.images {
        let of = if images.contains(&image.digest) {
            &mut goes
        } else {
            &mut stays
        };
        of.extend(&image.parts);
    }
    for kept in &inventory.remembered {
        let of = if remembered.contains(&kept.file) {
            &mut goes
        } else {
            &mut stays
        };
        of.extend(&kept.parts);
    }
    for image in inventory.images.iter().filter(|image| images.contains(&image.digest)) {
        image.names.iter().try_for_each(|name| names.forget(name))?;
        unnamed::forget(disk, &image.digest)?;
    }
    let mut aside = Aside { disk, scratch, next: 0 };
    for digest in &images {
        aside.take(&Path::new("snapshots").join(format!("{}.json", digest.hex())))?;
        aside.take(&origins::name(digest))?;
        aside.take(&Path::new(start_files::FOLDER).join(digest.hex()))?;
    }
    // What nobody keeps may have lost a layer by this, and nobody shall find it.
    if !images.is_empty() {
        let keeps: BTreeSet<String> = inventory
            .images
            .iter()
            .map(|image| image.digest.hex().to_string())
            .collect();
        for (name, _) in entries(&disk.path("snapshots")) {
            if !name.strip_suffix(".json").is_some_and(|hex| keeps.contains(hex)) {
                aside.take(&Path::new("snapshots").join(&name))?;
            }
        }
    }
    for file in &remembered {
        aside.take(file)?;
    }
    for number in goes.difference(&stays) {
        if let Some(part) = inventory.parts.get(*number) {
            aside.take(&part.what.path())?;
            if let PartName::Blob(digest) = part.what {
                aside.take(&Path::new("stamps").join(format!("blob-{}", digest.hex())))?;
            }
        }
    }
    // Held while their files go: who opened one before sees that it has no name any more, and opens another.
    for digest in &images {
        aside.take(&Path::new("leases").join(digest.hex()))?;
    }
    drop(held);
    let follows = images.is_empty() || names.write_index().is_ok();
    if follows {
        index.leave(b"");
    }
    let evicted = Evicted {
        images: images.into_iter().collect(),
        remembered: remembered.into_iter().cloned().collect(),
        bytes: 0,
    };
    Ok((evicted, follows))
}

/// Takes the leases of those images that nobody uses, nobody pinned, and nobody used since they were chosen.
fn hold(disk: &Disk, images: &[(Digest, Option<SystemTime>)]) -> Result<Vec<(Digest, Lock)>, StoreError> {
    let mut held = Vec::new();
    for (digest, used) in images {
        let path = disk.path("leases").join(digest.hex());
        let is_newer = |found: fs::Metadata| found.modified().ok() > *used;
        if pin_marks::is_pinned(disk, digest) || fs::metadata(&path).is_ok_and(is_newer) {
            continue;
        }
        let Some(lock) = try_file(&path, Rank::Lease, Mode::Alone)? else {
            continue;
        };
        // Who pins an image holds its lease meanwhile, and may have let go of it just now.
        if !pin_marks::is_pinned(disk, digest) {
            held.push((*digest, lock));
        }
    }
    Ok(held)
}

/// Where what goes is put.
struct Aside<'a> {
    disk: &'a Disk,
    scratch: &'a Scratch,
    next: u64,
}

impl Aside<'_> {
    /// Takes a file or a tree out of its place, if it is there.
    fn take(&mut self, name: &Path) -> Result<(), StoreError> {
        self.next += 1;
        let (path, away) = (self.disk.path(name), self.scratch.path().join(self.next.to_string()));
        match fault::point(fault::Step::Evicted).and_then(|()| fs::rename(&path, &away)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(io_error("remove", &path)),
        }
    }
}

#[cfg(test)]
mod tests;
