//! `gantry bundle`: an image of the store as an OCI runtime bundle, for another runtime than ours.
//!
//! `config.json` comes last, whole: without it no runtime takes the directory. Until then there is the file `.unfinished`, by which
//! the next `gantry bundle` knows that it may make the directory anew.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{symlink, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{futimens, Timespec, Timestamps};
use serde::Serialize;

use super::run::{bundle as bundle_of, RunRequest};
use super::run_error::RunError;
use crate::oci::Digest;
use crate::policy::{Kind, Promise};
use crate::sandbox::{canonical_json, hosts_file, specification_for_runtime, Bundle};
use crate::store::{LayerStack, Store, StoreError, Visited};
use crate::sys::replace::Replacement;
use crate::sys::tree;

/// The root in a bundle, which `config.json` names.
const ROOT: &str = "rootfs";
/// The list of layers, where they are not unpacked.
const LAYERS: &str = "layers";
/// What a runtime reads.
const CONFIG: &str = "config.json";
/// There as long as anything else is missing, and held by whoever makes it.
const UNFINISHED: &str = ".unfinished";
/// A file before it has its name.
const NEW: &str = ".new";
/// The layer on top, while the root is made.
const TOP: &str = ".top";

/// What is wanted.
#[derive(Debug)]
pub struct BundleRequest {
    /// The run that it would be: image, limits, environment, directories.
    pub run: RunRequest,
    /// Where.
    pub directory: PathBuf,
    /// The user inside: 1000 as in our own sandbox, or 0, which some runtimes want.
    pub id: u32,
    /// What its root is.
    pub root: BundleRoot,
}

/// What the root of a bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BundleRoot {
    /// An empty directory, and a list of the store's layers to mount there.
    Layers,
    /// The layers as one tree of files.
    Unpacked,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct BundleReport {
    /// Version of this document.
    pub schema: u32,
    /// The image.
    pub reference: String,
    /// Its manifest.
    pub digest: Digest,
    /// The bundle.
    pub directory: PathBuf,
    /// What its root is.
    pub root: BundleRoot,
    /// Files, directories and links that were written there.
    pub entries: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// What becomes of each promise elsewhere.
    pub promises: Vec<PromiseElsewhere>,
}

/// What becomes of a promise in another runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromiseElsewhere {
    /// Which.
    pub promise: Promise,
    /// Whether the bundle says it.
    pub state: Elsewhere,
    /// How, or what is lost.
    pub why: &'static str,
}

/// Whether a runtime keeps a promise that is given our bundle. It does so by its own word: nothing is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Elsewhere {
    /// `config.json` says it.
    Said,
    /// It depends on the runtime, or on how it is called.
    Depends,
    /// A specification has no words for it.
    Lost,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The directory has something in it.
    #[error("make a bundle in {path}: it is not empty; name a directory that is new")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is one of the store's.
    #[error("make a bundle in {path}: it is in the store {store}, which would take it for its own; name a directory elsewhere")]
    InStore {
        /// The directory.
        path: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// Another process makes it.
    #[error("make a bundle in {path}: another gantry is making one there")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The reference names nothing in the store.
    #[error("bundle {reference}: no such image in the store")]
    Unknown {
        /// As typed.
        reference: String,
    },
    /// Neither the image nor the caller names a command.
    #[error("bundle {reference}: the image has no command")]
    NoCommand {
        /// As typed.
        reference: String,
    },
    /// Whatever else keeps a run from beginning.
    #[error("{0}")]
    Run(#[source] RunError),
    /// A file of the bundle.
    #[error("{action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl From<StoreError> for BundleError {
    fn from(error: StoreError) -> Self {
        Self::Run(error.into())
    }
}

impl From<RunError> for BundleError {
    /// Nothing was to run: what names the verb is said anew.
    fn from(error: RunError) -> Self {
        match error {
            RunError::UnknownImage { reference } => Self::Unknown { reference },
            RunError::NoCommand { reference } => Self::NoCommand { reference },
            other => Self::Run(other),
        }
    }
}

impl BundleError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotEmpty { .. } | Self::InStore { .. } => Kind::Usage,
            Self::Busy { .. } => Kind::Busy,
            Self::Run(error) => error.kind(),
            Self::Unknown { .. } | Self::NoCommand { .. } | Self::File { .. } => Kind::Failed,
        }
    }
}

