//! What an archive begins with: a tar, or something that a parser of tars would only stumble over.

use std::io::{Cursor, Read};

use super::TransferError;

/// A tar begins with a header of this size.
const BLOCK: usize = 512;
/// Where the checksum of a header stands; it counts as spaces.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// How what people call an archive begins when it is none that gantry reads, and what to do about it.
const STRANGERS: [(&[u8], &str); 5] = [
    (
        b"\x1f\x8b",
        "it is compressed with gzip, and gantry reads archives as they are: `gunzip -c FILE | gantry load -`",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "it is compressed with zstd, and gantry reads archives as they are: `zstd -dc FILE | gantry load -`",
    ),
    (
        b"\xfd7zXZ\0",
        "it is compressed with xz, and gantry reads archives as they are: `xz -dc FILE | gantry load -`",
    ),
    (
        b"BZh",
        "it is compressed with bzip2, and gantry reads archives as they are: `bzip2 -dc FILE | gantry load -`",
    ),
    (b"PK", "it is a zip file; archives of images are tar files"),
];

/// Reads the first header and returns the whole stream again; an error says what it is instead.
pub(super) fn begin(mut reader: impl Read) -> Result<impl Read, TransferError> {
    let mut first = Vec::new();
    let read = reader.by_ref().take(BLOCK as u64).read_to_end(&mut first);
    read.map_err(|source| TransferError::Io {
        action: "read",
        path: "archive".into(),
        source,
    })?;
    match stranger(&first) {
        Some(found) => Err(TransferError::NotAnArchive { found }),
        None => Ok(Cursor::new(first).chain(reader)),
    }
}

/// What the stream is that begins with `first`, unless it is a tar.
fn stranger(first: &[u8]) -> Option<&'static str> {
    if first.is_empty() {
        return Some("it is empty");
    }
    if is_header(first) {
        return None;
    }
    let known = STRANGERS.iter().find(|(magic, _)| first.starts_with(magic));
    Some(known.map_or(
        "it is no tar archive; gantry reads what `gantry save`, `podman save` and `docker save` write",
        |(_, found)| found,
    ))
}

/// Whether `block` is a header whose checksum is right, or the end of a tar without entries.
fn is_header(block: &[u8]) -> bool {
    if block.len() != BLOCK {
        return false;
    }
    let counted = |(at, byte): (usize, &u8)| if CHECKSUM.contains(&at) { b' ' } else { *byte };
    let sum: u32 = block.iter().enumerate().map(|byte| u32::from(counted(byte))).sum();
    let field = String::from_utf8_lossy(block.get(CHECKSUM).unwrap_or_default());
    let written = u32::from_str_radix(field.trim_matches([' ', '\0']), 8);
    written == Ok(sum) || block.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_passed_on_whole_and_others_are_named() {
        let mut header = tar::Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_size(0);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([0; 1024]);
        let mut passed = Vec::new();
        begin(bytes.as_slice()).unwrap().read_to_end(&mut passed).unwrap();
        assert_eq!(passed, bytes);
        assert!(begin([0; 1024].as_slice()).is_ok());

        let passwd = "root:x:0:0:root:/root:/bin/bash\n".repeat(40);
        bytes[0] = b'b';
        for (bytes, says) in [
            (&b""[..], "empty"),
            (b"\x1f\x8b\x08\0", "gunzip -c"),
            (b"\x28\xb5\x2f\xfd\0", "zstd -dc"),
            (b"\xfd7zXZ\0", "xz -dc"),
            (b"BZh91AY", "bzip2 -dc"),
            (b"PK\x03\x04", "zip"),
            (b"x", "no tar archive"),
            (passwd.as_bytes(), "no tar archive"),
            (&bytes, "no tar archive"),
        ] {
            match begin(bytes) {
                Err(TransferError::NotAnArchive { found }) => assert!(found.contains(says), "{found}"),
                other => panic!("{says}: {:?}", other.err()),
            }
        }
    }
}
