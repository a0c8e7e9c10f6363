//! `gantry bundle`: an image of the store as an OCI runtime bundle, for another runtime than ours.
//!
//! `config.json` comes last. Until everything is there, the file `.unfinished` is: no runtime takes the directory, and the next
//! `gantry bundle` makes it anew.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{symlink, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{futimens, Timespec, Timestamps};
use serde::Serialize;

use super::run::{bundle as bundle_of, RunRequest};
use super::run_error::RunError;
use crate::oci::Digest;
use crate::policy::{Kind, Network, Promise};
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
/// There as long as anything else is missing.
const UNFINISHED: &str = ".unfinished";

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
    /// Egress ends in gantry.
    #[error("make a bundle with egress: its connections lead through gantry, which another runtime does not start; leave --network egress out, or give the runtime a network")]
    Egress,
    /// Whatever keeps a run from beginning.
    #[error("{0}")]
    Run(#[from] RunError),
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

impl BundleError {
    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotEmpty { .. } => Kind::Usage,
            Self::Egress => Kind::Refused,
            Self::Run(error) => error.kind(),
            Self::File { .. } => Kind::Failed,
        }
    }
}

/// What a bundle keeps of each promise, with `id` as its user.
pub fn promises_elsewhere(id: u32) -> Vec<PromiseElsewhere> {
    use Elsewhere::{Depends, Lost, Said};
    let of = |promise: Promise| {
        let (state, why) = match promise {
            Promise::User if id == 0 => (Lost, "it is root inside, which is the caller outside: root of the user namespace"),
            Promise::User => (Said, "uid and gid 1000, no other id mapped"),
            Promise::Capabilities => (Said, "all five sets are empty"),
            Promise::NoNewPrivs => (Said, "noNewPrivileges"),
            Promise::Seccomp => (Said, "the same filter, but calls that are younger than it get EPERM in place of ENOSYS"),
            Promise::Landlock => (Lost, "the second wall around files, TCP and signals"),
            Promise::ReadOnlyRoot => (Said, "root.readonly"),
            Promise::Tmp => (Said, "tmpfs with size and inodes"),
            Promise::Output => (Depends, "limited where it is memory, and gone with the container; a directory of --output has no limit"),
            Promise::Network => (Said, "a namespace of its own, whose loopback is up; the filter has no sockets for it without --network loopback"),
            Promise::Memory => (Depends, "linux.resources, where the runtime has a cgroup"),
            Promise::Cpu => (Depends, "linux.resources, where the runtime has a cgroup"),
            Promise::Processes => (Depends, "linux.resources, where the runtime has a cgroup"),
            Promise::Time => (Lost, "nobody ends it"),
            Promise::OutputSize => (Lost, "what it prints is not counted"),
            Promise::Leaks => (Depends, "descriptors and variables that the runtime adds; the function is pid 1 itself"),
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
    if matches!(request.run.confinement.network, Network::Egress(_)) {
        return Err(BundleError::Egress);
    }
    let reference = request.run.reference.to_string();
    let unknown = || RunError::UnknownImage {
        reference: reference.clone(),
    };
    let digest = store.names().find(&request.run.reference)?.ok_or_else(unknown)?;
    let _lease = store.locks().lease(&digest)?;
    let snapshot = match store.images().snapshot(&digest)? {
        Some(snapshot) => snapshot,
        None => store.images().restore(&digest)?,
    };
    let output = request.run.output.as_deref().map(own_directory).transpose()?;
    let bundle = Bundle {
        output,
        ..bundle_of(store, &snapshot, &request.run, Vec::new())?
    };
    let place = Place::claim(&request.directory)?;
    let (entries, bytes) = match request.root {
        BundleRoot::Layers => place.list(&bundle.lowers)?,
        BundleRoot::Unpacked => place.unpack(&bundle)?,
    };
    place.finish(&bundle, request.id)?;
    Ok(BundleReport {
        schema: 1,
        reference,
        digest,
        directory: request.directory.clone(),
        root: request.root,
        entries,
        bytes,
        promises: promises_elsewhere(request.id),
    })
}

/// The directory of the caller for `/output`, absolute.
fn own_directory(path: &Path) -> Result<PathBuf, BundleError> {
    fs::create_dir_all(path).map_err(file("make", path))?;
    path.canonicalize().map_err(file("find", path))
}

/// The directory of a bundle that is being made.
struct Place {
    directory: PathBuf,
}

impl Place {
    /// Takes `directory`: a new one, an empty one, or one that an earlier try has left.
    fn claim(directory: &Path) -> Result<Self, BundleError> {
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(file("make", directory)(error)),
            _ => {}
        }
        let place = Self {
            directory: directory.to_owned(),
        };
        let unfinished = place.at(UNFINISHED);
        let is_left = unfinished.symlink_metadata().is_ok();
        if is_left {
            place.clear()?;
        } else if fs::read_dir(directory)
            .map_err(file("read", directory))?
            .next()
            .is_some()
        {
            return Err(BundleError::NotEmpty {
                path: directory.to_owned(),
            });
        }
        let mark = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&unfinished);
        mark.and_then(|mark| mark.sync_all())
            .map_err(file("write", &unfinished))?;
        let root = place.at(ROOT);
        fs::create_dir(&root).map_err(file("make", &root))?;
        Ok(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Removes what an earlier try has made, and nothing else.
    fn clear(&self) -> Result<(), BundleError> {
        let directory = File::open(&self.directory).map_err(file("open", &self.directory))?;
        for name in [CONFIG, LAYERS, ROOT] {
            if self.at(name).symlink_metadata().is_ok() {
                tree::remove(&directory, name).map_err(file("remove", &self.at(name)))?;
            }
        }
        Ok(())
    }

    /// Writes down where the layers are.
    fn list(&self, layers: &[PathBuf]) -> Result<(u64, u64), BundleError> {
        let lines: Vec<String> = layers.iter().map(|layer| format!("{}\n", layer.display())).collect();
        self.replace(LAYERS, lines.concat().as_bytes())?;
        Ok((0, 0))
    }

    /// Copies the layers into the root, as one tree.
    fn unpack(&self, bundle: &Bundle) -> Result<(u64, u64), BundleError> {
        let root = self.at(ROOT);
        let mut copy = Copy {
            root: root.clone(),
            directories: Vec::new(),
            entries: 0,
            bytes: 0,
        };
        let stack = LayerStack::open(bundle.lowers.iter().cloned()).map_err(file("open the layers for", &root))?;
        stack
            .walk(&mut |path, found| copy.take(path, found))
            .map_err(file("unpack the image to", &root))?;
        let hosts = root.join("etc/hosts");
        if hosts.parent().is_some_and(Path::is_dir) {
            let _ = fs::remove_file(&hosts);
            let text = hosts_file(&bundle.hostname, bundle.confinement.network.mode(), &[]);
            fs::write(&hosts, text).map_err(file("write", &hosts))?;
        }
        copy.close().map_err(file("unpack the image to", &root))?;
        Ok((copy.entries, copy.bytes))
    }

    /// Writes `config.json`; from then on it is a bundle.
    fn finish(self, bundle: &Bundle, id: u32) -> Result<(), BundleError> {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let config = self.at(CONFIG);
        let spec = specification_for_runtime(bundle, Path::new(ROOT), id, owner);
        let spec = spec.map_err(|error| file("describe", &config)(io::Error::other(error)))?;
        let json = canonical_json(&spec).map_err(|error| file("describe", &config)(error.into()))?;
        self.replace(CONFIG, &json)?;
        let unfinished = self.at(UNFINISHED);
        fs::remove_file(&unfinished).map_err(file("remove", &unfinished))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        let path = self.at(name);
        let write = || {
            let mut new = Replacement::create(path.clone())?;
            io::Write::write_all(new.file(), bytes)?;
            new.place(&path)
        };
        write().map_err(file("write", &path))
    }
}

/// A tree of files that is being copied.
struct Copy {
    root: PathBuf,
    /// Directories, whose permissions come last: some cannot be written.
    directories: Vec<(PathBuf, Permissions)>,
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
                let mut options = fs::OpenOptions::new();
                let mut copy = options.write(true).create_new(true).mode(0o600).open(&target)?;
                self.bytes += io::copy(source, &mut copy)?;
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
            // No layer of ours has one; a runtime would make it from the host's.
            Visited::Other => return Ok(()),
        }
        self.entries += 1;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        for (path, permissions) in self.directories.drain(..).rev() {
            fs::set_permissions(path, Permissions::from_mode(permissions.mode() & 0o777))?;
        }
        Ok(())
    }
}

fn time_of(metadata: &fs::Metadata) -> Timespec {
    use std::os::unix::fs::MetadataExt;
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
        let place = Place::claim(scratch.path()).unwrap();
        let locked = place.at(ROOT).join("locked");
        fs::create_dir(&locked).unwrap();
        fs::write(locked.join("file"), "x").unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o500)).unwrap();
        let again = Place::claim(scratch.path()).unwrap();
        assert_eq!(fs::read_dir(again.at(ROOT)).unwrap().count(), 0);
    }
}
