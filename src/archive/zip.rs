//! Reads a wheel's zip file without trusting it: APPNOTE 6.3, the part that wheels use.
//!
//! The central directory says what is there; every local header must agree with it, ranges must not overlap, names
//! must be plain relative paths without duplicates, and sizes are bounded before anything is inflated. Contents are
//! given out only after their length and CRC have been checked. No memory map: a file that shrinks is an error, not a
//! signal.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use libdeflater::crc32;

use super::path::{check_path, PathProblem};
use crate::policy::{ExtractionLimits, Kind};
use crate::sys::inflate::Inflater;

const END_OF_DIRECTORY: u32 = 0x0605_4b50;
const END_OF_DIRECTORY_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;
const LOCAL_HEADER: u32 = 0x0403_4b50;
const END_SIZE: u64 = 22;
const LOCATOR_64_SIZE: u64 = 20;
/// The end record may be followed by a comment of this length.
const MAX_COMMENT: u64 = 0xffff;
/// Names, times and attributes of 500,000 entries; torch has 3 MB.
const MAX_DIRECTORY: u64 = 128 << 20;
/// One file of a wheel is held in memory while it is hashed.
const MAX_ENTRY: u64 = 2 << 30;
/// Encrypted, patched, strongly encrypted, masked header: contents are not what they look like.
const UNREADABLE: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;
const DESCRIPTOR_FOLLOWS: u16 = 1 << 3;
/// Info-ZIP's second name for an entry.
const UNICODE_PATH: u16 = 0x7075;
const ZIP64: u16 = 1;

/// How an entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    Stored,
    /// Raw deflate.
    Deflated,
}

/// One file of the zip.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Checked relative path.
    pub name: String,
    /// How it is stored.
    pub method: Method,
    /// CRC-32 of the contents.
    pub crc: u32,
    /// Stored bytes.
    pub compressed: u64,
    /// Bytes of the contents.
    pub size: u64,
    /// Whether the owner may execute it.
    pub executable: bool,
    directory: bool,
    header_at: u64,
    data_at: u64,
}

/// Why a zip is refused.
#[derive(Debug, thiserror::Error)]
pub enum ZipError {
    /// Reading failed.
    #[error("read zip")]
    Io(#[source] io::Error),
    /// The structure is not one.
    #[error("read zip: {reason}")]
    Structure {
        /// What is wrong.
        reason: &'static str,
    },
    /// An entry's name.
    #[error("zip entry {name:?}: {problem}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// An entry contradicts itself or is of a kind wheels do not have.
    #[error("zip entry {name:?}: {reason}")]
    Entry {
        /// The name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A limit was passed.
    #[error("read zip: {what} is {got}, at most {limit} is accepted")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// What the zip says.
        got: u64,
        /// The limit.
        limit: u64,
    },
}

impl ZipError {
    /// A limit is a rule of ours; everything else is wrong with the zip.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Limit { .. } => Kind::Refused,
            Self::Io(_) | Self::Structure { .. } | Self::Name { .. } | Self::Entry { .. } => Kind::Failed,
        }
    }
}

/// The files of a zip, in the order of their names.
#[derive(Debug)]
pub struct Zip {
    file: File,
    entries: Vec<Entry>,
}

impl Zip {
    /// Reads and checks the directory of `file`; its contents are read later, one entry at a time.
    ///
    /// # Errors
    ///
    /// [`ZipError`] for a directory that is damaged, ambiguous or passes a bound.
    pub fn open(file: File, limits: &ExtractionLimits) -> Result<Self, ZipError> {
        let length = file.metadata().map_err(ZipError::Io)?.len();
        let (count, directory_at, directory_size) = find_directory(&file, length)?;
        limit("the number of entries", count, limits.entries)?;
        limit("the directory", directory_size, MAX_DIRECTORY)?;
        let directory = read_at(&file, directory_at, directory_size)?;
        let mut entries = parse_directory(&directory, count, limits)?;
        check_totals(&entries, length, limits)?;
        entries.sort_by_key(|entry| entry.header_at);
        let mut free_from = 0;
        for entry in &mut entries {
            check_local_header(&file, entry, directory_at)?;
            if entry.header_at < free_from {
                return Err(ZipError::Entry {
                    name: entry.name.clone(),
                    reason: "it overlaps another entry",
                });
            }
            free_from = entry.data_at + entry.compressed;
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        check_names(&entries)?;
        entries.retain(|entry| !entry.directory);
        Ok(Self { file, entries })
    }

    /// The files, in the order of their names; directories are left out.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Reads an entry: its stored bytes into `stored`, its checked contents into `contents`. A deflate stream ends with
    /// the last stored byte, so that it may be copied.
    ///
    /// # Errors
    ///
    /// [`ZipError`] when the contents differ from what the directory says of them.
    pub fn read(&self, entry: &Entry, stored: &mut Vec<u8>, contents: &mut Vec<u8>) -> Result<(), ZipError> {
        let error = |reason| ZipError::Entry {
            name: entry.name.clone(),
            reason,
        };
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| error("it does not fit into memory"));
        stored.resize(size(entry.compressed)?, 0);
        self.file.read_exact_at(stored, entry.data_at).map_err(ZipError::Io)?;
        match entry.method {
            Method::Stored => contents.clone_from(stored),
            Method::Deflated => {
                contents.resize(size(entry.size)?, 0);
                let mut inflater = Inflater::new().ok_or(error("there is no memory to inflate it"))?;
                let inflated = inflater
                    .inflate(stored, contents)
                    .ok_or(error("its deflate stream is damaged or longer than it says"))?;
                if inflated.written != contents.len() {
                    return Err(error("its contents are shorter than it says"));
                }
                if inflated.used != stored.len() {
                    return Err(error("bytes follow its deflate stream"));
                }
            }
        }
        if crc32(contents) != entry.crc {
            return Err(error("its CRC does not match its contents"));
        }
        Ok(())
    }
}

