//! Files that two wheels bring with different contents, though it does not matter whose is installed.
//!
//! Two wheels of one namespace each bring its `__init__.py`, in their own words; and many a wheel puts its README, its
//! licence or its tests where every other would. Everything else that two wheels bring is refused: no order makes both
//! work.
//!
//! Whose file is used is that of the last wheel, as in the layers above each other: their bytecode is never compared with
//! its source again, so the two must come from the same wheel.

use super::{PREFIX, SITE};

/// Directories that nobody imports from, at the top of what is installed: wheels bring them by mistake.
const IDLE_FOLDERS: [&str; 14] = [
    "benchmark",
    "benchmarks",
    "demo",
    "demos",
    "doc",
    "docs",
    "example",
    "examples",
    "licenses",
    "notebooks",
    "sample",
    "samples",
    "test",
    "tests",
];
/// Sources that nobody imports, at the top of what is installed.
const IDLE_FILES: [&str; 2] = ["conftest.py", "setup.py"];

/// Ends of names that something executes or loads.
const CODE: [&str; 14] = [
    ".py",
    ".pyc",
    ".pyi",
    ".pyo",
    ".pyd",
    ".pyx",
    ".pth",
    ".egg-link",
    ".so",
    ".a",
    ".sh",
    ".zip",
    ".egg",
    ".exe",
];

/// What a package of the old namespace kinds consists of, without spaces and with single quotes.
const NAMESPACE: [&str; 15] = [
    "try:",
    "except:",
    "exceptImportError:",
    "exceptException:",
    "pass",
    "importpkgutil",
    "importpkg_resources",
    "frompkgutilimportextend_path",
    "frompkg_resourcesimportdeclare_namespace",
    "declare_namespace(__name__)",
    "pkg_resources.declare_namespace(__name__)",
    "__import__('pkg_resources').declare_namespace(__name__)",
    "__path__=extend_path(__path__,__name__)",
    "__path__=pkgutil.extend_path(__path__,__name__)",
    "__path__=__import__('pkgutil').extend_path(__path__,__name__)",
];

/// Files that several wheels bring, for one warning for each two wheels and each of the directories that nobody imports
/// from.
#[derive(Debug, Default)]
pub(crate) struct SharedFiles(Vec<SharedPlace>);

#[derive(Debug)]
struct SharedPlace {
    one: String,
    other: String,
    /// The directory, or the one file.
    place: String,
    /// The first path, and how many there are.
    first: String,
    count: usize,
}

impl SharedFiles {
    /// Notes that both wheels bring `path`, and that that of `other` is used.
    pub(crate) fn note(&mut self, one: &str, other: &str, path: &str) {
        let place = idle_folder(path).unwrap_or(path);
        let known = |known: &&mut SharedPlace| (&*known.one, &*known.other, &*known.place) == (one, other, place);
        match self.0.iter_mut().find(known) {
            Some(known) => known.count += 1,
            None => self.0.push(SharedPlace {
                one: one.to_owned(),
                other: other.to_owned(),
                place: place.to_owned(),
                first: path.to_owned(),
                count: 1,
            }),
        }
    }

    /// What the user should know, in the order it was noted.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|shared| {
            let SharedPlace { one, other, place, first, count } = shared;
            match count {
                1 => format!("{one} and {other} both bring /{first}, with different contents: that of {other} is used"),
                _ => format!(
                    "{one} and {other} both bring {count} files of /{place}, with different contents: those of {other} are used"
                ),
            }
        })
    }
}

/// The directory of `path` (without leading slash) that nobody imports from.
fn idle_folder(path: &str) -> Option<&str> {
    let top = top_of(path)?;
    let (folder, _) = top.split_once('/')?;
    let is_idle = IDLE_FOLDERS.iter().any(|idle| folder.eq_ignore_ascii_case(idle));
    is_idle.then(|| path.get(..path.len() - top.len() + folder.len()))?
}

/// What follows the directory of packages, or else that of everything that is installed.
fn top_of(path: &str) -> Option<&str> {
    let below = |directory: &str| path.strip_prefix(directory)?.strip_prefix('/');
    below(SITE).or_else(|| below(PREFIX))
}

/// Whether nobody loads the file `path` (without leading slash), whatever it holds.
pub(crate) fn is_idle(path: &str) -> bool {
    idle_folder(path).is_some() || top_of(path).is_some_and(|top| IDLE_FILES.contains(&top))
}

/// Whether the file `path` (without leading slash) may be that of either wheel, of the contents given.
pub(crate) fn is_either(path: &str, is_executable: bool, contents: [&[u8]; 2]) -> bool {
    if is_idle(path) {
        return true;
    }
    let Some((directory, name)) = path.rsplit_once('/') else {
        return false;
    };
    if name == "__init__.py" {
        return contents.into_iter().all(is_namespace);
    }
    let is_code = CODE.iter().any(|end| name.ends_with(end)) || name.contains(".so.");
    let looks_like_code = contents
        .into_iter()
        .any(|text| text.starts_with(b"#!") || text.starts_with(b"\x7fELF"));
    (directory == SITE || directory == PREFIX) && !is_executable && !is_code && !looks_like_code
}

