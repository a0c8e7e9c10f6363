//! What leads to something: names, notes of images without one, snapshots, memos and `index.json` are read and followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, CWD};

use super::contents::{self, names};
use super::finding::{Finding, Part};
use crate::oci::{parse_config, parse_index, parse_manifest, DiffId, Digest, Reference, MAX_DOCUMENT_BYTES, REF_NAME};
use crate::store::content::memo::Roots;
use crate::store::disk::locks::Locks;
use crate::store::disk::regular::{self, Unread};
use crate::store::disk::{scratch, Disk};
use crate::store::images::names::{name_of, Names, MOST_OF_A_NAME};
use crate::store::images::pin_marks;
use crate::store::images::snapshot::Snapshot;
use crate::store::trees::folder::LayerFolder;
use crate::store::trees::merged::{self, Merged};
use crate::store::{io_error, StoreError};

/// A snapshot has the configuration of its image, which is a document of 4 MiB at most.
const MOST_OF_A_SNAPSHOT: u64 = 4 * MAX_DOCUMENT_BYTES;
/// The largest memos are resolutions of hundreds of packages, a megabyte.
const MOST_OF_A_MEMO: u64 = 64 << 20;
/// More than a repository's name has parts.
const MOST_DEPTH: usize = 256;

/// What was looked at, and what is wrong with it.
#[derive(Default)]
pub(super) struct Followed {
    pub findings: Vec<Finding>,
    pub names: u64,
    /// The images that names, pins or notes lead to, and their names.
    pub images: BTreeMap<Digest, Vec<String>>,
    pub snapshots: u64,
    pub memos: u64,
    /// The names of the images that need a path below the root, of those paths that were asked for.
    pub needed_by: BTreeMap<PathBuf, BTreeSet<String>>,
}

/// What is there where the manifest of an image is missing that runs all the same.
const RUNS_STILL: &str = "nothing: it runs from its unpacked layers, and can be neither pushed, saved nor shown";
/// Whether what is missing is waited for that somebody may be at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As it is now.
    Fleeting,
    /// With the collector kept out; a layer may be about to take the place of a damaged one.
    Sure,
}

/// Follows everything. What is wrong at a fleeting look may be on its way in or out.
pub(super) fn follow(disk: &Disk, damaged: &BTreeSet<PathBuf>, look: Look) -> Result<Followed, StoreError> {
    let mut follower = Follower {
        disk,
        damaged,
        look,
        followed: Followed::default(),
        kept: BTreeMap::new(),
    };
    follower.names()?;
    follower.unnamed()?;
    follower.pins()?;
    follower.images();
    follower.snapshots()?;
    follower.memos()?;
    follower.index()?;
    Ok(follower.followed)
}

/// Which names an image has.
#[derive(Default)]
struct Kept {
    names: Vec<String>,
    /// The note that keeps it for a day.
    note: Option<PathBuf>,
}

struct Follower<'a> {
    disk: &'a Disk,
    damaged: &'a BTreeSet<PathBuf>,
    look: Look,
    followed: Followed,
    kept: BTreeMap<Digest, Kept>,
}

