//! Reads the files of a Debian package: ar around `data.tar.{xz,zst,gz}` (deb(5)).
//!
//! Maintainer scripts are never looked at. What a package holds is bounded, and only directories, files, and links are
//! accepted; hard links are resolved within the package.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::path::{check_path, PathProblem};
use crate::policy::ExtractionLimits;

/// Largest `control` file: they have a few kilobytes.
const MAX_CONTROL: u64 = 1 << 20;

/// One thing a package installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebEntry {
    /// A directory.
    Directory {
        /// Permission bits, without set-id bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits, without set-id bits.
        mode: u32,
        /// Its contents.
        contents: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// As stored.
        target: String,
    },
}

/// A package's files and its control paragraph.
#[derive(Debug)]
pub struct Deb {
    /// The control paragraph, for the inventory.
    pub control: String,
    /// By path, without leading `./`.
    pub entries: BTreeMap<String, DebEntry>,
}

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// It is no package or is damaged.
    #[error("read package: {what}")]
    Read {
        /// Which part.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// A part is missing or of an unknown kind.
    #[error("read package: {reason}")]
    Structure {
        /// What is wrong.
        reason: &'static str,
    },
    /// A path.
    #[error("package entry {path:?}: {problem}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// An entry of another kind.
    #[error("package entry {path:?}: it is neither file, directory nor link")]
    Kind {
        /// The path.
        path: String,
    },
    /// A limit was passed.
    #[error("read package: {what} is over {limit}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// Its value.
        limit: u64,
    },
}

/// Reads the package in `bytes`; entries for whose path `wanted` is false are skipped.
pub fn read(bytes: &[u8], limits: &ExtractionLimits, wanted: &dyn Fn(&str) -> bool) -> Result<Deb, DebError> {
    let mut archive = ar::Archive::new(bytes);
    let (mut control, mut entries) = (None, None);
    while let Some(member) = archive.next_entry() {
        let mut member = member.map_err(|source| DebError::Read {
            what: "the ar archive",
            source,
        })?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let mut packed = Vec::new();
        member.read_to_end(&mut packed).map_err(|source| DebError::Read {
            what: "an ar member",
            source,
        })?;
        if let Some(suffix) = name.strip_prefix("control.tar") {
            control = Some(read_control(decompress(suffix, &packed)?)?);
        } else if let Some(suffix) = name.strip_prefix("data.tar") {
            entries = Some(read_data(decompress(suffix, &packed)?, limits, wanted)?);
        }
    }
    let control = control.ok_or(DebError::Structure {
        reason: "it has no control.tar",
    })?;
    let entries = entries.ok_or(DebError::Structure {
        reason: "it has no data.tar",
    })?;
    Ok(Deb { control, entries })
}

fn decompress<'a>(suffix: &str, packed: &'a [u8]) -> Result<Box<dyn Read + 'a>, DebError> {
    match suffix.trim_end_matches('/') {
        "" => Ok(Box::new(packed)),
        ".gz" => Ok(Box::new(flate2::read::MultiGzDecoder::new(packed))),
        ".xz" => Ok(Box::new(liblzma::read::XzDecoder::new_multi_decoder(packed))),
        ".zst" => zstd::stream::read::Decoder::with_buffer(packed)
            .map(|decoder| Box::new(decoder) as Box<dyn Read>)
            .map_err(|source| DebError::Read {
                what: "a zstd stream",
                source,
            }),
        _ => Err(DebError::Structure {
            reason: "a part is compressed in an unknown way",
        }),
    }
}

fn read_control(tar: Box<dyn Read + '_>) -> Result<String, DebError> {
    let error = |source| DebError::Read {
        what: "control.tar",
        source,
    };
    let mut archive = tar::Archive::new(tar.take(MAX_CONTROL));
    for entry in archive.entries().map_err(error)? {
        let mut entry = entry.map_err(error)?;
        if matches!(entry.path_bytes().as_ref(), b"./control" | b"control") {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(error)?;
            return Ok(text);
        }
    }
    Err(DebError::Structure {
        reason: "control.tar has no control file",
    })
}

