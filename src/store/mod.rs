//! The local store: a directory tree and nothing else. No database, nothing to repair.
//!
//! ```text
//! $GANTRY_ROOT/
//!   version                 "gantry store 1\n": checked at open
//!   oci-layout, index.json, blobs/sha256/<hex>    a valid OCI image layout: any OCI tool can read it
//!   refs/<host>/<repository>/_tags/<tag>          name -> manifest digest, for registry names
//!   refs/_local/<name>/<tag>                      the same for names of this store; no host starts with _
//!   unnamed/<hex of manifest digest>              an image without a name, kept for a day from the file's time
//!   layers/<hex of diff id>/{fs,meta.json,stamp.json}    unpacked once, the digest of each file, who may trust it
//!   merged/<hex of chain id>/{fs,stamp.json}      several layers as one tree, whose files are theirs (`trees/merged.rs`)
//!   snapshots/<hex of manifest digest>.json       what a run needs, prepared
//!   profiles/<hex of manifest digest>     the files that runs of the image read at first (`images/start_files.rs`)
//!   downloads/<hex>         finished downloads (wheels, packages)
//!   partial/<hex>           a download under way, locked and resumed
//!   layers/<hex>/from-<hex of a blob>    the blob is known to inflate to the layer
//!   layers/<hex>/size       bytes of its tree on the disk, once somebody has counted them
//!   stamps/{blob,download}-<hex>    which boot wrote a layer's blob or a download
//!   memo/<folder>/<hex>.json    key -> result of a step, and what it needs
//!   leases/<hex>            one per image: shared lock = in use, mtime = last use, a byte for each of the first sixteen uses
//!   pins/<hex of manifest digest>    an image that stays
//!   origins/<hex of manifest digest> the registries that have it: `HOST/REPOSITORY`, a line each
//!   locks/<name>            single flight between processes
//!   registries/<host>.json  how registries did lately, for all processes (`transfer/circuit.rs`)
//!   registries/_*           which one is preferred, connections and pulls that processes share, what was pushed where (`transfer/{preferred,connections,pull_budget,pushed}.rs`)
//!   scaffold/               directories that are the sandbox's mount points; it lies on top of every image
//!   tools/<program>-<version>/<program>, tools/<program>-cache/    programs that gantry fetched, and what they cache
//!   journal/<year>-<month>-<day>.jsonl    what happened, a line per event; earlier versions counted days from 1970
//!   tmp/<random>/           scratch of one process, locked by it; in it `coming` and `reserved`, what it brings and how much
//! ```
//!
//! **Commit.** Everything is written under `tmp/` and renamed into place when it is complete: a name under any other
//! directory is never half there. Two processes may make the same thing; the second rename finds the first's, which
//! has the same contents, and drops its own.
//!
//! **Crash.** After SIGKILL there is garbage in `tmp/` whose lock is free, and `partial/` files that are resumed.
//! [`Store::sweep`] removes the former; process numbers and ages are never consulted.
//!
//! **Durability.** Nothing is synced on the way. What a power loss takes or damages is noticed and made again: trees, blobs
//! of layers and downloads carry the id of the boot that wrote them, and are read and compared with their digests once
//! before another boot uses them ([`content::whole`], [`trees::folder`]); a snapshot carries the id of the boot in which its
//! layers were last looked at, so a run looks once per boot. Manifests and configurations are verified whenever they are read. Memos,
//! snapshots and `index.json` that cannot be read count as absent. A name that cannot be read is an error that says so:
//! naming the image again, or removing the name, is the repair.
//!
//! **Folders.** [`disk`] has what files are written with, [`content`] what is called by what it contains, [`trees`] unpacked
//! layers, [`images`] whole images and their names, [`integrity`] looks whether all of it is right. Each uses only those before it.
//!
//! **Locks.** A thread waits for a lock only while all that it holds come before it in this order: `locks/collector` (shared by
//! all that make or look up, alone for the collector, which only tries); `locks/builds` (shared by builds, alone for evictions, which only try); `leases/`; of `locks/` what resolves or builds
//! (`workshop-`, `sdist-`, `resolution-`, `relock-`, `layer-`, `tool-`), then what pulls (`tag-`, `image-`); `partial/`; of `locks/` what only reads or unpacks
//! (`unpack-`, `merge-`, `blob-`, `download-`); what evicts (`making-room`, `eviction`); what writes names (`index`). `tmp/` locks are only ever tried. The ranks stand in [`disk::locks`], debug builds check
//! them. Waiting ends with its reason: [`StoreError::Stalled`] names a holder that makes no progress.

