//! The definitions by name: those of this binary, and those of the directory that the configuration names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::debian::parse_locked;
use super::definition::{
    Definition, Interpreter, InterpreterDefinition, PackageDefinition, Shape, Variant, VariantError, WheelDefinition,
    Written,
};

/// Name, definition and lock of everything in `rootfs`.
macro_rules! rootfs {
    ($($name:literal,)*) => {
        &[$((
            $name,
            include_str!(concat!("../../rootfs/", $name, ".toml")),
            include_str!(concat!("../../rootfs/", $name, ".lock")),
        ),)*]
    };
}

/// The variants, the default first, and the toolchains.
const ROOTFS: &[(&str, &str, &str)] = rootfs![
    "python-3.11",
    "python-3.11-slim",
    "python-3.11-numpy",
    "python-3.11-scipy",
    "python-3.12",
    "python-3.12-slim",
    "python-3.12-numpy",
    "python-3.12-scipy",
    "python-3.13",
    "python-3.13-slim",
    "python-3.13-numpy",
    "python-3.13-scipy",
    "toolchain",
    "toolchain-3.12",
    "toolchain-3.13",
];
/// Definitions and locks of a directory have some kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// Definitions of a directory.
const MOST: usize = 100;

/// All definitions.
#[derive(Debug, Clone)]
pub(crate) struct Definitions {
    all: Vec<Texts>,
}

/// Name, definition and lock.
type Texts = (Cow<'static, str>, Cow<'static, str>, Cow<'static, str>);

impl Default for Definitions {
    fn default() -> Self {
        let texts = |(name, text, lock): &(&'static str, &'static str, &'static str)| {
            (Cow::Borrowed(*name), Cow::Borrowed(*text), Cow::Borrowed(*lock))
        };
        Self {
            all: ROOTFS.iter().map(texts).collect(),
        }
    }
}

/// The name of the variant that functions are built on unless told otherwise.
pub(crate) fn default_variant() -> &'static str {
    ROOTFS.first().map_or("", |(name, _, _)| name)
}

