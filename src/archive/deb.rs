//! Reads the files of a Debian package: ar around `data.tar.{xz,zst,gz}` (deb(5)).
//!
//! Maintainer scripts are at most read. What a package holds is bounded while it is unpacked, by the limits and by
//! the memory its decompressor may ask for. Only directories, files, and links are accepted, each name once; hard links
//! are resolved within the package. Where a symbolic link leads is for the caller to judge: nothing is followed here.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};

use super::path::{check_path, PathProblem};
use crate::policy::{ExtractionLimits, Kind};

/// Largest `control` file: they have a few kilobytes.
const MAX_CONTROL: u64 = 1 << 20;
/// Memory of the xz decoder: `xz -9` needs 65 MiB; without a limit a header of 12 bytes may ask for 4 GiB.
const XZ_MEMORY: u64 = 128 << 20;
/// Largest zstd window: what `zstd --ultra` makes without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;

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
    /// A name that comes again.
    #[error("package entry {path:?}: it is there twice")]
    Twice {
        /// The path.
        path: String,
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

impl DebError {
    /// A limit is a rule of ours; everything else is wrong with the package.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Limit { .. } => Kind::Refused,
            Self::Read { .. } | Self::Structure { .. } | Self::Path { .. } | Self::Twice { .. } | Self::Kind { .. } => {
                Kind::Failed
            }
        }
    }
}

/// Reads the package in `bytes`; entries for whose path `wanted` is false are skipped.
///
/// # Errors
///
/// [`DebError`] says which part of the package is damaged, too large or refused.
pub fn read(bytes: &[u8], limits: &ExtractionLimits, wanted: &dyn Fn(&str) -> bool) -> Result<Deb, DebError> {
    let mut archive = ar::Archive::new(bytes);
    let (mut version, mut control, mut entries) = (None, None, None);
    while let Some(member) = archive.next_entry() {
        let mut member = member.map_err(|source| DebError::Read {
            what: "the ar archive",
            source,
        })?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let name = name.trim_end_matches('/');
        let mut packed = Vec::new();
        member.read_to_end(&mut packed).map_err(|source| DebError::Read {
            what: "an ar member",
            source,
        })?;
        let again = if name == "debian-binary" {
            version.replace(packed).is_some()
        } else if let Some(suffix) = name.strip_prefix("control.tar") {
            control.replace(read_control(suffix, &packed)?).is_some()
        } else if let Some(suffix) = name.strip_prefix("data.tar") {
            entries.replace(read_data(suffix, &packed, limits, wanted)?).is_some()
        } else {
            false
        };
        if again {
            // Tools differ in which of the two they take.
            return Err(DebError::Structure {
                reason: "a part is there twice",
            });
        }
    }
    if !version.is_some_and(|version| version.starts_with(b"2.")) {
        return Err(DebError::Structure {
            reason: "it is not of format 2",
        });
    }
    let control = control.ok_or(DebError::Structure {
        reason: "it has no control.tar",
    })?;
    let entries = entries.ok_or(DebError::Structure {
        reason: "it has no data.tar",
    })?;
    Ok(Deb { control, entries })
}

/// Scripts that run when a package is installed.
const SCRIPTS: [&str; 2] = ["preinst", "postinst"];
/// Largest such script; the longest of Debian's has 100 kB.
const MAX_SCRIPT: u64 = 1 << 20;
/// Largest `control.tar` that is read to its end: the sums of a package with a hundred thousand files have 10 MB.
const MAX_CONTROL_PART: u64 = 64 << 20;

