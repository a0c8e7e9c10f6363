//! A lock whose packages have left the archive, made anew from the archive's signed index.
//!
//! Trust comes from the keyring alone, not from the mirror or the connection: `InRelease` is signed, names the suite and
//! the hash of `Packages`, which has the hash of every package. The set of packages stays that of the definition, and
//! no package may be older than the pinned one: an old index, replayed, is refused. Nothing is kept unless all of it is
//! there.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::debian::{compare, find_newest, signed_text, Archive, LockedDeb, Mirror, Mirrors, Release, SignatureError};
use super::definition::Variant;
use crate::archive::deb::{gzip_reader, xz_reader};
use crate::net::{Client, NetError};
use crate::oci::Digest;
use crate::policy::Kind;
use crate::store::{Key, Memo, Roots, Step, Store, StoreError};

/// Debian's have 150 kB.
const MAX_IN_RELEASE: u64 = 4 << 20;
/// Debian's main has 9 MB.
const MAX_PACKED: u64 = 64 << 20;
/// Debian's main has 46 MB.
const MAX_UNPACKED: u64 = 512 << 20;

/// Why there is no new lock.
#[derive(Debug, thiserror::Error)]
pub enum RelockError {
    /// The network or the server.
    #[error("fetch the index of Debian {suite}")]
    Net { suite: String, source: NetError },
    /// Nobody vouches for the index.
    #[error("use the index of Debian {suite}")]
    Signature { suite: String, source: SignatureError },
    /// The index is not the one that was asked for, or damaged.
    #[error("use the index of Debian {suite}: {reason}")]
    Index { suite: String, reason: String },
    /// A package of the definition is in no suite.
    #[error("lock {name} again: the archive has no package {package}")]
    Missing {
        /// What they are the packages of.
        name: String,
        package: String,
    },
    /// The archive goes back in time.
    #[error("lock {name} again: the archive has {package} {got}, which is older than the pinned {pinned}")]
    Older {
        /// What they are the packages of.
        name: String,
        package: String,
        /// The archive's version.
        got: String,
        /// Ours.
        pinned: String,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl RelockError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Net { source, .. } => source.kind(),
            Self::Signature { source, .. } => source.kind(),
            Self::Store(source) => source.kind(),
            Self::Index { .. } | Self::Missing { .. } | Self::Older { .. } => Kind::Failed,
        }
    }
}

/// What the lock made for `variant` is remembered by: later builds have to find it without asking the archive.
pub(super) fn relock_key(variant: &Variant) -> Key {
    Key::of(Step::Relock).with(variant.key().to_string()).finish()
}

/// What is remembered of [`relock`]: the packages that took the place of the pinned ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Relocked(pub Vec<LockedDeb>);

