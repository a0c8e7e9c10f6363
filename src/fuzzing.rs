//! Entry points of `fuzz/`: each reads bytes of a stranger as gantry would, and panics when what the reader promises about
//! its result does not hold. No part of the library's interface.

mod mutate;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

pub use mutate::Mutator;

use crate::archive::elf;
use crate::archive::tar_reader::{read_layer, Change};
use crate::archive::zip::Zip;
use crate::archive::{check_foreign_path, check_path, deb, read_fuzzed_gzip};
use crate::base::{read_fuzzed_script, SystemWish};
use crate::oci::{
    parse_config, parse_index, parse_manifest, put_in_index, to_canonical_json, Compression, DiffId, Reference,
};
use crate::policy::ExtractionLimits;
use crate::python::requirements::Requirements;
use crate::registry::{
    read_fuzzed_challenge, read_fuzzed_link, read_fuzzed_login_file, read_fuzzed_pause, read_fuzzed_range,
    read_fuzzed_token,
};
use crate::sandbox::{orders, wire};

/// A name, and what reads the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("challenge", challenge),
    ("content_range", content_range),
    ("deb", deb_package),
    ("elf", elf_file),
    ("gzip", gzip_file),
    ("layout", layout_document),
    ("link", link),
    ("login_file", login_file),
    ("packages", packages),
    ("reference", reference),
    ("requirements", requirements),
    ("retry_after", retry_after),
    ("tar", tar_layer),
    ("token", token),
    ("wire", wire_frames),
    ("zip", zip_file),
];

/// Small enough that each of them is met by inputs of a few kilobytes.
fn limits() -> ExtractionLimits {
    ExtractionLimits {
        bytes: 1 << 20,
        entries: 200,
        ratio: 200,
        ratio_floor: 64 << 10,
        path: 512,
        depth: 16,
        header: 4096,
        ..ExtractionLimits::default()
    }
}

/// A layer: paths are checked, sizes are kept, and the diff id of a plain tar is the hash of its bytes.
pub fn tar_layer(bytes: &[u8]) {
    let limits = limits();
    let (mut entries, mut total, mut is_short) = (0, 0, false);
    let compression = Compression::of_bytes(bytes);
    let result = read_layer(bytes, compression, &limits, &mut |path, change| {
        entries += 1;
        let is_root = path.is_empty() && matches!(change, Change::Opaque);
        assert!(is_root || check_foreign_path(path, &limits).is_ok(), "path {path:?}");
        match change {
            Change::File { size, contents, mode } => {
                assert_eq!(mode & !0o1777, 0, "mode of {path:?}");
                let read = io::copy(contents, &mut io::sink())?;
                assert!(read <= size, "contents of {path:?}");
                is_short |= read < size;
                total += read;
            }
            Change::Hardlink { target } => assert!(check_foreign_path(&target, &limits).is_ok(), "target {target:?}"),
            Change::Directory { mode } => assert_eq!(mode & !0o1777, 0, "mode of {path:?}"),
            Change::Symlink { .. } | Change::Whiteout | Change::Opaque => (),
        }
        Ok(())
    });
    assert!(entries <= limits.entries && total <= limits.bytes);
    if let Ok(diff_id) = result {
        assert!(!is_short, "contents end early, and nobody says so");
        assert!(compression != Compression::Plain || diff_id == DiffId::of(bytes));
    }
}

/// A gzip file: taken or refused, and read, as by a reader that takes one member after the other.
pub fn gzip_file(bytes: &[u8]) {
    read_fuzzed_gzip(bytes);
}

/// A wheel: names are checked, sorted and different, and contents have the size that is given.
pub fn zip_file(bytes: &[u8]) {
    let limits = limits();
    let Some(zip) = in_memory(bytes).and_then(|file| Zip::open(file, &limits).ok()) else {
        return;
    };
    let (mut stored, mut contents, mut before) = (Vec::new(), Vec::new(), None);
    for entry in zip.entries() {
        assert!(check_path(&entry.name, &limits).is_ok(), "name {:?}", entry.name);
        assert!(before < Some(&entry.name), "{:?} after {before:?}", entry.name);
        before = Some(&entry.name);
        if zip.read(entry, &mut stored, &mut contents).is_ok() {
            assert_eq!(contents.len() as u64, entry.size, "contents of {:?}", entry.name);
        }
    }
}

/// A package of Debian: its paths are checked.
pub fn deb_package(bytes: &[u8]) {
    let limits = limits();
    if let Ok(deb) = deb::read(bytes, &limits, &|_| true) {
        for path in deb.entries.keys() {
            assert!(check_path(path, &limits).is_ok(), "path {path:?}");
        }
    }
}

/// A shared library: what it needs comes out of its own bytes.
pub fn elf_file(bytes: &[u8]) {
    if let Ok(Some(needs)) = elf::read(bytes) {
        for name in needs.libraries.iter().chain(&needs.versions).chain(&needs.name) {
            assert!(name.len() <= bytes.len(), "name {name:?}");
        }
    }
}

