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
//! before another boot uses them ([`durability`]); a snapshot carries the id of the boot in which its layers were last
//! looked at, so a run looks once per boot. Manifests and configurations are verified whenever they are read. Memos,
//! snapshots and `index.json` that cannot be read count as absent. A name that cannot be read is an error that says so:
//! naming the image again, or removing the name, is the repair.
//!
//! **Locks.** A thread waits for a lock only while all that it holds come before it in this order: `locks/collector` (shared by
//! all that make or look up, alone for the collector, which only tries); `leases/`; of `locks/` what resolves or builds
//! (`workshop-`, `sdist-`, `resolution-`, `relock-`, `layer-`, `tool-`); `partial/`; of `locks/` what only reads or unpacks
//! (`unpack-`, `blob-`, `download-`) or writes names (`index`). `tmp/` locks are only ever tried. The ranks stand in [`locks`], debug builds check
//! them. Waiting ends with its reason: [`StoreError::Stalled`] names a holder that makes no progress.

mod blobs;
mod budget;
mod copy;
mod downloads;
mod durability;
pub(crate) mod fault;
mod gc;
pub(crate) mod images;
mod key;
mod layers;
mod listing;
mod locks;
mod make;
mod memo;
mod origins;
mod refs;
mod scratch;
mod stack;
mod whiteouts;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use blobs::BlobWriter;
pub(crate) use copy::{copy, CopyError};
pub use downloads::{Download, Partial};
pub use durability::Stamp;
pub use gc::{GarbageReport, Keep, Rules};
pub use images::{Image, Snapshot};
pub use key::{Key, KeyMaker, Step};
pub use layers::LayerStaging;
pub use locks::{CollectorLock, ExclusiveLock, Flight, Lease, Patience, Task};
pub use make::{ensure_layer, find_layer, BuiltLayer, LayerNote, LayerWanted};
pub use memo::{Memo, Memos, Roots};
pub use refs::check_name;
pub use scratch::{abandon, Beside, Scratch};
pub use stack::{Found, LastLink, LayerStack};

use crate::archive::tar_reader::TarError;
use crate::oci::{Descriptor, DiffId, Digest, ParseImageError, LAYOUT_VERSION};
use crate::policy::Kind;

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

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The disk is full.
    #[error("{action} {path}: there is no space left for the store")]
    NoSpace {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason; those who look for it find it as a source.
        source: io::Error,
    },
    /// Made by another version.
    #[error("open store {path}: it is {got:?}, this gantry reads {VERSION:?}")]
    Version {
        /// The root.
        path: PathBuf,
        /// What the version file says.
        got: String,
    },
    /// A blob that is not there.
    #[error("open blob {digest}: it is not in the store")]
    NoBlob {
        /// Which.
        digest: Digest,
    },
    /// A blob of another size.
    #[error("read blob {digest}: size is {got}, descriptor says {expected}")]
    Size {
        /// Which.
        digest: Digest,
        /// In the descriptor.
        expected: u64,
        /// On disk or in the stream.
        got: u64,
    },
    /// Bytes that are not what they are called.
    #[error("read blob {expected}: its bytes have digest {got}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What was found.
        got: Digest,
    },
    /// A layer whose uncompressed bytes are not what the configuration says.
    #[error("unpack layer {digest}: its diff id is {got}, the image config says {expected}")]
    DiffId {
        /// The layer's blob.
        digest: Digest,
        /// In the configuration.
        expected: DiffId,
        /// Of the bytes.
        got: DiffId,
    },
    /// A layer that is refused.
    #[error("unpack layer {digest}")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: TarError,
    },
    /// A layer that nothing in the store can bring back.
    #[error("restore layer {diff_id}: its files are damaged or missing, and so is its blob {digest}; build the image again, or pull or load it again")]
    LayerLost {
        /// Which.
        diff_id: DiffId,
        /// What it would be unpacked from.
        digest: Digest,
    },
    /// A document that is refused.
    #[error("read image {digest}")]
    Document {
        /// The document's blob.
        digest: Digest,
        /// Why.
        source: ParseImageError,
    },
    /// A document of our own that cannot be written or read.
    #[error("{action} {path}")]
    Json {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A reference the store keeps no name for.
    #[error("name an image {reference}: only names of this store and of registries can be kept")]
    NotAName {
        /// The reference.
        reference: String,
    },
    /// A reference that means one image, whatever its name.
    #[error("name an image {reference}: with a digest it means that very image; leave out @ and what follows")]
    PinnedName {
        /// The reference.
        reference: String,
    },
    /// Others are at work.
    #[error("collect garbage in {path}: builds or other commands are using it")]
    Busy {
        /// The root.
        path: PathBuf,
    },
    /// Another process has a lock and does not get on.
    #[error("wait for {holder}: it has made no progress for {} s", .silence.as_secs())]
    Stalled {
        /// Who it is and what it does.
        holder: String,
        /// Since when nothing is seen of it.
        silence: Duration,
    },
    /// A name whose file is empty or damaged.
    #[error("read the name {reference}: it is damaged; build or load the image again under this name, or remove it: `gantry images rm {reference}`")]
    DamagedName {
        /// The name.
        reference: String,
    },
}

impl StoreError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Layer { source, .. } => source.kind(),
            Self::Busy { .. } | Self::Stalled { .. } => Kind::Busy,
            Self::Io { .. }
            | Self::NoSpace { .. }
            | Self::Version { .. }
            | Self::NoBlob { .. }
            | Self::Size { .. }
            | Self::Digest { .. }
            | Self::DiffId { .. }
            | Self::LayerLost { .. }
            | Self::Document { .. }
            | Self::Json { .. }
            | Self::NotAName { .. }
            | Self::PinnedName { .. }
            | Self::DamagedName { .. } => Kind::Failed,
        }
    }
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

/// Turns an I/O error into ours, telling a full disk apart.
pub(crate) fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| match crate::sys::disk::is_full(&source) {
        true => StoreError::NoSpace {
            action,
            path: path.to_owned(),
            source,
        },
        false => StoreError::Io {
            action,
            path: path.to_owned(),
            source,
        },
    }
}

/// Size and digest of a descriptor against what was seen.
pub(crate) fn check_descriptor(expected: &Descriptor, digest: Digest, size: u64) -> Result<(), StoreError> {
    if size != expected.size {
        return Err(StoreError::Size {
            digest: expected.digest,
            expected: expected.size,
            got: size,
        });
    }
    if digest != expected.digest {
        return Err(StoreError::Digest {
            expected: expected.digest,
            got: digest,
        });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
