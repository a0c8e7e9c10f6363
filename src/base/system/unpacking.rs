//! Packages -> one tree on disk and the list of what is in it. Contents stay on disk: a wish may come to a gigabyte.
//!
//! Two packages that install different files under one name are refused, as is a file in the place of another one of the
//! base: nothing that is there may change by what comes on top. Paths are those after usrmerge.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::alternatives::{links, Alternative};
use super::error::SystemError;
use super::maintainer::read_script;
use super::shipped::Shipped;
use crate::archive::deb::{self, DebEntry};
use crate::archive::layer::{order, LayerError, LayerWriter, TreeSink, WrittenLayer};
use crate::base::debian::LockedDeb;
use crate::base::loader_cache::{names_in, PackageTree, Stands};
use crate::base::usrmerge::merged;
use crate::oci::Digest;
use crate::policy::ExtractionLimits;
use crate::store::{Found, LastLink, LayerStack, LayerStaging};
use crate::sys::pool;

/// Directories that packages install into.
const TOPS: [&str; 5] = ["etc", "opt", "srv", "usr", "var"];
/// Where the wheels are.
const SITE: &str = "opt/py";
/// Packages that are unpacked at once, each in memory: decompression is most of the work.
const AT_ONCE: usize = 2;

/// One thing of the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, size: u64, sha256: Digest },
    Link { target: String },
}

/// The packages, unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Holds the contents; dropped, they are gone.
    tree: LayerStaging,
    entries: BTreeMap<String, (Entry, String)>,
    alternatives: Vec<Alternative>,
    bytes: u64,
}

/// Unpacks `packages`, whose files are `debs`, into `tree`, which is empty.
pub(super) fn unpack(
    packages: &[LockedDeb],
    debs: &[File],
    shipped: &Shipped,
    tree: LayerStaging,
) -> Result<Unpacked, SystemError> {
    let unpacked = Mutex::new(Unpacked {
        tree,
        entries: BTreeMap::new(),
        alternatives: Vec::new(),
        bytes: 0,
    });
    let pairs: Vec<(&LockedDeb, &File)> = packages.iter().zip(debs).collect();
    let alternatives = pool::each(AT_ONCE, &pairs, |(package, file), _| {
        let name = &package.name;
        let bytes = read_all(file).map_err(|source| failed(name, source))?;
        let wrong = |source| SystemError::Deb {
            package: name.clone(),
            source,
        };
        let alternatives = scripts(name, &deb::read_scripts(&bytes).map_err(wrong)?, shipped)?;
        let wanted = |path: &str| merged(path).is_some_and(|path| shipped.is_wanted(&path));
        let deb = deb::read(&bytes, &ExtractionLimits::default(), &wanted).map_err(wrong)?;
        drop(bytes);
        let mut unpacked = unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, entry) in deb.entries {
            if let Some(path) = merged(&path) {
                unpacked.add(name, &path, amended(shipped, &path, entry))?;
            }
        }
        // As in our bases: scanners find what is installed.
        let status = DebEntry::File {
            mode: 0o644,
            contents: deb.control.into_bytes(),
        };
        unpacked.add(name, &format!("var/lib/dpkg/status.d/{name}"), status)?;
        Ok::<_, SystemError>(alternatives)
    })?;
    let mut unpacked = unpacked.into_inner().unwrap_or_else(PoisonError::into_inner);
    unpacked.alternatives = alternatives.into_iter().flatten().collect();
    for package in packages {
        for (path, target) in shipped.checked(&package.name).into_iter().flatten() {
            let target = target.clone();
            unpacked.add(&package.name, path, DebEntry::Symlink { target })?;
        }
    }
    Ok(unpacked)
}

fn amended(shipped: &Shipped, path: &str, mut entry: DebEntry) -> DebEntry {
    if let DebEntry::File { contents, .. } = &mut entry {
        shipped.add_to(path, contents);
    }
    entry
}

