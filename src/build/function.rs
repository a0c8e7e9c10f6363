//! A user's directory, understood: which files, what they hold. Read once, through descriptors, by nobody's path.
//!
//! Every file is opened without following links and must be regular; its contents are read through the descriptor that
//! was checked, so that a directory that changes under us cannot make the image hold what was never looked at. A link
//! is kept as one, when it leads to something of the function.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{openat, readlinkat, FileType, Mode, OFlags, CWD};
use rustix::io::Errno;

use super::entry::warn_of_idle;
pub(crate) use super::entry::ENTRY_POINT;
use super::left_out::LeftOut;
use super::links::Entries;
use crate::base::{SystemError, SystemWish, SYSTEM_FILE};
use crate::oci::Digest;
use crate::policy::{as_given, Bytes, Kind};
use crate::progress::Progress;
use crate::python::project::{self, Origin, ProjectError};
use crate::python::requirements::{Requirements, FILE as REQUIREMENTS};
use crate::store::{Key, Step};
use crate::sys::tree;

/// Code of a function; data sets belong into `/input`.
const MAX_BYTES: u64 = 100 << 20;
const MAX_FILES: usize = 10_000;
/// Names of one directory, with those that are left out.
const MAX_NAMES: usize = 1_000_000;
const MAX_DEPTH: usize = 32;
/// A file of the function.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    /// Path below the directory.
    pub path: String,
    /// Whether the owner may execute it.
    pub executable: bool,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// A symbolic link of the function, to something else of it.
#[derive(Debug, Clone)]
pub(crate) struct SourceLink {
    /// Path below the directory.
    pub path: String,
    /// What it says, relative to where it is.
    pub target: String,
}

/// A directory, understood.
#[derive(Debug, Clone, Default)]
pub(crate) struct Function {
    /// Its files, sorted by path.
    pub files: Vec<SourceFile>,
    /// Its links, sorted by path.
    pub links: Vec<SourceLink>,
    /// Its directories with nothing in them, sorted.
    pub empty: Vec<String>,
    /// What of the directory is no part of it: the first hundred paths, a directory for all that is in it.
    pub left_out: Vec<String>,
    /// What is said of that.
    pub left_out_summary: Option<String>,
}

/// Why a directory is no function.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// It cannot be read.
    #[error("read {path}")]
    Io {
        /// What.
        path: PathBuf,
        source: io::Error,
    },
    /// No entry point.
    #[error("read function {path}: it has no {ENTRY_POINT}")]
    NoEntryPoint { path: PathBuf },
    /// A thing that cannot be part of an image.
    #[error("read {path:?} of the function: {reason}")]
    Refused {
        /// Its path below the directory.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A file of patterns that cannot be read.
    #[error("read {file} of the function")]
    Patterns {
        /// Its name.
        file: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A link to something that is not the function's.
    #[error("read {path:?} of the function: it is a symbolic link to {target:?}, {reason}")]
    Link {
        /// Its path below the directory.
        path: String,
        /// Where it leads.
        target: String,
        /// What is wrong with that.
        reason: String,
    },
    /// A directory where a file has to be.
    #[error("read {path:?} of the function: it is a directory, not a file")]
    Directory {
        /// Its path below the directory.
        path: String,
    },
    /// The function has too many files or bytes.
    #[error("read {path:?} of the function: {what} is over {limit}")]
    TooMuch {
        /// Where the limit was passed.
        path: String,
        what: &'static str,
        /// The limit.
        limit: String,
    },
}

impl FunctionError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } | Self::NoEntryPoint { .. } | Self::Patterns { .. } | Self::Directory { .. } => {
                Kind::Failed
            }
            Self::Refused { .. } | Self::Link { .. } | Self::TooMuch { .. } => Kind::Refused,
        }
    }
}

