//! The base image, made natively from pinned Debian packages: no maintainer script runs, and none has to.
//!
//! A definition (`rootfs/<name>.toml`) lists packages and what of them is left out; its lock (`rootfs/<name>.lock`)
//! pins each package by path, size and sha256. Both are part of this binary. Assembly is a pure function of them:
//! packages -> one sorted tree -> one layer. A definition may instead name a parent and wheels: its base is that of the
//! parent, and its lock pins the wheels, which become the same layers as those of any function that requires them. The
//! toolchains that source distributions are built with are made of packages, too, but are no bases: their layer lies on
//! one. Nothing but definitions names a Python version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::debian::LockedDeb;
use crate::net::Address;
use crate::oci::Digest;
use crate::policy::Kind;
use crate::store::{Key, LayerNote, Step};

/// Nothing is remembered of a layer of a base besides its bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct BaseNote;

impl LayerNote for BaseNote {
    const FOLDER: &'static str = "base";
}

/// What a file of `rootfs` says.
#[derive(Debug)]
pub(super) enum Written {
    Packages(Box<PackageDefinition>),
    Wheels(WheelDefinition),
}

/// Wheels on top of another variant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WheelDefinition {
    /// For people.
    #[serde(rename = "description")]
    _description: String,
    /// The variant that has the packages.
    pub parent: String,
    /// `name==version` each.
    pub wheels: Vec<String>,
}

/// Packages, and what of them is left out; lists are added to those of the definitions that it names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PackageDefinition {
    pub description: String,
    /// The Python in it; that of `extends` by default.
    pub python: Option<String>,
    /// The Debian suite; likewise.
    pub suite: Option<String>,
    /// The definition whose packages it has, too.
    pub extends: Option<String>,
    /// The definition that leaves out and links the same, where its own Python's version stands for this one's.
    pub like: Option<String>,
    pub packages: Vec<String>,
    #[serde(default)]
    pub drop: Vec<String>,
    #[serde(default)]
    pub drop_bin: Vec<String>,
    #[serde(default)]
    pub kind: Shape,
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    pub interpreter: Option<InterpreterDefinition>,
}

/// An archive of an interpreter, by address and hash or by the definition that has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct InterpreterDefinition {
    pub of: Option<String>,
    pub url: Option<String>,
    pub sha256: Option<String>,
    pub keep: Vec<String>,
    pub drop: Vec<String>,
}

/// An archive of an interpreter, whose files join those of the packages.
#[derive(Debug, Clone)]
pub(crate) struct Interpreter {
    /// Where it is, unless the configuration names a mirror that has it.
    pub url: String,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Paths in it that alone are taken; all when there are none.
    pub keep: Vec<String>,
    /// Paths in it that are left out. Those that end with `/` are meant with everything below, those that end with `*`
    /// with everything that starts so.
    pub drop: Vec<String>,
}

impl Interpreter {
    /// What it is called, for people.
    pub(crate) fn file_name(&self) -> String {
        self.last_segment().replace("%2B", "+")
    }

    /// Where it is on `mirror`: by the very name that its own address ends with, as some servers take a `+` for a space.
    pub(super) fn address(&self, mirror: Option<&Address>) -> Address {
        match mirror {
            Some(mirror) => Address::new(format!(
                "{}/{}",
                mirror.as_str().trim_end_matches('/'),
                self.last_segment()
            )),
            None => Address::new(&self.url),
        }
    }

    fn last_segment(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }

    /// Whether the file or directory at `path` of it goes into the base.
    pub(super) fn is_wanted(&self, path: &str) -> bool {
        let names = |rule: &String| match (rule.strip_suffix('/'), rule.strip_suffix('*')) {
            (Some(directory), _) => path == directory || path.starts_with(rule),
            (None, Some(start)) => path.starts_with(start),
            (None, None) => path == rule,
        };
        (self.keep.is_empty() || self.keep.iter().any(names)) && !self.drop.iter().any(names)
    }
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
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    /// For people.
    pub description: String,
    /// The Python in it.
    pub python: String,
    /// The Debian suite.
    pub suite: String,
    /// Package names; the lock is made of them, and held against them.
    pub packages: Vec<String>,
    /// Paths left out; those that end with `/` with everything below, those that end with `*` with all that begin so.
    pub drop: Vec<String>,
    /// Programs of `usr/bin` left out.
    pub drop_bin: Vec<String>,
    /// What it is.
    pub kind: Shape,
    /// Links to make: path -> target.
    pub links: BTreeMap<String, String>,
    /// The archive that has its Python, when Debian's packages have none.
    pub interpreter: Option<Interpreter>,
}