/// Number of entries, position and size of the central directory.
fn find_directory(file: &File, length: u64) -> Result<(u64, u64, u64), ZipError> {
    let structure = |reason| ZipError::Structure { reason };
    let tail_at = length.saturating_sub(END_SIZE + MAX_COMMENT);
    let tail = read_at(file, tail_at, length - tail_at)?;
    // The last one whose comment reaches exactly to the end: a comment that holds another record changes nothing.
    let found = (0..tail.len().saturating_sub(END_SIZE as usize - 1)).rev().find(|&at| {
        u32_at(&tail, at) == Some(END_OF_DIRECTORY)
            && u16_at(&tail, at + 20).is_some_and(|comment| at + END_SIZE as usize + usize::from(comment) == tail.len())
    });
    let at = found.ok_or(structure(
        "there is no end of central directory: it is no zip file or is cut off",
    ))?;
    let cut = || structure("the end record is cut off");
    let field16 = |offset| u16_at(&tail, at + offset).ok_or_else(cut);
    let field32 = |offset| u32_at(&tail, at + offset).ok_or_else(cut);
    let said = End {
        disk: field16(4)?,
        count_here: field16(8)?,
        count: field16(10)?,
        size: field32(12)?,
        directory_at: field32(16)?,
    };
    let end_at = tail_at + at as u64;
    if let Some(found) = find_directory_64(file, end_at, &said)? {
        return Ok(found);
    }
    if said.disk != 0 || said.count_here != said.count {
        return Err(structure("it is split over several disks"));
    }
    let (size, directory_at) = (u64::from(said.size), u64::from(said.directory_at));
    adjoins(directory_at, size, end_at)?;
    Ok((u64::from(said.count), directory_at, size))
}

/// The end record, whose fields are all ones when zip64's say it.
struct End {
    disk: u16,
    count_here: u16,
    count: u16,
    size: u32,
    directory_at: u32,
}

/// Readers disagree about what a gap means (Python moves every offset by it), so there must be none.
fn adjoins(directory_at: u64, size: u64, next: u64) -> Result<(), ZipError> {
    if directory_at.checked_add(size) != Some(next) {
        return Err(ZipError::Structure {
            reason: "the central directory does not end where its end record starts",
        });
    }
    Ok(())
}

/// The zip64 record counts when its locator is there, whatever the end record says; the two may not differ.
fn find_directory_64(file: &File, end_at: u64, said: &End) -> Result<Option<(u64, u64, u64)>, ZipError> {
    let structure = |reason| ZipError::Structure { reason };
    let locator = match end_at.checked_sub(LOCATOR_64_SIZE) {
        Some(at) => read_at(file, at, LOCATOR_64_SIZE)?,
        None => Vec::new(),
    };
    if u32_at(&locator, 0) != Some(LOCATOR_64) {
        return Ok(None);
    }
    let locator_at = end_at - LOCATOR_64_SIZE;
    let record_at = u64_at(&locator, 8).filter(|at| at.checked_add(56).is_some_and(|end| end <= locator_at));
    let record_at = record_at.ok_or(structure("the zip64 record is out of place"))?;
    let record = read_at(file, record_at, 56)?;
    if u32_at(&record, 0) != Some(END_OF_DIRECTORY_64) {
        return Err(structure("the zip64 record is missing"));
    }
    let field = |offset| u64_at(&record, offset).ok_or(structure("the zip64 record is cut off"));
    if record_at.checked_add(12).and_then(|at| at.checked_add(field(4).ok()?)) != Some(locator_at) {
        return Err(structure("the zip64 record does not end where its locator starts"));
    }
    let (count_here, count, size, directory_at) = (field(24)?, field(32)?, field(40)?, field(48)?);
    let same16 = |said: u16, got: u64| said == u16::MAX || u64::from(said) == got;
    let same32 = |said: u32, got: u64| said == u32::MAX || u64::from(said) == got;
    if !(same16(said.count, count) && same32(said.size, size) && same32(said.directory_at, directory_at)) {
        return Err(structure("the end record and the zip64 record contradict each other"));
    }
    if u32_at(&record, 16) != Some(0) || u32_at(&record, 20) != Some(0) || count_here != count {
        return Err(structure("it is split over several disks"));
    }
    adjoins(directory_at, size, record_at)?;
    Ok(Some((count, directory_at, size)))
}