impl Definitions {
    /// The definitions of this binary, and `NAME.toml` with `NAME.lock` of `directory`, in the order of their names.
    pub(crate) fn load(directory: Option<&Path>) -> Result<Self, VariantError> {
        let mut definitions = Self::default();
        let Some(directory) = directory else {
            return Ok(definitions);
        };
        let failed = |path: &Path, reason: String| error(&path.display().to_string(), reason);
        let entries = fs::read_dir(directory).map_err(|cause| failed(directory, cause.to_string()))?;
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        if files.len() > MOST {
            return Err(failed(directory, format!("it has more than {MOST} definitions")));
        }
        for path in files {
            let read = |path: &Path| match fs::metadata(path) {
                Ok(found) if found.is_file() && found.len() <= MAX_FILE => {
                    fs::read_to_string(path).map_err(|cause| failed(path, cause.to_string()))
                }
                Ok(_) => Err(failed(path, format!("it is no file of at most {MAX_FILE} bytes"))),
                Err(cause) => Err(failed(path, cause.to_string())),
            };
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
            if !name.bytes().all(plain) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
                return Err(failed(&path, "its name is not of a-z, 0-9, - and .".to_owned()));
            }
            if definitions.texts(name).is_some() {
                return Err(failed(&path, "gantry has a definition of that name".to_owned()));
            }
            let (name, text, lock) = (name.to_owned(), read(&path)?, read(&path.with_extension("lock"))?);
            definitions.all.push((name.into(), text.into(), lock.into()));
        }
        Ok(definitions)
    }

    fn texts(&self, name: &str) -> Option<&Texts> {
        self.all.iter().find(|(known, _, _)| known == name)
    }

    /// All variants, the default first.
    pub(crate) fn variants(&self) -> Result<Vec<Variant>, VariantError> {
        let all = self.all.iter().map(|(name, _, _)| self.variant(name));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        Ok(all
            .into_iter()
            .flatten()
            .filter(|found| found.definition.kind == Shape::Root)
            .collect())
    }

    /// A variant by its name; none when there is no such variant.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Variant>, VariantError> {
        let found = self.variant(name)?;
        Ok(found.filter(|found| found.definition.kind == Shape::Root))
    }

    /// The variant with Python `python` that is otherwise like `variant`; none when there is none.
    pub(crate) fn find_other(&self, variant: &Variant, python: &str) -> Result<Option<Variant>, VariantError> {
        let own = variant.definition.python.as_str();
        if own == python {
            return Ok(Some(variant.clone()));
        }
        let other = self.find(&variant.name.replace(own, python))?;
        Ok(other.filter(|other| other.definition.python == python))
    }

    /// What source distributions are built with for Python `python`, besides the base they are built for; with the headers
    /// of its `interpreter`, when that comes from an archive.
    pub(crate) fn toolchain(
        &self,
        python: &str,
        interpreter: Option<&Interpreter>,
    ) -> Result<Option<Variant>, VariantError> {
        let mut all = self.additions()?;
        all.retain(|found| found.definition.python == python);
        if let Some(interpreter) = interpreter {
            let of = |found: &Variant| found.definition.interpreter.as_ref().map(|own| own.sha256);
            all.retain(|found| of(found) == Some(interpreter.sha256));
        }
        Ok(all.into_iter().next())
    }

    /// What they are built with on an image of Debian `suite` with Python `python` in `prefix`. One that has the headers of its Python
    /// takes any toolchain of that release without such.
    pub(crate) fn toolchain_of_image(
        &self,
        python: &str,
        prefix: &str,
        suite: &str,
        has_headers: bool,
    ) -> Result<Option<Variant>, VariantError> {
        let mut all = self.additions()?;
        all.retain(|found| {
            let own = &found.definition;
            own.suite == suite
                && match has_headers {
                    true => own.interpreter.is_none(),
                    false => own.python == python && own.prefix() == prefix,
                }
        });
        // One of another Python only where there is none of this one.
        all.sort_by_key(|found| found.definition.python != python);
        Ok(all.into_iter().next())
    }

    fn additions(&self) -> Result<Vec<Variant>, VariantError> {
        let all = self.all.iter().map(|(name, _, _)| self.variant(name));
        let all = all.collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
        Ok(all.filter(|found| found.definition.kind == Shape::Addition).collect())
    }

    /// The versions of Python that there are variants with, that of the default first.
    pub(crate) fn pythons(&self) -> Result<Vec<String>, VariantError> {
        let mut pythons: Vec<String> = Vec::new();
        for variant in self.variants()? {
            if !pythons.contains(&variant.definition.python) {
                pythons.push(variant.definition.python);
            }
        }
        Ok(pythons)
    }

    /// The Debian suites that there are definitions for.
    pub(crate) fn suites(&self) -> Result<Vec<String>, VariantError> {
        Ok(self
            .variants()?
            .into_iter()
            .map(|variant| variant.definition.suite)
            .collect())
    }

    fn variant(&self, name: &str) -> Result<Option<Variant>, VariantError> {
        let Some((name, text, lock)) = self.texts(name) else {
            return Ok(None);
        };
        Ok(Some(match written(name, text)? {
            Written::Packages(own) => self.packages(name, *own, lock)?,
            Written::Wheels(own) => self.wheels(name, &own, lock)?,
        }))
    }

    /// The definition of packages called `other`, which definition `name` builds on.
    fn other(&self, name: &str, other: &str) -> Result<PackageDefinition, VariantError> {
        match self.texts(other).map(|(_, text, _)| written(other, text)).transpose()? {
            Some(Written::Packages(found)) => Ok(*found),
            _ => Err(error(name, format!("no definition of packages is called {other:?}"))),
        }
    }

    fn packages(&self, name: &str, own: PackageDefinition, lock: &str) -> Result<Variant, VariantError> {
        let definition = self.definition(name, own)?;
        let bad_line = |line: &str| error(name, format!("lock line {line:?}"));
        let lock = lock
            .lines()
            .map(|line| parse_locked(line).ok_or_else(|| bad_line(line)));
        let lock = lock.collect::<Result<Vec<_>, _>>()?;
        let mut wanted: Vec<&str> = definition.packages.iter().map(String::as_str).collect();
        let mut locked: Vec<&str> = lock.iter().map(|deb| deb.name.as_str()).collect();
        wanted.sort_unstable();
        locked.sort_unstable();
        if locked != wanted {
            return Err(error(
                name,
                "its lock has other packages than its definition".to_owned(),
            ));
        }
        Ok(Variant {
            name: name.to_owned(),
            definition,
            lock,
            packages_of: name.to_owned(),
            wheels: Vec::new(),
        })
    }

    /// What `own` says, with what the definitions say that it names.
    fn definition(&self, name: &str, mut own: PackageDefinition) -> Result<Definition, VariantError> {
        if let Some(base) = &own.extends {
            let base = self.other(name, base)?;
            if base.extends.is_some() {
                return Err(error(
                    name,
                    "it extends a definition that extends another one".to_owned(),
                ));
            }
            own.interpreter = own.interpreter.or(base.interpreter);
            own.python = own.python.or(base.python);
            own.suite = own.suite.or(base.suite);
            own.packages = [base.packages, own.packages].concat();
        }
        let lacks = |what: &str| error(name, format!("it has no {what}"));
        let python = own.python.ok_or_else(|| lacks("python"))?;
        if let Some(model) = &own.like {
            let model = self.other(name, model)?;
            let theirs = match (model.python, model.like) {
                (Some(python), None) => python,
                _ => {
                    return Err(error(
                        name,
                        "what it is like is itself like another one, or has no python".to_owned(),
                    ))
                }
            };
            let ours = |text: String| with_python(&text, &theirs, &python);
            let both = |model: Vec<String>, own: Vec<String>| -> Vec<String> {
                model.into_iter().map(ours).chain(own).collect()
            };
            own.drop = both(model.drop, own.drop);
            own.drop_bin = both(model.drop_bin, own.drop_bin);
            let links = model.links.into_iter().map(|(path, to)| (ours(path), ours(to)));
            own.links = links.chain(own.links).collect::<BTreeMap<_, _>>();
        }
        Ok(Definition {
            description: own.description,
            python,
            suite: own.suite.ok_or_else(|| lacks("suite"))?,
            packages: own.packages,
            drop: own.drop,
            drop_bin: own.drop_bin,
            kind: own.kind,
            links: own.links,
            interpreter: own.interpreter.map(|found| self.interpreter(name, found)).transpose()?,
        })
    }

    fn interpreter(&self, name: &str, own: InterpreterDefinition) -> Result<Interpreter, VariantError> {
        let pin = match &own.of {
            Some(other) => self.other(name, other)?.interpreter.unwrap_or_default(),
            None => own.clone(),
        };
        let sha256 = pin.sha256.and_then(|hash| format!("sha256:{hash}").parse().ok());
        match (pin.url, sha256) {
            (Some(url), Some(sha256)) => Ok(Interpreter {
                url,
                sha256,
                keep: own.keep,
                drop: own.drop,
            }),
            _ => Err(error(name, "its interpreter has no url or no sha256".to_owned())),
        }
    }

    fn wheels(&self, name: &str, own: &WheelDefinition, lock: &str) -> Result<Variant, VariantError> {
        let no_parent = || error(name, format!("no variant of packages is called {:?}", own.parent));
        let parent = match self.texts(&own.parent) {
            Some((parent, text, lock)) => match written(parent, text)? {
                Written::Packages(found) => self.packages(parent, *found, lock)?,
                Written::Wheels(_) => return Err(no_parent()),
            },
            None => return Err(no_parent()),
        };
        let wheels: Vec<String> = lock.lines().map(str::to_owned).collect();
        let named = |line: &String| {
            let mut fields = line.split(' ');
            Some(format!("{}=={}", fields.next()?, fields.next()?))
        };
        let bad_line = |line: &str| error(name, format!("lock line {line:?}"));
        let locked = wheels.iter().map(|line| named(line).ok_or_else(|| bad_line(line)));
        if locked.collect::<Result<Vec<_>, _>>()? != own.wheels {
            return Err(error(name, "its lock has other wheels than its definition".to_owned()));
        }
        Ok(Variant {
            name: name.to_owned(),
            wheels,
            ..parent
        })
    }
}