impl Follower<'_> {
    fn find(&mut self, finding: Finding) {
        self.followed.findings.push(finding);
    }

    fn names(&mut self) -> Result<(), StoreError> {
        for (path, reference) in files_of_names(self.disk)? {
            self.followed.names += 1;
            let which = path
                .strip_prefix(self.disk.root())
                .unwrap_or(&path)
                .display()
                .to_string();
            let Some(reference) = reference else {
                self.find(Finding::new(Part::Name, which, "the file of a name", "another file").at(path));
                continue;
            };
            let name = reference.to_string();
            match read_name(&path) {
                Ok(digest) => self.kept.entry(digest).or_default().names.push(name),
                Err(Unread::Gone) => {}
                Err(unread) => {
                    let got = unread.found();
                    let finding = Finding::new(Part::Name, name.clone(), "the digest of an image", got);
                    self.find(finding.of(vec![name]).at(path));
                }
            }
        }
        Ok(())
    }

    fn unnamed(&mut self) -> Result<(), StoreError> {
        for name in names(&self.disk.path("unnamed"))? {
            let which = Path::new("unnamed").join(&name);
            let path = self.disk.path(&which);
            let digest = name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            match (digest, regular::look(CWD, &path, FileType::RegularFile)) {
                (_, Err(Unread::Gone)) => {}
                (Some(digest), Ok(_)) => self.kept.entry(digest).or_default().note = Some(path),
                (_, found) => {
                    let got = found.map_or_else(Unread::found, |_| "another name".to_owned());
                    let which = which.display().to_string();
                    self.find(
                        Finding::new(Part::Unnamed, which, "a file called by the digest of an image", got).at(path),
                    );
                }
            }
        }
        Ok(())
    }

    /// A pinned image without a name is called by its digest.
    fn pins(&mut self) -> Result<(), StoreError> {
        for digest in pin_marks::list(self.disk)? {
            let kept = self.kept.entry(digest).or_default();
            if kept.names.is_empty() {
                kept.names.push(digest.to_string());
            }
        }
        Ok(())
    }

    fn images(&mut self) {
        for (digest, kept) in std::mem::take(&mut self.kept) {
            let looked = self.image(&digest, &kept.names);
            let mut names = kept.names.clone();
            if matches!(&looked, Err((_, got)) if got == RUNS_STILL) && names.is_empty() {
                // What runs is an image, and stays one: it is called by its digest.
                names.push(digest.to_string());
            }
            self.followed.images.insert(digest, names.clone());
            let Err((expected, got)) = looked else { continue };
            if self.look == Look::Sure && self.went(&digest, &kept) {
                continue;
            }
            let finding = match (names.is_empty(), kept.note) {
                (true, Some(note)) => {
                    let which = note
                        .strip_prefix(self.disk.root())
                        .unwrap_or(&note)
                        .display()
                        .to_string();
                    Finding::new(Part::Unnamed, which, expected, got).at(note)
                }
                _ => Finding::new(Part::Image, digest.to_string(), expected, got).of(names),
            };
            self.find(finding);
        }
    }

    /// Whether an eviction took the image since it was listed: names go first.
    fn went(&self, digest: &Digest, kept: &Kept) -> bool {
        let leads = |name: &String| match name.parse::<Reference>() {
            Ok(Reference::Digest { .. }) | Err(_) => true,
            Ok(name) => matches!(Names::of(self.disk).find(&name), Ok(Some(found)) if found == *digest),
        };
        let is_noted = |note: &PathBuf| note.exists();
        !kept.names.iter().any(leads) && !kept.note.as_ref().is_some_and(is_noted)
    }

    /// Whether an image can be run, and pushed.
    fn image(&mut self, digest: &Digest, names: &[String]) -> Result<(), (String, String)> {
        let called = [digest.to_string()];
        let names = if names.is_empty() { &called } else { names };
        let snapshot = read_snapshot(self.disk, &digest.hex());
        if let Ok(snapshot) = &snapshot {
            let merged = snapshot.merged().map(|merged| merged::name(&merged.chain));
            let layers = snapshot.layers.iter().map(layer_name);
            layers.chain(merged).for_each(|which| self.need(&which, names));
        }
        let which = blob_name(digest);
        self.need(&which, names);
        let raw = match self.document(&which, digest) {
            Ok(raw) => raw,
            Err(unread) => {
                let runs =
                    matches!(&snapshot, Ok(snapshot) if snapshot.layers.iter().all(|layer| self.has_layer(layer)));
                let got = match unread {
                    Unread::Gone if runs => RUNS_STILL.to_owned(),
                    unread => unread.found(),
                };
                return Err((format!("its manifest {}", which.display()), got));
            }
        };
        let parsed = parse_manifest(&raw);
        let manifest = parsed.map_err(|error| ("a manifest".to_owned(), error.to_string()))?;
        let which = blob_name(&manifest.config.digest);
        self.need(&which, names);
        let config = self.document(&which, &manifest.config.digest);
        let config = config.map_err(|unread| (format!("its configuration {}", which.display()), unread.found()))?;
        let config =
            parse_config(&config, &manifest).map_err(|error| ("its configuration".to_owned(), error.to_string()))?;
        for layer in &config.rootfs.diff_ids {
            self.need(&layer_name(layer), names);
        }
        for layer in &manifest.layers {
            let which = blob_name(&layer.digest);
            self.need(&which, names);
            let expected = || format!("its layer {}, {} bytes", which.display(), layer.size);
            match regular::look(CWD, &self.disk.path(&which), FileType::RegularFile) {
                Ok(size) if size == layer.size => {}
                Ok(size) => return Err((expected(), format!("{size} bytes"))),
                Err(unread) => return Err((expected(), unread.found())),
            }
        }
        Ok(())
    }

    /// Notes that the images called `names` need a path, when that is asked for.
    fn need(&mut self, which: &Path, names: &[String]) {
        if self.damaged.contains(which) {
            let needed = self.followed.needed_by.entry(which.to_owned()).or_default();
            needed.extend(names.iter().cloned());
        }
    }

    fn document(&self, which: &Path, digest: &Digest) -> Result<Vec<u8>, Unread> {
        let raw = regular::read(CWD, &self.disk.path(which), MAX_DOCUMENT_BYTES)?;
        let got = Digest::of(&raw);
        match got == *digest {
            true => Ok(raw),
            false => Err(Unread::Wrong(got.to_string())),
        }
    }

    fn snapshots(&mut self) -> Result<(), StoreError> {
        for name in names(&self.disk.path("snapshots"))? {
            self.followed.snapshots += 1;
            let which = Path::new("snapshots").join(&name);
            let hex = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .unwrap_or_default();
            let wrong = match read_snapshot(self.disk, hex) {
                Err(Unread::Gone) if hex.is_empty() => {
                    Some(("a file called by the digest of an image", "another name".to_owned()))
                }
                Err(Unread::Gone) => None,
                Err(unread) => Some(("the snapshot of its image", unread.found())),
                Ok(snapshot) => {
                    let missing = snapshot.layers.iter().find(|layer| !self.has_layer(layer));
                    missing.map(|layer| ("only layers that are there", format!("layer {layer}, which is not")))
                }
            };
            if let Some((expected, got)) = wrong {
                let path = self.disk.path(&which);
                let digest = format!("sha256:{hex}").parse().ok();
                let names = digest.and_then(|digest: Digest| self.followed.images.get(&digest));
                let finding = Finding::new(Part::Snapshot, which.display().to_string(), expected, got);
                let finding = finding.of(names.cloned().unwrap_or_default());
                self.find(finding.at(path));
            }
        }
        Ok(())
    }

    fn has_layer(&self, layer: &DiffId) -> bool {
        let tree = LayerFolder::of(self.disk, layer).tree();
        let is_there = || regular::look(CWD, &tree, FileType::Directory).is_ok();
        if is_there() {
            return true;
        }
        // One that is damaged is out of its place for a moment until another one has it.
        let _single = (self.look != Look::Fleeting).then(|| Locks::of(self.disk).layer(layer).ok());
        is_there()
    }

    fn memos(&mut self) -> Result<(), StoreError> {
        for folder in names(&self.disk.path("memo"))? {
            let folder = Path::new("memo").join(folder);
            let at = self.disk.path(&folder);
            match regular::look(CWD, &at, FileType::Directory) {
                Ok(_) => {}
                Err(Unread::Gone) => continue,
                Err(unread) => {
                    let got = unread.found();
                    self.find(Finding::new(Part::Memo, folder.display().to_string(), "a directory", got).at(at));
                    continue;
                }
            }
            for name in names(&at)? {
                self.followed.memos += 1;
                let which = folder.join(name);
                let path = self.disk.path(&which);
                if let Some((expected, got)) = self.memo(&path) {
                    self.find(Finding::new(Part::Memo, which.display().to_string(), expected, got).at(path));
                }
            }
        }
        Ok(())
    }

    fn memo(&self, path: &Path) -> Option<(String, String)> {
        let json = match regular::read(CWD, path, MOST_OF_A_MEMO) {
            Ok(json) => json,
            Err(Unread::Gone) => return None,
            Err(unread) => return Some(("a file".to_owned(), unread.found())),
        };
        let Some(roots) = Roots::of_file(&json) else {
            return Some(("what is remembered of a step".to_owned(), "no such document".to_owned()));
        };
        let blobs = roots.blobs.iter().map(blob_name);
        let downloads = roots
            .downloads
            .iter()
            .map(|digest| Path::new("downloads").join(digest.hex()));
        let found = blobs.chain(downloads).find_map(|which| {
            let found = regular::look(CWD, &self.disk.path(&which), FileType::RegularFile).err()?;
            Some((which.display().to_string(), found.found()))
        });
        // It may have gone with what it needs.
        found.filter(|_| path.exists())
    }

    fn index(&mut self) -> Result<(), StoreError> {
        let differs = || -> Result<Option<(String, String)>, StoreError> {
            let names = Names::of(self.disk);
            // One whose manifest is gone may be in the list still: what is wrong with it is said of the image.
            let (mut expected, mut allowed) = (BTreeSet::new(), BTreeSet::new());
            for (path, reference) in files_of_names(self.disk)? {
                let (Some(reference), Ok(digest)) = (reference, read_name(&path)) else {
                    continue;
                };
                allowed.insert((reference.to_string(), digest));
                if names.indexed(&reference, &digest).is_some() {
                    expected.insert((reference.to_string(), digest));
                }
            }
            let raw = match regular::read(CWD, &self.disk.path("index.json"), 16 * MAX_DOCUMENT_BYTES) {
                Ok(raw) => raw,
                Err(unread) => return Ok(Some(("a file".to_owned(), unread.found()))),
            };
            let index = match parse_index(&raw) {
                Ok(index) => index,
                Err(error) => return Ok(Some(("an index of images".to_owned(), error.to_string()))),
            };
            let got = index.manifests.into_iter();
            let got = got.filter_map(|one| Some((one.annotations.get(REF_NAME)?.clone(), one.digest)));
            let got: BTreeSet<_> = got.collect();
            let shown = |of: Option<&(String, Digest)>| of.map(|(name, digest)| format!("{name} as {digest}"));
            let missing = shown(expected.difference(&got).next());
            let extra = shown(got.difference(&allowed).next());
            Ok(match (missing, extra) {
                (None, None) => None,
                (missing, extra) => Some((
                    missing.unwrap_or_else(|| "no other name than those of the store".to_owned()),
                    extra.unwrap_or_else(|| "no such name".to_owned()),
                )),
            })
        };
        // While they change, or when somebody was killed or out of room meanwhile, it is known that it has to be written again.
        if differs()?.is_none() || Names::of(self.disk).is_changing() {
            return Ok(());
        }
        // Names are being changed, or it is wrong.
        let _single = Locks::of(self.disk).index().ok();
        if let Some((expected, got)) = differs()? {
            self.find(Finding::new(Part::Index, "index.json".to_owned(), expected, got));
        }
        Ok(())
    }
}