/// Whether an `__init__.py` does nothing but open its package for others.
fn is_namespace(contents: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(contents) else {
        return false;
    };
    let mut quotes: Option<&str> = None;
    for line in text.lines().map(str::trim) {
        if let Some(end) = quotes {
            match line.find(end) {
                // What follows the end of a text on its line is none of a namespace.
                Some(at) if at + end.len() == line.len() => quotes = None,
                Some(_) => return false,
                None => {}
            }
            continue;
        }
        if let Some(mark) = ["\"\"\"", "'''"].into_iter().find(|mark| line.starts_with(mark)) {
            let rest = line.get(mark.len()..).unwrap_or_default();
            match rest.find(mark) {
                Some(at) if at + mark.len() == rest.len() => {}
                Some(_) => return false,
                None => quotes = Some(mark),
            }
            continue;
        }
        let statement = line.split('#').next().unwrap_or_default();
        let bare: String = statement.split_whitespace().collect::<String>().replace('"', "'");
        let harmless = bare.is_empty() || bare.starts_with("from__future__import") || NAMESPACE.contains(&&*bare);
        if !harmless || bare.contains(';') {
            return false;
        }
    }
    quotes.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_directory_that_nobody_imports_are_one_warning() {
        let mut shared = SharedFiles::default();
        for path in [
            "opt/py/site/LICENSE",
            "opt/py/site/tests/a.py",
            "opt/py/site/docs/x",
            "opt/py/site/tests/sub/b.py",
        ] {
            shared.note("one 1", "two 2", path);
        }
        let expected = [
            "one 1 and two 2 both bring /opt/py/site/LICENSE, with different contents: that of two 2 is used",
            "one 1 and two 2 both bring 2 files of /opt/py/site/tests, with different contents: those of two 2 are used",
            "one 1 and two 2 both bring /opt/py/site/docs/x, with different contents: that of two 2 is used",
        ];
        assert_eq!(shared.warnings().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn namespaces_are_told_from_packages() {
        for text in [
            "",
            "# PEP 382\n\nfrom pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n",
            "__path__ = __import__(\"pkgutil\").extend_path(__path__, __name__)  # type: ignore\n",
            "try:\n    __import__('pkg_resources').declare_namespace(__name__)\nexcept ImportError:\n    from pkgutil import extend_path\n    __path__ = extend_path(__path__, __name__)\n",
            "\"\"\"A namespace.\"\"\"\nfrom __future__ import absolute_import\nimport pkg_resources\npkg_resources.declare_namespace(__name__)\n",
            "'''A\nlonger text\n'''\n",
        ] {
            assert!(is_namespace(text.as_bytes()), "{text}");
        }
        for text in [
            "x = 1\n",
            "from .mod import thing\n",
            "from pkgutil import extend_path; import os\n",
            "from __future__ import annotations; import os\n",
            "\"\"\"text\"\"\"; import os\n",
            "'''text\nmore''' ; import os\n",
            "\"\"\"open\nimport os\n",
            "__path__ = extend_path(__path__, 'other')\n",
        ] {
            assert!(!is_namespace(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn only_what_nothing_loads_may_be_either() {
        let either = |path: &str, executable| is_either(path, executable, [b"a", b"b"]);
        assert!(either("opt/py/site/README.md", false) && either("opt/py/LICENSE", false));
        for path in [
            "opt/py/site/six.py",
            "opt/py/site/x.pth",
            "opt/py/site/lib.so",
            "opt/py/site/lib.so.1",
            "opt/py/site/pkg/README.md",
            "opt/py/site/pkg/__init__.py",
            "opt/py/bin/tool",
        ] {
            assert!(!either(path, false), "{path}");
        }
        for path in [
            "opt/py/site/tests/__init__.py",
            "opt/py/site/Docs/conf.py",
            "opt/py/examples/run.sh",
            "opt/py/site/test/lib.so",
            "opt/py/site/setup.py",
        ] {
            assert!(either(path, true), "{path}");
        }
        for path in [
            "opt/py/site/tests.py",
            "opt/py/site/pkg/tests/a.py",
            "opt/py/site/pkg/setup.py",
            "usr/tests/a.py",
        ] {
            assert!(!either(path, false), "{path}");
        }
        assert!(!either("opt/py/site/tool", true));
        assert!(!is_either("opt/py/site/tool", false, [b"text", b"#!/bin/sh\n"]));
        assert!(is_either(
            "opt/py/site/ns/__init__.py",
            false,
            [b"", b"# only a comment\n"]
        ));
    }
}