/// The scripts that the package in `bytes` would run when it is installed, by name. What is no text has `\u{fffd}` in it.
pub fn read_scripts(bytes: &[u8]) -> Result<BTreeMap<&'static str, String>, DebError> {
    let mut archive = ar::Archive::new(bytes);
    let mut scripts = BTreeMap::new();
    let over = Cell::new(false);
    let error = |source| part_error("control.tar", MAX_CONTROL_PART, over.get(), source);
    while let Some(member) = archive.next_entry() {
        let mut member = member.map_err(error)?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let Some(suffix) = name.trim_end_matches('/').strip_prefix("control.tar") else {
            continue;
        };
        let mut packed = Vec::new();
        member.read_to_end(&mut packed).map_err(error)?;
        let mut parts = tar::Archive::new(Bounded {
            inner: decompress(suffix, &packed)?,
            left: MAX_CONTROL_PART,
            over: &over,
        });
        for entry in parts.entries().map_err(error)? {
            let entry = entry.map_err(error)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let path = path.trim_start_matches("./");
            let Some(script) = SCRIPTS.into_iter().find(|script| *script == path) else {
                continue;
            };
            let mut text = Vec::new();
            entry.take(MAX_SCRIPT + 1).read_to_end(&mut text).map_err(error)?;
            if text.len() as u64 > MAX_SCRIPT {
                return Err(DebError::Limit {
                    what: "a maintainer script",
                    limit: MAX_SCRIPT,
                });
            }
            if scripts
                .insert(script, String::from_utf8_lossy(&text).into_owned())
                .is_some()
            {
                return Err(DebError::Twice {
                    path: script.to_owned(),
                });
            }
        }
    }
    Ok(scripts)
}

/// Unpacks xz, as Debian's indexes have it too; the limits on its output are the caller's.
pub fn xz_reader<'a>(packed: &'a [u8]) -> io::Result<impl Read + 'a> {
    let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
    Ok(liblzma::read::XzDecoder::new_stream(packed, stream))
}

/// Unpacks gzip, likewise.
pub fn gzip_reader<'a>(packed: &'a [u8]) -> impl Read + 'a {
    flate2::read::MultiGzDecoder::new(packed)
}

fn decompress<'a>(suffix: &str, packed: &'a [u8]) -> Result<Box<dyn Read + 'a>, DebError> {
    let error = |source| DebError::Read {
        what: "a compressed part",
        source,
    };
    match suffix {
        "" => Ok(Box::new(packed)),
        ".gz" => Ok(Box::new(gzip_reader(packed))),
        ".xz" => Ok(Box::new(xz_reader(packed).map_err(error)?)),
        ".zst" => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(error)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(error)?;
            Ok(Box::new(decoder))
        }
        _ => Err(DebError::Structure {
            reason: "a part is compressed in an unknown way",
        }),
    }
}

/// Fails, instead of ending early, once more than `left` bytes come: a tar that is cut between two entries looks whole.
struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    left: u64,
    over: &'a Cell<bool>,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                self.over.set(true);
                return Err(io::Error::other("it unpacks to more than is allowed"));
            }
        }
        Ok(count)
    }
}

fn read_control(suffix: &str, packed: &[u8]) -> Result<String, DebError> {
    let over = Cell::new(false);
    let error = |source| part_error("control.tar", MAX_CONTROL, over.get(), source);
    let mut archive = tar::Archive::new(Bounded {
        inner: decompress(suffix, packed)?,
        left: MAX_CONTROL,
        over: &over,
    });
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
    suffix: &str,
    packed: &[u8],
    limits: &ExtractionLimits,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, DebEntry>, DebError> {
    let ratio = (packed.len() as u64).saturating_mul(limits.ratio);
    let limit = limits.bytes.min(limits.ratio_floor.max(ratio));
    let over = Cell::new(false);
    let error = |source| part_error("data.tar", limit, over.get(), source);
    let mut entries: BTreeMap<String, DebEntry> = BTreeMap::new();
    let mut archive = tar::Archive::new(Bounded {
        inner: decompress(suffix, packed)?,
        left: limit,
        over: &over,
    });
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
        let kind = entry.header().entry_type();
        let known = matches!(
            kind,
            tar::EntryType::Directory | tar::EntryType::Regular | tar::EntryType::Symlink | tar::EntryType::Link
        );
        if !known {
            return Err(DebError::Kind { path });
        }
        if !wanted(&path) {
            continue;
        }
        let installed = match kind {
            tar::EntryType::Directory => DebEntry::Directory { mode },
            tar::EntryType::Symlink => DebEntry::Symlink {
                target: link_of(&entry)?,
            },
            tar::EntryType::Link => {
                let target = path_of(link_of(&entry)?.as_bytes(), limits)?.unwrap_or_default();
                match entries.get(&target) {
                    Some(file @ DebEntry::File { .. }) => file.clone(),
                    _ => {
                        return Err(DebError::Structure {
                            reason: "a hard link names no earlier file of the package, or one that is left out",
                        })
                    }
                }
            }
            _ => {
                let mut contents =
                    Vec::with_capacity(usize::try_from(entry.size().min(limit).min(64 << 20)).unwrap_or(0));
                entry.read_to_end(&mut contents).map_err(error)?;
                DebEntry::File { mode, contents }
            }
        };
        let again = entries.insert(path.clone(), installed);
        if again.is_some_and(|again| !matches!(again, DebEntry::Directory { .. })) {
            return Err(DebError::Twice { path });
        }
    }
    // To the end: the decompressor checks its sums there.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(error)?;
    Ok(entries)
}