/// What a bundle keeps of each promise, with `id` as its user.
pub fn promises_elsewhere(id: u32) -> Vec<PromiseElsewhere> {
    use Elsewhere::{Depends, Lost, Said};
    let of = |promise: Promise| {
        let (state, why) = match promise {
            Promise::User if id == 0 => (
                Lost,
                "it is root inside, which is the caller outside: root of the user namespace",
            ),
            Promise::User => (Said, "uid and gid 1000, no other id mapped"),
            Promise::Capabilities => (Said, "all five sets are empty"),
            Promise::NoNewPrivs => (Said, "noNewPrivileges"),
            Promise::Seccomp => (
                Said,
                "the same filter, but calls that are younger than it get EPERM in place of ENOSYS",
            ),
            Promise::Landlock => (Lost, "the second wall around files, TCP and signals"),
            Promise::ReadOnlyRoot => (Said, "root.readonly"),
            Promise::Tmp => (Said, "tmpfs with size and inodes"),
            Promise::Output => (
                Depends,
                "limited where it is memory, and gone with the container; a directory of --output has no limit",
            ),
            Promise::Network => (
                Said,
                "a namespace of its own, whose loopback is up; the filter has no sockets for it without --loopback",
            ),
            Promise::Memory => (Depends, "linux.resources, where the runtime has a cgroup"),
            Promise::Cpu => (Depends, "linux.resources, where the runtime has a cgroup"),
            Promise::Processes => (Depends, "linux.resources, where the runtime has a cgroup"),
            Promise::Time => (Lost, "nobody ends it"),
            Promise::OutputSize => (Lost, "what it prints is not counted"),
            Promise::Leaks => (
                Depends,
                "descriptors and variables that the runtime adds; the function is pid 1 itself",
            ),
            Promise::Death => (Lost, "it outlives whoever started it"),
        };
        PromiseElsewhere { promise, state, why }
    };
    Promise::ALL.into_iter().map(of).collect()
}

/// Makes the bundle that is wanted.
///
/// # Errors
///
/// [`BundleError`]; the directory is then as it was, or marked as unfinished, and a further try makes it.
pub fn make_bundle(store: &Store, request: &BundleRequest) -> Result<BundleReport, BundleError> {
    let reference = request.run.reference.to_string();
    let unknown = || BundleError::Unknown {
        reference: reference.clone(),
    };
    let digest = store.names().find(&request.run.reference)?.ok_or_else(unknown)?;
    refuse_store(store.root(), &request.directory)?;
    let _lease = store.locks().lease(&digest)?;
    let snapshot = match store.images().snapshot(&digest)? {
        Some(snapshot) => snapshot,
        None => store.images().restore(&digest)?,
    };
    // It may be of use for longer than the tree of several layers, which is made anew after each start of the machine.
    let snapshot = snapshot.layer_by_layer();
    let bundle = bundle_of(store, &snapshot, &request.run, Vec::new())?;
    let place = Place::claim(&request.directory)?;
    let output = request.run.output.as_deref().map(own_directory).transpose()?;
    let bundle = Bundle { output, ..bundle };
    let written = match request.root {
        BundleRoot::Layers => place.list(&bundle)?,
        BundleRoot::Unpacked => place.unpack(&bundle)?,
    };
    place.finish(&bundle, request.id)?;
    Ok(BundleReport {
        schema: 1,
        reference,
        digest,
        directory: request.directory.clone(),
        root: request.root,
        entries: written.entries,
        bytes: written.bytes,
        promises: promises_elsewhere(request.id),
    })
}

/// Refuses a directory inside the store: its collector removes what it does not know, and its readers take what they find.
fn refuse_store(store: &Path, directory: &Path) -> Result<(), BundleError> {
    let absolute = std::path::absolute(directory).map_err(file("find", directory))?;
    // What is not there yet is where the directory that is there leads.
    let there = absolute.ancestors().find_map(|above| above.canonicalize().ok());
    let store = store.canonicalize().map_err(file("find", store))?;
    match there.is_some_and(|there| there.starts_with(&store)) {
        true => Err(BundleError::InStore {
            path: directory.to_owned(),
            store,
        }),
        false => Ok(()),
    }
}

