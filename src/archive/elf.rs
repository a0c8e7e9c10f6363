//! What an x86-64 ELF file asks of the system it is loaded on: libraries by name, and versions of the C library.
//!
//! Reads the dynamic section alone (System V ABI, chapter 5; symbol versions: LSB, chapter 10.7.2). The file is a
//! stranger's: every offset is checked, every list is bounded, and what does not fit is an error, never a guess.

/// Entries of one list; the largest libraries have some hundred.
const MOST: usize = 4096;

const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const TAG_NEEDED: u64 = 1;
const TAG_STRINGS: u64 = 5;
const TAG_STRINGS_SIZE: u64 = 10;
const TAG_NAME: u64 = 14;
const TAG_RPATH: u64 = 15;
const TAG_RUNPATH: u64 = 29;
const TAG_VERSIONS: u64 = 0x6fff_fffe;
const TAG_VERSIONS_COUNT: u64 = 0x6fff_ffff;

/// What a file asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Its own name, if it has one (`DT_SONAME`).
    pub name: Option<String>,
    /// Libraries by name (`DT_NEEDED`).
    pub libraries: Vec<String>,
    /// Symbol versions, such as `GLIBC_2.34`.
    pub versions: Vec<String>,
    /// Directories in which it looks for them, with `$ORIGIN` for its own (`DT_RUNPATH`, else `DT_RPATH`).
    pub search: Vec<String>,
    /// Whether what it loads looks there as well: true of `DT_RPATH` alone.
    pub is_inherited: bool,
}

/// What `bytes` ask for; none when they are no program or shared library (or no ELF file at all).
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Needs>, &'static str> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let file = File(bytes);
    // 64 bits, little endian.
    if bytes.get(4..6) != Some(&[2, 1]) || file.u16(18)? != MACHINE_X86_64 {
        return Err("it is made for another machine");
    }
    if !matches!(file.u16(16)?, TYPE_EXECUTABLE | TYPE_SHARED) {
        return Ok(None);
    }
    let segments = file.segments()?;
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == SEGMENT_DYNAMIC) else {
        return Ok(Some(Needs::default()));
    };
    let tags = file.tags(dynamic)?;
    let value = |wanted: u64| tags.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let strings = match (value(TAG_STRINGS), value(TAG_STRINGS_SIZE)) {
        (Some(address), Some(size)) => file.part(offset_of(&segments, address)?, size)?,
        _ => return Err("its dynamic section has no strings"),
    };
    let needed = tags.iter().filter(|(tag, _)| *tag == TAG_NEEDED);
    let libraries = needed.map(|(_, at)| string(strings, *at)).collect::<Result<_, _>>()?;
    let versions = match (value(TAG_VERSIONS), value(TAG_VERSIONS_COUNT)) {
        (Some(address), Some(count)) => file.versions(offset_of(&segments, address)?, count, strings)?,
        _ => Vec::new(),
    };
    let name = value(TAG_NAME).map(|at| string(strings, at)).transpose()?;
    let (runpath, rpath) = (value(TAG_RUNPATH), value(TAG_RPATH));
    let search = runpath.or(rpath).map(|at| string(strings, at)).transpose()?;
    let search = search
        .iter()
        .flat_map(|search| search.split(':'))
        .filter(|entry| !entry.is_empty());
    Ok(Some(Needs {
        name,
        libraries,
        versions,
        search: search.map(str::to_owned).collect(),
        is_inherited: runpath.is_none() && rpath.is_some(),
    }))
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

struct File<'a>(&'a [u8]);

const CUT: &str = "it is cut off or its offsets lead nowhere";

