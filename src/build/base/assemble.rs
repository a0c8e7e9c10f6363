//! Packages -> one layer: read in parallel, merged into one sorted tree, completed, written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Mutex;

use super::{synthesise, LockedDeb, Variant};
use crate::archive::deb::{self, DebEntry, DebError};
use crate::archive::layer::{order, LayerError, LayerWriter, TreeSink, WrittenLayer};
use crate::policy::ExtractionLimits;

/// Directories that usrmerge turned into links (Debian policy since 12).
pub(super) const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Why a base was not assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A package that is refused.
    #[error("unpack {package}")]
    Deb {
        /// Which.
        package: String,
        /// Why.
        source: DebError,
    },
    /// A package cannot be read.
    #[error("read {package}")]
    Read {
        /// Which.
        package: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something is not where the definition expects it.
    #[error("assemble base {name}: {reason}")]
    Incomplete {
        /// The variant.
        name: String,
        /// What is missing.
        reason: String,
    },
    /// The layer cannot be written.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

/// Assembles `variant` from its packages, given in the order of its lock.
pub fn assemble(
    variant: &Variant,
    debs: &[File],
    out: impl Write,
    tree: Option<&mut dyn TreeSink>,
) -> Result<WrittenLayer, AssembleError> {
    let read = read_all(variant, debs)?;
    let mut entries = BTreeMap::new();
    for (locked, deb) in variant.lock.iter().zip(read) {
        for (path, entry) in deb.entries {
            merge(&mut entries, &path, entry);
        }
        // One file per package, as distroless images have it: scanners find what is installed.
        let status = DebEntry::File {
            mode: 0o644,
            contents: deb.control.into_bytes(),
        };
        entries.insert(format!("var/lib/dpkg/status.d/{}", locked.name), status);
    }
    synthesise::complete(&mut entries).map_err(|reason| AssembleError::Incomplete {
        name: variant.name.clone(),
        reason,
    })?;
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
    let next = std::sync::atomic::AtomicUsize::new(0);
    let read: Mutex<Vec<Option<Result<deb::Deb, AssembleError>>>> = Mutex::new(debs.iter().map(|_| None).collect());
    let work = || loop {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (Some(file), Some(locked)) = (debs.get(number), variant.lock.get(number)) else {
            return;
        };
        let one = read_one(variant, locked, file);
        if let Some(slot) = read.lock().ok().as_mut().and_then(|read| read.get_mut(number)) {
            *slot = Some(one);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    read.into_inner().unwrap_or_default().into_iter().flatten().collect()
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

fn is_wanted(variant: &Variant, path: &str) -> bool {
    // Licences stay: they must accompany what is shipped.
    if path.starts_with("usr/share/doc/") {
        return path.ends_with("/copyright");
    }
    let dropped = |drop: &String| match drop.strip_suffix('/') {
        Some(directory) => path == directory || path.starts_with(drop),
        None => path == drop,
    };
    let program = path
        .strip_prefix("usr/bin/")
        .is_some_and(|name| variant.definition.drop_bin.iter().any(|drop| drop == name));
    !program && !variant.definition.drop.iter().any(dropped)
}

/// Adds an entry at its place after usrmerge.
fn merge(entries: &mut BTreeMap<String, DebEntry>, path: &str, entry: DebEntry) {
    let (top, below) = path
        .split_once('/')
        .map_or((path, None), |(top, below)| (top, Some(below)));
    let path = match (MERGED.contains(&top), below) {
        (true, Some(below)) => format!("usr/{top}/{below}"),
        (true, None) => return,
        (false, _) => path.to_owned(),
    };
    // A directory of one package never replaces what another one brought.
    if matches!(entry, DebEntry::Directory { .. }) && entries.contains_key(&path) {
        return;
    }
    entries.insert(path, entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usrmerge_moves_what_is_below_and_drops_the_directory() {
        let mut entries = BTreeMap::new();
        let file = || DebEntry::File {
            mode: 0o644,
            contents: Vec::new(),
        };
        merge(&mut entries, "lib/x86_64-linux-gnu/libc.so.6", file());
        merge(&mut entries, "lib", DebEntry::Directory { mode: 0o755 });
        merge(&mut entries, "usr/lib/y", file());
        assert_eq!(
            entries.keys().collect::<Vec<_>>(),
            ["usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/y"]
        );
    }

    #[test]
    fn documentation_goes_and_licences_stay() {
        let variant = super::super::find_variant("python-3.11").unwrap().unwrap();
        assert!(is_wanted(&variant, "usr/share/doc/libc6/copyright"));
        for path in [
            "usr/share/doc/libc6/changelog.gz",
            "usr/share/man/man1/x",
            "usr/share/man",
            "usr/bin/openssl",
        ] {
            assert!(!is_wanted(&variant, path), "{path}");
        }
    }
}
