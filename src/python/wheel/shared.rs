//! Files that two wheels bring with different contents, though it does not matter whose is installed.
//!
//! Two wheels of one namespace each bring its `__init__.py`, in their own words; and many a wheel puts its README or
//! licence where every other would. Everything else that two wheels bring is refused: no order makes both work.

use super::{PREFIX, SITE};

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

/// Whether the file `path` (without leading slash) may be that of either wheel, of the contents given.
pub(crate) fn is_either(path: &str, is_executable: bool, contents: [&[u8]; 2]) -> bool {
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
        assert!(!either("opt/py/site/tool", true));
        assert!(!is_either("opt/py/site/tool", false, [b"text", b"#!/bin/sh\n"]));
        assert!(is_either(
            "opt/py/site/ns/__init__.py",
            false,
            [b"", b"# only a comment\n"]
        ));
    }
}
