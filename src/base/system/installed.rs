//! Which Debian packages a base has: dpkg's own list, or one file a package, as distroless images and ours have it.

use std::collections::BTreeMap;

use super::error::SystemError;
use crate::base::debian::{read_paragraphs, read_relations, Relation};
use crate::store::{Found, LastLink, LayerStack};

/// Debian's own list of a whole desktop has 5 MB.
const MAX_STATUS: u64 = 64 << 20;
/// One paragraph has some kilobytes.
const MAX_PARAGRAPH: u64 = 1 << 20;
const STATUS: &str = "var/lib/dpkg/status";
const STATUS_D: &str = "var/lib/dpkg/status.d";
const RELEASE: &str = "etc/os-release";
const FIELDS: [&str; 4] = ["Package", "Version", "Status", "Provides"];

/// What a base has.
#[derive(Debug, Default)]
pub(super) struct Installed {
    /// The Debian release it is of.
    pub suite: String,
    /// Version of each package by name.
    versions: BTreeMap<String, String>,
    /// What packages answer to besides their names.
    provides: Vec<Relation>,
}

impl Installed {
    /// Reads the lists in `stack`, the layers of the base called `base`.
    pub(super) fn read(base: &str, stack: &LayerStack) -> Result<Self, SystemError> {
        let reader = Reader { base, stack };
        let mut found = Self {
            suite: reader.suite()?,
            ..Self::default()
        };
        if let Some(text) = reader.file(STATUS, MAX_STATUS)? {
            found.add(&text).map_err(|reason| reader.refuse(STATUS, &reason))?;
        }
        for name in reader.names(STATUS_D)? {
            let path = format!("{STATUS_D}/{name}");
            if let Some(text) = reader
                .file(&path, MAX_PARAGRAPH)?
                .filter(|_| !name.ends_with(".md5sums"))
            {
                found.add(&text).map_err(|reason| reader.refuse(&path, &reason))?;
            }
        }
        if found.versions.is_empty() {
            return Err(SystemError::Base {
                base: base.to_owned(),
                reason: format!(
                    "it does not say which Debian packages it has (neither /{STATUS} nor /{STATUS_D}); build on a base \
                     that does, or leave out packages.txt"
                ),
            });
        }
        Ok(found)
    }

    fn add(&mut self, text: &[u8]) -> Result<(), String> {
        read_paragraphs(text, text.len() as u64, &FIELDS, &mut |mut fields| {
            // Of packages that were removed a line is left.
            let status = fields.get("Status").map(String::as_str);
            if status.is_some_and(|status| !status.ends_with(" installed")) {
                return Ok(());
            }
            if let (Some(name), Some(version)) = (fields.remove("Package"), fields.remove("Version")) {
                self.versions.insert(name, version);
            }
            let provided = read_relations(&fields.remove("Provides").unwrap_or_default())?;
            self.provides.extend(provided.into_iter().flatten());
            Ok(())
        })
    }

    /// The version of the package `name`.
    pub(super) fn version(&self, name: &str) -> Option<&str> {
        self.versions.get(name).map(String::as_str)
    }

    /// Whether `relation` is met.
    pub(super) fn meets(&self, relation: &Relation) -> bool {
        self.version(&relation.name)
            .is_some_and(|version| relation.accepts(version))
            || self.provides.iter().any(|provided| relation.is_met_by(provided))
    }

    /// A base that has `packages`.
    #[cfg(test)]
    pub(super) fn of(suite: &str, packages: &[(&str, &str)]) -> Self {
        let packages = packages.iter();
        Self {
            suite: suite.to_owned(),
            versions: packages
                .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
                .collect(),
            provides: Vec::new(),
        }
    }

    /// Name and version of every package.
    pub(super) fn packages(&self) -> impl Iterator<Item = (&str, &str)> {
        self.versions
            .iter()
            .map(|(name, version)| (name.as_str(), version.as_str()))
    }
}

struct Reader<'a> {
    base: &'a str,
    stack: &'a LayerStack,
}

impl Reader<'_> {
    fn suite(&self) -> Result<String, SystemError> {
        let text = self.file(RELEASE, MAX_PARAGRAPH)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let value = |name: &str| {
            let mut values = text
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            values.next().map(|value| value.trim_matches('"').to_owned())
        };
        let is_word = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
        let suite = value("VERSION_CODENAME").filter(is_word);
        match (value("ID").as_deref(), suite) {
            (Some("debian"), Some(suite)) => Ok(suite),
            _ => Err(self.refuse(RELEASE, "it is not of a release of Debian, whose packages they are")),
        }
    }

    fn file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, SystemError> {
        let failed = |source| SystemError::ReadBase {
            base: self.base.to_owned(),
            path: path.to_owned(),
            source,
        };
        let Found::File(at) = self.stack.find(path, LastLink::Follow).map_err(failed)? else {
            return Ok(None);
        };
        let text = self.stack.read(&at, limit + 1).map_err(failed)?;
        match text.len() as u64 > limit {
            true => Err(self.refuse(path, &format!("it has more than {limit} bytes"))),
            false => Ok(Some(text)),
        }
    }

    fn names(&self, path: &str) -> Result<Vec<String>, SystemError> {
        let names = self.stack.names(path);
        names.map_err(|source| SystemError::ReadBase {
            base: self.base.to_owned(),
            path: path.to_owned(),
            source,
        })
    }

    fn refuse(&self, path: &str, reason: &str) -> SystemError {
        SystemError::Base {
            base: self.base.to_owned(),
            reason: format!("/{path}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Installed, SystemError> {
        let tree = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Installed::read("x", &LayerStack::open([tree.path().to_owned()]).unwrap())
    }

    const DEBIAN: (&str, &str) = (RELEASE, "ID=debian\nVERSION_CODENAME=bookworm\n");

    #[test]
    fn reads_dpkgs_list_and_that_of_distroless_images() {
        let status = "Package: aa\nStatus: install ok installed\nVersion: 1\nProvides: cc (= 2), dd\n\nPackage: bb\nStatus: deinstall ok config-files\nVersion: 1\n";
        let found = read(&[DEBIAN, (STATUS, status)]).unwrap();
        assert_eq!(found.packages().collect::<Vec<_>>(), [("aa", "1")]);
        assert!(found.meets(&Relation::any("dd")) && found.meets(&Relation::any("cc")));
        assert!(!found.meets(&Relation::any("bb")));
        let found = read(&[
            DEBIAN,
            ("var/lib/dpkg/status.d/ee", "Package: ee\nVersion: 3\n"),
            ("var/lib/dpkg/status.d/ee.md5sums", "x"),
        ]);
        let found = found.unwrap();
        assert_eq!((found.suite.as_str(), found.version("ee")), ("bookworm", Some("3")));
    }

    #[test]
    fn refuses_a_base_that_does_not_say_what_it_has() {
        let says = |files: &[(&str, &str)]| read(files).unwrap_err().to_string();
        assert!(says(&[DEBIAN]).contains("does not say which Debian packages"));
        let alpine = (RELEASE, "ID=alpine\nVERSION_CODENAME=x\n");
        assert!(says(&[alpine]).contains("not of a release of Debian"));
        assert!(says(&[(RELEASE, "ID=debian\nVERSION_CODENAME=../x\n")]).contains("not of a release"));
        assert!(says(&[DEBIAN, (STATUS, "Package: a\nPackage: b\n")]).contains("twice"));
    }
}
