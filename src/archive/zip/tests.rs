//! Hostile zips, built byte by byte.

use std::io::Write;

use super::*;

/// What one entry says of itself, in both places.
struct Fake {
    name: &'static str,
    local_name: &'static str,
    contents: &'static [u8],
    crc: Option<u32>,
    size: u32,
    local_size: u32,
    flags: u16,
    method: u16,
    attributes: u32,
}

impl Fake {
    fn new(name: &'static str, contents: &'static [u8]) -> Self {
        let size = contents.len() as u32;
        Self {
            name,
            local_name: name,
            contents,
            crc: None,
            size,
            local_size: size,
            flags: 0,
            method: 0,
            attributes: 0o100_644 << 16,
        }
    }
}

fn build(fakes: &[Fake]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for fake in fakes {
        let crc = fake.crc.unwrap_or(crc32(fake.contents));
        let at = out.len() as u32;
        let stored = fake.contents.len() as u32;
        let sixteen =
            |out: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        let thirty_two =
            |out: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        thirty_two(&mut out, &[LOCAL_HEADER]);
        sixteen(&mut out, &[20, fake.flags, fake.method, 0, 0]);
        thirty_two(&mut out, &[crc, stored, fake.local_size]);
        sixteen(&mut out, &[fake.local_name.len() as u16, 0]);
        out.extend(fake.local_name.as_bytes());
        out.extend(fake.contents);
        thirty_two(&mut directory, &[DIRECTORY_ENTRY]);
        sixteen(&mut directory, &[20, 20, fake.flags, fake.method, 0, 0]);
        thirty_two(&mut directory, &[crc, stored, fake.size]);
        sixteen(&mut directory, &[fake.name.len() as u16, 0, 0, 0, 0]);
        thirty_two(&mut directory, &[fake.attributes, at]);
        directory.extend(fake.name.as_bytes());
    }
    let at = out.len() as u32;
    out.extend(&directory);
    out.extend(END_OF_DIRECTORY.to_le_bytes());
    out.extend([0; 4]);
    out.extend((fakes.len() as u16).to_le_bytes());
    out.extend((fakes.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0; 2]);
    out
}

fn open(bytes: &[u8]) -> Result<Zip, ZipError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Zip::open(file, &ExtractionLimits::default())
}

fn contents(zip: &Zip, name: &str) -> Result<Vec<u8>, ZipError> {
    let entry = zip.entries().iter().find(|entry| entry.name == name).unwrap();
    let mut contents = Vec::new();
    zip.read(entry, &mut Vec::new(), &mut contents)?;
    Ok(contents)
}

#[test]
fn reads_what_is_honest() {
    let zip = open(&build(&[
        Fake::new("b/x.py", b"two"),
        Fake::new("a", b"one"),
        Fake::new("d/", b""),
    ]))
    .unwrap();
    let names: Vec<_> = zip.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a", "b/x.py"]);
    assert_eq!(contents(&zip, "b/x.py").unwrap(), b"two");
}

#[test]
fn refuses_names_that_leave_and_names_that_clash() {
    for (name, problem) in [
        ("../x", PathProblem::Parent),
        ("a/../../x", PathProblem::Parent),
        ("/etc/passwd", PathProblem::Absolute),
        ("a\\..\\x", PathProblem::Character),
        ("a\0b", PathProblem::Character),
        ("a//b", PathProblem::NotNormal),
    ] {
        let error = open(&build(&[Fake::new(name, b"")])).unwrap_err();
        assert!(
            matches!(error, ZipError::Name { problem: found, .. } if found == problem),
            "{error}"
        );
    }
    let twice = open(&build(&[Fake::new("a", b"1"), Fake::new("a", b"2")])).unwrap_err();
    assert!(
        matches!(
            twice,
            ZipError::Entry {
                reason: "it is there twice",
                ..
            }
        ),
        "{twice}"
    );
    let both = open(&build(&[Fake::new("a", b"1"), Fake::new("a/b", b"2")])).unwrap_err();
    assert!(
        matches!(
            both,
            ZipError::Entry {
                reason: "one of its directories is also a file",
                ..
            }
        ),
        "{both}"
    );
}

