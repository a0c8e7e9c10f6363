//! What of a directory is no part of the function: what tools leave behind, virtual environments of whatever name, and what
//! `.gantryignore` or `.dockerignore` name.
//!
//! `.gantryignore` is written as `.gitignore` is. Without one, `.dockerignore` counts as Docker reads it: each pattern
//! begins at the top, `**` stands for any directories. In both, braces stand for themselves, and `!` takes back what an earlier line left out, and
//! the entry point and `requirements.txt` are never left out.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::entry::ENTRY_POINT;
use crate::python::requirements::FILE as REQUIREMENTS;
use crate::sys::tree;

/// The most that is read of a file of patterns.
const MAX_BYTES: u64 = 64 << 10;
/// Paths that are named to people; the others are counted.
const NAMED: usize = 100;

/// What tools leave behind; never part of an image.
const BY_TOOLS: [&str; 17] = [
    ".git",
    ".hg",
    ".svn",
    "__pycache__",
    ".venv",
    "venv",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    ".ipynb_checkpoints",
    ".tox",
    ".nox",
    ".idea",
    ".vscode",
    ".DS_Store",
    "node_modules",
];

/// What makes a directory a virtual environment (PEP 405), or one of conda.
const OF_ENVIRONMENTS: [&str; 2] = ["pyvenv.cfg", "conda-meta/history"];

/// What such a directory has at its top, on any system.
const IN_ENVIRONMENTS: [&str; 8] = [
    "bin",
    "include",
    "lib",
    "lib64",
    "pyvenv.cfg",
    "Include",
    "Lib",
    "Scripts",
];

/// How the patterns of a file are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Git,
    Docker,
}

/// The patterns of a function's directory.
#[derive(Debug)]
struct Patterns {
    file: &'static str,
    matcher: Gitignore,
}

/// Decides what is left out, and keeps account of it.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    patterns: Option<Patterns>,
    /// The first of the paths that were left out; a directory stands for all that is in it.
    pub paths: Vec<String>,
    /// How many there were.
    pub count: u64,
    /// The first of them that was left out for being an environment; the function's own directory may be one.
    environment: Option<String>,
    is_environment: bool,
}

impl LeftOut {
    /// Reads the patterns of the directory that is open as `root`.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub(super) fn read(root: impl AsFd) -> Result<Self, (&'static str, io::Error)> {
        for (file, dialect) in [(".gantryignore", Dialect::Git), (".dockerignore", Dialect::Docker)] {
            let text = match read_patterns(&root, file) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) => return Err((file, error)),
            };
            let matcher = compile(&text, dialect).map_err(|error| (file, error))?;
            return Ok(Self {
                patterns: Some(Patterns { file, matcher }),
                is_environment: is_environment(&root),
                ..Self::default()
            });
        }
        Ok(Self {
            is_environment: is_environment(&root),
            ..Self::default()
        })
    }

    /// Whether the entry `name` at `path`, which lies beside `names`, is left out; if so it is noted.
    pub(super) fn takes(&mut self, path: &str, name: &str, kind: FileType, names: &[OsString]) -> bool {
        // What Python writes beside each source is not worth a word. Without a source it is the module.
        if name == "__pycache__" || self.is_cached(path, names) {
            return true;
        }
        if self.is_environment && name == path && IN_ENVIRONMENTS.contains(&name) {
            self.environment.get_or_insert_with(|| ".".to_owned());
            self.note(path);
            return true;
        }
        let taken =
            BY_TOOLS.contains(&name) || self.patterns.as_ref().is_some_and(|patterns| patterns.take(path, kind));
        if taken {
            self.note(path);
        }
        taken
    }

    /// Whether the directory that is open as `directory` and lies at `path` is an environment, whose programs and packages
    /// are this machine's; if so it is left out and noted.
    pub(super) fn takes_environment(&mut self, path: &str, directory: impl AsFd) -> bool {
        let taken = is_environment(directory);
        if taken {
            self.note(path);
            self.environment.get_or_insert_with(|| path.to_owned());
        }
        taken
    }

    /// Whether patterns leave out the directory at `path`, which is looked through only for what they take back.
    pub(super) fn names(&self, path: &str) -> bool {
        let patterns = self.patterns.as_ref();
        patterns.is_some_and(|patterns| patterns.matcher.matched_path_or_any_parents(path, true).is_ignore())
    }

    /// Whether the file at `path` is bytecode of a source that is part of the function.
    fn is_cached(&self, path: &str, names: &[OsString]) -> bool {
        let source = path.strip_suffix(".pyc").or_else(|| path.strip_suffix(".pyo"));
        let Some(source) = source.map(|stem| format!("{stem}.py")) else {
            return false;
        };
        let name = source.rsplit('/').next().unwrap_or_default();
        let is_there = names
            .binary_search_by(|other| other.as_os_str().cmp(OsStr::new(name)))
            .is_ok();
        let patterns = self.patterns.as_ref();
        is_there && !patterns.is_some_and(|patterns| patterns.take(&source, FileType::RegularFile))
    }

    fn note(&mut self, path: &str) {
        self.count += 1;
        if self.paths.len() < NAMED {
            self.paths.push(path.to_owned());
        }
    }

    /// What is said of it; nothing when all is part of the function.
    pub(super) fn summary(&self) -> Option<String> {
        const SHOWN: usize = 5;
        let shown = self.paths.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let more = match self.count.saturating_sub(SHOWN as u64) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let by = self
            .patterns
            .as_ref()
            .map_or(String::new(), |patterns| format!(" (see {})", patterns.file));
        let environment = self.environment.as_ref();
        let why = environment.map_or(String::new(), |path| format!(" ({path} is a virtual environment)"));
        (self.count > 0).then(|| format!("{shown}{more}{by}{why}"))
    }
}