impl Function {
    /// Reads the function in `directory`.
    pub(crate) fn read(directory: &Path) -> Result<Self, FunctionError> {
        let error = |source: rustix::io::Errno| FunctionError::Io {
            path: directory.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, directory, flags, Mode::empty()).map_err(error)?;
        if matches!(tree::look(&root, ENTRY_POINT), Err(Errno::NOENT)) {
            // Before anything else: most directories that are none are somebody's home.
            return Err(FunctionError::NoEntryPoint {
                path: directory.to_owned(),
            });
        }
        let left_out = LeftOut::read(&root).map_err(|(file, source)| FunctionError::Patterns { file, source })?;
        let mut reader = Reader {
            found: Self::default(),
            left_out,
            bytes: 0,
            seen: 0,
        };
        reader.directory(root, "", 0)?;
        let mut function = reader.found;
        function.left_out_summary = reader.left_out.summary();
        function.left_out = reader.left_out.paths;
        function.files.sort_by(|one, other| one.path.cmp(&other.path));
        function.links.sort_by(|one, other| one.path.cmp(&other.path));
        function.empty.sort();
        let entries = function.entries();
        for link in &function.links {
            entries.resolve(&link.path).map_err(|reason| FunctionError::Link {
                path: link.path.clone(),
                target: link.target.clone(),
                reason,
            })?;
        }
        // Whatever it is, it is no list of requirements, and one that is not read installs nothing.
        if function.entries().resolve(REQUIREMENTS).is_ok() && function.find_file(REQUIREMENTS).is_none() {
            return Err(FunctionError::Directory {
                path: REQUIREMENTS.to_owned(),
            });
        }
        if function.find_file(ENTRY_POINT).is_none() {
            return Err(FunctionError::NoEntryPoint {
                path: directory.to_owned(),
            });
        }
        Ok(function)
    }

    /// How many of its entries have been read.
    fn entries_read(&self) -> usize {
        self.files.len() + self.links.len() + self.empty.len()
    }

    /// Its entries by their paths, for following links.
    pub(super) fn entries(&self) -> Entries<'_> {
        let files = self.files.iter().map(|file| file.path.as_str());
        let links = self.links.iter();
        Entries::new(
            files,
            self.empty.iter().map(String::as_str),
            links.map(|link| (link.path.as_str(), link.target.as_str())),
        )
    }

    /// The file at a path, which may be a link to it.
    pub(crate) fn find_file(&self, path: &str) -> Option<&SourceFile> {
        let find = |path: &str| self.files.iter().find(|file| file.path == path);
        find(path).or_else(|| match self.links.is_empty() {
            true => None,
            false => find(&self.entries().resolve(path).ok()?),
        })
    }

    /// Warns of an entry point that only defines things.
    pub(crate) fn warn_of_idle(&self, progress: &dyn Progress) {
        let entry = self.find_file(ENTRY_POINT);
        if let Some(warning) = entry.and_then(|file| warn_of_idle(&file.contents)) {
            progress.warn(&warning);
        }
    }

    /// What it requires, by the file of `origin`, for one of the Python versions `pythons`.
    pub(crate) fn requirements(&self, origin: Origin, pythons: &[String]) -> Result<Requirements, ProjectError> {
        let find = |path: &str| Some(self.find_file(path)?.contents.as_slice());
        project::requirements(&find, ENTRY_POINT, origin, pythons)
    }

    /// The system packages that it asks for; none when it names none.
    pub(crate) fn system_wish(&self) -> Result<Option<SystemWish>, SystemError> {
        let wish = self.find_file(SYSTEM_FILE).map(|file| SystemWish::read(&file.contents));
        Ok(wish.transpose()?.filter(|wish| !wish.names.is_empty()))
    }

    /// What the code layer is keyed by.
    pub(crate) fn key(&self) -> Key {
        let mut key = Key::of(Step::CodeLayer);
        for file in &self.files {
            let contents = Digest::of(&file.contents).to_string();
            key = key.with(&file.path).with(file.executable.to_string()).with(contents);
        }
        for link in &self.links {
            // No file: the second input of one is a truth value.
            key = key.with(&link.path).with("link").with(&link.target);
        }
        for path in &self.empty {
            key = key.with(path).with("directory").with("");
        }
        // Keys of earlier versions end in a NUL.
        key.with("").finish()
    }
}