#[test]
fn refuses_headers_that_contradict_each_other() {
    let fake = |change: fn(&mut Fake)| {
        let mut fake = Fake::new("a", b"contents");
        change(&mut fake);
        open(&build(&[fake]))
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert!(fake(|fake| fake.local_name = "b").contains("another name"));
    assert!(fake(|fake| fake.local_size = 7).contains("other sizes"));
    assert!(fake(|fake| fake.size = 7).contains("sizes differ"));
    assert!(fake(|fake| fake.flags = 1).contains("encrypted"));
    assert!(fake(|fake| fake.method = 12).contains("neither stored nor deflate"));
    assert!(fake(|fake| fake.attributes = 0o120_777 << 16).contains("link or a device"));
}

#[test]
fn refuses_contents_that_are_not_what_was_said() {
    let zip = open(&build(&[Fake {
        crc: Some(1),
        ..Fake::new("a", b"contents")
    }]))
    .unwrap();
    assert!(contents(&zip, "a").unwrap_err().to_string().contains("CRC"));
    let zip = open(&build(&[Fake {
        method: 8,
        size: 99,
        local_size: 99,
        ..Fake::new("a", b"\x03\x00")
    }]))
    .unwrap();
    assert!(contents(&zip, "a").unwrap_err().to_string().contains("shorter"));
    let zip = open(&build(&[Fake {
        method: 8,
        size: 9,
        local_size: 9,
        ..Fake::new("a", b"\xff\xff\xff")
    }]))
    .unwrap();
    assert!(contents(&zip, "a").unwrap_err().to_string().contains("damaged"));
}

#[test]
fn refuses_bombs_before_inflating_them() {
    let huge = Fake {
        method: 8,
        size: 1 << 30,
        local_size: 1 << 30,
        ..Fake::new("a", b"\x03\x00")
    };
    assert!(matches!(
        open(&build(&[huge])),
        Err(ZipError::Limit {
            what: "the ratio of unpacked to packed size",
            ..
        })
    ));
    assert!(matches!(open(b"not a zip"), Err(ZipError::Structure { .. })));
    let honest = build(&[Fake::new("a", b"contents")]);
    for length in 0..honest.len() {
        assert!(open(&honest[..length]).is_err(), "cut to {length}");
    }
}

#[test]
fn no_single_changed_byte_makes_it_panic_or_lie() {
    let honest = build(&[Fake::new("a", b"contents"), Fake::new("b/c", b"more")]);
    for at in 0..honest.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = honest.clone();
            bytes[at] = value;
            if let Ok(zip) = open(&bytes) {
                for entry in zip.entries() {
                    let mut out = Vec::new();
                    if zip.read(entry, &mut Vec::new(), &mut out).is_ok() {
                        assert!(out == b"contents" || out == b"more", "byte {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn refuses_bytes_after_the_end_of_a_deflate_stream() {
    // `contents` as one stored block, then what a spliced gzip member would show to others: a trailer of the
    // attacker's and a second member.
    let fake = |stream: &'static [u8]| Fake {
        method: 8,
        size: 8,
        local_size: 8,
        crc: Some(crc32(b"contents")),
        ..Fake::new("a", stream)
    };
    let zip = open(&build(&[fake(b"\x01\x08\x00\xf7\xffcontents")])).unwrap();
    assert_eq!(contents(&zip, "a").unwrap(), b"contents");
    for stream in [
        &b"\x01\x08\x00\xf7\xffcontents\0"[..],
        b"\x01\x08\x00\xf7\xffcontents\x1f\x8b\x08",
    ] {
        let zip = open(&build(&[fake(stream)])).unwrap();
        assert!(matches!(
            contents(&zip, "a"),
            Err(ZipError::Entry {
                reason: "bytes follow its deflate stream",
                ..
            })
        ));
    }
}

fn structure(bytes: &[u8]) -> &'static str {
    match open(bytes) {
        Err(ZipError::Structure { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

fn reason(fakes: &[Fake]) -> &'static str {
    match open(&build(fakes)) {
        Err(ZipError::Entry { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// The end record of `build`, without comment.
const END: usize = END_SIZE as usize;

#[test]
fn refuses_directories_that_other_readers_would_read_otherwise() {
    let honest = build(&[Fake::new("a", b"1"), Fake::new("b", b"2")]);
    let end = honest.len() - END;
    // Python reads until the directory's size is used up, others until the count is.
    let mut hidden = honest.clone();
    hidden[end + 8] = 1;
    hidden[end + 10] = 1;
    assert_eq!(structure(&hidden), "the central directory holds more than it says");
    let mut split = honest.clone();
    split[end + 8] = 1;
    assert_eq!(structure(&split), "it is split over several disks");
    // Python moves all offsets by the gap.
    let gap = [&honest[..end], b"gap", &honest[end..]].concat();
    assert_eq!(
        structure(&gap),
        "the central directory does not end where its end record starts"
    );
    let prefixed = [b"#!/bin/sh\n", &honest[..]].concat();
    assert_eq!(
        structure(&prefixed),
        "the central directory does not end where its end record starts"
    );
    // A comment that looks like an end record is a comment.
    let mut commented = honest.clone();
    let comment = [&honest[end..], b"tail"].concat();
    commented[end + 20] = comment.len() as u8;
    commented.extend(comment);
    assert_eq!(open(&commented).unwrap().entries().len(), 2);
}

/// `build`, with its end record repeated as zip64 records; `change` may spoil the zip64 record.
fn with_zip64(saturated: bool, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let honest = build(&[Fake::new("a", b"1")]);
    let (body, end) = honest.split_at(honest.len() - END);
    let mut end = end.to_vec();
    let (size, at) = (u32_at(&end, 12).unwrap(), u32_at(&end, 16).unwrap());
    let mut record = END_OF_DIRECTORY_64.to_le_bytes().to_vec();
    record.extend(44u64.to_le_bytes());
    record.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for value in [1, 1, u64::from(size), u64::from(at)] {
        record.extend(value.to_le_bytes());
    }
    change(&mut record);
    let mut locator = LOCATOR_64.to_le_bytes().to_vec();
    locator.extend([0; 4]);
    locator.extend((body.len() as u64).to_le_bytes());
    locator.extend(1u32.to_le_bytes());
    if saturated {
        end[8..20].fill(0xff);
    }
    [body, &record, &locator, &end].concat()
}

#[test]
fn reads_zip64_and_refuses_one_that_contradicts_the_end_record() {
    for saturated in [true, false] {
        let zip = open(&with_zip64(saturated, |_| ())).unwrap();
        assert_eq!(contents(&zip, "a").unwrap(), b"1");
    }
    assert_eq!(
        structure(&with_zip64(false, |record| record[32] = 2)),
        "the end record and the zip64 record contradict each other"
    );
    assert_eq!(
        structure(&with_zip64(true, |record| record[48] += 1)),
        "the central directory does not end where its end record starts"
    );
    assert_eq!(
        structure(&with_zip64(true, |record| record[4] += 1)),
        "the zip64 record does not end where its locator starts"
    );
    assert_eq!(
        structure(&with_zip64(true, |record| record[16] = 1)),
        "it is split over several disks"
    );
    let far = with_zip64(true, |record| record[40..56].fill(0xff));
    assert!(matches!(
        open(&far),
        Err(ZipError::Limit {
            what: "the directory",
            ..
        } | ZipError::Structure { .. })
    ));
}

#[test]
fn refuses_directories_that_are_files_and_deletions() {
    let both = [Fake::new("a", b"1"), Fake::new("a/", b"")];
    assert_eq!(reason(&both), "one of its directories is also a file");
    assert_eq!(
        reason(&[Fake::new("a/", b"contents")]),
        "it is a directory with contents"
    );
    let folder = Fake {
        attributes: 0o040_755 << 16,
        ..Fake::new("a", b"")
    };
    assert_eq!(
        reason(&[folder]),
        "it is a directory by its attributes, but not by its name"
    );
    assert!(open(&build(&[Fake::new("d/", b""), Fake::new("d/", b"")])).is_ok());
    assert!(matches!(
        open(&build(&[Fake::new("site/.wh.numpy", b"")])),
        Err(ZipError::Name {
            problem: PathProblem::Whiteout,
            ..
        })
    ));
}

#[test]
fn refuses_entries_that_share_bytes() {
    let honest = build(&[Fake::new("a", b"same"), Fake::new("b", b"same")]);
    // Point the second directory entry at the first local header: its name differs; at the middle: it overlaps.
    let end = honest.len() - END;
    let directory_at = u32_at(&honest, end + 16).unwrap() as usize;
    let second = directory_at + 46 + 1;
    let mut shared = honest.clone();
    shared[second + 42..second + 46].fill(0);
    let error = open(&shared).unwrap_err();
    assert!(
        matches!(
            error,
            ZipError::Entry {
                reason: "its header has another name",
                ..
            }
        ),
        "{error}"
    );
    // The first entry's data hold a whole local header, to which the second points.
    let inner = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0b";
    let mut nested = build(&[Fake::new("a", inner), Fake::new("b", b"")]);
    let end = nested.len() - END;
    let second = u32_at(&nested, end + 16).unwrap() as usize + 46 + 1;
    nested[second + 42] = 31;
    let error = open(&nested).unwrap_err();
    assert!(
        matches!(
            error,
            ZipError::Entry {
                reason: "it overlaps another entry",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn refuses_a_second_name() {
    let extra = |second: &[u8]| {
        let mut field = UNICODE_PATH.to_le_bytes().to_vec();
        field.extend((second.len() as u16 + 5).to_le_bytes());
        field.extend([1, 0, 0, 0, 0]);
        field.extend(second);
        let mut zip = build(&[Fake::new("a", b"1")]);
        let end = zip.len() - END;
        let directory_at = u32_at(&zip, end + 16).unwrap() as usize;
        zip[directory_at + 30] = field.len() as u8;
        zip[end + 12] += field.len() as u8;
        zip.splice(end..end, field);
        zip
    };
    assert!(open(&extra(b"a")).is_ok());
    assert!(matches!(
        open(&extra(b"../b")),
        Err(ZipError::Entry {
            reason: "it has a second, different name",
            ..
        })
    ));
}