fn read_all(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failed(package: &str, source: io::Error) -> SystemError {
    SystemError::Unpack {
        package: package.to_owned(),
        source,
    }
}

/// The alternatives that the scripts of a package install; somebody has read those of a checked one.
fn scripts(
    package: &str,
    scripts: &BTreeMap<&'static str, String>,
    shipped: &Shipped,
) -> Result<Vec<Alternative>, SystemError> {
    if shipped.checked(package).is_some() {
        return Ok(Vec::new());
    }
    let mut alternatives = Vec::new();
    for (&script, text) in scripts {
        alternatives.extend(read_script(text).map_err(|line| SystemError::Script {
            package: package.to_owned(),
            script,
            line,
        })?);
    }
    Ok(alternatives)
}

impl Unpacked {
    /// The directory that holds the files.
    pub(super) fn path(&self) -> PathBuf {
        self.tree.path()
    }

    /// Whether there is a file whose path `is_meant`.
    pub(super) fn has(&self, is_meant: &dyn Fn(&str) -> bool) -> bool {
        self.entries.keys().any(|path| is_meant(path))
    }

    /// Adds an entry of `package`.
    fn add(&mut self, package: &str, path: &str, entry: DebEntry) -> Result<(), SystemError> {
        let refuse = |reason| SystemError::Refused {
            package: package.to_owned(),
            path: path.to_owned(),
            reason,
        };
        let top = path.split('/').next().unwrap_or_default();
        if !TOPS.contains(&top) || path == SITE || path.starts_with("opt/py/") {
            return Err(refuse("packages install nothing there"));
        }
        let (new, contents) = match entry {
            DebEntry::Directory { mode } => (Entry::Directory { mode }, Vec::new()),
            DebEntry::Symlink { target } => (Entry::Link { target }, Vec::new()),
            DebEntry::File { mode, contents } => {
                let (size, sha256) = (contents.len() as u64, Digest::of(&contents));
                (Entry::File { mode, size, sha256 }, contents)
            }
        };
        match (self.entries.get_mut(path), &new) {
            (Some((Entry::Directory { mode: there }, _)), Entry::Directory { mode }) => {
                // Whichever package comes first.
                *there &= mode;
                return Ok(());
            }
            (Some((there, _)), _) if *there == new => return Ok(()),
            (Some(_), _) => return Err(refuse("another package has something else there")),
            (None, _) => {}
        }
        self.make_parents(package, path)?;
        match &new {
            Entry::Directory { mode } => self.tree.directory(path, *mode),
            Entry::File { mode, size, .. } => {
                self.bytes = self.bytes.saturating_add(*size);
                self.tree.file(path, *mode, &contents)
            }
            Entry::Link { target } => self.tree.symlink(path, target),
        }
        .map_err(|source| failed(package, source))?;
        self.entries.insert(path.to_owned(), (new, package.to_owned()));
        let limits = ExtractionLimits::default();
        match self.bytes > limits.bytes || self.entries.len() as u64 > limits.entries {
            true => Err(refuse("the packages have more files than a layer may have")),
            false => Ok(()),
        }
    }

    fn make_parents(&mut self, package: &str, path: &str) -> Result<(), SystemError> {
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..end).unwrap_or_default();
            match self.entries.get(parent) {
                Some((Entry::Directory { .. }, _)) => {}
                Some(_) => {
                    return Err(SystemError::Refused {
                        package: package.to_owned(),
                        path: path.to_owned(),
                        reason: "it is below something that is no directory",
                    })
                }
                None => {
                    let made = self.tree.directory(parent, 0o755);
                    made.map_err(|source| failed(package, source))?;
                    let entry = Entry::Directory { mode: 0o755 };
                    self.entries.insert(parent.to_owned(), (entry, package.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Makes the links of alternatives, and leaves out what the base, `below`, has already.
    ///
    /// # Errors
    /// A file that would take the place of another one of the base.
    pub(super) fn settle(&mut self, base: &str, below: &LayerStack) -> Result<(), SystemError> {
        let unreadable = |path: &str, source| SystemError::ReadBase {
            base: base.to_owned(),
            path: path.to_owned(),
            source,
        };
        let is_there = |path: &str| {
            self.entries.contains_key(path) || matches!(below.find(path, LastLink::Follow), Ok(Found::File(_)))
        };
        for (path, target) in links(&self.alternatives, &is_there) {
            self.add("update-alternatives", &path, DebEntry::Symlink { target })?;
        }
        let mut same = Vec::new();
        for (path, (entry, package)) in &self.entries {
            let found = below
                .find(path, LastLink::Keep)
                .map_err(|source| unreadable(path, source))?;
            let is_same = match (&found, entry) {
                (Found::Nothing(at), _) if at == path => continue,
                (Found::Directory(at), Entry::Directory { .. }) if at == path => continue,
                (Found::File(at), Entry::File { size, sha256, .. }) if at == path => {
                    let contents = below.read(at, size + 1).map_err(|source| unreadable(path, source))?;
                    Digest::of(&contents) == *sha256
                }
                (Found::Link(at), Entry::Link { target }) if at == path => {
                    let has = below.target(at).map_err(|source| unreadable(path, source))?;
                    has.as_ref() == Some(target)
                }
                _ => false,
            };
            if !is_same {
                return Err(SystemError::Refused {
                    package: package.clone(),
                    path: path.clone(),
                    reason: "the base has something else there, which is not replaced",
                });
            }
            same.push(path.clone());
        }
        same.iter().for_each(|path| drop(self.entries.remove(path)));
        Ok(())
    }

    /// Writes the layer: what was unpacked, and the files `made`, which win.
    pub(super) fn write(
        &self,
        made: &BTreeMap<String, Vec<u8>>,
        out: impl Write,
        sink: Option<&mut dyn TreeSink>,
    ) -> Result<WrittenLayer, SystemError> {
        let mut paths: Vec<&String> = self.entries.keys().chain(made.keys()).collect();
        paths.sort_by(|one, other| order(one, other));
        paths.dedup();
        let root = self.path();
        let mut writer = LayerWriter::new(out, sink, 0);
        for path in paths {
            match (made.get(path), self.entries.get(path)) {
                (Some(contents), _) => writer.file(path, 0o644, contents)?,
                (_, Some((Entry::Directory { mode }, _))) => writer.directory(path, *mode)?,
                (_, Some((Entry::Link { target }, _))) => writer.symlink(path, target)?,
                (_, Some((Entry::File { mode, .. }, _))) => writer.file(path, *mode, &contents(&root, path)?)?,
                (None, None) => {}
            }
        }
        Ok(writer.finish()?)
    }
}

impl PackageTree for Unpacked {
    fn names<'a>(&'a self, place: &'a str) -> Vec<&'a str> {
        let paths = self.entries.range(place.to_owned()..);
        names_in(paths.map(|(path, _)| path.as_str()), place)
    }

    fn at(&self, path: &str) -> Option<Stands<'_>> {
        Some(match &self.entries.get(path)?.0 {
            Entry::Directory { .. } => Stands::Directory,
            Entry::File { .. } => Stands::File,
            Entry::Link { target } => Stands::Link(target),
        })
    }

    fn contents(&self, path: &str) -> io::Result<Cow<'_, [u8]>> {
        // No parent of it is a link: see `contents` below.
        fs::read(self.path().join(path)).map(Cow::Owned)
    }
}

/// A file that was unpacked. No parent of it is a link: those were made in the tree, and only as directories.
fn contents(root: &Path, path: &str) -> Result<Vec<u8>, LayerError> {
    fs::read(root.join(path)).map_err(|source| LayerError::Io {
        path: path.to_owned(),
        source,
    })
}
