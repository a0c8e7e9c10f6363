//! The base image, made natively from pinned Debian packages: no maintainer script runs, and none has to.
//!
//! A definition (`rootfs/<name>.toml`) lists packages and what of them is left out; its lock (`rootfs/<name>.lock`)
//! pins each package by path, size and sha256. Both are part of this binary. Assembly is a pure function of them:
//! packages -> one sorted tree -> one layer. A definition may instead name a parent and wheels: its base is that of the
//! parent, and its lock pins the wheels, which become the same layers as those of any function that requires them. The
//! toolchain that source distributions are built with is made of packages, too, but is no base: its layer lies on one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::debian::{parse_locked, LockedDeb};
use crate::policy::Kind;
use crate::store::{Key, LayerNote, Step};

/// Nothing is remembered of a layer of a base besides its bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct BaseNote;

impl LayerNote for BaseNote {
    const FOLDER: &'static str = "base";
}

/// Name, definition and lock of each variant; the first is the default.
const VARIANTS: [(&str, &str, &str); 4] = [
    (
        "python-3.11",
        include_str!("../../rootfs/python-3.11.toml"),
        include_str!("../../rootfs/python-3.11.lock"),
    ),
    (
        "python-3.11-slim",
        include_str!("../../rootfs/python-3.11-slim.toml"),
        include_str!("../../rootfs/python-3.11-slim.lock"),
    ),
    (
        "python-3.11-numpy",
        include_str!("../../rootfs/python-3.11-numpy.toml"),
        include_str!("../../rootfs/python-3.11-numpy.lock"),
    ),
    (
        "python-3.11-scipy",
        include_str!("../../rootfs/python-3.11-scipy.toml"),
        include_str!("../../rootfs/python-3.11-scipy.lock"),
    ),
];

/// The toolchain's definition and lock.
const TOOLCHAIN: (&str, &str, &str) = (
    "toolchain",
    include_str!("../../rootfs/toolchain.toml"),
    include_str!("../../rootfs/toolchain.lock"),
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
pub(crate) enum Shape {
    /// A root file system: what maintainer scripts would have made of it is synthesised.
    #[default]
    Root,
    /// Files that lie on one.
    Addition,
}

/// What a base is made of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definition {
    /// For people.
    pub description: String,
    /// The Python in it.
    pub python: String,
    /// The Debian suite.
    pub suite: String,
    /// Package names; the lock is made of them, and held against them by a test.
    #[cfg_attr(not(test), expect(dead_code, reason = "the lock says exactly which"))]
    pub packages: Vec<String>,
    /// Paths left out; those that end with `/` with everything below.
    pub drop: Vec<String>,
    /// Programs of `usr/bin` left out.
    pub drop_bin: Vec<String>,
    /// What it is.
    #[serde(default)]
    pub kind: Shape,
    /// Links to make: path -> target.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
}

/// A variant that can be built.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub definition: Definition,
    /// Exactly which packages.
    pub lock: Vec<LockedDeb>,
    /// The variant that has the same packages and no wheels; itself, when it has none.
    pub packages_of: String,
    /// Exactly which wheels come on top, as lines of a lock: `name version file size sha256`.
    pub wheels: Vec<String>,
}

/// Why a lock is not one.
#[derive(Debug, thiserror::Error)]
#[error("read base {name}: {reason}")]
pub struct VariantError {
    pub name: String,
    pub reason: String,
}

impl VariantError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        Kind::Failed
    }
}

/// The names of all variants, the default first.
pub(crate) fn variant_names() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _, _)| *name).collect()
}

/// The name of the variant that functions are built on unless told otherwise.
pub fn default_variant() -> &'static str {
    let [(name, _, _), ..] = VARIANTS;
    name
}

/// The Python of the [`default_variant`], such as `3.11`: the one that is wanted of any base unless told otherwise.
pub(crate) fn default_python() -> &'static str {
    let name = default_variant();
    name.strip_prefix("python-").unwrap_or(name)
}

/// A variant by its name; none when there is no such variant.
pub(crate) fn find_variant(name: &str) -> Result<Option<Variant>, VariantError> {
    let found = VARIANTS.into_iter().find(|(known, _, _)| *known == name);
    found.map(parse).transpose()
}

/// What source distributions are built with, besides the base they are built for.
pub(crate) fn toolchain() -> Result<Variant, VariantError> {
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
            let wheels: Vec<String> = lock.lines().map(str::to_owned).collect();
            let named = |line: &String| {
                let mut fields = line.split(' ');
                Some(format!("{}=={}", fields.next()?, fields.next()?))
            };
            let locked = wheels.iter().map(|line| named(line).ok_or_else(|| bad_line(line)));
            let locked = locked.collect::<Result<Vec<_>, _>>()?;
            if locked != definition.wheels {
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

impl Variant {
    /// For people: what its packages make.
    pub(crate) fn title(&self) -> String {
        match self.definition.kind {
            Shape::Root => format!("base {}", self.packages_of),
            Shape::Addition => self.packages_of.clone(),
        }
    }

    /// The full version of its Python, such as `3.11.2`, as far as its packages say it.
    pub(crate) fn full_version(&self) -> Option<&str> {
        let name = format!("python{}-minimal", self.definition.python);
        let deb = self.lock.iter().find(|deb| deb.name == name)?;
        let (upstream, _) = deb.version.rsplit_once('-')?;
        let is_number = |part: &str| part.parse::<u32>().is_ok();
        (upstream.starts_with(&format!("{}.", self.definition.python)) && upstream.split('.').all(is_number))
            .then_some(upstream)
    }

    /// What the base's layer is keyed by.
    pub(crate) fn key(&self) -> Key {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_debian_say_which_python_they_have() {
        let variant = find_variant("python-3.11-scipy").unwrap().unwrap();
        assert_eq!(variant.full_version(), Some("3.11.2"));
        assert_eq!(toolchain().unwrap().full_version(), None);
    }

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
        assert!(plain.wheels.is_empty() && scipy.wheels[1].starts_with("scipy "));
    }

    #[test]
    fn the_default_variant_has_the_default_python() {
        let default = find_variant(default_variant()).unwrap().unwrap();
        assert_eq!(default.definition.python, default_python());
    }

    #[test]
    fn the_toolchain_is_no_base() {
        assert!(find_variant("toolchain").unwrap().is_none());
        assert!(!variant_names().contains(&"toolchain"));
        assert_eq!(toolchain().unwrap().definition.kind, Shape::Addition);
    }
}