fn read_data(
    tar: Box<dyn Read + '_>,
    limits: &ExtractionLimits,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, DebEntry>, DebError> {
    let error = |source| DebError::Read {
        what: "data.tar",
        source,
    };
    let mut entries: BTreeMap<String, DebEntry> = BTreeMap::new();
    // A tar that is longer than all its contents may be is cut off, and then fails to parse.
    let mut archive = tar::Archive::new(tar.take(limits.bytes));
    let mut count = 0;
    for entry in archive.entries().map_err(error)? {
        let mut entry = entry.map_err(error)?;
        count += 1;
        if count > limits.entries {
            return Err(DebError::Limit {
                what: "the number of entries",
                limit: limits.entries,
            });
        }
        let Some(path) = path_of(&entry.path_bytes(), limits)? else {
            continue;
        };
        // Not executed as another user by anyone: set-id bits go.
        let mode = entry.header().mode().map_err(error)? & 0o777;
        let kind = match entry.header().entry_type() {
            tar::EntryType::Directory => DebEntry::Directory { mode },
            tar::EntryType::Regular => {
                if !wanted(&path) {
                    continue;
                }
                let mut contents = Vec::with_capacity(usize::try_from(entry.size().min(64 << 20)).unwrap_or(0));
                entry.read_to_end(&mut contents).map_err(error)?;
                DebEntry::File { mode, contents }
            }
            tar::EntryType::Symlink => DebEntry::Symlink {
                target: link_of(&entry)?,
            },
            tar::EntryType::Link => {
                let target = link_of(&entry)?;
                let target = path_of(target.as_bytes(), limits)?.unwrap_or_default();
                match entries.get(&target) {
                    Some(file @ DebEntry::File { .. }) => file.clone(),
                    _ if !wanted(&target) => continue,
                    _ => {
                        return Err(DebError::Structure {
                            reason: "a hard link names no earlier file of the package",
                        })
                    }
                }
            }
            _ => return Err(DebError::Kind { path }),
        };
        if wanted(&path) {
            entries.insert(path, kind);
        }
    }
    Ok(entries)
}

/// The path without `./` and trailing slash; none for the root itself.
fn path_of(bytes: &[u8], limits: &ExtractionLimits) -> Result<Option<String>, DebError> {
    let text = String::from_utf8_lossy(bytes);
    let path = text.strip_prefix("./").unwrap_or(&text).trim_end_matches('/');
    if path.is_empty() || path == "." {
        return Ok(None);
    }
    check_path(path, limits).map_err(|problem| DebError::Path {
        path: path.to_owned(),
        problem,
    })?;
    Ok(Some(path.to_owned()))
}

fn link_of<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String, DebError> {
    let target = entry.link_name_bytes().ok_or(DebError::Structure {
        reason: "a link has no target",
    })?;
    String::from_utf8(target.into_owned()).map_err(|_| DebError::Structure {
        reason: "a link's target is not UTF-8",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deb(data: &dyn Fn(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let tar_of = |fill: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
            let mut builder = tar::Builder::new(Vec::new());
            fill(&mut builder);
            builder.into_inner().unwrap()
        };
        let control = tar_of(&|tar| add(tar, "./control", tar::EntryType::Regular, b"Package: x\n", ""));
        let mut builder = ar::Builder::new(Vec::new());
        for (name, contents) in [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar", control),
            ("data.tar", tar_of(data)),
        ] {
            builder
                .append(&ar::Header::new(name.into(), contents.len() as u64), &contents[..])
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, contents: &[u8], link: &str) {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_size(contents.len() as u64);
        header.set_link_name_literal(link).unwrap();
        header.set_cksum();
        tar.append(&header, contents).unwrap();
    }

    fn read_all(bytes: &[u8]) -> Result<Deb, DebError> {
        read(bytes, &ExtractionLimits::default(), &|_| true)
    }

    #[test]
    fn reads_files_links_and_the_control_paragraph() {
        let bytes = deb(&|tar| {
            add(tar, "./", tar::EntryType::Directory, b"", "");
            add(tar, "./usr/bin/a", tar::EntryType::Regular, b"one", "");
            add(tar, "./usr/bin/b", tar::EntryType::Link, b"", "./usr/bin/a");
            add(tar, "./usr/bin/c", tar::EntryType::Symlink, b"", "/anywhere");
        });
        let deb = read_all(&bytes).unwrap();
        let file = DebEntry::File {
            mode: 0o755,
            contents: b"one".to_vec(),
        };
        assert_eq!(deb.control, "Package: x\n");
        assert_eq!(deb.entries["usr/bin/a"], file);
        assert_eq!(deb.entries["usr/bin/b"], file);
        assert_eq!(
            deb.entries["usr/bin/c"],
            DebEntry::Symlink {
                target: "/anywhere".to_owned()
            }
        );
    }

    #[test]
    fn refuses_what_leaves_and_what_is_no_file() {
        let bytes = deb(&|tar| add(tar, "./../x", tar::EntryType::Regular, b"", ""));
        assert!(matches!(
            read_all(&bytes),
            Err(DebError::Path {
                problem: PathProblem::Parent,
                ..
            })
        ));
        let bytes = deb(&|tar| add(tar, "/etc/x", tar::EntryType::Regular, b"", ""));
        assert!(matches!(
            read_all(&bytes),
            Err(DebError::Path {
                problem: PathProblem::Absolute,
                ..
            })
        ));
        let bytes = deb(&|tar| add(tar, "./dev/x", tar::EntryType::Char, b"", ""));
        assert!(matches!(read_all(&bytes), Err(DebError::Kind { .. })));
        let bytes = deb(&|tar| add(tar, "./x", tar::EntryType::Link, b"", "./later"));
        assert!(matches!(read_all(&bytes), Err(DebError::Structure { .. })));
        assert!(read_all(b"!<arch>\nrubbish").is_err());
        assert!(matches!(read_all(b"!<arch>\n"), Err(DebError::Structure { .. })));
    }
}