mod content;
pub(crate) mod disk;
mod error;
mod images;
mod integrity;
mod key;
mod make;
mod new_store;
mod place;
mod reservation;
mod trees;
mod usage;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use content::blobs::{BlobWriter, Blobs};
pub use content::downloads::{Download, Downloads, Partial};
pub use content::memo::{Memo, Memos, Roots};
pub(crate) use disk::copy::{copy, CopyError};
pub use disk::locks::{CollectorLock, ExclusiveLock, Flight, Lease, Locks, Patience, Task};
pub use disk::scratch::{abandon, Beside, Scratch};
pub use error::StoreError;
pub use images::arriving_image::{ArrivingImage, UnpackedLayer};
pub use images::documents::Image;
pub use images::evict::{Doomed, Evicted};
pub use images::gc::{GarbageReport, Keep, Rules};
pub use images::inventory::{ComingTaken, Inventory, Remembered, StoredImage, StoredPart, Tally};
pub use images::names::{check_name, Names};
pub use images::needs::PartName;
pub use images::room_taken::Count;
pub use images::snapshot::Snapshot;
pub use images::start_files::StartFiles;
pub use images::Images;
pub use integrity::{Finding, Inspection, Integrity, Looked, Part, State};
pub use key::{Key, KeyMaker, Step};
pub use make::{ensure_layer, find_layer, BuiltLayer, LayerNote, LayerWanted};
pub use reservation::{Claim, Reservation, RoomCall, RoomMade, RoomMaker, RoomNeeded};
pub(crate) use trees::stack::Visited;
pub use trees::stack::{Found, LastLink, LayerStack};
pub use trees::staging::LayerStaging;
pub use trees::{merged_name, Trees};
pub use usage::Usage;

pub(crate) use error::{check_descriptor, io_error};

use disk::{scratch, Disk};
use images::{evict, gc};
use reservation::Asked;

use crate::oci::Digest;
use crate::sys::space;

/// The folder of what is known of registries. A store of an older gantry has none.
pub(crate) const REGISTRIES: &str = "registries";

/// The version of the store's shape that this gantry makes and reads.
pub const FORMAT: u32 = 1;
const VERSION: &str = "gantry store 1\n";
/// Far more than any version says.
const MOST_OF_A_VERSION: u64 = 4096;
/// How often room is made for the same bytes.
const ROOM_TRIES: usize = 4;

/// A store; cheap to open and to clone, safe to use from several threads and processes at once.
#[derive(Debug, Clone)]
pub struct Store {
    disk: Disk,
    /// None where nobody knows what may go.
    maker: Option<RoomMaker>,
    /// Whether nobody waits for what comes.
    is_warmed: bool,
}

