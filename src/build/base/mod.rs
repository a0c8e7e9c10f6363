//! The base image, made natively from pinned Debian packages: no maintainer script runs, and none has to.
//!
//! A definition (`rootfs/<name>.toml`) lists packages and what of them is left out; its lock (`rootfs/<name>.lock`)
//! pins each package by path, size and sha256. Both are part of this binary. Assembly is a pure function of them:
//! packages -> one sorted tree -> one layer. A definition may instead name a parent and wheels: its base is that of the
//! parent, and its lock pins the wheels, which become the same layers as those of any function that requires them. The
//! toolchain that source distributions are built with is made of packages, too, but is no base: its layer lies on one.

mod assemble;
mod debian_version;
mod mirror;
mod packages;
mod release;
mod relock;
mod signature;
mod synthesise;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use assemble::{assemble, AssembleError};
pub use mirror::{find_mirrors, Configured, Mirror, MirrorError, Mirrors};
pub use relock::{changes, relock, relock_key, RelockError, Relocked};
pub use signature::SignatureError;
pub use synthesise::SITE_LINE;

use super::fetch::FetchItem;
use super::pins::{self, PinnedWheel};
use crate::build::layers::LayerNote;
use crate::oci::Digest;
use crate::store::{Key, Step};

/// Nothing is remembered of a layer of a base besides its bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct BaseNote;

impl LayerNote for BaseNote {
    const FOLDER: &'static str = "base";
}

/// Name, definition and lock of each variant; the first is the default.
const VARIANTS: [(&str, &str, &str); 4] = [
    (
        "python-3.11",
        include_str!("../../../rootfs/python-3.11.toml"),
        include_str!("../../../rootfs/python-3.11.lock"),
    ),
    (
        "python-3.11-slim",
        include_str!("../../../rootfs/python-3.11-slim.toml"),
        include_str!("../../../rootfs/python-3.11-slim.lock"),
    ),
    (
        "python-3.11-numpy",
        include_str!("../../../rootfs/python-3.11-numpy.toml"),
        include_str!("../../../rootfs/python-3.11-numpy.lock"),
    ),
    (
        "python-3.11-scipy",
        include_str!("../../../rootfs/python-3.11-scipy.toml"),
        include_str!("../../../rootfs/python-3.11-scipy.lock"),
    ),
];

/// The toolchain's definition and lock.
const TOOLCHAIN: (&str, &str, &str) = (
    "toolchain",
    include_str!("../../../rootfs/toolchain.toml"),
    include_str!("../../../rootfs/toolchain.lock"),
);

/// What a file of `rootfs` says.
#[derive(Debug)]
enum Written {
    Packages(Definition),
    Wheels(WheelDefinition),
}

/// Wheels on top of another variant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WheelDefinition {
    /// For people.
    #[serde(rename = "description")]
    _description: String,
    /// The variant that has the packages.
    parent: String,
    /// `name==version` each.
    wheels: Vec<String>,
}

/// What the assembled packages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A root file system: what maintainer scripts would have made of it is synthesised.
    #[default]
    Root,
    /// Files that lie on one.
    Addition,
}

/// What a base is made of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// For people.
    pub description: String,
    /// The Python in it.
    pub python: String,
    /// The Debian suite.
    pub suite: String,
    /// Package names.
    pub packages: Vec<String>,
    /// Paths left out; those that end with `/` with everything below.
    pub drop: Vec<String>,
    /// Programs of `usr/bin` left out.
    pub drop_bin: Vec<String>,
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// Links to make: path -> target.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
}

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedDeb {
    /// Package name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Which archive has it.
    pub archive: Archive,
    /// Path in that archive.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hash.
    pub sha256: Digest,
}

/// The archives of a Debian release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Archive {
    /// The release itself.
    Main,
    /// Updates between two point releases; later part of the release.
    Updates,
    /// Security updates.
    Security,
}

/// A variant that can be built.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub definition: Definition,
    /// Exactly which packages.
    pub lock: Vec<LockedDeb>,
    /// The variant that has the same packages and no wheels; itself, when it has none.
    pub packages_of: String,
    /// Exactly which wheels come on top.
    pub wheels: Vec<PinnedWheel>,
}

/// Why a lock is not one.
#[derive(Debug, thiserror::Error)]
#[error("read base {name}: {reason}")]
pub struct VariantError {
    /// The variant.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

impl VariantError {
    /// What sort of failure this is.
    pub fn kind(&self) -> crate::policy::Kind {
        crate::policy::Kind::Failed
    }
}

/// The names of all variants, the default first.
pub fn variant_names() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _, _)| *name).collect()
}

/// A variant by its name; none when there is no such variant.
pub fn find_variant(name: &str) -> Result<Option<Variant>, VariantError> {
    let found = VARIANTS.into_iter().find(|(known, _, _)| *known == name);
    found.map(parse).transpose()
}

/// What source distributions are built with, besides the base they are built for.
pub fn toolchain() -> Result<Variant, VariantError> {
    parse(TOOLCHAIN)
}