fn parse_directory(directory: &[u8], count: u64, limits: &ExtractionLimits) -> Result<Vec<Entry>, ZipError> {
    let cut = || ZipError::Structure {
        reason: "the central directory is cut off",
    };
    let mut entries = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let header = directory.get(at..at + 46).ok_or_else(cut)?;
        if u32_at(header, 0) != Some(DIRECTORY_ENTRY) {
            return Err(ZipError::Structure {
                reason: "the central directory holds something else",
            });
        }
        let field16 = |offset| u16_at(header, offset).ok_or_else(cut);
        let field32 = |offset| u32_at(header, offset).ok_or_else(cut);
        let (name_length, extra_length, comment_length) = (
            usize::from(field16(28)?),
            usize::from(field16(30)?),
            usize::from(field16(32)?),
        );
        let name = directory.get(at + 46..at + 46 + name_length).ok_or_else(cut)?;
        let extra = directory
            .get(at + 46 + name_length..at + 46 + name_length + extra_length)
            .ok_or_else(cut)?;
        at += 46 + name_length + extra_length + comment_length;

        let name = std::str::from_utf8(name).map_err(|_| ZipError::Entry {
            name: String::from_utf8_lossy(name).into_owned(),
            reason: "its name is not UTF-8",
        })?;
        let bare = name.strip_suffix('/').unwrap_or(name);
        check_path(bare, limits).map_err(|problem| ZipError::Name {
            name: name.to_owned(),
            problem,
        })?;
        let error = |reason| ZipError::Entry {
            name: name.to_owned(),
            reason,
        };
        if field16(8)? & UNREADABLE != 0 {
            return Err(error("it is encrypted"));
        }
        if field16(34)? != 0 && field16(34)? != u16::MAX {
            return Err(error("it is on another disk"));
        }
        if extra_field(extra, UNICODE_PATH).is_some_and(|second| second.get(5..) != Some(name.as_bytes())) {
            return Err(error("it has a second, different name"));
        }
        let attributes = field32(38)? >> 16;
        if !matches!(attributes & 0o170_000, 0 | 0o100_000 | 0o040_000) {
            return Err(error("it is a link or a device, wheels hold plain files only"));
        }
        let directory = name.ends_with('/');
        if !directory && attributes & 0o170_000 == 0o040_000 {
            return Err(error("it is a directory by its attributes, but not by its name"));
        }
        let method = match field16(10)? {
            0 => Method::Stored,
            8 => Method::Deflated,
            _ => return Err(error("its compression is neither stored nor deflate")),
        };
        let wide = Wide {
            size: field32(24)?,
            compressed: field32(20)?,
            header_at: field32(42)?,
        };
        let (size, compressed, header_at) = wide.resolve(extra).ok_or(error("its zip64 field is missing"))?;
        if method == Method::Stored && size != compressed {
            return Err(error("it is stored, but its two sizes differ"));
        }
        // Two bytes: what an empty deflate stream takes.
        if directory && (size > 0 || compressed > 2) {
            return Err(error("it is a directory with contents"));
        }
        limit("the size of an entry", size.max(compressed), MAX_ENTRY)?;
        let executable = attributes & 0o111 != 0;
        let name = name.to_owned();
        entries.push(Entry {
            name,
            method,
            crc: field32(16)?,
            compressed,
            size,
            executable,
            directory,
            header_at,
            data_at: 0,
        });
    }
    if at != directory.len() {
        return Err(ZipError::Structure {
            reason: "the central directory holds more than it says",
        });
    }
    Ok(entries)
}

/// Fields of 32 bits that say "look into the zip64 field".
struct Wide {
    size: u32,
    compressed: u32,
    header_at: u32,
}