impl Store {
    /// Opens the store at `root`, making it when it is not there. Reads one small file otherwise.
    ///
    /// # Errors
    /// [`StoreError::Version`] when another version of gantry made it, [`StoreError::NotAStore`] for a directory with files of
    /// somebody else, [`StoreError::Place`] where no store can be: another user's, or a file system that lacks something.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self {
            disk: Disk::new(root),
            maker: None,
            is_warmed: false,
        };
        let version = root.join("version");
        let found = match read_version(&version) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                new_store::create(&store.disk)?;
                read_version(&version)
            }
            found => found,
        };
        match found {
            Ok((text, found)) if text == VERSION => place::check(root, &found).map(|()| store),
            Ok((got, _)) => Err(StoreError::Version {
                path: root.to_owned(),
                got: got.chars().take(100).collect(),
            }),
            Err(source) => Err(io_error("read", &version)(source)),
        }
    }

    /// This store, which tells for whom it waits when a wait is long and belongs to no step that is shown: `process 4711,
    /// which unpacks layer ... (for 30 s so far)`.
    pub fn telling(self, tell: fn(&str)) -> Self {
        let waits = self.disk.waits();
        let disk = self.disk.waiting(disk::locks::Waits { tell, ..waits });
        Self { disk, ..self }
    }

    /// This store, which gives up a holder of a lock that has given no sign of life for `patience`.
    pub fn giving_up_after(self, patience: Duration) -> Self {
        let waits = self.disk.waits();
        let disk = self.disk.waiting(disk::locks::Waits {
            stalled_after: patience,
            ..waits
        });
        Self { disk, ..self }
    }

    /// This store, in which `maker` makes room.
    pub fn making_room_by(self, maker: RoomMaker) -> Self {
        let maker = Some(maker);
        Self { maker, ..self }
    }

    /// This store, in which nothing goes to make room.
    pub fn making_no_room(&self) -> Self {
        Self {
            maker: None,
            ..self.clone()
        }
    }

    /// This store, as one that gets what nobody waits for: nothing that no registry has goes for it.
    pub fn warmed(&self) -> Self {
        Self {
            is_warmed: true,
            ..self.clone()
        }
    }

    /// Whether nobody waits for what comes.
    pub fn is_warmed(&self) -> bool {
        self.is_warmed
    }

    /// This store, which does by itself after `patience` what a holder of a lock does for all.
    #[cfg(test)]
    pub fn going_on_after(&self, patience: Duration) -> Self {
        let disk = self.disk.clone().waiting(disk::locks::Waits {
            beside_after: patience,
            ..self.disk.waits()
        });
        Self {
            disk,
            maker: None,
            is_warmed: false,
        }
    }

    /// This store after the machine was started again, as `boot`.
    #[cfg(test)]
    pub fn after_boot(&self, boot: &str) -> Self {
        let disk = self.disk.after_boot(boot);
        Self {
            disk,
            maker: None,
            is_warmed: false,
        }
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        self.disk.root()
    }

    /// The folder of a program that gantry fetched, or of what such a program caches.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.disk.path("tools").join(name)
    }

    /// Content by its digest: layers as they are shipped, configurations, manifests.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs::of(&self.disk)
    }

    /// Files from elsewhere, such as wheels and packages.
    pub fn downloads(&self) -> Downloads<'_> {
        Downloads::of(&self.disk)
    }

    /// Results of steps that need not be done again.
    pub fn memos(&self) -> Memos<'_> {
        Memos::of(&self.disk)
    }

    /// Unpacked layers.
    pub fn trees(&self) -> Trees<'_> {
        Trees::of(&self.disk)
    }

    /// Images by their digests.
    pub fn images(&self) -> Images<'_> {
        Images::of(&self.disk)
    }

    /// Names of images.
    pub fn names(&self) -> Names<'_> {
        Names::of(&self.disk)
    }

    /// Locks between processes, and leases of images.
    pub fn locks(&self) -> Locks<'_> {
        Locks::of(&self.disk)
    }

    /// Refuses to go on in a process that is about to end, as [`abandon`] was called: of several things that are done one after
    /// the other, none is begun from then on, and what fails says nothing of what it is about.
    ///
    /// # Errors
    /// [`StoreError::Io`] in such a process.
    pub fn check_not_ending(&self) -> Result<(), StoreError> {
        scratch::check_not_ending(&self.disk)
    }

    /// Makes a new empty directory that goes away with the returned value, or with this process.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Scratch::new(&self.disk)
    }

    /// Chooses a name beside `target`, which is outside the store, for what will take its place.
    pub fn beside(&self, target: &Path) -> Result<Beside, StoreError> {
        Beside::new(&self.disk, target)
    }

    /// Removes what dead processes left in `tmp/`; returns how many things that were. One `readdir` when there is nothing.
    pub fn sweep(&self) -> Result<u64, StoreError> {
        disk::scratch::sweep(&self.disk)
    }

    /// Whether all of it is what it says.
    pub fn integrity(&self) -> Integrity<'_> {
        Integrity::of(&self.disk)
    }

    /// How much room each kind of thing takes on the disk.
    pub fn usage(&self) -> Usage {
        Usage::of(&self.disk)
    }

    /// Promises room for what is about to come until the result is dropped; what may go makes room for it, if that is enough: for
    /// all that is likely, else for what it takes at least, else for what is certain. What it came to says the result.
    /// `coming` are the hexadecimal digests of its blobs and layers: no eviction takes them for garbage meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when the disk has no room even for what is certain, with what is promised to others.
    pub fn reserve(&self, needed: RoomNeeded, coming: &BTreeSet<String>) -> Result<Reservation, StoreError> {
        let scratch = Reservation::begin(&self.disk, coming)?;
        self.promise(scratch, needed, &|wanted, lacks| RoomCall::Before(wanted, lacks))
    }

    /// Promises room for what lies in scratch for a while, as [`reserve`](Self::reserve). Nothing that nobody else has goes for it.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_passing(&self, needed: RoomNeeded) -> Result<Reservation, StoreError> {
        let scratch = Reservation::begin(&self.disk, &BTreeSet::new())?;
        self.promise(scratch, needed, &|_, lacks| RoomCall::Passing(lacks))
    }

    /// Whether what `needed` takes at least could be had if all went that may; nothing goes for the question. Where it could not,
    /// nothing is to go for it.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when the disk has not even room for what is certain as it is: it will not come.
    pub fn can_hold(&self, needed: RoomNeeded) -> Result<bool, StoreError> {
        let least = needed.at_least().likely;
        let can = self.could_hold(least)?;
        if can || reservation::lacks_for(&self.disk, needed.certain) == 0 {
            return Ok(can);
        }
        let reason = format!(
            "{} bytes are to come, and {least} with what they unpack to: the disk has no room for them when all has gone that may",
            needed.certain
        );
        let full = io::Error::new(io::ErrorKind::StorageFull, reason);
        Err(io_error("make room in", self.root())(full))
    }

    fn could_hold(&self, bytes: u64) -> Result<bool, StoreError> {
        match (reservation::lacks_for(&self.disk, bytes), &self.maker) {
            (0, _) => Ok(true),
            (_, None) => Ok(false),
            (lacks, Some(maker)) => maker.could_make(self, lacks),
        }
    }

    fn promise(
        &self,
        mut scratch: Scratch,
        needed: RoomNeeded,
        call: &dyn Fn(RoomNeeded, u64) -> RoomCall,
    ) -> Result<Reservation, StoreError> {
        let mut has_room_for = 0;
        let mut steps = vec![needed, needed.at_least(), needed.certain()];
        steps.dedup();
        for (number, wanted) in steps.into_iter().enumerate() {
            // What is certain is of no use where there can be no room for what it unpacks to.
            if number > 0 && wanted == needed.certain() && !self.could_hold(needed.at_least().likely)? {
                break;
            }
            let asked = self.ask_for_room(scratch, wanted, call)?;
            match asked {
                Asked::Promised(reservation) => return Ok(reservation),
                Asked::Lacking { room, scratch: own, .. } => (has_room_for, scratch) = (room, own),
            }
        }
        if needed.certain <= has_room_for {
            return Ok(Reservation::insist(scratch, needed.certain()));
        }
        let reason = format!(
            "{} bytes are to come, and the disk has room for {has_room_for}",
            needed.certain
        );
        let full = io::Error::new(io::ErrorKind::StorageFull, reason);
        Err(io_error("make room in", self.root())(full))
    }

    /// Asks for room until it is promised or nothing goes for it: another may take what was made before it is promised.
    fn ask_for_room(
        &self,
        scratch: Scratch,
        wanted: RoomNeeded,
        call: &dyn Fn(RoomNeeded, u64) -> RoomCall,
    ) -> Result<Asked, StoreError> {
        let mut asked = Reservation::ask(&self.disk, scratch, wanted)?;
        for _ in 0..ROOM_TRIES {
            let lacks = match &asked {
                Asked::Promised(_) => 0,
                Asked::Lacking { likely, .. } => *likely,
            };
            let before = space::free(self.root());
            let claim = match &asked {
                Asked::Promised(_) => None,
                Asked::Lacking { scratch, .. } => Some(Claim::new(&self.disk, scratch, wanted)),
            };
            let made = match &self.maker {
                Some(maker) => maker.make(self, call(wanted, lacks), claim.as_ref())?.has_come,
                None => false,
            };
            match asked {
                Asked::Lacking { scratch, .. } if made => asked = Reservation::ask(&self.disk, scratch, wanted)?,
                asked => return Ok(self.withdrawn(asked, wanted)),
            }
            // Where no room came of it, such as that of files that somebody has open, more of the same gives none either.
            let has_come = space::free(self.root()) > before;
            if matches!(asked, Asked::Promised(_)) || !has_come {
                break;
            }
        }
        Ok(self.withdrawn(asked, wanted))
    }

    /// What came of asking; what was claimed for it and did not come is promised no longer.
    fn withdrawn(&self, asked: Asked, wanted: RoomNeeded) -> Asked {
        if let Asked::Lacking { scratch, .. } = &asked {
            Claim::new(&self.disk, scratch, wanted).withdraw();
        }
        asked
    }

    /// Makes room on a disk that was full, for so many bytes; whether something went.
    ///
    /// # Errors
    /// [`StoreError`] when what may go cannot be removed.
    pub fn make_room(&self, bytes: u64) -> Result<bool, StoreError> {
        match &self.maker {
            Some(maker) => Ok(maker.make(self, RoomCall::Full(bytes), None)?.has_come),
            None => Ok(false),
        }
    }

    /// Keeps the limits of the store after the image `came`, which stays, or after none; what the user should know when they are
    /// not kept.
    ///
    /// # Errors
    /// [`StoreError`] when what may go cannot be removed; the image is there all the same.
    pub fn keep_limits(&self, came: Option<&Digest>) -> Result<Option<String>, StoreError> {
        match &self.maker {
            Some(maker) => Ok(maker.make(self, RoomCall::After(came.copied()), None)?.warning),
            None => Ok(None),
        }
    }

    /// How much the store takes, and how many images it keeps. Waits for nobody, and reads no document of an image.
    ///
    /// # Errors
    /// [`StoreError`] when a folder cannot be listed.
    pub fn tally(&self, count: Count) -> Result<Tally, StoreError> {
        Tally::take(&self.disk, count)
    }

    /// What the store holds, and what needs what. Waits for nobody.
    ///
    /// # Errors
    /// [`StoreError`] when something that is there cannot be read.
    pub fn inventory(&self, count: Count) -> Result<Inventory, StoreError> {
        self.inventory_of(self.tally(count)?)
    }

    /// [`inventory`](Self::inventory) after a [`tally`](Self::tally), which counts nothing again.
    ///
    /// # Errors
    /// As [`inventory`](Self::inventory).
    pub fn inventory_of(&self, tally: Tally) -> Result<Inventory, StoreError> {
        Inventory::take(&self.disk, tally)
    }

    /// Takes images, what is kept for later builds and what nothing needs out of the store, but for what is in use by now. The
    /// `inventory` that they were chosen from may be old. Neither builds nor runs nor pulls are waited for, and none of them
    /// waits for longer than files are renamed.
    ///
    /// # Errors
    /// [`StoreError`] when something cannot be removed; what went by then is gone. Also when something cannot be read that may
    /// need what is to go: nothing goes then.
    pub fn evict(&self, inventory: &Inventory, doomed: &Doomed) -> Result<Evicted, StoreError> {
        evict::evict(&self.disk, inventory, doomed)
    }

    /// Says what [`Store::remove_garbage`] would remove, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when others use the store for longer than `patience`.
    pub fn find_garbage(
        &self,
        rules: Rules<'_>,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<GarbageReport, StoreError> {
        gc::find(&self.disk, rules, patience, waiting)
    }

    /// Removes what nothing needs. Images in use (leased) are left alone, even when their names are gone.
    ///
    /// Builds of other processes are waited for as long as `patience` says, calling `waiting` once. Others wait for us only
    /// while garbage is told and moved out of its place, not while it is deleted.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when others use the store for longer than `patience`.
    pub fn remove_garbage(
        &self,
        rules: Rules<'_>,
        patience: Patience,
        waiting: &mut dyn FnMut(),
    ) -> Result<GarbageReport, StoreError> {
        gc::remove(&self.disk, rules, patience, waiting)
    }
}

/// What the version of a store says, as far as it can be one, and the file that says so.
fn read_version(path: &Path) -> io::Result<(String, fs::Metadata)> {
    let file = fs::File::open(path)?;
    let found = file.metadata()?;
    let mut text = String::new();
    file.take(MOST_OF_A_VERSION).read_to_string(&mut text)?;
    Ok((text, found))
}

#[cfg(test)]
pub(crate) mod tests;