struct Reader {
    found: Function,
    left_out: LeftOut,
    bytes: u64,
    seen: usize,
}

impl Reader {
    fn directory(&mut self, directory: OwnedFd, path: &str, depth: usize) -> Result<(), FunctionError> {
        if depth > MAX_DEPTH {
            return Err(FunctionError::TooMuch {
                path: path.to_owned(),
                what: "the depth",
                limit: MAX_DEPTH.to_string(),
            });
        }
        let names = tree::names(&directory, MAX_NAMES).map_err(|source| failed(path, source))?;
        if names.len() > MAX_NAMES {
            return Err(FunctionError::TooMuch {
                path: path.to_owned(),
                what: "the number of files",
                limit: MAX_NAMES.to_string(),
            });
        }
        for raw in &names {
            let name = raw.to_string_lossy().into_owned();
            let child = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}/{name}")
            };
            let (kind, _) = tree::look(&directory, raw.as_os_str()).map_err(|errno| failed(&child, errno.into()))?;
            if self.left_out.takes(&child, &name, kind, &names) {
                continue;
            }
            if raw.to_str() != Some(&name) || has_odd_characters(&name) {
                return Err(refused(&child, "its name is not UTF-8 or has control characters"));
            }
            self.seen += 1;
            if self.seen > MAX_FILES {
                return Err(FunctionError::TooMuch {
                    path: child,
                    what: "the number of files",
                    limit: MAX_FILES.to_string(),
                });
            }
            self.entry((&directory, kind), &name, child, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        (directory, kind): (&OwnedFd, FileType),
        name: &str,
        path: String,
        depth: usize,
    ) -> Result<(), FunctionError> {
        let error = |errno: Errno| failed(&path, errno.into());
        match kind {
            FileType::Directory => {
                let below = tree::open_directory(directory, name).map_err(error)?;
                if self.left_out.takes_environment(&path, &below) {
                    return Ok(());
                }
                let before = self.found.entries_read();
                self.directory(below, &path, depth + 1)?;
                if self.found.entries_read() == before && !self.left_out.names(&path) {
                    self.found.empty.push(path);
                }
                Ok(())
            }
            FileType::RegularFile => {
                let file = File::from(tree::open_file(directory, name).map_err(error)?);
                self.file(file, path)
            }
            FileType::Symlink => self.link(directory, name, path),
            _ => Err(refused(&path, "it is neither a regular file nor a directory")),
        }
    }

    fn link(&mut self, directory: &OwnedFd, name: &str, path: String) -> Result<(), FunctionError> {
        let target = readlinkat(directory, name, Vec::new()).map_err(|errno| failed(&path, errno.into()))?;
        let target = target.into_string().ok().filter(|target| !has_odd_characters(target));
        let target = target.ok_or_else(|| {
            refused(
                &path,
                "it is a symbolic link whose target is not UTF-8 or has control characters",
            )
        })?;
        self.found.links.push(SourceLink { path, target });
        Ok(())
    }

    fn file(&mut self, file: File, path: String) -> Result<(), FunctionError> {
        use std::os::unix::fs::MetadataExt;
        let metadata = file.metadata().map_err(|source| failed(&path, source))?;
        if !metadata.is_file() {
            return Err(refused(&path, "it is not a regular file any more"));
        }
        self.bytes = self.bytes.saturating_add(metadata.len());
        if self.bytes > MAX_BYTES {
            return Err(FunctionError::TooMuch {
                path,
                what: "the size of the code",
                limit: as_given(Bytes(MAX_BYTES)),
            });
        }
        let mut contents = Vec::new();
        file.take(metadata.len())
            .read_to_end(&mut contents)
            .map_err(|source| failed(&path, source))?;
        self.found.files.push(SourceFile {
            path,
            executable: metadata.mode() & 0o100 != 0,
            contents,
        });
        Ok(())
    }
}