impl Definition {
    /// The absolute directory that its Python is installed in.
    pub(crate) fn prefix(&self) -> &'static str {
        match self.interpreter {
            Some(_) => "/usr/local",
            None => "/usr",
        }
    }
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

impl Written {
    pub(super) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        // Nearly all are of packages, and a build that has nothing to do reads one.
        let refused = match toml::from_str(text) {
            Ok(packages) => return Ok(Self::Packages(packages)),
            Err(error) => error,
        };
        if toml::from_str::<toml::Table>(text)?.contains_key("parent") {
            toml::from_str(text).map(Self::Wheels)
        } else {
            Err(refused)
        }
    }
}

impl Variant {
    /// The minor version of its C library, which decides which wheels load.
    pub(crate) fn glibc(&self) -> Result<u32, VariantError> {
        let libc = self.lock.iter().find(|deb| deb.name == "libc6");
        let minor = libc.and_then(|deb| deb.version.strip_prefix("2.")?.split('-').next()?.parse().ok());
        minor.ok_or_else(|| VariantError {
            name: self.name.clone(),
            reason: "its lock has no glibc 2.x".to_owned(),
        })
    }

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
        let kind = match definition.kind {
            Shape::Root => "root",
            Shape::Addition => "addition",
        };
        let mut key = Key::of(Step::BaseLayer)
            .with(kind)
            .with(&definition.suite)
            .with(&definition.python)
            .with_list(&definition.drop)
            .with_list(&definition.drop_bin)
            .with_list(definition.links.iter().flat_map(|(path, target)| [path, target]))
            .with_list(self.lock.iter().map(|deb| deb.sha256.to_string()));
        if let Some(interpreter) = &definition.interpreter {
            key = key
                .with(interpreter.sha256.to_string())
                .with_list(&interpreter.keep)
                .with_list(&interpreter.drop);
        }
        key.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_base_is_made_of_is_in_its_key() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let plain = Variant {
            name: "mine".to_owned(),
            definition: Definition {
                description: String::new(),
                python: "3.13".to_owned(),
                suite: "trixie".to_owned(),
                packages: Vec::new(),
                drop: list(&["a", "openssl"]),
                drop_bin: list(&["b"]),
                kind: Shape::Root,
                links: BTreeMap::new(),
                interpreter: None,
            },
            lock: Vec::new(),
            packages_of: "mine".to_owned(),
            wheels: Vec::new(),
        };
        let pin = |keep: &[&str], drop: &[&str]| Interpreter {
            url: "https://example.org/a".to_owned(),
            sha256: Digest::of(b""),
            keep: list(keep),
            drop: list(drop),
        };
        let changes: [&dyn Fn(&mut Definition); 9] = [
            &|_| {},
            &|own| own.python = "3.12".to_owned(),
            &|own| own.kind = Shape::Addition,
            &|own| (own.drop, own.drop_bin) = (list(&["a"]), list(&["openssl", "b"])),
            &|own| own.drop = list(&["openssl", "a"]),
            &|own| (own.drop, own.links) = (Vec::new(), [("a".to_owned(), "openssl".to_owned())].into()),
            &|own| own.interpreter = Some(pin(&[], &[])),
            &|own| own.interpreter = Some(pin(&["a"], &[])),
            &|own| own.interpreter = Some(pin(&[], &["a"])),
        ];
        let key = |change: &&dyn Fn(&mut Definition)| {
            let mut variant = plain.clone();
            change(&mut variant.definition);
            variant.key()
        };
        let keys: std::collections::BTreeSet<Key> = changes.iter().map(key).collect();
        assert_eq!(keys.len(), changes.len());
    }

    #[test]
    fn the_parent_is_found_however_it_is_written() {
        for text in [
            "parent=\"a\"\nwheels = []\ndescription = \"x\"\n",
            "description = \"x\"\nparent = \"a\"\nwheels = []\n",
        ] {
            assert!(matches!(Written::parse(text), Ok(Written::Wheels(_))), "{text}");
        }
        let packages = "description = \"\"\"\nparent = x\"\"\"\npackages = []\n";
        assert!(matches!(Written::parse(packages), Ok(Written::Packages(_))));
    }
}
