//! Reads a layer of a stranger's image: tar, plain or compressed, bounded and hashed while it is read.
//!
//! The `tar` crate parses headers; extended headers are interpreted here, where they are bounded. What readers are known
//! to understand differently (a size on a link, a number that overflows, two sizes, a lone zero block, names for all in
//! a global header) is refused, so that what a scanner saw is what runs. The diff id is that of the whole stream,
//! trailing padding included, so the stream is always read to its end. What an entry may be follows the OCI image
//! specification ("Image Layer Filesystem Changeset").
//!
//! An archive without its two zero blocks, or the last padding (umoci), is complete; one cut within an entry is not.

use std::io::{self, BufReader, Read};

use super::ending::{Ending, Place};
use super::members::MemberReader;
use super::path::{check_foreign_path, PathProblem, WHITEOUT};
use super::zstd_decoder::ZstdDecoder;
use crate::oci::{Compression, DiffId, Hasher};
use crate::policy::{ExtractionLimits, Kind};
use crate::sys::cores;

const OPAQUE: &str = ".wh..wh..opq";
const BLOCK: usize = 512;
/// An entry, a pax header, and a long name and a long target of GNU tar before it.
const HEADERS_PER_ENTRY: u64 = 4;
const CUT_OFF: &str = "the layer ends within it";
const NOT_A_FILE_WITH_SIZE: &str = "it has a size, but is no file";

/// One change of a layer.
pub enum Change<'a> {
    /// A directory.
    Directory {
        /// Permission bits and the sticky bit, without set-id bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits, without set-id bits.
        mode: u32,
        /// Bytes in `contents`.
        size: u64,
        /// Its contents; what is left unread is skipped.
        contents: &'a mut dyn Read,
    },
    /// A symbolic link.
    Symlink {
        /// As stored.
        target: String,
    },
    /// Another name for an earlier file.
    Hardlink {
        /// Checked path in the same layer.
        target: String,
    },
    /// The path does not exist in lower layers.
    Whiteout,
    /// The directory hides what lower layers have in it.
    Opaque,
}

impl std::fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory { mode } => write!(f, "Directory {mode:o}"),
            Self::File { mode, size, .. } => write!(f, "File {mode:o} {size}"),
            Self::Symlink { target } => write!(f, "Symlink {target:?}"),
            Self::Hardlink { target } => write!(f, "Hardlink {target:?}"),
            Self::Whiteout => f.write_str("Whiteout"),
            Self::Opaque => f.write_str("Opaque"),
        }
    }
}

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream is damaged or cannot be read.
    #[error("read layer")]
    Read(#[source] io::Error),
    /// A path.
    #[error("layer entry {path:?}: {problem}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// An entry that says something no honest layer says.
    #[error("layer entry {path:?}: {reason}")]
    Entry {
        /// The path.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Bytes of another kind than the media type says.
    #[error("read layer: its media type says {said}, its bytes are {got}")]
    Compression {
        /// By the media type.
        said: Compression,
        /// By the first bytes.
        got: Compression,
    },
    /// A limit was passed.
    #[error("read layer: {what} is over {limit}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// Its value.
        limit: u64,
    },
    /// The visitor failed.
    #[error("unpack layer entry {path:?}")]
    Visit {
        /// The path.
        path: String,
        /// The reason.
        source: io::Error,
    },
}

impl TarError {
    /// A limit is a rule of ours; everything else is wrong with the layer or with the place it is unpacked to.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Limit { .. } => Kind::Refused,
            Self::Read(_) | Self::Path { .. } | Self::Entry { .. } | Self::Compression { .. } | Self::Visit { .. } => {
                Kind::Failed
            }
        }
    }
}

/// Counts what is read of the compressed stream, for the ratio.
struct Counted<'c, R> {
    inner: R,
    count: &'c std::cell::Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// Hashes and bounds the uncompressed stream.
struct Bounded<'c, R> {
    inner: R,
    hasher: Hasher,
    packed: &'c std::cell::Cell<u64>,
    limits: &'c ExtractionLimits,
    exceeded: &'c std::cell::Cell<Option<(&'static str, u64)>>,
    damaged: &'c std::cell::Cell<bool>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer).inspect_err(|_| self.damaged.set(true))?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        let bytes = self.hasher.bytes();
        // Headers and padding come on top of the contents: twice the limit plus a block per entry is never reached honestly.
        let most = self
            .limits
            .bytes
            .saturating_add(self.limits.entries.saturating_mul(1024));
        let over = if bytes > most {
            Some(("the unpacked size", most))
        } else if bytes > self.limits.ratio_floor && bytes / self.packed.get().max(1) > self.limits.ratio {
            Some(("the ratio of unpacked to packed size", self.limits.ratio))
        } else {
            None
        };
        if over.is_some() {
            self.exceeded.set(over);
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(count)
    }
}