fn has_odd_characters(text: &str) -> bool {
    text.chars()
        .any(|character| character.is_control() || character == '\\')
}

fn refused(path: &str, reason: &'static str) -> FunctionError {
    FunctionError::Refused {
        path: path.to_owned(),
        reason,
    }
}

fn failed(path: &str, source: io::Error) -> FunctionError {
    FunctionError::Io {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_files_and_leaves_out_what_tools_make() {
        let scratch = tempfile::tempdir().unwrap();
        for path in [
            "user_function.py",
            "lib/a.py",
            ".git/config",
            "lib/__pycache__/a.pyc",
            "lib/a.pyc",
            "work/pyvenv.cfg",
            "work/bin/python",
            "conda/conda-meta/history",
        ] {
            let path = scratch.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let function = Function::read(scratch.path()).unwrap();
        let paths: Vec<_> = function.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["lib/a.py", "user_function.py"]);
        let summary = function.left_out_summary.clone().unwrap();
        assert_eq!(function.left_out, [".git", "conda", "work"]);
        assert!(summary.ends_with("(conda is a virtual environment)"), "{summary}");
        let key = function.key();
        std::fs::write(scratch.path().join("lib/a.py"), "y").unwrap();
        assert_ne!(Function::read(scratch.path()).unwrap().key(), key);
    }

    #[test]
    fn a_link_within_the_directory_is_part_of_the_function() {
        use std::os::unix::fs::symlink;
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("lib")).unwrap();
        std::fs::write(scratch.path().join("lib/main.py"), "x").unwrap();
        let before = || Function::read(scratch.path()).unwrap();
        symlink("lib/main.py", scratch.path().join(ENTRY_POINT)).unwrap();
        let key = before().key();
        symlink("lib", scratch.path().join("alias")).unwrap();
        let function = before();
        let links: Vec<_> = function
            .links
            .iter()
            .map(|link| (link.path.as_str(), link.target.as_str()))
            .collect();
        assert_eq!(links, [("alias", "lib"), (ENTRY_POINT, "lib/main.py")]);
        assert_eq!(function.find_file(ENTRY_POINT).unwrap().path, "lib/main.py");
        assert_eq!(function.find_file("alias/main.py").unwrap().path, "lib/main.py");
        assert_ne!(function.key(), key);
        // A link to a directory is no entry point.
        std::fs::remove_file(scratch.path().join(ENTRY_POINT)).unwrap();
        symlink("lib", scratch.path().join(ENTRY_POINT)).unwrap();
        let error = Function::read(scratch.path());
        assert!(matches!(error, Err(FunctionError::NoEntryPoint { .. })));
    }

    #[test]
    fn empty_directories_are_part_of_the_function() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = |path: &str| std::fs::create_dir_all(scratch.path().join(path)).unwrap();
        let file = |path: &str| std::fs::write(scratch.path().join(path), "x").unwrap();
        file(ENTRY_POINT);
        let key = || Function::read(scratch.path()).unwrap().key();
        let before = key();
        directory("plugins");
        directory("deep/er/est");
        directory("cached/__pycache__");
        directory("full");
        file("full/a");
        directory("ignored/sub");
        file("ignored/a.log");
        directory("logs");
        file("logs/b.log");
        let function = Function::read(scratch.path()).unwrap();
        assert_eq!(function.empty, ["cached", "deep/er/est", "ignored/sub", "plugins"]);
        assert_ne!(function.key(), before);
        let all = key();
        std::fs::remove_dir(scratch.path().join("plugins")).unwrap();
        assert_ne!(key(), all);
        // What patterns leave out is no part of it, though something in it could be taken back.
        std::fs::write(
            scratch.path().join(".gantryignore"),
            "*.log\nignored\n!*.txt\n.gantryignore\n",
        )
        .unwrap();
        let function = Function::read(scratch.path()).unwrap();
        assert_eq!(function.empty, ["cached", "deep/er/est", "logs"]);
    }

    #[test]
    fn requirements_that_are_a_directory_are_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join(ENTRY_POINT), "x").unwrap();
        for below in ["", "base.txt"] {
            let directory = scratch.path().join(REQUIREMENTS);
            std::fs::create_dir(&directory).unwrap();
            if !below.is_empty() {
                std::fs::write(directory.join(below), "six\n").unwrap();
            }
            let error = Function::read(scratch.path());
            assert!(matches!(error, Err(FunctionError::Directory { .. })), "{error:?}");
            std::fs::remove_dir_all(&directory).unwrap();
        }
    }

    #[test]
    fn refuses_links_giants_and_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(matches!(
            Function::read(scratch.path()),
            Err(FunctionError::NoEntryPoint { .. })
        ));
        std::os::unix::fs::symlink("/etc/passwd", scratch.path().join(ENTRY_POINT)).unwrap();
        assert!(matches!(
            Function::read(scratch.path()),
            Err(FunctionError::Link { .. })
        ));
        std::fs::remove_file(scratch.path().join(ENTRY_POINT)).unwrap();
        File::create(scratch.path().join(ENTRY_POINT))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        assert!(matches!(
            Function::read(scratch.path()),
            Err(FunctionError::TooMuch {
                what: "the size of the code",
                ..
            })
        ));
    }

    #[test]
    fn refuses_what_is_no_file_by_its_name() {
        use std::os::unix::ffi::OsStrExt;
        let refused = |make: &dyn Fn(&Path)| {
            let scratch = tempfile::tempdir().unwrap();
            std::fs::write(scratch.path().join(ENTRY_POINT), "").unwrap();
            make(scratch.path());
            Function::read(scratch.path()).unwrap_err()
        };
        let link = |target: &'static str| {
            refused(&move |directory: &Path| std::os::unix::fs::symlink(target, directory.join("x")).unwrap())
        };
        for target in [
            "/etc/passwd",
            "/dev/zero",
            "..",
            "../outside",
            "none",
            "user_function.py/",
            "user_function.py/y",
            "x",
            "./x/x",
            ".git/config",
        ] {
            let error = link(target);
            let text = error.to_string();
            assert!(
                matches!(&error, FunctionError::Link { path, .. } if path == "x") && text.contains(target),
                "{text}"
            );
        }
        // Opening one of these would wait for ever.
        let pipe = |directory: &Path| {
            rustix::fs::mkfifoat(CWD, directory.join("x"), Mode::RWXU).unwrap();
        };
        assert!(matches!(&refused(&pipe), FunctionError::Refused { path, .. } if path == "x"));
        let socket = |directory: &Path| drop(std::os::unix::net::UnixListener::bind(directory.join("x")).unwrap());
        assert!(matches!(&refused(&socket), FunctionError::Refused { path, .. } if path == "x"));
        for name in [&b"a\nb"[..], b"a\x1b[2J", b"\xff", b"a\\b"] {
            let odd = |directory: &Path| {
                std::fs::write(directory.join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
            };
            assert!(matches!(refused(&odd), FunctionError::Refused { .. }), "{name:?}");
        }
        let deep = |directory: &Path| {
            std::fs::create_dir_all(directory.join(vec!["d"; MAX_DEPTH + 1].join("/"))).unwrap();
        };
        assert!(matches!(
            refused(&deep),
            FunctionError::TooMuch { what: "the depth", .. }
        ));
        let many = |directory: &Path| {
            for number in 0..MAX_FILES {
                File::create(directory.join(number.to_string())).unwrap();
            }
        };
        assert!(matches!(
            refused(&many),
            FunctionError::TooMuch {
                what: "the number of files",
                ..
            }
        ));
        let entry = tempfile::tempdir().unwrap();
        std::fs::create_dir(entry.path().join(ENTRY_POINT)).unwrap();
        assert!(matches!(
            Function::read(entry.path()),
            Err(FunctionError::NoEntryPoint { .. })
        ));
    }
}
