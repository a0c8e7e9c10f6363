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
        let mut crc = Crc::new();
        crc.update(fake.contents);
        let crc = fake.crc.unwrap_or(crc.sum());
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