/// Calls `visit` for each change of the layer in `reader` and returns the layer's diff id.
///
/// The first bytes must be those of `compression`, which the layer's media type names. `visit` gets checked relative paths;
/// device nodes under `dev/` are skipped (base images carry some; the sandbox brings its own), elsewhere refused.
///
/// # Errors
///
/// [`TarError`] for a layer that is damaged, passes a bound or has an entry that is refused; also what `visit`
/// returns. What was visited before has to be dropped.
pub fn read_layer(
    reader: impl Read,
    compression: Compression,
    limits: &ExtractionLimits,
    visit: &mut dyn FnMut(&str, Change<'_>) -> io::Result<()>,
) -> Result<DiffId, TarError> {
    let (packed, exceeded, damaged) = Default::default();
    let mut decoder = ZstdDecoder::default();
    let _busy = cores::take_one();
    let (mut reader, mut magic) = (reader, [0u8; Compression::MAGIC]);
    let start = read_up_to(&mut reader, &mut magic).map_err(TarError::Read)?;
    check_compression(compression, magic.get(..start).unwrap_or_default())?;
    let stream = io::Cursor::new(magic).take(start as u64).chain(reader);
    let counted = |inner| Counted { inner, count: &packed };
    let plain: Box<dyn Read + '_> = match compression {
        // It reads ahead, and counts what it has used.
        Compression::Gzip => Box::new(MemberReader::new(stream, &packed)),
        Compression::Zstd => {
            let decoded = decoder.read(counted(stream), limits.window_log);
            Box::new(decoded.map_err(TarError::Read)?)
        }
        Compression::Plain => Box::new(counted(stream)),
    };
    let bounded = Bounded {
        inner: plain,
        hasher: Hasher::new(),
        packed: &packed,
        limits,
        exceeded: &exceeded,
        damaged: &damaged,
    };
    let place = Place::default();
    let mut archive = tar::Archive::new(Ending {
        inner: BufReader::with_capacity(256 << 10, bounded),
        place: &place,
    });
    let result = read_entries(&mut archive, limits, &place, visit);
    if let Some((what, limit)) = exceeded.get() {
        return Err(TarError::Limit { what, limit });
    }
    result.map_err(|error| match error {
        // The visitor only passes on what reading the contents told it.
        TarError::Visit { source, .. } if damaged.get() => TarError::Read(source),
        TarError::Visit { path, source } if source.kind() == io::ErrorKind::UnexpectedEof => {
            TarError::Entry { path, reason: CUT_OFF }
        }
        other => other,
    })?;
    let mut rest = archive.into_inner();
    let mut second = [0; BLOCK];
    let drained = read_up_to(&mut rest, &mut second);
    if second != [0; BLOCK] {
        return Err(TarError::Entry {
            path: "end of archive".to_owned(),
            reason: "more entries follow a single zero block",
        });
    }
    let drained = drained.and_then(|_| io::copy(&mut rest, &mut io::sink()));
    if let Some((what, limit)) = exceeded.get() {
        return Err(TarError::Limit { what, limit });
    }
    drained.map_err(TarError::Read)?;
    let stream = rest.inner.into_inner();
    Ok(stream.hasher.diff_id())
}

/// Whether a blob that begins with `start` is packed as its media type says.
pub fn check_compression(said: Compression, start: &[u8]) -> Result<(), TarError> {
    let got = Compression::of_bytes(start);
    if said == got {
        return Ok(());
    }
    Err(TarError::Compression { said, got })
}

/// What extended headers said about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