fn blob_name(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

fn layer_name(layer: &DiffId) -> PathBuf {
    Path::new("layers").join(layer.hex())
}

/// What a file of a name says.
fn read_name(path: &Path) -> Result<Digest, Unread> {
    let bytes = regular::read(CWD, path, MOST_OF_A_NAME)?;
    let text = String::from_utf8_lossy(&bytes);
    text.trim_end().parse().map_err(|_| match text.is_empty() {
        true => Unread::Wrong("nothing in it".to_owned()),
        false => Unread::Wrong(format!("{:?}", text.chars().take(100).collect::<String>())),
    })
}

fn read_snapshot(disk: &Disk, hex: &str) -> Result<Snapshot, Unread> {
    let digest: Digest = format!("sha256:{hex}").parse().map_err(|_| Unread::Gone)?;
    let json = regular::read(CWD, &disk.path(format!("snapshots/{hex}.json")), MOST_OF_A_SNAPSHOT)?;
    let snapshot: Result<Snapshot, _> = serde_json::from_slice(&json);
    let snapshot = snapshot.map_err(|error| Unread::Wrong(format!("no snapshot: {error}")))?;
    match snapshot.manifest == digest {
        true => Ok(snapshot),
        false => Err(Unread::Wrong(format!("that of {}", snapshot.manifest))),
    }
}

/// Every file below `refs/`, and the name that it is of. A link is a file: nothing is followed.
fn files_of_names(disk: &Disk) -> Result<Vec<(PathBuf, Option<Reference>)>, StoreError> {
    let root = disk.path("refs");
    let (mut found, mut pending) = (Vec::new(), vec![(root.clone(), 0)]);
    while let Some((directory, depth)) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            // It was empty, and a collector took it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(io_error("list", &directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(io_error("list", &directory))?;
            let path = entry.path();
            if depth < MOST_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push((path, depth + 1));
                continue;
            }
            let reference = path.strip_prefix(&root).ok().and_then(name_of);
            found.push((path, reference));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// What else has to be a file, and what processes that have ended left: leases, locks, stamps, downloads under way, scratch.
pub(super) fn look_at_the_rest(disk: &Disk) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for folder in ["leases", "locks", "stamps", "partial", "pins"] {
        for name in names(&disk.path(folder))? {
            let which = Path::new(folder).join(&name);
            let path = disk.path(&which);
            let has_digest = name
                .to_str()
                .is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok());
            let is_called_so = has_digest || folder == "locks" || folder == "stamps";
            let got = match regular::look(CWD, &path, FileType::RegularFile) {
                Ok(_) if !is_called_so => "another name".to_owned(),
                Ok(_) | Err(Unread::Gone) => continue,
                Err(unread) => unread.found(),
            };
            let expected = if is_called_so {
                "a file"
            } else {
                "a file called by a digest"
            };
            findings.push(Finding::new(Part::File, which.display().to_string(), expected, got).at(path));
        }
    }
    // What a sweep cannot remove; what is made from now on is somebody's.
    let before = names(&disk.path("tmp"))?;
    scratch::sweep(disk)?;
    for name in before {
        let which = Path::new("tmp").join(&name);
        let path = disk.path(&which);
        let got = match scratch::is_abandoned(&path) {
            Ok(false) | Err(Unread::Gone) => continue,
            Ok(true) => "that of a process that has ended".to_owned(),
            Err(unread) => unread.found(),
        };
        let expected = "a directory of a process that is at work";
        findings.push(Finding::new(Part::Leftover, which.display().to_string(), expected, got).at(path));
    }
    Ok(findings)
}