impl Patterns {
    fn take(&self, path: &str, kind: FileType) -> bool {
        if [ENTRY_POINT, REQUIREMENTS].contains(&path) {
            return false;
        }
        if kind == FileType::Directory {
            // Something in it may be taken back.
            return self.matcher.num_whitelists() == 0 && self.matcher.matched(path, true).is_ignore();
        }
        self.matcher.matched_path_or_any_parents(path, false).is_ignore()
    }
}

/// Whether the directory that is open as `directory` is an environment.
fn is_environment(directory: impl AsFd) -> bool {
    let is_file = |name: &&str| matches!(tree::look(&directory, *name), Ok((FileType::RegularFile, _)));
    OF_ENVIRONMENTS.iter().any(is_file)
}

fn read_patterns(root: impl AsFd, file: &str) -> io::Result<Option<String>> {
    match tree::look(&root, file) {
        Err(Errno::NOENT) => return Ok(None),
        Ok((FileType::RegularFile, _)) => {}
        Ok(_) => return Err(io::Error::other("it is no regular file")),
        Err(errno) => return Err(errno.into()),
    }
    let mut text = String::new();
    let file = File::from(tree::open_file(&root, file)?);
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it has more than 64 KiB"));
    }
    Ok(Some(text))
}

fn compile(text: &str, dialect: Dialect) -> io::Result<Gitignore> {
    let mut builder = GitignoreBuilder::new("");
    // An editor may have put a mark of the encoding first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate() {
        let line = match dialect {
            Dialect::Git => line.to_owned(),
            Dialect::Docker => from_the_top(line),
        };
        let added = builder.add_line(None, &without_braces(&line));
        added.map_err(|error| io::Error::other(format!("line {}: {error}", number + 1)))?;
    }
    builder.build().map_err(io::Error::other)
}

/// The pattern with braces that stand for themselves, as they do for git and Docker: the matcher would take `{a,b}` for a
/// choice.
fn without_braces(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let (mut is_escaped, mut in_class) = (false, false);
    for character in line.chars() {
        match character {
            '{' | '}' if !is_escaped && !in_class => {
                text.push('[');
                text.push(character);
                text.push(']');
            }
            _ => text.push(character),
        }
        in_class = !is_escaped && (character == '[' || in_class && character != ']');
        is_escaped = !is_escaped && character == '\\';
    }
    text
}