/// The directory of the caller for `/output`, absolute.
fn own_directory(path: &Path) -> Result<PathBuf, BundleError> {
    fs::create_dir_all(path).map_err(file("make", path))?;
    path.canonicalize().map_err(file("find", path))
}

/// The directory of a bundle that is being made. Dropped before it is finished, nothing of it stays.
struct Place {
    directory: PathBuf,
    /// One process at a time has it.
    mark: Option<Replacement>,
    is_ours: bool,
}

impl Place {
    /// Takes `directory`: a new one, an empty one, or one that an earlier try has left.
    fn claim(directory: &Path) -> Result<Self, BundleError> {
        let is_ours = match fs::create_dir(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(file("make", directory)(error)),
        };
        let unfinished = directory.join(UNFINISHED);
        let number = || unfinished.symlink_metadata().ok().map(|found| found.ino());
        let left = number();
        let not_empty = || BundleError::NotEmpty {
            path: directory.to_owned(),
        };
        let holds =
            || -> Result<usize, BundleError> { Ok(fs::read_dir(directory).map_err(file("read", directory))?.count()) };
        if left.is_none() && holds()? > 0 {
            return Err(not_empty());
        }
        let mark = match Replacement::create_alone(unfinished.clone(), Duration::ZERO) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(BundleError::Busy {
                    path: directory.to_owned(),
                })
            }
            other => other.map_err(file("write", &unfinished))?,
        };
        // Somebody may have finished one between two looks.
        let is_left = left.is_some() && left == number();
        if !is_left && holds()? > 1 {
            return Err(not_empty());
        }
        let place = Self {
            directory: directory.to_owned(),
            mark: Some(mark),
            is_ours,
        };
        place
            .clear()
            .map_err(file("remove what an earlier try left in", directory))?;
        let root = place.at(ROOT);
        fs::create_dir(&root).map_err(file("make", &root))?;
        Ok(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Removes what a try makes, and nothing else.
    fn clear(&self) -> io::Result<()> {
        let directory = File::open(&self.directory)?;
        for name in [CONFIG, LAYERS, NEW, TOP, ROOT] {
            match self.at(name).symlink_metadata() {
                Ok(found) if found.is_dir() => tree::remove(&directory, name)?,
                Ok(_) => fs::remove_file(self.at(name))?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Writes down where the layers are.
    fn list(&self, bundle: &Bundle) -> Result<Written, BundleError> {
        let layers = bundle.lowers_once();
        let lines: Vec<String> = layers.iter().map(|layer| format!("{}\n", layer.display())).collect();
        self.replace(LAYERS, lines.concat().as_bytes())?;
        Ok(Written::default())
    }

    /// Copies the layers into the root, as one tree.
    fn unpack(&self, bundle: &Bundle) -> Result<Written, BundleError> {
        let root = self.at(ROOT);
        let failed = || file("unpack the image to", &root);
        // As in a run a layer on top, which hides whatever the image has in its place, links that lead out as well.
        let top = self.at(TOP);
        let etc = top.join("etc");
        let text = hosts_file(&bundle.hostname, bundle.confinement.network.mode(), &[]);
        let hosts = fs::create_dir_all(&etc).and_then(|()| fs::write(etc.join("hosts"), text));
        hosts.map_err(file("write", &etc))?;
        let layers = std::iter::once(top.clone()).chain(bundle.lowers_once());
        let mut copy = Copy {
            root: root.clone(),
            directories: Vec::new(),
            links: BTreeMap::new(),
            written: Written::default(),
        };
        let stack = LayerStack::open(layers).map_err(failed())?;
        stack
            .walk(&mut |path, found| copy.take(path, found))
            .map_err(failed())?;
        copy.close().map_err(failed())?;
        fs::remove_dir_all(&top).map_err(file("remove", &top))?;
        Ok(copy.written)
    }

    /// Writes `config.json`; from then on it is a bundle.
    fn finish(mut self, bundle: &Bundle, id: u32) -> Result<(), BundleError> {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let config = self.at(CONFIG);
        let spec = specification_for_runtime(bundle, Path::new(ROOT), id, owner);
        let spec = spec.map_err(|error| file("describe", &config)(io::Error::other(error)))?;
        let json = canonical_json(&spec).map_err(|error| file("describe", &config)(error.into()))?;
        self.replace(CONFIG, &json)?;
        // Dropped, it is removed.
        self.mark = None;
        Ok(())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        let path = self.at(name);
        let write = || {
            let mut new = Replacement::create(self.at(NEW))?;
            io::Write::write_all(new.file(), bytes)?;
            new.file().sync_all()?;
            new.place(&path)
        };
        write().map_err(file("write", &path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mark) = self.mark.take() else { return };
        // What cannot be removed stays marked, and the next try removes it.
        if self.clear().is_ok() {
            drop(mark);
            if self.is_ours {
                let _ = fs::remove_dir(&self.directory);
            }
        } else {
            std::mem::forget(mark);
        }
    }
}

/// A tree of files that is being copied.
struct Copy {
    root: PathBuf,
    /// Directories, whose permissions come last: some cannot be written.
    directories: Vec<(PathBuf, Permissions)>,
    /// Files with several names, by device and number: one stays one.
    links: BTreeMap<(u64, u64), PathBuf>,
    written: Written,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    entries: u64,
    bytes: u64,
}

impl Copy {
    fn take(&mut self, path: &str, found: Visited<'_>) -> io::Result<()> {
        let target = self.root.join(path);
        match found {
            Visited::Directory(directory) => {
                fs::create_dir(&target)?;
                self.directories.push((target, directory.metadata()?.permissions()));
            }
            Visited::File(source) => {
                let from = source.metadata()?;
                let number = (from.dev(), from.ino());
                if let Some(first) = self.links.get(&number) {
                    fs::hard_link(first, &target)?;
                    self.written.entries += 1;
                    return Ok(());
                }
                if from.nlink() > 1 {
                    self.links.insert(number, target.clone());
                }
                let mut options = fs::OpenOptions::new();
                let mut copy = options.write(true).create_new(true).mode(0o600).open(&target)?;
                self.written.bytes += io::copy(source, &mut copy)?;
                copy.set_permissions(Permissions::from_mode(from.permissions().mode() & 0o777))?;
                let modified = time_of(&from);
                let times = Timestamps {
                    last_access: modified,
                    last_modification: modified,
                };
                // Bytecode is valid for a source of that time.
                futimens(&copy, &times)?;
            }
            Visited::Link(target_of) => symlink(target_of, &target)?,
            Visited::Other => {
                let reason = format!("{path} is no file, no directory and no link that is text");
                return Err(io::Error::other(reason));
            }
        }
        self.written.entries += 1;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        for (path, permissions) in self.directories.drain(..).rev() {
            // With the sticky bit: /var/tmp is everybody's.
            fs::set_permissions(path, Permissions::from_mode(permissions.mode() & 0o1777))?;
        }
        Ok(())
    }
}

fn time_of(metadata: &fs::Metadata) -> Timespec {
    Timespec {
        tv_sec: metadata.mtime(),
        tv_nsec: metadata.mtime_nsec(),
    }
}

fn file<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BundleError + 'a {
    move |source| BundleError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_each_promise_is_documented() {
        let document = include_str!("../../docs/bundles.md");
        for PromiseElsewhere { promise, state, why } in promises_elsewhere(1000) {
            let state = serde_json::to_value(state).unwrap();
            let row = format!("| `{}` | {} | {why} |", promise.name(), state.as_str().unwrap());
            assert!(document.contains(&row), "{row}");
        }
        assert_eq!(promises_elsewhere(0)[0].state, Elsewhere::Lost);
    }

    #[test]
    fn a_directory_with_anything_in_it_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("mine"), "x").unwrap();
        let error = Place::claim(scratch.path()).err().unwrap();
        assert!(matches!(error, BundleError::NotEmpty { .. }), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_an_earlier_try_left_is_made_anew() {
        let scratch = tempfile::tempdir().unwrap();
        let locked = scratch.path().join(ROOT).join("locked");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("file"), "x").unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o500)).unwrap();
        fs::write(scratch.path().join(UNFINISHED), "").unwrap();
        let place = Place::claim(scratch.path()).unwrap();
        assert_eq!(fs::read_dir(place.at(ROOT)).unwrap().count(), 0);
        let error = Place::claim(scratch.path()).err().unwrap();
        assert!(matches!(error, BundleError::Busy { .. }), "{error}");
        drop(place);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