fn part_error(what: &'static str, limit: u64, over: bool, source: io::Error) -> DebError {
    if over {
        DebError::Limit { what, limit }
    } else {
        DebError::Read { what, source }
    }
}

/// The path without `./` and trailing slash; none for the root itself.
fn path_of(bytes: &[u8], limits: &ExtractionLimits) -> Result<Option<String>, DebError> {
    // Replacing what is no text would give two files one name.
    let text = std::str::from_utf8(bytes).map_err(|_| DebError::Structure {
        reason: "a name is not UTF-8",
    })?;
    let path = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
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

/// Packages made in memory.
#[cfg(test)]
pub(crate) mod fixture {
    /// Adds entries to a package's data.
    pub(crate) type Data = tar::Builder<Vec<u8>>;

    /// An ar archive of `parts`.
    pub(crate) fn ar_of(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = ar::Builder::new(Vec::new());
        for (name, contents) in parts {
            builder
                .append(
                    &ar::Header::new(name.as_bytes().to_vec(), contents.len() as u64),
                    *contents,
                )
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A tar that `fill` fills.
    /// What [`xz_reader`](super::xz_reader) reads.
    pub(crate) fn xz_of(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let read = std::io::Read::read_to_end(&mut liblzma::read::XzEncoder::new(bytes, 6), &mut packed);
        read.unwrap();
        packed
    }

    /// What [`gzip_reader`](super::gzip_reader) reads.
    pub(crate) fn gzip_of(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let level = flate2::Compression::fast();
        let read = std::io::Read::read_to_end(&mut flate2::read::GzEncoder::new(bytes, level), &mut packed);
        read.unwrap();
        packed
    }

    pub(crate) fn tar_of(fill: &dyn Fn(&mut Data)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().unwrap()
    }

    /// A control.tar of one paragraph.
    pub(crate) fn control() -> Vec<u8> {
        tar_of(&|tar| add(tar, "./control", tar::EntryType::Regular, b"Package: x\n", ""))
    }

    /// A package that installs what `fill` adds.
    pub(crate) fn deb(fill: &dyn Fn(&mut Data)) -> Vec<u8> {
        let data = tar_of(fill);
        ar_of(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar", &control()),
            ("data.tar", &data),
        ])
    }

    /// A regular file.
    pub(crate) fn file(tar: &mut Data, path: &str, contents: &[u8]) {
        add(tar, path, tar::EntryType::Regular, contents, "");
    }

    /// A directory.
    pub(crate) fn directory(tar: &mut Data, path: &str) {
        add(tar, path, tar::EntryType::Directory, b"", "");
    }

    /// A symbolic link.
    pub(crate) fn symlink(tar: &mut Data, path: &str, target: &str) {
        add(tar, path, tar::EntryType::Symlink, b"", target);
    }

    /// Another name for a file.
    pub(crate) fn hard_link(tar: &mut Data, path: &str, target: &str) {
        add(tar, path, tar::EntryType::Link, b"", target);
    }

    /// Any entry, under any name, with set-id bits.
    pub(crate) fn add(tar: &mut Data, path: &str, kind: tar::EntryType, contents: &[u8], link: &str) {
        add_raw(tar, path.as_bytes(), kind, contents, link);
    }

    /// Like [`add`], under a name that may be no text.
    pub(crate) fn add_raw(tar: &mut Data, path: &[u8], kind: tar::EntryType, contents: &[u8], link: &str) {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_size(contents.len() as u64);
        header.set_link_name_literal(link).unwrap();
        header.set_cksum();
        tar.append(&header, contents).unwrap();
    }
}

#[cfg(test)]
mod tests;
