//! Reads what a finished run left in `/output`, from outside and after its last process is dead. (What nothing in the
//! store needs any more is collected elsewhere: `store`.)
//!
//! The workload made the tree and may be hostile. It is walked over directory descriptors: no path of it is ever resolved by the
//! kernel beyond one component, links are never followed, and anything that is neither a regular file nor a
//! directory refuses the whole collection.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::FileType;

use crate::policy::{Code, Kind};
use crate::sys::tree;

/// The most that is read from `/output`.
#[derive(Debug, Clone, Copy)]
pub struct CollectLimits {
    /// Files and directories.
    pub entries: u64,
    /// Bytes of all files together, as their sizes say (a sparse file counts in full).
    pub bytes: u64,
    /// Directories inside each other: each level holds a descriptor open.
    pub depth: usize,
}

/// One entry of the tree.
#[derive(Debug)]
pub enum Collected {
    /// A directory; comes before what is inside.
    Directory,
    /// A regular file, opened for reading.
    File {
        /// The contents.
        file: File,
        /// Their length when opened.
        size: u64,
    },
}

/// Why what is in `/output` was not read.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The kernel refused.
    #[error("{action} {path:?} of /output")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Path below `/output`.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// An entry is neither file nor directory.
    #[error("collect {path:?} of /output: it is a {kind}, only regular files and directories are taken out")]
    Special {
        /// Path below `/output`.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// A name is not UTF-8.
    #[error("collect a file of /output: its name {name:?} is not UTF-8")]
    Name {
        /// The name, with replacement characters.
        name: String,
    },
    /// A limit was passed.
    #[error("collect /output: {what} is over {limit}")]
    TooMuch {
        /// Which limit.
        what: &'static str,
        /// Its value.
        limit: u64,
    },
    /// The visitor failed.
    #[error("take {path:?} out of /output")]
    Visit {
        /// Path below `/output`.
        path: String,
        /// The reason.
        source: io::Error,
    },
}

impl CollectError {
    /// What sort of failure it is. Files that are not taken are a failure of the workload, not a refusal of the run.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } | Self::Special { .. } | Self::Name { .. } | Self::TooMuch { .. } | Self::Visit { .. } => {
                Kind::Failed
            }
        }
    }

    /// What a run that ended in it says.
    pub fn code(&self) -> Code {
        if self.is_workloads() {
            Code::OutputRefused
        } else {
            Code::OutputUnwritable
        }
    }

    /// Whether the workload left something that is not taken, rather than a failure of ours.
    pub fn is_workloads(&self) -> bool {
        match self {
            Self::Special { .. } | Self::Name { .. } | Self::TooMuch { .. } => true,
            // It took the permissions away itself: the tree is our own user's.
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Visit { .. } => false,
        }
    }
}

/// Calls `visit` for everything below `root`, in byte order of names, directories before their contents.
///
/// # Errors
///
/// [`CollectError`] for what must not be taken, for a bound that is passed, and for what `visit` returns.
pub fn collect(
    root: BorrowedFd<'_>,
    limits: CollectLimits,
    visit: &mut dyn FnMut(&str, Collected) -> io::Result<()>,
) -> Result<(), CollectError> {
    let mut walk = Walk {
        limits,
        entries: 0,
        bytes: 0,
        visit,
    };
    let top = tree::open_directory(root, ".").map_err(|errno| CollectError::Io {
        action: "open",
        path: String::new(),
        source: errno.into(),
    })?;
    walk.directory(top, "", 0)
}

struct Walk<'a> {
    limits: CollectLimits,
    entries: u64,
    bytes: u64,
    visit: &'a mut dyn FnMut(&str, Collected) -> io::Result<()>,
}

