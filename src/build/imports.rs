//! Modules that the entry point imports and nothing of the image has: such a run would end with `ModuleNotFoundError`.
//!
//! Only what is certain is said: imports that stand alone in the module, of what no Python has itself, from an image whose
//! standard library is found where Pythons have it, by a script that leaves the search path as it is, as the image's variables
//! do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::entry::{top_level, ENTRY_POINT};
use super::function::Function;
use crate::progress::Progress;
use crate::python::resolve::{find_meant, Meant};

/// Names in one message.
const SHOWN: usize = 5;

/// The modules of the standard library, of all versions (`sys.stdlib_module_names`, without private ones). Which of them are part
/// of the interpreter's program, and so no file, differs from build to build.
const STANDARD: &str = "\
    abc aifc annotationlib antigravity argparse array ast asynchat asyncio asyncore atexit audioop base64 bdb \
    binascii bisect builtins bz2 cProfile calendar cgi cgitb chunk cmath cmd code codecs codeop collections \
    colorsys compileall compression concurrent configparser contextlib contextvars copy copyreg crypt csv ctypes \
    curses dataclasses datetime dbm decimal difflib dis distutils doctest email encodings ensurepip enum errno \
    faulthandler fcntl filecmp fileinput fnmatch fractions ftplib functools gc genericpath getopt getpass gettext \
    glob graphlib grp gzip hashlib heapq hmac html http idlelib imaplib imghdr imp importlib inspect io ipaddress \
    itertools json keyword lib2to3 linecache locale logging lzma mailbox mailcap marshal math mimetypes mmap \
    modulefinder msilib msvcrt multiprocessing netrc nis nntplib nt ntpath nturl2path numbers opcode operator \
    optparse os ossaudiodev pathlib pdb pickle pickletools pipes pkgutil platform plistlib poplib posix posixpath \
    pprint profile pstats pty pwd py_compile pyclbr pydoc pydoc_data pyexpat queue quopri random re readline \
    reprlib resource rlcompleter runpy sched secrets select selectors shelve shlex shutil signal site smtpd \
    smtplib sndhdr socket socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat statistics string \
    stringprep struct subprocess sunau symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios \
    textwrap this threading time timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle \
    turtledemo types typing unicodedata unittest urllib uu uuid venv warnings wave weakref webbrowser winreg \
    winsound wsgiref xdrlib xml xmlrpc zipapp zipfile zipimport zlib zoneinfo";