fn parse((name, definition, lock): (&str, &str, &str)) -> Result<Variant, VariantError> {
    let error = |reason: String| VariantError {
        name: name.to_owned(),
        reason,
    };
    let written = if definition.contains("\nparent = ") {
        toml::from_str(definition).map(Written::Wheels)
    } else {
        toml::from_str(definition).map(Written::Packages)
    };
    let bad_line = |line: &str| error(format!("lock line {line:?}"));
    match written.map_err(|cause| error(cause.to_string()))? {
        Written::Packages(definition) => {
            let lock = lock
                .lines()
                .map(|line| parse_locked(line).ok_or_else(|| bad_line(line)));
            Ok(Variant {
                name: name.to_owned(),
                definition,
                lock: lock.collect::<Result<Vec<_>, _>>()?,
                packages_of: name.to_owned(),
                wheels: Vec::new(),
            })
        }
        Written::Wheels(definition) => {
            let parent = find_variant(&definition.parent)?.filter(|parent| parent.wheels.is_empty());
            let parent =
                parent.ok_or_else(|| error(format!("no variant of packages is called {:?}", definition.parent)))?;
            let wheels = lock.lines().map(|line| pins::parse(line).ok_or_else(|| bad_line(line)));
            let wheels = wheels.collect::<Result<Vec<_>, _>>()?;
            let locked = wheels.iter().map(|pin| format!("{}=={}", pin.name, pin.version));
            if !locked.eq(definition.wheels.iter().cloned()) {
                return Err(error("its lock has other wheels than its definition".to_owned()));
            }
            Ok(Variant {
                name: name.to_owned(),
                wheels,
                ..parent
            })
        }
    }
}

fn parse_locked(line: &str) -> Option<LockedDeb> {
    let mut fields = line.split(' ');
    let (name, version) = (fields.next()?.to_owned(), fields.next()?.to_owned());
    let archive = match fields.next()? {
        "main" => Archive::Main,
        "security" => Archive::Security,
        _ => return None,
    };
    let path = fields.next()?.to_owned();
    let (size, sha256) = (
        fields.next()?.parse().ok()?,
        format!("sha256:{}", fields.next()?).parse().ok()?,
    );
    is_pool_path(&path).then_some(LockedDeb {
        name,
        version,
        archive,
        path,
        size,
        sha256,
    })
}

/// Whether `path` is plainly a file below the pool of an archive; it becomes part of an address.
fn is_pool_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+~-".contains(&byte);
    path.starts_with("pool/")
        && path.bytes().all(plain)
        && path.split('/').all(|component| !matches!(component, "" | "." | ".."))
}

impl Variant {
    /// For people: what its packages make.
    pub fn title(&self) -> String {
        match self.definition.kind {
            Kind::Root => format!("base {}", self.packages_of),
            Kind::Addition => self.packages_of.clone(),
        }
    }

    /// What the base's layer is keyed by.
    pub fn key(&self) -> Key {
        let definition = &self.definition;
        let mut key = Key::of(Step::BaseLayer).with(&definition.suite);
        for drop in definition.drop.iter().chain(&definition.drop_bin) {
            key = key.with(drop);
        }
        for (path, target) in &definition.links {
            key = key.with(path).with(target);
        }
        for deb in &self.lock {
            key = key.with(deb.sha256.to_string());
        }
        // Keys of earlier versions end in a NUL.
        key.with("").finish()
    }

    /// The packages as downloads from `mirrors`.
    pub fn fetch_items(&self, mirrors: &Mirrors) -> Vec<FetchItem> {
        let item = |deb: &LockedDeb| FetchItem {
            name: format!("{} {}", deb.name, deb.version),
            url: format!(
                "{}/{}",
                mirrors.of(deb.archive).uri.as_str().trim_end_matches('/'),
                deb.path
            ),
            size: deb.size,
            sha256: deb.sha256,
        };
        self.lock.iter().map(item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_a_lock_for_exactly_its_packages() {
        let bases = variant_names()
            .into_iter()
            .map(|name| find_variant(name).unwrap().unwrap());
        for variant in bases.chain([toolchain().unwrap()]) {
            let mut wanted = variant.definition.packages.clone();
            wanted.sort();
            let mut locked: Vec<String> = variant.lock.iter().map(|deb| deb.name.clone()).collect();
            locked.sort();
            assert_eq!(wanted, locked, "{}", variant.name);
        }
        assert!(find_variant("no-such").unwrap().is_none());
    }

    #[test]
    fn a_variant_with_wheels_has_the_very_packages_of_its_parent() {
        let plain = find_variant("python-3.11").unwrap().unwrap();
        let scipy = find_variant("python-3.11-scipy").unwrap().unwrap();
        assert_eq!(scipy.key(), plain.key());
        assert_eq!(
            (scipy.packages_of.as_str(), plain.packages_of.as_str()),
            ("python-3.11", "python-3.11")
        );
        let numpy = find_variant("python-3.11-numpy").unwrap().unwrap();
        assert_eq!(numpy.wheels, scipy.wheels[..1], "both share numpy's layer");
        assert!(plain.wheels.is_empty() && scipy.wheels[1].name == "scipy");
    }

    #[test]
    fn the_toolchain_is_no_base() {
        assert!(find_variant("toolchain").unwrap().is_none());
        assert!(!variant_names().contains(&"toolchain"));
        assert_eq!(toolchain().unwrap().definition.kind, Kind::Addition);
    }

    #[test]
    fn a_lock_line_is_complete_and_stays_in_the_pool() {
        let hash = "0".repeat(64);
        assert!(parse_locked(&format!("a 1 main pool/a.deb 1 {hash}")).is_some());
        for line in [
            format!("a 1 other pool/a.deb 1 {hash}"),
            format!("a 1 main ../a.deb 1 {hash}"),
            "a 1 main pool/a.deb 1 x".into(),
        ] {
            assert!(parse_locked(&line).is_none(), "{line}");
        }
    }
}