fn read_entries<R: Read>(
    archive: &mut tar::Archive<R>,
    limits: &ExtractionLimits,
    place: &Place,
    visit: &mut dyn FnMut(&str, Change<'_>) -> io::Result<()>,
) -> Result<(), TarError> {
    let (mut extended, mut total) = (Extended::default(), 0u64);
    let (mut headers, mut count) = (0u64, 0u64);
    for entry in archive.entries().map_err(TarError::Read)?.raw(true) {
        let mut entry = entry.map_err(TarError::Read)?;
        check_numbers(&entry)?;
        headers += 1;
        if headers > limits.entries.saturating_mul(HEADERS_PER_ENTRY) {
            return Err(TarError::Limit {
                what: "the number of headers",
                limit: limits.entries.saturating_mul(HEADERS_PER_ENTRY),
            });
        }
        match entry.header().entry_type() {
            tar::EntryType::XHeader => {
                pax(&bounded(&mut entry, limits)?, &mut extended)?;
                continue;
            }
            tar::EntryType::GNULongName => {
                extended.path = Some(trimmed(bounded(&mut entry, limits)?));
                continue;
            }
            tar::EntryType::GNULongLink => {
                extended.link = Some(trimmed(bounded(&mut entry, limits)?));
                continue;
            }
            tar::EntryType::XGlobalHeader => {
                if names_or_sizes(&bounded(&mut entry, limits)?)? {
                    return Err(TarError::Entry {
                        path: "global pax header".to_owned(),
                        reason: "it gives a name or a size to all entries",
                    });
                }
                continue;
            }
            _ => {}
        }
        count += 1;
        if count > limits.entries {
            return Err(TarError::Limit {
                what: "the number of entries",
                limit: limits.entries,
            });
        }
        let said = std::mem::take(&mut extended);
        let raw = said.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let Some(path) = clean(&raw, limits)? else {
            if entry.header().entry_type().is_dir() {
                continue;
            }
            return Err(TarError::Entry {
                path: "/".to_owned(),
                reason: "it is the root, but no directory",
            });
        };
        let error = |reason| TarError::Entry {
            path: path.clone(),
            reason,
        };
        let size = entry.header().entry_size().map_err(TarError::Read)?;
        let kind = match entry.header().entry_type() {
            // How the seventh edition wrote directories.
            tar::EntryType::Regular if raw.ends_with(b"/") => tar::EntryType::Directory,
            kind => kind,
        };
        let has_contents = matches!(
            kind,
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse
        );
        if size > 0 && !has_contents {
            // Some readers skip that many bytes, others read headers there.
            return Err(error(NOT_A_FILE_WITH_SIZE));
        }
        if said.size.is_some_and(|said| said != size) {
            return Err(error("its two headers give different sizes"));
        }
        total = total.saturating_add(size);
        if total > limits.bytes {
            return Err(TarError::Limit {
                what: "the unpacked size",
                limit: limits.bytes,
            });
        }
        let link = said
            .link
            .or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
        let end = entry.raw_file_position().saturating_add(size);
        one((&path, kind, size), &mut entry, link, limits, visit)?;
        io::copy(&mut entry, &mut io::sink()).map_err(TarError::Read)?;
        if !place.is_complete(end) {
            return Err(error(CUT_OFF));
        }
    }
    Ok(())
}

fn one<R: Read>(
    (path, kind, size): (&str, tar::EntryType, u64),
    entry: &mut tar::Entry<'_, R>,
    link: Option<Vec<u8>>,
    limits: &ExtractionLimits,
    visit: &mut dyn FnMut(&str, Change<'_>) -> io::Result<()>,
) -> Result<(), TarError> {
    let error = |reason| TarError::Entry {
        path: path.to_owned(),
        reason,
    };
    let failed = |source| TarError::Visit {
        path: path.to_owned(),
        source,
    };
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    if parent.split('/').any(|component| component.starts_with(WHITEOUT)) {
        return Err(error("it lies below a whiteout"));
    }
    if name == OPAQUE {
        return visit(parent, Change::Opaque).map_err(failed);
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        if hidden.is_empty() || hidden == "." || hidden == ".." || hidden.starts_with(WHITEOUT) {
            return Err(error("it is a whiteout of no possible name"));
        }
        let hidden = if parent.is_empty() {
            hidden.to_owned()
        } else {
            format!("{parent}/{hidden}")
        };
        return visit(&hidden, Change::Whiteout).map_err(failed);
    }
    // Nobody becomes another user in the sandbox; the bits would only matter outside of it.
    let mode = entry.header().mode().map_err(TarError::Read)?;
    let target = |link: Option<Vec<u8>>| {
        let link = link.filter(|link| !link.is_empty() && link.len() <= limits.path && !link.contains(&0));
        link.and_then(|link| String::from_utf8(link).ok())
            .ok_or(error("its target is missing, too long or not UTF-8"))
    };
    let change = match kind {
        tar::EntryType::Directory => Change::Directory { mode: mode & 0o1777 },
        tar::EntryType::Regular | tar::EntryType::Continuous => Change::File {
            mode: mode & 0o777,
            size,
            contents: entry,
        },
        tar::EntryType::Symlink => Change::Symlink { target: target(link)? },
        tar::EntryType::Link => {
            let target = clean(target(link)?.as_bytes(), limits)?;
            Change::Hardlink {
                target: target.ok_or(error("it is a hard link to the root"))?,
            }
        }
        tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo if path.starts_with("dev/") => {
            return Ok(())
        }
        tar::EntryType::Char | tar::EntryType::Block => return Err(error("it is a device node")),
        tar::EntryType::Fifo => return Err(error("it is a named pipe")),
        tar::EntryType::GNUSparse => return Err(error("it is a sparse file of GNU tar")),
        _ => return Err(error("it is of an unknown kind")),
    };
    visit(path, change).map_err(failed)
}

/// Size and mode as tar writes them: octal digits between spaces and NULs, or a binary number that is neither negative
/// nor wider than 63 bits (of wider ones, readers drop different parts).
fn check_numbers<R: Read>(entry: &tar::Entry<'_, R>) -> Result<(), TarError> {
    let header = entry.header().as_old();
    if strict_number(&header.size) && strict_number(&header.mode) {
        return Ok(());
    }
    Err(TarError::Entry {
        path: String::from_utf8_lossy(&entry.path_bytes()).chars().take(200).collect(),
        reason: "its size or mode is no number",
    })
}

fn strict_number(field: &[u8]) -> bool {
    if let [first, rest @ ..] = field {
        if first & 0x80 != 0 {
            let (high, low) = rest.split_at(rest.len().saturating_sub(8));
            return *first == 0x80
                && high.iter().all(|byte| *byte == 0)
                && (low.len() < 8 || low.first().is_some_and(|byte| byte & 0x80 == 0));
        }
    }
    let digits = field.trim_ascii_start();
    let count = digits.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    count > 0 && digits.iter().skip(count).all(|byte| matches!(byte, b' ' | 0))
}

/// The path without leading `./` and `/` (which every tool drops) and trailing slash; none for the root.
fn clean(raw: &[u8], limits: &ExtractionLimits) -> Result<Option<String>, TarError> {
    let lossy = || String::from_utf8_lossy(raw).chars().take(200).collect::<String>();
    let text = std::str::from_utf8(raw).map_err(|_| TarError::Entry {
        path: lossy(),
        reason: "its name is not UTF-8",
    })?;
    let mut path = text;
    while let Some(rest) = path.strip_prefix("./").or_else(|| path.strip_prefix('/')) {
        path = rest;
    }
    let path = path.trim_end_matches('/');
    if path.is_empty() || path == "." {
        return Ok(None);
    }
    check_foreign_path(path, limits).map_err(|problem| TarError::Path { path: lossy(), problem })?;
    Ok(Some(path.to_owned()))
}

fn bounded<R: Read>(entry: &mut tar::Entry<'_, R>, limits: &ExtractionLimits) -> Result<Vec<u8>, TarError> {
    if entry.header().entry_size().map_err(TarError::Read)? > limits.header {
        return Err(TarError::Limit {
            what: "an extended header",
            limit: limits.header,
        });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(TarError::Read)?;
    if bytes.len() as u64 != entry.header().entry_size().map_err(TarError::Read)? {
        return Err(TarError::Entry {
            path: "extended header".to_owned(),
            reason: CUT_OFF,
        });
    }
    Ok(bytes)
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// Whether the records of a pax header give a name, a link's target or a size to what follows.
pub fn names_or_sizes(records: &[u8]) -> Result<bool, TarError> {
    let mut said = Extended::default();
    pax(records, &mut said)?;
    Ok(said.path.is_some() || said.link.is_some() || said.size.is_some())
}

/// Records `<length> <key>=<value>\n`; only names and sizes matter.
fn pax(mut bytes: &[u8], extended: &mut Extended) -> Result<(), TarError> {
    let damaged = || TarError::Entry {
        path: "pax header".to_owned(),
        reason: "a record is damaged",
    };
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
        let length = bytes
            .get(..space)
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
        let length = length
            .filter(|length| *length > space + 2 && *length <= bytes.len())
            .ok_or_else(damaged)?;
        let record = bytes.get(space + 1..length - 1).ok_or_else(damaged)?;
        if bytes.get(length - 1) != Some(&b'\n') {
            return Err(damaged());
        }
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
        let (key, value) = record.split_at(equals);
        let value = value.get(1..).ok_or_else(damaged)?;
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|size| size.parse().ok());
                extended.size = Some(size.ok_or_else(damaged)?);
            }
            _ if key.starts_with(b"GNU.sparse") => {
                return Err(TarError::Entry {
                    path: "pax header".to_owned(),
                    reason: "it describes a sparse file",
                });
            }
            _ => {}
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(())
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(buffer.get_mut(filled..).unwrap_or_default())? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