/// `text` with the version `ours` for `theirs` where it stands after the name of a program or a directory, such as
/// `python3.11` or `pydoc3.11`: `ANSI_X3.110` has nothing to do with Python 3.11.
fn with_python(text: &str, theirs: &str, ours: &str) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(theirs) {
        let is_named = before.ends_with(|last: char| last.is_ascii_lowercase());
        let is_whole = !after.starts_with(|next: char| next.is_ascii_digit());
        done.push_str(before);
        done.push_str(if is_named && is_whole { ours } else { theirs });
        rest = after;
    }
    done + rest
}

fn written(name: &str, text: &str) -> Result<Written, VariantError> {
    Written::parse(text).map_err(|cause| error(name, cause.to_string()))
}

fn error(name: &str, reason: String) -> VariantError {
    VariantError {
        name: name.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Variant {
        Definitions::default().find(name).unwrap().unwrap()
    }

    #[test]
    fn every_definition_is_whole() {
        let definitions = Definitions::default();
        for (name, _, _) in ROOTFS {
            let variant = definitions.variant(name).unwrap().unwrap();
            assert!(!variant.lock.is_empty(), "{name}");
            assert!(
                variant.glibc().is_ok() || variant.definition.kind == Shape::Addition,
                "{name}"
            );
        }
        assert!(definitions.find("no-such").unwrap().is_none());
        for python in definitions.pythons().unwrap() {
            for flavour in ["", "-slim", "-numpy", "-scipy"] {
                let name = format!("python-{python}{flavour}");
                assert_eq!(find(&name).definition.python, python, "{name}");
            }
            let toolchain = definitions.toolchain(&python, None).unwrap().unwrap();
            let base = find(&format!("python-{python}-slim"));
            assert_eq!(toolchain.definition.suite, base.definition.suite);
            // What lies on the base replaces what is in it, and headers are those of its libraries.
            let version = |variant: &Variant, name: &str| {
                let deb = variant.lock.iter().find(|deb| deb.name == name);
                deb.map(|deb| deb.version.clone())
            };
            assert_eq!(version(&toolchain, "libc6-dev"), version(&base, "libc6"));
            for deb in &toolchain.lock {
                let same = version(&base, &deb.name).is_none_or(|found| found == deb.version);
                assert!(same, "{} for {python}", deb.name);
            }
        }
    }

    #[test]
    fn a_definition_has_what_those_have_that_it_names() {
        let (plain, slim, model) = (find("python-3.13"), find("python-3.13-slim"), find("python-3.11-slim"));
        assert!(plain
            .definition
            .packages
            .iter()
            .all(|name| slim.definition.packages.contains(name)));
        assert_eq!(
            (slim.definition.suite.as_str(), slim.definition.python.as_str()),
            ("trixie", "3.13")
        );
        for (ours, theirs) in slim.definition.drop.iter().zip(&model.definition.drop) {
            let expected = theirs.replace("python3.11/", "python3.13/");
            assert_eq!(*ours, expected);
        }
        assert_eq!(slim.definition.drop.len(), model.definition.drop.len());
        let gconv = "usr/lib/x86_64-linux-gnu/gconv/ANSI_X3.110.so".to_owned();
        assert!(slim.definition.drop.contains(&gconv), "no Python");
        for name in ["pydoc3.13", "pygettext3.13"] {
            assert!(plain.definition.drop_bin.contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn an_archive_brings_the_python_that_debian_has_not() {
        let definitions = Definitions::default();
        let (plain, slim) = (find("python-3.12"), find("python-3.12-slim"));
        let pin = plain.definition.interpreter.as_ref().unwrap();
        assert!(pin.file_name().starts_with("cpython-3.12.14+2026") && pin.file_name().ends_with(".tar.gz"));
        assert_eq!(slim.definition.interpreter.as_ref().unwrap().sha256, pin.sha256);
        assert_eq!(
            (plain.definition.prefix(), find("python-3.13").definition.prefix()),
            ("/usr/local", "/usr")
        );
        let toolchain = definitions.toolchain("3.12", Some(pin)).unwrap().unwrap();
        let headers = toolchain.definition.interpreter.unwrap();
        assert_eq!(
            (headers.sha256, headers.keep),
            (pin.sha256, vec!["include/".to_owned()])
        );
        let other = Interpreter {
            sha256: crate::oci::Digest::of(b""),
            ..pin.clone()
        };
        assert!(definitions.toolchain("3.12", Some(&other)).unwrap().is_none());
        let without = Variant {
            definition: Definition {
                interpreter: None,
                ..plain.definition.clone()
            },
            ..plain.clone()
        };
        assert_ne!(without.key(), plain.key());
    }

    #[test]
    fn an_image_takes_the_toolchain_of_its_release_and_no_headers_over_its_own() {
        let definitions = Definitions::default();
        let of = |python: &str, prefix: &str, suite: &str, has_headers: bool| {
            let found = definitions.toolchain_of_image(python, prefix, suite, has_headers);
            found.unwrap().map(|found| found.name)
        };
        for (python, prefix, suite, has_headers, expected) in [
            // Images of Python's own, with headers in /usr/local, on either release.
            ("3.11", "/usr/local", "trixie", true, Some("toolchain-3.13")),
            ("3.12", "/usr/local", "trixie", true, Some("toolchain-3.13")),
            ("3.12", "/usr/local", "bookworm", true, Some("toolchain")),
            ("3.13", "/usr/local", "bookworm", true, Some("toolchain")),
            // Ours, and Debian's own.
            ("3.12", "/usr/local", "bookworm", false, Some("toolchain-3.12")),
            ("3.11", "/usr", "bookworm", false, Some("toolchain")),
            ("3.13", "/usr", "trixie", false, Some("toolchain-3.13")),
            ("3.13", "/usr", "bookworm", false, None),
            ("3.12", "/usr", "bookworm", false, None),
            ("3.13", "/usr", "other", true, None),
        ] {
            let found = of(python, prefix, suite, has_headers);
            assert_eq!(found.as_deref(), expected, "{python} in {prefix} on {suite}");
        }
    }

    #[test]
    fn definitions_of_a_directory_are_held_against_ours() {
        let scratch = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(scratch.path().join(name), text).unwrap();
        let load = || Definitions::load(Some(scratch.path()));
        write(
            "mine.toml",
            "description = \"x\"\npython = \"3.14\"\nsuite = \"forky\"\npackages = []\n",
        );
        assert!(
            load().unwrap_err().to_string().contains("mine.lock"),
            "its lock is not there"
        );
        write("mine.lock", "");
        let found = load().unwrap();
        assert_eq!(found.find("mine").unwrap().unwrap().definition.python, "3.14");
        assert!(found.pythons().unwrap().contains(&"3.14".to_owned()));
        write("mine.lock", "rubbish");
        assert!(load().unwrap().find("mine").is_err());
        for name in ["python-3.11", "UP", "-x", "a b"] {
            write(&format!("{name}.toml"), "");
            let error = load().unwrap_err().to_string();
            assert!(error.contains(&format!("{name}.toml")), "{error}");
            fs::remove_file(scratch.path().join(format!("{name}.toml"))).unwrap();
        }
        assert!(Definitions::load(Some(Path::new("/nonexistent"))).is_err());
    }

    #[test]
    fn a_variant_with_wheels_has_the_very_packages_of_its_parent() {
        let (plain, scipy, numpy) = (
            find("python-3.11"),
            find("python-3.11-scipy"),
            find("python-3.11-numpy"),
        );
        assert_eq!(scipy.key(), plain.key());
        assert_eq!(
            (scipy.packages_of.as_str(), plain.packages_of.as_str()),
            ("python-3.11", "python-3.11")
        );
        assert_eq!(numpy.wheels, scipy.wheels[..1], "both share numpy's layer");
        assert!(plain.wheels.is_empty() && scipy.wheels[1].starts_with("scipy "));
    }

    #[test]
    fn another_python_keeps_what_else_a_variant_has() {
        let definitions = Definitions::default();
        let other = |name: &str, python: &str| {
            let found = definitions.find_other(&find(name), python).unwrap();
            found.map(|found| found.name)
        };
        assert_eq!(other("python-3.11-scipy", "3.13").as_deref(), Some("python-3.13-scipy"));
        assert_eq!(other("python-3.13", "3.13").as_deref(), Some("python-3.13"));
        assert_eq!(other("python-3.11", "2.7"), None);
        assert_eq!(other("python-3.11", "3.13-slim"), None, "a version is no flavour");
    }

    #[test]
    fn the_c_library_is_the_one_of_the_lock() {
        let of = |name: &str| find(name).glibc().unwrap();
        assert_eq!(
            (of("python-3.11"), of("python-3.12"), of("python-3.13-numpy")),
            (36, 36, 41)
        );
        let mut without = find("python-3.11");
        without.lock.retain(|deb| deb.name != "libc6");
        assert!(without.glibc().is_err());
    }

    #[test]
    fn packages_of_debian_say_which_python_they_have() {
        assert_eq!(find("python-3.11-scipy").full_version(), Some("3.11.2"));
        assert_eq!(find("python-3.13").full_version(), Some("3.13.5"));
        assert_eq!(find("python-3.12").full_version(), None, "an archive is asked");
        let toolchain = Definitions::default().toolchain("3.11", None).unwrap().unwrap();
        assert_eq!(toolchain.full_version(), None);
    }

    #[test]
    fn the_toolchain_is_no_base() {
        let definitions = Definitions::default();
        assert!(definitions.find("toolchain").unwrap().is_none());
        assert!(definitions
            .variants()
            .unwrap()
            .iter()
            .all(|found| found.definition.kind == Shape::Root));
        assert_eq!(definitions.variants().unwrap()[0].name, default_variant());
        assert!(definitions.toolchain("2.7", None).unwrap().is_none());
    }
}