impl Wide {
    fn resolve(&self, extra: &[u8]) -> Option<(u64, u64, u64)> {
        let mut values =
            extra_field(extra, ZIP64).map(|data| data.chunks_exact(8).filter_map(|bytes| u64_at(bytes, 0)));
        let mut one = |field: u32| {
            if field == u32::MAX {
                values.as_mut()?.next()
            } else {
                Some(u64::from(field))
            }
        };
        Some((one(self.size)?, one(self.compressed)?, one(self.header_at)?))
    }
}

/// The data of the first extra field of a kind.
fn extra_field(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (kind, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let data = extra.get(4..4 + length)?;
        if kind == wanted {
            return Some(data);
        }
        extra = extra.get(4 + length..)?;
    }
}

/// The local header must say what the directory says; finds where the data start.
fn check_local_header(file: &File, entry: &mut Entry, directory_at: u64) -> Result<(), ZipError> {
    let name = entry.name.clone();
    let error = |reason| ZipError::Entry {
        name: name.clone(),
        reason,
    };
    if entry.header_at.checked_add(30).is_none_or(|end| end > directory_at) {
        return Err(error("its header lies outside the file"));
    }
    let header = read_at(file, entry.header_at, 30)?;
    let cut = || error("its header is cut off");
    let field16 = |offset| u16_at(&header, offset).ok_or_else(cut);
    let field32 = |offset| u32_at(&header, offset).ok_or_else(cut);
    if field32(0)? != LOCAL_HEADER {
        return Err(error("there is no header where the directory says"));
    }
    let (name_length, extra_length) = (u64::from(field16(26)?), u64::from(field16(28)?));
    let rest = read_at(file, entry.header_at + 30, name_length + extra_length)?;
    let (local_name, extra) = rest.split_at_checked(name_length as usize).ok_or_else(cut)?;
    if local_name != entry.name.as_bytes() {
        return Err(error("its header has another name"));
    }
    let method = if entry.method == Method::Deflated { 8 } else { 0 };
    if field16(8)? != method || field16(6)? & UNREADABLE != 0 {
        return Err(error("its header has another compression"));
    }
    if field16(6)? & DESCRIPTOR_FOLLOWS == 0 {
        let wide = Wide {
            size: field32(22)?,
            compressed: field32(18)?,
            header_at: 0,
        };
        let (size, compressed, _) = wide.resolve(extra).ok_or(error("its zip64 field is missing"))?;
        if (size, compressed, field32(14)?) != (entry.size, entry.compressed, entry.crc) {
            return Err(error("its header has other sizes or another CRC"));
        }
    }
    entry.data_at = entry.header_at + 30 + name_length + extra_length;
    if entry
        .data_at
        .checked_add(entry.compressed)
        .is_none_or(|end| end > directory_at)
    {
        return Err(error("its data lie outside the file"));
    }
    Ok(())
}

fn check_totals(entries: &[Entry], length: u64, limits: &ExtractionLimits) -> Result<(), ZipError> {
    let total = entries
        .iter()
        .fold(0u64, |total, entry| total.saturating_add(entry.size));
    limit("the unpacked size", total, limits.bytes)?;
    if total > limits.ratio_floor {
        limit(
            "the ratio of unpacked to packed size",
            total / length.max(1),
            limits.ratio,
        )?;
    }
    Ok(())
}

/// No name twice, and no file that is also a directory.
fn check_names(sorted: &[Entry]) -> Result<(), ZipError> {
    let files = sorted.iter().filter(|entry| !entry.directory);
    let names: BTreeSet<&str> = files.map(|entry| entry.name.as_str()).collect();
    for pair in sorted.windows(2) {
        if let [one, other] = pair {
            if one.name == other.name && !one.directory {
                return Err(ZipError::Entry {
                    name: one.name.clone(),
                    reason: "it is there twice",
                });
            }
        }
    }
    for entry in sorted {
        if entry
            .name
            .match_indices('/')
            .any(|(end, _)| names.contains(&entry.name[..end]))
        {
            return Err(ZipError::Entry {
                name: entry.name.clone(),
                reason: "one of its directories is also a file",
            });
        }
    }
    Ok(())
}

fn limit(what: &'static str, got: u64, limit: u64) -> Result<(), ZipError> {
    if got > limit {
        return Err(ZipError::Limit { what, got, limit });
    }
    Ok(())
}

fn read_at(file: &File, at: u64, length: u64) -> Result<Vec<u8>, ZipError> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|error| ZipError::Io(io::Error::other(error)))?];
    file.read_exact_at(&mut bytes, at).map_err(ZipError::Io)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