impl Walk<'_> {
    fn directory(&mut self, directory: OwnedFd, path: &str, depth: usize) -> Result<(), CollectError> {
        if depth > self.limits.depth {
            return Err(CollectError::TooMuch {
                what: "the depth",
                limit: self.limits.depth as u64,
            });
        }
        for name in self.names(&directory, path)? {
            let child = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}/{name}")
            };
            self.entry(&directory, &name, &child, depth)?;
        }
        Ok(())
    }

    fn names(&self, directory: &OwnedFd, path: &str) -> Result<Vec<String>, CollectError> {
        let error = |source| CollectError::Io {
            action: "list",
            path: path.to_owned(),
            source,
        };
        let left = self.limits.entries.saturating_sub(self.entries);
        let found = tree::names(directory, usize::try_from(left).unwrap_or(usize::MAX)).map_err(error)?;
        if found.len() as u64 > left {
            return Err(CollectError::TooMuch {
                what: "the number of files",
                limit: self.limits.entries,
            });
        }
        let text = |name: OsString| {
            name.into_string().map_err(|name| CollectError::Name {
                name: name.to_string_lossy().into_owned(),
            })
        };
        found.into_iter().map(text).collect()
    }

    fn entry(&mut self, directory: &OwnedFd, name: &str, path: &str, depth: usize) -> Result<(), CollectError> {
        self.entries += 1;
        let failed = |action| {
            move |errno: rustix::io::Errno| CollectError::Io {
                action,
                path: path.to_owned(),
                source: errno.into(),
            }
        };
        let (kind, stat) = tree::look(directory, name).map_err(failed("look at"))?;
        match kind {
            FileType::Directory => {
                let child = tree::open_directory(directory, name).map_err(failed("open"))?;
                self.visit(path, Collected::Directory)?;
                self.directory(child, path, depth + 1)
            }
            FileType::RegularFile => {
                let file = tree::open_file(directory, name).map_err(failed("open"))?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.bytes = self.bytes.saturating_add(size);
                if self.bytes > self.limits.bytes {
                    return Err(CollectError::TooMuch {
                        what: "the size",
                        limit: self.limits.bytes,
                    });
                }
                self.visit(
                    path,
                    Collected::File {
                        file: File::from(file),
                        size,
                    },
                )
            }
            other => Err(CollectError::Special {
                path: path.to_owned(),
                kind: kind_name(other),
            }),
        }
    }

    fn visit(&mut self, path: &str, collected: Collected) -> Result<(), CollectError> {
        (self.visit)(path, collected).map_err(|source| CollectError::Visit {
            path: path.to_owned(),
            source,
        })
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "named pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "special file",
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    const LIMITS: CollectLimits = CollectLimits {
        entries: 10,
        bytes: 100,
        depth: 2,
    };

    fn names_of(directory: &std::path::Path, limits: CollectLimits) -> Result<Vec<String>, CollectError> {
        let root = File::open(directory).unwrap();
        let mut names = Vec::new();
        collect(root.as_fd(), limits, &mut |path, _| {
            names.push(path.to_owned());
            Ok(())
        })?;
        Ok(names)
    }

    #[test]
    fn visits_directories_before_their_contents() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("b")).unwrap();
        std::fs::write(scratch.path().join("b/x"), "1").unwrap();
        std::fs::write(scratch.path().join("a"), "2").unwrap();
        assert_eq!(names_of(scratch.path(), LIMITS).unwrap(), ["a", "b", "b/x"]);
    }

    #[test]
    fn refuses_links_sparse_giants_depth_and_crowds() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("link");
        symlink("/etc/passwd", &link).unwrap();
        assert!(matches!(
            names_of(scratch.path(), LIMITS),
            Err(CollectError::Special {
                kind: "symbolic link",
                ..
            })
        ));
        std::fs::remove_file(link).unwrap();

        File::create(scratch.path().join("giant"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        assert!(matches!(
            names_of(scratch.path(), LIMITS),
            Err(CollectError::TooMuch { what: "the size", .. })
        ));
        std::fs::remove_file(scratch.path().join("giant")).unwrap();

        std::fs::create_dir_all(scratch.path().join("a/b/c/d")).unwrap();
        assert!(matches!(
            names_of(scratch.path(), LIMITS),
            Err(CollectError::TooMuch { what: "the depth", .. })
        ));
        let few = CollectLimits {
            entries: 2,
            depth: 9,
            ..LIMITS
        };
        assert!(matches!(
            names_of(scratch.path(), few),
            Err(CollectError::TooMuch {
                what: "the number of files",
                ..
            })
        ));
    }
}