impl<'a> File<'a> {
    fn part(&self, offset: u64, size: u64) -> Result<&'a [u8], &'static str> {
        let end = offset.checked_add(size).ok_or(CUT)?;
        let (start, end) = (usize::try_from(offset), usize::try_from(end));
        let range = start.ok().zip(end.ok()).ok_or(CUT)?;
        self.0.get(range.0..range.1).ok_or(CUT)
    }

    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], &'static str> {
        self.part(offset, N as u64)?.try_into().map_err(|_| CUT)
    }

    fn u16(&self, offset: u64) -> Result<u16, &'static str> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: u64) -> Result<u32, &'static str> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: u64) -> Result<u64, &'static str> {
        self.array(offset).map(u64::from_le_bytes)
    }

    fn segments(&self) -> Result<Vec<Segment>, &'static str> {
        let (table, size, count) = (self.u64(32)?, u64::from(self.u16(54)?), u64::from(self.u16(56)?));
        if size < 56 || count > MOST as u64 {
            return Err(CUT);
        }
        let segment = |number: u64| {
            let at = table.checked_add(number * size).ok_or(CUT)?;
            Ok(Segment {
                kind: self.u32(at)?,
                offset: self.u64(at.saturating_add(8))?,
                address: self.u64(at.saturating_add(16))?,
                size: self.u64(at.saturating_add(32))?,
            })
        };
        (0..count).map(segment).collect()
    }

    fn tags(&self, dynamic: &Segment) -> Result<Vec<(u64, u64)>, &'static str> {
        let section = self.part(dynamic.offset, dynamic.size)?;
        let entries = section.chunks_exact(16).take(MOST).map(|entry| {
            let (tag, value) = entry.split_at(8);
            let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
            (number(tag), number(value))
        });
        Ok(entries.take_while(|(tag, _)| *tag != 0).collect())
    }

    /// Walks the version requirements: per library a chain of versions.
    fn versions(&self, first: u64, count: u64, strings: &[u8]) -> Result<Vec<String>, &'static str> {
        let mut found = Vec::new();
        let mut at = first;
        for _ in 0..count.min(MOST as u64) {
            let (of_library, next) = (self.u16(at.saturating_add(2))?, self.u32(at.saturating_add(12))?);
            let mut version = at.saturating_add(u64::from(self.u32(at.saturating_add(8))?));
            for _ in 0..of_library {
                if found.len() == MOST {
                    return Err("it asks for too many versions");
                }
                found.push(string(strings, u64::from(self.u32(version.saturating_add(8))?))?);
                version = version.saturating_add(u64::from(self.u32(version.saturating_add(12))?));
            }
            at = at.saturating_add(u64::from(next));
            if next == 0 {
                break;
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// Where in the file the address is that memory will have.
fn offset_of(segments: &[Segment], address: u64) -> Result<u64, &'static str> {
    let loaded = segments.iter().filter(|segment| segment.kind == SEGMENT_LOAD);
    let mut inside = loaded.filter_map(|segment| {
        let into = address.checked_sub(segment.address)?;
        (into < segment.size).then(|| segment.offset.checked_add(into))?
    });
    inside.next_back().ok_or(CUT)
}

fn string(strings: &[u8], at: u64) -> Result<String, &'static str> {
    let rest = usize::try_from(at).ok().and_then(|at| strings.get(at..)).ok_or(CUT)?;
    let end = rest.iter().take(MOST).position(|byte| *byte == 0).ok_or(CUT)?;
    let text = rest.get(..end).unwrap_or_default();
    String::from_utf8(text.to_vec()).map_err(|_| "a name in it is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C library's own: it is where the test runs, and has everything that is read.
    fn a_library() -> Vec<u8> {
        std::fs::read("/usr/lib/x86_64-linux-gnu/libm.so.6").unwrap()
    }

    #[test]
    fn finds_libraries_and_versions() {
        let needs = read(&a_library()).unwrap().unwrap();
        assert!(needs.libraries.contains(&"libc.so.6".to_owned()), "{needs:?}");
        assert_eq!(needs.name.as_deref(), Some("libm.so.6"));
        assert!(
            needs.versions.iter().any(|version| version.starts_with("GLIBC_2.")),
            "{needs:?}"
        );
    }

    #[test]
    fn what_is_no_library_asks_for_nothing() {
        assert_eq!(read(b"#!/bin/sh\n"), Ok(None));
        assert_eq!(read(b""), Ok(None));
        let mut object = a_library();
        object[16] = 1;
        assert_eq!(read(&object), Ok(None), "a relocatable object");
    }

    #[test]
    fn other_machines_and_cut_files_are_errors() {
        let library = a_library();
        for (at, value) in [(4, 1), (5, 2), (18, 183)] {
            let mut other = library.clone();
            other[at] = value;
            assert!(read(&other).is_err(), "byte {at}");
        }
        for length in [5, 17, 40, 63, 64, 100, 500] {
            assert!(read(&library[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn damaged_headers_neither_panic_nor_hang() {
        let library = a_library();
        for at in 0..2048 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = library.clone();
                damaged[at] = value;
                let _ = read(&damaged);
            }
        }
    }
}
