//! Packages -> one layer: read in parallel, merged into one sorted tree, completed, written.
//!
//! Two packages that install different files under one name, and an entry below what is no directory, are refused: the
//! order of the packages must not decide, and nothing may be reached through a link. Paths are those after usrmerge
//! everywhere, so that a definition names each place once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};

use super::debian::LockedDeb;
use super::definition::{Shape, Variant};
use super::interpreter::{self, InterpreterError};
use super::synthesise;
use super::usrmerge::merged;
use crate::archive::deb::{self, DebEntry, DebError};
use crate::archive::layer::{order, LayerError, LayerWriter, TreeSink, WrittenLayer};
use crate::policy::{ExtractionLimits, Kind};
use crate::sys::pool;

/// Why a base was not assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A package that is refused.
    #[error("unpack {package}")]
    Deb { package: String, source: DebError },
    /// A package cannot be read.
    #[error("read {package}")]
    Read { package: String, source: std::io::Error },
    /// Two entries exclude each other.
    #[error("assemble base {name}: {path:?} of {package}: {reason}")]
    Conflict {
        name: String,
        /// Whose entry.
        package: String,
        path: String,
        /// With what.
        reason: &'static str,
    },
    /// Something is not where the definition expects it.
    #[error("assemble base {name}: {reason}")]
    Incomplete {
        name: String,
        /// What is missing.
        reason: String,
    },
    /// The archive of an interpreter is refused.
    #[error("{0}")]
    Interpreter(#[from] InterpreterError),
    /// The layer cannot be written.
    #[error("{0}")]
    Layer(#[from] LayerError),
}

impl AssembleError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Deb { source, .. } => source.kind(),
            Self::Interpreter(source) => source.kind(),
            Self::Layer(source) => source.kind(),
            Self::Read { .. } | Self::Conflict { .. } | Self::Incomplete { .. } => Kind::Failed,
        }
    }
}

/// What a variant is assembled from.
pub(super) struct Parts<'a> {
    /// Its packages, in the order of its lock.
    pub debs: &'a [File],
    /// The archive of its interpreter, verified, when it has one.
    pub interpreter: Option<Vec<u8>>,
}

/// Assembles `variant`.
pub(super) fn assemble(
    variant: &Variant,
    parts: &Parts<'_>,
    out: impl Write,
    tree: Option<&mut dyn TreeSink>,
) -> Result<WrittenLayer, AssembleError> {
    let read = read_all(variant, parts.debs)?;
    let mut entries = BTreeMap::new();
    for (locked, deb) in variant.lock.iter().zip(read) {
        for (path, entry) in deb.entries {
            merge(&mut entries, &path, entry).map_err(|reason| AssembleError::Conflict {
                name: variant.name.clone(),
                package: locked.name.clone(),
                path,
                reason,
            })?;
        }
        // One file per package, as distroless images have it: scanners find what is installed.
        let status = DebEntry::File {
            mode: 0o644,
            contents: deb.control.into_bytes(),
        };
        entries.insert(format!("var/lib/dpkg/status.d/{}", locked.name), status);
    }
    if let (Some(pin), Some(packed)) = (&variant.definition.interpreter, &parts.interpreter) {
        for (path, entry) in interpreter::read(pin, packed.as_slice())? {
            merge(&mut entries, &path, entry).map_err(|reason| AssembleError::Conflict {
                name: variant.name.clone(),
                package: pin.file_name(),
                path,
                reason,
            })?;
        }
    }
    for (path, target) in &variant.definition.links {
        let target = target.clone();
        entries.insert(path.clone(), DebEntry::Symlink { target });
    }
    if variant.definition.kind == Shape::Root {
        synthesise::complete(&mut entries, &variant.definition).map_err(|reason| AssembleError::Incomplete {
            name: variant.name.clone(),
            reason,
        })?;
    }
    if let Some(path) = below_no_directory(&entries) {
        return Err(AssembleError::Incomplete {
            name: variant.name.clone(),
            reason: format!("{path:?} is below something that is no directory"),
        });
    }
    let mut paths: Vec<&String> = entries.keys().collect();
    paths.sort_by(|one, other| order(one, other));
    let mut writer = LayerWriter::new(out, tree, 0);
    for path in paths {
        match entries.get(path) {
            Some(DebEntry::Directory { mode }) => writer.directory(path, *mode)?,
            Some(DebEntry::File { mode, contents }) => writer.file(path, *mode, contents)?,
            Some(DebEntry::Symlink { target }) => writer.symlink(path, target)?,
            None => {}
        }
    }
    Ok(writer.finish()?)
}

/// Decompression is most of the work: two threads halve it.
fn read_all(variant: &Variant, debs: &[File]) -> Result<Vec<deb::Deb>, AssembleError> {
    let pairs: Vec<(&LockedDeb, &File)> = variant.lock.iter().zip(debs).collect();
    pool::each(2, &pairs, |(locked, file), _| read_one(variant, locked, file))
}

fn read_one(variant: &Variant, locked: &LockedDeb, file: &File) -> Result<deb::Deb, AssembleError> {
    let error = |source| AssembleError::Read {
        package: locked.name.clone(),
        source,
    };
    let mut bytes = Vec::new();
    let mut file = file;
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(error)?;
    let wanted = |path: &str| is_wanted(variant, path);
    let read = deb::read(&bytes, &ExtractionLimits::default(), &wanted);
    read.map_err(|source| AssembleError::Deb {
        package: locked.name.clone(),
        source,
    })
}

/// Whether the file at `path` of a package goes into the base.
fn is_wanted(variant: &Variant, path: &str) -> bool {
    let Some(path) = merged(path) else { return false };
    let path = path.as_ref();
    // Licences stay: they must accompany what is shipped.
    if path.starts_with("usr/share/doc/") {
        return path.ends_with("/copyright");
    }
    let dropped = |drop: &String| match (drop.strip_suffix('/'), drop.strip_suffix('*')) {
        (Some(directory), _) => path == directory || path.starts_with(drop),
        (None, Some(start)) => path.starts_with(start),
        (None, None) => path == drop,
    };
    let program = path
        .strip_prefix("usr/bin/")
        .is_some_and(|name| variant.definition.drop_bin.iter().any(|drop| drop == name));
    !program && !variant.definition.drop.iter().any(dropped)
}

/// Adds an entry at its place after usrmerge; says what it conflicts with.
fn merge(entries: &mut BTreeMap<String, DebEntry>, path: &str, entry: DebEntry) -> Result<(), &'static str> {
    let Some(path) = merged(path) else { return Ok(()) };
    match (entries.get(path.as_ref()), &entry) {
        (None, _) => {
            entries.insert(path.into_owned(), entry);
            Ok(())
        }
        // The first one's mode counts, as with dpkg.
        (Some(DebEntry::Directory { .. }), DebEntry::Directory { .. }) => Ok(()),
        (Some(there), _) if *there == entry => Ok(()),
        _ => Err("another package has something else there"),
    }
}

/// The first path one of whose parents is a file or a link.
fn below_no_directory(entries: &BTreeMap<String, DebEntry>) -> Option<&String> {
    let is_other = |parent: &str| {
        entries
            .get(parent)
            .is_some_and(|entry| !matches!(entry, DebEntry::Directory { .. }))
    };
    entries.keys().find(|path| {
        path.match_indices('/')
            .any(|(end, _)| path.get(..end).is_some_and(is_other))
    })
}

#[cfg(test)]
mod tests;
