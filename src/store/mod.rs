//! The local store: a directory tree and nothing else. No database, nothing to repair.
//!
//! ```text
//! $GANTRY_ROOT/
//!   version                 "gantry store 1\n": checked at open
//!   oci-layout, index.json, blobs/sha256/<hex>    a valid OCI image layout: any OCI tool can read it
//!   refs/<host>/<repository>/_tags/<tag>          name -> manifest digest, for registry names
//!   refs/_local/<name>/<tag>                      the same for names of this store; no host starts with _
//!   layers/<hex of diff id>/{fs,meta.json,stamp.json}    unpacked once, the digest of each file, who may trust it
//!   snapshots/<hex of manifest digest>.json       what a run needs, prepared
//!   downloads/<hex>         finished downloads (wheels, packages)
//!   partial/<hex>           a download under way, locked and resumed
//!   layers/<hex>/from-<hex of a blob>    the blob is known to inflate to the layer
//!   stamps/{blob,download}-<hex>    which boot wrote a layer's blob or a download
//!   memo/<folder>/<hex>.json    key -> result of a step, and what it needs
//!   leases/<hex>            one per image: shared lock = in use, mtime = last use
//!   locks/<name>            single flight between processes
//!   scaffold/               directories that are the sandbox's mount points; it lies on top of every image
//!   tools/<program>-<version>/<program>, tools/<program>-cache/    programs that gantry fetched, and what they cache
//!   journal/<day>.jsonl     what happened, a line per event; the day is counted from 1970
//!   tmp/<random>/           scratch of one process, locked by it
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
//! before another boot uses them ([`content::whole`], [`trees::durable`]); a snapshot carries the id of the boot in which its layers were last
//! looked at, so a run looks once per boot. Manifests and configurations are verified whenever they are read. Memos,
//! snapshots and `index.json` that cannot be read count as absent. A name that cannot be read is an error that says so:
//! naming the image again, or removing the name, is the repair.
//!
//! **Locks.** A thread waits for a lock only while all that it holds come before it in this order: `locks/collector` (shared by
//! all that make or look up, alone for the collector, which only tries); `leases/`; of `locks/` what resolves or builds
//! (`workshop-`, `sdist-`, `resolution-`, `relock-`, `layer-`, `tool-`); `partial/`; of `locks/` what only reads or unpacks
//! (`unpack-`, `blob-`, `download-`) or writes names (`index`). `tmp/` locks are only ever tried. The ranks stand in [`disk::locks`], debug builds check
//! them. Waiting ends with its reason: [`StoreError::Stalled`] names a holder that makes no progress.

mod content;
pub(crate) mod disk;
mod error;
pub(crate) mod images;
mod key;
mod make;
mod trees;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use content::blobs::BlobWriter;
pub use content::downloads::{Download, Partial};
pub use content::memo::{Memo, Memos, Roots};
pub use content::names::check_name;
pub(crate) use disk::copy::{copy, CopyError};
pub use disk::locks::{CollectorLock, ExclusiveLock, Flight, Lease, Patience, Task};
pub use disk::scratch::{abandon, Beside, Scratch};
pub use disk::stamp::Stamp;
pub use error::StoreError;
pub use images::gc::{GarbageReport, Keep, Rules};
pub use images::image::Image;
pub use images::snapshot::Snapshot;
pub use key::{Key, KeyMaker, Step};
pub use make::{ensure_layer, find_layer, BuiltLayer, LayerNote, LayerWanted};
pub use trees::stack::{Found, LastLink, LayerStack};
pub use trees::staging::LayerStaging;

pub(crate) use error::{check_descriptor, io_error};

use disk::fault;
use disk::locks;

use crate::oci::LAYOUT_VERSION;

const VERSION: &str = "gantry store 1\n";

/// A store; cheap to open and to clone, safe to use from several threads and processes at once.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// What is written now is stamped with.
    boot: Stamp,
    /// How it waits for other processes.
    waits: locks::Waits,
}

impl Store {
    /// Opens the store at `root`, making it when it is not there. Reads one small file otherwise.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self {
            root: root.to_owned(),
            boot: Stamp::of_this_boot(),
            waits: locks::Waits::default(),
        };
        let version = root.join("version");
        match fs::read_to_string(&version) {
            Ok(text) if text == VERSION => Ok(store),
            Ok(got) => Err(StoreError::Version {
                path: root.to_owned(),
                got: got.chars().take(100).collect(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                store.create()?;
                Ok(store)
            }
            Err(source) => Err(io_error("read", &version)(source)),
        }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a program that gantry fetched, or of what such a program caches.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.root.join("tools").join(name)
    }

    /// Idempotent: two processes may do it at once, and one may have been killed half-way.
    fn create(&self) -> Result<(), StoreError> {
        for directory in [
            "blobs/sha256",
            "refs/_local",
            "layers",
            "snapshots",
            "downloads",
            "partial",
            "leases",
            "locks",
            "stamps",
            "tmp",
            crate::journal::FOLDER,
            "memo",
        ] {
            let path = self.root.join(directory);
            fs::create_dir_all(&path).map_err(io_error("make directory", &path))?;
        }
        self.write_atomically(Path::new("oci-layout"), LAYOUT_VERSION.as_bytes())?;
        if !self.root.join("index.json").exists() {
            self.write_index()?;
        }
        // Last: its presence says that all of the above is there.
        self.write_atomically(Path::new("version"), VERSION.as_bytes())
    }

    /// Writes a small file below the root: all of it or nothing.
    fn write_atomically(&self, name: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let target = self.root.join(name);
        let scratch = self.scratch()?;
        let temporary = scratch.path().join("file");
        fs::write(&temporary, bytes).map_err(io_error("write", &target))?;
        fault::point(fault::Step::File).map_err(io_error("write", &target))?;
        fs::rename(&temporary, &target).map_err(io_error("write", &target))
    }
}

#[cfg(test)]
pub(crate) mod tests;