impl Memo for Relocked {
    const FOLDER: &'static str = "relock";
    const FORMER_FOLDER: Option<&'static str> = Some("lock");

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// The newest versions of the packages of `variant`, in the order of its lock.
pub(super) fn relock(
    store: &Store,
    client: &Client,
    variant: &Variant,
    mirrors: &Mirrors,
    now: SystemTime,
) -> Result<Vec<LockedDeb>, RelockError> {
    let wanted: Vec<String> = variant.lock.iter().map(|deb| deb.name.clone()).collect();
    let mut found = BTreeMap::new();
    read_index(
        store,
        client,
        &variant.definition.suite,
        mirrors,
        now,
        &mut |list, archive, limit| find_newest(list, archive, &wanted, limit, &mut found),
    )?;
    let newest = |pinned: &LockedDeb| {
        let (name, package) = (variant.title(), pinned.name.clone());
        let Some(deb) = found.remove(&pinned.name) else {
            return Err(RelockError::Missing { name, package });
        };
        if compare(&deb.version, &pinned.version).is_lt() {
            let (got, pinned) = (deb.version, pinned.version.clone());
            return Err(RelockError::Older {
                name,
                package,
                got,
                pinned,
            });
        }
        Ok(deb)
    };
    variant.lock.iter().map(newest).collect()
}

/// `name old -> new` of every package that differs.
pub(super) fn changes(before: &[LockedDeb], after: &[LockedDeb]) -> Vec<String> {
    let differs = before
        .iter()
        .zip(after)
        .filter(|(one, other)| one.sha256 != other.sha256);
    differs
        .map(|(one, other)| format!("{} {} -> {}", one.name, one.version, other.version))
        .collect()
}

/// Reads one list of packages, of an archive, of at most so many bytes; says what is wrong with it.
type ReadList<'a> = &'a mut dyn FnMut(&mut dyn Read, Archive, u64) -> Result<(), String>;

/// Gives `each` the lists of packages of the release `suite`, of its updates and of its security updates, in this order;
/// each is what the signed index of its archive says it is.
pub(super) fn read_index(
    store: &Store,
    client: &Client,
    suite: &str,
    mirrors: &Mirrors,
    now: SystemTime,
    each: ReadList<'_>,
) -> Result<(), RelockError> {
    let sources = [
        (Archive::Main, suite.to_owned(), &mirrors.main),
        (Archive::Updates, format!("{suite}-updates"), &mirrors.updates),
        (Archive::Security, format!("{suite}-security"), &mirrors.security),
    ];
    for (archive, suite, mirror) in sources {
        let source = Source {
            archive,
            suite,
            mirror,
            client,
        };
        source.read_list(store, now, each)?;
    }
    Ok(())
}

/// One suite on one mirror.
struct Source<'a> {
    archive: Archive,
    suite: String,
    mirror: &'a Mirror,
    client: &'a Client,
}

impl Source<'_> {
    fn read_list(&self, store: &Store, now: SystemTime, each: ReadList<'_>) -> Result<(), RelockError> {
        let signed = match self.get("InRelease", MAX_IN_RELEASE) {
            // Not every mirror has the updates between two point releases; what was pinned from there is then too new
            // for it, and is refused below.
            Err(RelockError::Net { source, .. }) if self.archive == Archive::Updates && source.is_not_found() => {
                return Ok(());
            }
            other => other?,
        };
        let scratch = store.scratch()?;
        let text = signed_text(&signed, &self.mirror.keyring, scratch.path());
        let text = text.map_err(|source| RelockError::Signature {
            suite: self.suite.clone(),
            source,
        })?;
        let release = Release::parse(&text, &self.suite, now).map_err(|reason| self.refuse(reason))?;
        let list = release
            .packages()
            .ok_or_else(|| self.refuse("it has no list of packages".to_owned()))?;
        if list.size > MAX_PACKED {
            return Err(self.refuse(format!("its list of packages has {} bytes", list.size)));
        }
        let directory = Path::new(&list.path).parent().unwrap_or(Path::new(""));
        let path = match release.by_hash {
            true => format!("{}/by-hash/SHA256/{}", directory.display(), list.sha256.hex()),
            false => list.path.clone(),
        };
        let packed = self.get(&path, list.size)?;
        let (got, size) = (Digest::of(&packed), packed.len());
        if size as u64 != list.size || got != list.sha256 {
            return Err(self.refuse(format!(
                "{} has {size} bytes and {got}, the index says {} and {}",
                list.path, list.size, list.sha256
            )));
        }
        let damaged = |reason: String| self.refuse(format!("{}: {reason}", list.path));
        if list.path.ends_with(".xz") {
            let mut reader = xz_reader(&packed).map_err(|error| damaged(error.to_string()))?;
            each(&mut reader, self.archive, MAX_UNPACKED)
        } else {
            each(&mut gzip_reader(&packed), self.archive, MAX_UNPACKED)
        }
        .map_err(damaged)
    }

    fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, RelockError> {
        let url = format!(
            "{}/dists/{}/{path}",
            self.mirror.uri.as_str().trim_end_matches('/'),
            self.suite
        );
        self.client.get(&url, limit).map_err(|source| RelockError::Net {
            suite: self.suite.clone(),
            source,
        })
    }

    fn refuse(&self, reason: String) -> RelockError {
        RelockError::Index {
            suite: self.suite.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests;