/// The layer that a path below the root is the folder of.
pub(super) fn layer_of(which: &str) -> Option<DiffId> {
    let hex = which.strip_prefix("layers/")?;
    contents::diff_id(&format!("sha256:{hex}").parse().ok()?)
}

/// The images that have one of `trees`, folders of layers or of several layers as one, by their snapshots or documents, of all that
/// have a snapshot or a lease, whether or not anything leads to them.
pub(super) fn images_with(
    disk: &Disk,
    trees: &BTreeSet<PathBuf>,
) -> Result<BTreeMap<PathBuf, BTreeSet<Digest>>, StoreError> {
    let mut images = BTreeSet::new();
    for (folder, suffix) in [("snapshots", ".json"), ("leases", "")] {
        for name in names(&disk.path(folder))? {
            let hex = name.to_str().and_then(|name| name.strip_suffix(suffix));
            images.extend(hex.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok()));
        }
    }
    let mut found: BTreeMap<PathBuf, BTreeSet<Digest>> = BTreeMap::new();
    for image in images {
        for tree in trees_of(disk, &image).intersection(trees) {
            found.entry(tree.clone()).or_default().insert(image);
        }
    }
    Ok(found)
}

/// The trees that runs of an image may use, as folders below the root, as far as its snapshot and documents can be read.
fn trees_of(disk: &Disk, image: &Digest) -> BTreeSet<PathBuf> {
    let mut trees = BTreeSet::new();
    if let Ok(snapshot) = read_snapshot(disk, &image.hex()) {
        trees.extend(snapshot.merged().map(|merged| merged::name(&merged.chain)));
        trees.extend(snapshot.layers.iter().map(layer_name));
    }
    let read = |digest: &Digest| regular::read(CWD, &disk.path(blob_name(digest)), MAX_DOCUMENT_BYTES).ok();
    let manifest = read(image).and_then(|raw| parse_manifest(&raw).ok());
    let config = manifest.and_then(|manifest| parse_config(&read(&manifest.config.digest)?, &manifest).ok());
    if let Some(config) = config {
        let layers = &config.rootfs.diff_ids;
        trees.extend(Merged::of(layers).map(|merged| merged::name(&merged.chain)));
        trees.extend(layers.iter().map(layer_name));
    }
    trees
}
