//! Takes images, and what is kept for later builds, out of the store while others use it.
//!
//! **Who is safe.** An image whose lease somebody holds is left alone, and so is all that it needs; what builds remember is left
//! alone while one is at work, and so is what nothing leads to, as it may be what a build has just made; what a process is
//! bringing is noted ([`coming`]). Who needs what is looked at again under the lock, so a plan may be
//! old: only documents that never change are not read again. What is there and cannot be read may need anything, and ends the
//! eviction before something goes.
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

use super::inventory::{Inventory, StoredImage};
use super::names::Names;
use super::needs::PartName;
use super::room_taken::entries;
use super::{origins, pin_marks, start_files, unnamed};
use crate::oci::Digest;
use crate::store::disk::locks::{try_idle, Locks, Rank, Task};
use crate::store::disk::scratch::Scratch;
use crate::store::disk::{coming, Disk};
use crate::store::{io_error, StoreError};
use crate::sys::fault;
use crate::sys::lock::{Lock, Mode};
use crate::sys::tree::{disk_bytes, freed_bytes_of};

/// What is to go.
#[derive(Debug, Clone, Default)]
pub struct Doomed {
    /// Images, whether or not somebody keeps them, and when each was used last as far as was known: one that was used since
    /// stays.
    pub images: Vec<(Digest, Option<SystemTime>)>,
    /// Files of what is kept for later builds, below the root.
    pub remembered: Vec<PathBuf>,
    /// Files and layers that nothing needs, below the root.
    pub loose: Vec<PathBuf>,
}

/// What went.
#[derive(Debug, Clone, Default)]
pub struct Evicted {
    /// Images.
    pub images: Vec<Digest>,
    /// What was kept for later builds.
    pub remembered: Vec<PathBuf>,
    /// What nothing needed.
    pub loose: Vec<PathBuf>,
    /// Bytes that the disk has back.
    pub bytes: u64,
}

/// Takes `doomed`, chosen from `inventory`, out of the store, but for what is in use by now.
pub(in crate::store) fn evict(disk: &Disk, inventory: &Inventory, doomed: &Doomed) -> Result<Evicted, StoreError> {
    let scratch = Scratch::new(disk)?;
    let (mut evicted, follows) = set_aside(disk, inventory, doomed, &scratch)?;
    let gone = entries(scratch.path())?;
    evicted.bytes = freed_bytes_of(gone.iter().map(|(_, path)| path.as_path()), &disk_bytes);
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
fn set_aside(
    disk: &Disk,
    before: &Inventory,
    doomed: &Doomed,
    scratch: &Scratch,
) -> Result<(Evicted, bool), StoreError> {
    let locks = Locks::of(disk);
    let task = Task::silent("evicts images");
    let (_alone, _) = locks.wait_for(Rank::Eviction, Mode::Alone, &disk.path("locks/eviction"), task)?;
    let names = Names::of(disk);
    let index = match names.begin_change() {
        // The note that names change has no room; what goes makes some.
        Err(error) if error.is_full() => locks.index()?,
        other => other?,
    };
    let builders = try_idle(&disk.path("locks/builds"), Rank::Builds)?;
    let held = hold(disk, &doomed.images)?;
    let remembered: BTreeSet<&PathBuf> = match builders {
        Some(_) => doomed.remembered.iter().collect(),
        None => BTreeSet::new(),
    };
    let inventory = before.again(disk)?;
    let every = || inventory.images.iter().chain(&inventory.nameless);
    // Of one that another process took meanwhile nothing is left: it does not go twice.
    let has = |name: String| disk.path(name).exists();
    let is_there = |image: &&StoredImage| {
        let hex = image.digest.hex();
        !image.names.is_empty() || has(format!("blobs/sha256/{hex}")) || has(format!("snapshots/{hex}.json"))
    };
    let there: BTreeSet<Digest> = every().filter(is_there).map(|image| image.digest).collect();
    let images: BTreeSet<Digest> = held
        .iter()
        .map(|(digest, _)| *digest)
        .filter(|digest| there.contains(digest))
        .collect();
    for image in every().filter(|image| images.contains(&image.digest)) {
        image.names.iter().try_for_each(|name| names.forget(name))?;
        unnamed::forget(disk, &image.digest)?;
    }
    let mut aside = Aside { disk, scratch, next: 0 };
    for digest in &images {
        aside.take(&Path::new("snapshots").join(format!("{}.json", digest.hex())))?;
        aside.take(&origins::name(digest))?;
        aside.take(&Path::new(start_files::FOLDER).join(digest.hex()))?;
    }
    for file in &remembered {
        aside.take(file)?;
    }
    let loose = match builders {
        Some(_) => loose(disk, &inventory, &doomed.loose, &mut aside)?,
        None => Vec::new(),
    };
    let going = inventory.needed_by_these_alone(&images, &remembered);
    let mut going: Vec<&PartName> = going.map(|part| &part.what).collect();
    // Trees of several layers first: who ends in between leaves none whose layers are gone.
    going.sort_by_key(|what| !matches!(what, PartName::Merged(_)));
    for what in going {
        aside.take(&what.path())?;
        aside.take_stamp(&what.path())?;
    }
    // Held while their files go: who opened one before sees that it has no name any more, and opens another.
    for (digest, _) in &held {
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
        loose,
        bytes: 0,
    };
    Ok((evicted, follows))
}

/// Takes what of `doomed` nothing needs by now either; returns it.
fn loose(
    disk: &Disk,
    inventory: &Inventory,
    doomed: &[PathBuf],
    aside: &mut Aside<'_>,
) -> Result<Vec<PathBuf>, StoreError> {
    let still: BTreeSet<&PathBuf> = inventory.loose.iter().map(|one| &one.file).collect();
    let mut went = Vec::new();
    for file in doomed.iter().filter(|file| still.contains(file)) {
        // Held while it goes: who goes on with it finds that it has no name any more, and begins anew.
        let _held = match file.starts_with("partial") {
            true => match try_idle(&disk.path(file), Rank::Download)? {
                Some(held) => Some(held),
                None => continue,
            },
            false => None,
        };
        aside.take(file)?;
        aside.take_stamp(file)?;
        went.push(file.clone());
    }
    Ok(went)
}

/// Takes the leases of those images that nobody uses or brings, nobody pinned, and nobody used since they were chosen.
fn hold(disk: &Disk, images: &[(Digest, Option<SystemTime>)]) -> Result<Vec<(Digest, Lock)>, StoreError> {
    let mut held = Vec::new();
    // Who brings an image that was here before has no lease of it yet, and may have looked what is missing.
    let coming = coming::list(disk)?;
    for (digest, used) in images.iter().filter(|(digest, _)| !coming.contains(&digest.hex())) {
        let path = disk.path("leases").join(digest.hex());
        let is_newer = |found: fs::Metadata| found.modified().ok() > *used;
        if pin_marks::is_pinned(disk, digest)? || fs::metadata(&path).is_ok_and(is_newer) {
            continue;
        }
        let Some(lock) = try_idle(&path, Rank::Lease)? else {
            continue;
        };
        // Who pins an image holds its lease meanwhile, and may have let go of it just now.
        if !pin_marks::is_pinned(disk, digest)? {
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
    /// Takes the stamp of a blob that went.
    fn take_stamp(&mut self, name: &Path) -> Result<(), StoreError> {
        match (
            name.strip_prefix("blobs/sha256"),
            name.file_name().and_then(|name| name.to_str()),
        ) {
            (Ok(_), Some(hex)) => self.take(&Path::new("stamps").join(format!("blob-{hex}"))),
            _ => Ok(()),
        }
    }

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
