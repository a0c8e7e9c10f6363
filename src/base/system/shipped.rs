//! What gantry knows of Debian packages (`rootfs/system.toml`, part of this binary).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::SystemError;

/// The file.
pub(super) const TEXT: &str = include_str!("../../../rootfs/system.toml");

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shipped {
    /// What functions may ask for, unless the configuration says otherwise; by what it is for.
    allowed: BTreeMap<String, Vec<String>>,
    /// Paths that are left out of every package; those that end with `/` with everything below.
    drop: Vec<String>,
    /// Path of a file -> lines that are added at its end.
    added: BTreeMap<String, String>,
    /// Packages that only maintainer scripts need.
    left_out: Vec<String>,
    /// Packages with scripts that somebody has read.
    checked: Vec<Checked>,
    /// Shared library -> the package that has it.
    libraries: BTreeMap<String, String>,
    /// Package that is often asked for and of no use -> what is meant.
    #[serde(default)]
    advice: BTreeMap<String, String>,
}

/// Packages whose scripts need not be run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checked {
    packages: Vec<String>,
    /// For people: what the scripts do, and why that is not missed.
    #[serde(rename = "why")]
    _why: String,
    /// Links that the scripts would have made: path without leading slash -> target.
    #[serde(default)]
    links: BTreeMap<String, String>,
}

impl Shipped {
    /// Reads the file.
    pub(crate) fn read() -> Result<Self, SystemError> {
        toml::from_str(TEXT).map_err(|error| SystemError::Shipped {
            reason: error.to_string(),
        })
    }

    /// The packages that functions may ask for by default.
    pub(crate) fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allowed.values().flatten().map(String::as_str)
    }

    /// What to do instead of asking for `package`, where that is known.
    pub(super) fn advice(&self, package: &str) -> Option<&str> {
        self.advice.get(package).map(String::as_str)
    }

    /// Whether only maintainer scripts need `package`.
    pub(super) fn is_left_out(&self, package: &str) -> bool {
        self.left_out.iter().any(|name| name == package)
    }

    /// Whether the file at `path` of a package goes into the layer.
    pub(super) fn is_wanted(&self, path: &str) -> bool {
        // Licences stay: they must accompany what is shipped.
        if path.starts_with("usr/share/doc/") {
            return path.ends_with("/copyright");
        }
        let drops = |drop: &String| match drop.strip_suffix('/') {
            Some(directory) => path == directory || path.starts_with(drop.as_str()),
            None => path == drop,
        };
        !self.drop.iter().any(drops)
    }

    /// Adds to the file at `path` what belongs there.
    pub(super) fn add_to(&self, path: &str, contents: &mut Vec<u8>) {
        if let Some(lines) = self.added.get(path) {
            // The last line of a file may have no end.
            contents.extend(format!("\n{lines}\n").into_bytes());
        }
    }

    /// The links that the scripts of `package` would have made; none when nobody has read them.
    pub(super) fn checked(&self, package: &str) -> Option<&BTreeMap<String, String>> {
        let checked = self
            .checked
            .iter()
            .find(|checked| checked.packages.iter().any(|name| name == package));
        checked.map(|checked| &checked.links)
    }

    /// The package that has the shared library `name`.
    pub(crate) fn package_of(&self, library: &str) -> Option<&str> {
        self.libraries.get(library).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::debian::is_package_name;

    #[test]
    fn the_file_is_sound() {
        let shipped = Shipped::read().unwrap();
        let allowed: Vec<&str> = shipped.allowed().collect();
        let distinct: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(distinct.len(), allowed.len(), "a package is allowed twice");
        let checked = shipped.checked.iter().flat_map(|checked| &checked.packages);
        for name in allowed
            .iter()
            .copied()
            .chain(shipped.left_out.iter().chain(checked).map(String::as_str))
        {
            assert!(is_package_name(name), "{name}");
        }
        for (library, package) in &shipped.libraries {
            assert!(library.contains(".so"), "{library}");
            assert!(
                distinct.contains(package.as_str()),
                "{library}: {package} is not allowed"
            );
        }
        assert!(shipped.is_left_out("debconf") && shipped.package_of("libGL.so.1") == Some("libgl1"));
        for (path, lines) in &shipped.added {
            assert!(path.starts_with("etc/") && !lines.ends_with('\n'), "{path}");
        }
        let (mut settings, mut other) = (b"btl = self".to_vec(), Vec::new());
        shipped.add_to("etc/openmpi/openmpi-mca-params.conf", &mut settings);
        shipped.add_to("etc/other.conf", &mut other);
        assert_eq!(settings, b"btl = self\ness_singleton_isolated = 1\n");
        assert!(other.is_empty());
        for package in shipped.advice.keys() {
            assert!(
                !distinct.contains(package.as_str()),
                "{package} is allowed, so there is nothing to advise"
            );
        }
    }
    #[test]
    fn the_document_lists_what_is_allowed() {
        let document = include_str!("../../../docs/system-packages.md");
        let rows = document.split("\n| for | packages |\n|---|---|\n").nth(1).unwrap();
        let rows = rows.split("\n\n").next().unwrap();
        let listed: BTreeSet<&str> = rows.split('`').skip(1).step_by(2).collect();
        assert_eq!(listed, Shipped::read().unwrap().allowed().collect());
    }
}