/// Where programs are: a `PATH` with another directory may lead to another Python, such as that of a virtual environment.
const PROGRAMS: [&str; 7] = [
    "/opt/py/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// Variables that say where modules are.
const LEADING: [&str; 3] = ["PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"];

/// Files that lead to no other directory: setuptools' own, and the one by which a base knows where packages are.
const HARMLESS: [&str; 2] = ["distutils-precedence.pth", "gantry.pth"];

/// Warns of the modules that `function`'s entry point imports and neither itself nor one of `trees`, the unpacked layers of
/// its image, has. `env` are the variables of the image.
pub(crate) fn warn_of_missing(function: &Function, trees: &[PathBuf], env: &[String], progress: &dyn Progress) {
    if !is_usual(env) {
        return;
    }
    let entry = function.find_file(ENTRY_POINT);
    let Some(source) = entry.and_then(|file| std::str::from_utf8(&file.contents).ok()) else {
        return;
    };
    // A script that changes where modules are looked for knows more than is read here.
    if ["sys.path", "site.addsitedir", "meta_path"]
        .iter()
        .any(|word| source.contains(word))
    {
        return;
    }
    let own = |name: &str| {
        let files = function.files.iter().map(|file| &file.path);
        let mut paths = files
            .chain(function.links.iter().map(|link| &link.path))
            .chain(&function.empty);
        paths.any(|path| module_of(path.split('/').next().unwrap_or_default()) == Some(name))
    };
    let mut wanted = imported(source);
    wanted.retain(|name| !is_standard(name) && !name.starts_with('_') && !own(name));
    if wanted.is_empty() || trees.iter().any(|tree| !tree.is_dir()) {
        return;
    }
    let Some(provided) = Provided::of(trees) else { return };
    wanted.retain(|name| !provided.names.contains(*name));
    if let Some(warning) = describe(&wanted) {
        progress.warn(&warning);
    }
}

fn is_standard(name: &str) -> bool {
    STANDARD.split_whitespace().any(|known| known == name)
}

/// Whether Python and its modules are found where they usually are.
fn is_usual(env: &[String]) -> bool {
    env.iter().all(|variable| match variable.split_once('=') {
        Some(("PATH", path)) => path.split(':').all(|directory| PROGRAMS.contains(&directory)),
        Some((name, _)) => !LEADING.contains(&name),
        None => true,
    })
}

/// The first parts of the names of modules that statements of the module import.
fn imported(source: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let statements = top_level(source).into_iter().flat_map(|line| line.split(';'));
    for statement in statements.map(|statement| statement.split('#').next().unwrap_or_default().trim()) {
        if let Some(modules) = statement.strip_prefix("import ") {
            names.extend(modules.split(',').filter_map(first_part));
        } else if let Some(rest) = statement.strip_prefix("from ") {
            names.extend(rest.split(' ').find(|word| !word.is_empty()).and_then(first_part));
        }
    }
    names
}

/// `numpy` of `numpy.linalg as la`; none of what is relative or no name.
fn first_part(module: &str) -> Option<&str> {
    let name = module.trim().split([' ', '.']).next()?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_name.then_some(name)
}

/// The name by which a file or directory called `name` is imported.
fn module_of(name: &str) -> Option<&str> {
    let stem = name.split('.').next().filter(|stem| !stem.is_empty());
    let is_module = !name.contains('.') || [".py", ".pyc", ".so"].iter().any(|end| name.ends_with(end));
    stem.filter(|_| is_module)
}

/// The modules of an image's layers.
struct Provided {
    names: BTreeSet<String>,
}

impl Provided {
    /// None when no standard library is found, or when packages say by a `.pth` file where more of them are.
    fn of(trees: &[PathBuf]) -> Option<Self> {
        let mut names = BTreeSet::new();
        let mut has_library = false;
        for tree in trees {
            for directory in search_path(tree) {
                for name in list(&directory) {
                    if name.ends_with(".pth") && !HARMLESS.contains(&name.as_str()) {
                        return None;
                    }
                    has_library |= name == "os.py";
                    names.extend(module_of(&name).map(str::to_owned));
                }
            }
        }
        has_library.then_some(Self { names })
    }
}

/// The directories below `tree` in which Pythons look for modules.
fn search_path(tree: &Path) -> Vec<PathBuf> {
    let mut found = vec![tree.join("opt/py/site"), tree.join("usr/lib/python3/dist-packages")];
    for library in ["usr/lib", "usr/local/lib"].map(|path| tree.join(path)) {
        let pythons = list(&library).into_iter().filter(|name| name.starts_with("python3."));
        for python in pythons.map(|name| library.join(name)) {
            found.extend(["lib-dynload", "site-packages", "dist-packages"].map(|below| python.join(below)));
            found.push(python);
        }
    }
    found
}

/// The names in a directory of a layer; links are not followed to it, and what cannot be read is empty.
fn list(directory: &Path) -> Vec<String> {
    let is_directory = fs::symlink_metadata(directory).is_ok_and(|meta| meta.is_dir());
    let entries = is_directory.then(|| fs::read_dir(directory).ok()).flatten();
    let names = entries.into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn describe(missing: &BTreeSet<&str>) -> Option<String> {
    let first = missing.iter().next()?;
    let package = |name: &str| match find_meant(name) {
        Some(Meant::Package(package)) => package.to_owned(),
        _ => name.to_owned(),
    };
    let shown: Vec<&str> = missing.iter().copied().take(SHOWN).collect();
    let more = match missing.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{ENTRY_POINT} imports {}{more}, which nothing in the image has: such a run ends with ModuleNotFoundError; \
         list the package in requirements.txt, such as {}",
        shown.join(", "),
        package(first)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_the_module_say_what_it_imports() {
        let source = "import os, numpy.linalg as la  # import x\nfrom sklearn import (\n    a,\n)\nfrom . import b\n\
                      from .c import d\ntry:\n    import e\nexcept ImportError:\n    e = None\ntext = '''\nimport f\n'''\n\
                      import g; import h\ndef i():\n    import j\nimportant = 1\nfrom  yaml import load\n";
        let names: Vec<&str> = imported(source).into_iter().collect();
        assert_eq!(names, ["g", "h", "numpy", "os", "sklearn", "yaml"]);
    }

    #[test]
    fn modules_are_found_where_pythons_look_and_only_then_missed() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let trees = [root.path().to_path_buf()];
        make("opt/py/site/numpy/__init__.py");
        make("opt/py/site/distutils-precedence.pth");
        make("usr/lib/python3/dist-packages/gantry.pth");
        assert!(Provided::of(&trees).is_none());
        make("usr/lib/python3.11/os.py");
        make("usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so");
        make("usr/local/lib/python3.12/json/__init__.py");
        make("usr/lib/python3/dist-packages/six.py");
        let names = Provided::of(&trees).unwrap().names;
        for name in ["numpy", "os", "_ssl", "json", "six"] {
            assert!(names.contains(name), "{name}: {names:?}");
        }
        make("opt/py/site/more.pth");
        assert!(Provided::of(&trees).is_none());
    }

    #[test]
    fn what_is_part_of_some_interpreter_is_not_missed() {
        // In the programs of some builds, files beside those of others.
        for name in [
            "resource", "mmap", "termios", "readline", "syslog", "spwd", "pyexpat", "audioop", "sys",
        ] {
            assert!(is_standard(name), "{name}");
        }
        assert!(!is_standard("numpy") && !is_standard("sy"));
    }

    #[test]
    fn variables_that_lead_elsewhere_are_respected() {
        let usual = |text: &str| is_usual(&["LANG=C.UTF-8".to_owned(), text.to_owned()]);
        for text in [
            "PATH=/opt/py/bin:/usr/local/bin:/usr/bin:/bin",
            "PYTHON_VERSION=3.12",
            "x",
        ] {
            assert!(usual(text), "{text}");
        }
        for text in [
            "PATH=/opt/venv/bin:/usr/bin",
            "PATH=:/usr/bin",
            "PYTHONPATH=/srv",
            "VIRTUAL_ENV=/v",
        ] {
            assert!(!usual(text), "{text}");
        }
    }

    #[test]
    fn a_module_is_called_by_the_package_that_has_it() {
        let text = describe(&BTreeSet::from(["cv2", "zz"])).unwrap();
        assert!(text.contains("imports cv2, zz, which"), "{text}");
        assert!(text.ends_with("such as opencv-python-headless"), "{text}");
        assert_eq!(describe(&BTreeSet::new()), None);
    }
}