/// An index, a manifest or a configuration: what is written is read, and written again is the same. (Not what is read:
/// fields that gantry has no word for are left out.)
pub fn layout_document(bytes: &[u8]) {
    if let Ok(index) = parse_index(bytes) {
        let once = to_canonical_json(&index).ok();
        let again = once
            .as_ref()
            .and_then(|raw| to_canonical_json(&parse_index(raw).ok()?).ok());
        assert_eq!(once, again);
        if let Some(entry) = index.manifests.first() {
            let edited = put_in_index(Some(bytes), entry);
            assert!(edited.is_ok_and(|raw| parse_index(&raw).is_ok()), "{entry:?}");
        }
    }
    let Ok(manifest) = parse_manifest(bytes) else { return };
    let once = to_canonical_json(&manifest).ok();
    let again = once
        .as_ref()
        .and_then(|raw| to_canonical_json(&parse_manifest(raw).ok()?).ok());
    assert_eq!(once, again);
    // A configuration in the same file is read beside the manifest: no document forbids further fields.
    if let Ok(config) = parse_config(bytes, &manifest) {
        let once = to_canonical_json(&config).ok();
        let again = once
            .as_ref()
            .and_then(|raw| to_canonical_json(&parse_config(raw, &manifest).ok()?).ok());
        assert_eq!(once, again);
    }
}

/// A reference: parse then print is the identity, and a name (other than a path) has nothing that a terminal obeys.
pub fn reference(bytes: &[u8]) {
    let Some(text) = std::str::from_utf8(bytes).ok() else {
        return;
    };
    if let Ok(reference) = text.parse::<Reference>() {
        let printed = reference.to_string();
        assert_eq!(
            printed.parse::<Reference>().ok().as_ref(),
            Some(&reference),
            "{printed:?}"
        );
        let is_path = printed.starts_with("oci:") || printed.starts_with("oci-archive:");
        assert!(is_path || !printed.contains(char::is_control), "{printed:?}");
    }
}

/// `packages.txt` and, after a NUL, the script of a package: what is accepted is accepted again, unchanged.
pub fn packages(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (wish, script) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let names = |bytes: &[u8]| {
        let wish = SystemWish::read(bytes).ok()?;
        Some(wish.names.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
    };
    if let Some(found) = names(wish) {
        assert_eq!(names(found.join("\n").as_bytes()), Some(found));
    }
    read_fuzzed_script(&String::from_utf8_lossy(script));
}

/// Requirements and, after a NUL, a file that they may include: what is accepted is accepted again, unchanged.
pub fn requirements(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let read = |top: &[u8], included: &[u8]| {
        Requirements::read(&|path| match path {
            "requirements.txt" => Some(top),
            "included.txt" => Some(included),
            _ => None,
        })
    };
    let (top, included) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if let Ok(found) = read(top, included) {
        let again = read(found.wanted.join("\n").as_bytes(), &[]).map(|again| again.wanted);
        assert!(
            again.as_ref().is_ok_and(|again| *again == found.wanted),
            "{found:?}, then {again:?}"
        );
    }
    if let Ok(text) = std::str::from_utf8(top) {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let _ = Requirements::of_build("a package", &lines);
    }
}

/// Frames of the control socket: read at once or as they come, they are the ones that were sent.
pub fn wire_frames(bytes: &[u8]) {
    // What a socket holds without a reader.
    let bytes = bytes.get(..64 << 10).unwrap_or(bytes);
    let mut rest = bytes;
    let mut at_once = Vec::new();
    while let Ok(frame) = wire::receive(&mut rest) {
        let is_end = matches!(frame, wire::Frame::End);
        if let wire::Frame::Json(json) = &frame {
            let _ = serde_json::from_slice::<orders::RoomOrders>(json);
            let _ = serde_json::from_slice::<orders::WorkOrders>(json);
            let _ = serde_json::from_slice::<orders::Report>(json);
        }
        at_once.push(format!("{frame:?}"));
        if is_end {
            break;
        }
    }
    let as_they_come = inbox(bytes).unwrap_or_default();
    let whole = at_once.iter().filter(|frame| *frame != "End");
    assert!(
        whole.eq(as_they_come.iter().filter(|frame| *frame != "End")),
        "{at_once:?}, {as_they_come:?}"
    );
}

/// Every frame an inbox takes out of `bytes`.
fn inbox(bytes: &[u8]) -> io::Result<Vec<String>> {
    let (ours, mut theirs) = UnixStream::pair()?;
    theirs.write_all(bytes)?;
    drop(theirs);
    let (mut inbox, mut frames) = (wire::Inbox::default(), Vec::new());
    loop {
        match inbox.next() {
            Ok(Some(wire::Frame::End)) | Err(_) => return Ok(frames),
            Ok(Some(frame)) => frames.push(format!("{frame:?}")),
            Ok(None) => inbox.fill(ours.as_fd())?,
        }
    }
}

/// Challenges of a registry, a line each.
pub fn challenge(bytes: &[u8]) {
    read_fuzzed_challenge(&String::from_utf8_lossy(bytes));
}

/// The file in which docker and podman keep passwords.
pub fn login_file(bytes: &[u8]) {
    read_fuzzed_login_file(bytes);
}

/// The answer of a place where tokens are had.
pub fn token(bytes: &[u8]) {
    read_fuzzed_token(bytes);
}

/// Which bytes a registry says that it sends, or has.
pub fn content_range(bytes: &[u8]) {
    read_fuzzed_range(bytes);
}

/// Where a registry says that the next page of a list is.
pub fn link(bytes: &[u8]) {
    read_fuzzed_link(&String::from_utf8_lossy(bytes));
}

/// How long a registry asks to wait, in a header or in its words.
pub fn retry_after(bytes: &[u8]) {
    read_fuzzed_pause(&String::from_utf8_lossy(bytes));
}

/// A file of these bytes that no path leads to.
fn in_memory(bytes: &[u8]) -> Option<File> {
    let descriptor = rustix::fs::memfd_create("gantry-fuzz", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let mut file = File::from(descriptor);
    file.write_all(bytes).ok()?;
    Some(file)
}