/// A line of `.dockerignore` as one of `.gitignore`: its pattern begins at the top.
fn from_the_top(line: &str) -> String {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return String::new();
    }
    let (not, pattern) = match line.strip_prefix('!') {
        Some(pattern) => ("!", pattern.trim_start()),
        None => ("", line),
    };
    let pattern = pattern.trim_start_matches("./").trim_matches('/');
    match pattern {
        "" | "." => String::new(),
        _ => format!("{not}/{pattern}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn takes(file: &str, patterns: &str, paths: &[&str]) -> Vec<bool> {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join(file), patterns).unwrap();
        let mut left_out = LeftOut::read(File::open(scratch.path()).unwrap()).unwrap();
        let take = |path: &&str| {
            let kind = match path.ends_with('/') {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            let path = path.trim_end_matches('/');
            left_out.takes(path, path.rsplit('/').next().unwrap(), kind, &[])
        };
        paths.iter().map(take).collect()
    }

    #[test]
    fn patterns_are_those_of_git() {
        let paths = [
            "a.csv",
            "deep/a.csv",
            "data/",
            "deep/data/",
            "keep.csv",
            "user_function.py",
        ];
        assert_eq!(
            takes(".gantryignore", "# a comment\n*.csv\n/data/\n*.py\n", &paths),
            [true, true, true, false, true, false]
        );
        assert_eq!(
            takes(".gantryignore", "*.csv\n!keep.csv\n", &paths),
            [true, true, false, false, false, false]
        );
    }

    #[test]
    fn patterns_of_docker_begin_at_the_top_and_may_take_back_what_is_below() {
        let paths = ["a.csv", "deep/a.csv", "data/", "data/a", "data/keep", "deep/data/"];
        assert_eq!(
            takes(".dockerignore", "*.csv\ndata\n", &paths),
            [true, false, true, true, true, false]
        );
        assert_eq!(
            takes(".dockerignore", "**/*.csv\n./data/\n!data/keep\n", &paths),
            [true, true, false, true, false, false]
        );
    }

    #[test]
    fn braces_are_letters() {
        let paths = ["a{b", "{a,b}", "a", "b", "x}"];
        for file in [".gantryignore", ".dockerignore"] {
            assert_eq!(
                takes(file, "a{b\n{a,b}\n[x]}\n", &paths),
                [true, true, false, false, true],
                "{file}"
            );
            assert_eq!(
                takes(file, "a\\{b\n", &paths),
                [true, false, false, false, false],
                "{file}"
            );
        }
    }

    #[test]
    fn what_is_left_out_is_said() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join(".gantryignore"), "*.csv\n").unwrap();
        let mut left_out = LeftOut::read(File::open(scratch.path()).unwrap()).unwrap();
        assert_eq!(left_out.summary(), None);
        for number in 0..7 {
            left_out.takes(
                &format!("{number}.csv"),
                &format!("{number}.csv"),
                FileType::RegularFile,
                &[],
            );
        }
        left_out.takes(
            "a.pyc",
            "a.pyc",
            FileType::RegularFile,
            &["a.py".into(), "a.pyc".into()],
        );
        assert_eq!(
            left_out.summary().unwrap(),
            "0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 2 more (see .gantryignore)"
        );
    }

    #[test]
    fn an_environment_made_in_the_functions_own_directory_is_left_out() {
        let paths = ["bin/", "lib/", "pyvenv.cfg", "lib64", "src/lib/", "user_function.py"];
        let all = takes("pyvenv.cfg", "home = /usr/bin\n", &paths);
        assert_eq!(all, [true, true, true, true, false, false]);
        assert_eq!(takes("other", "", &paths), [false; 6]);
    }

    #[test]
    fn bytecode_without_a_source_is_a_module() {
        let names = ["a.py", "a.pyc", "a.pyo", "b.pyc", "c.pyo"].map(OsString::from);
        let scratch = tempfile::tempdir().unwrap();
        let takes = |patterns: &str, path: &str| {
            fs::write(scratch.path().join(".gantryignore"), patterns).unwrap();
            let mut left_out = LeftOut::read(File::open(scratch.path()).unwrap()).unwrap();
            let name = path.rsplit('/').next().unwrap();
            left_out.takes(path, name, FileType::RegularFile, &names)
        };
        for path in ["a.pyc", "lib/a.pyc", "a.pyo"] {
            assert!(takes("", path), "{path}");
        }
        for path in ["a.py", "b.pyc", "lib/b.pyc", "c.pyo"] {
            assert!(!takes("", path), "{path}");
        }
        // Who leaves out the source wants the bytecode.
        assert!(!takes("a.py\n", "a.pyc"));
        assert!(takes("a.py*\n", "a.pyc"));
    }

    #[test]
    fn files_of_patterns_that_are_none_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join(".gantryignore");
        let read = || LeftOut::read(File::open(scratch.path()).unwrap());
        for text in [b"[z-a]".to_vec(), vec![b'a'; (64 << 10) + 1], b"\xff".to_vec()] {
            fs::write(&file, text).unwrap();
            assert_eq!(read().unwrap_err().0, ".gantryignore");
        }
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(read().is_err());
    }
}
