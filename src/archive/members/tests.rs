//! Whatever the bytes are, they are read as by a reader that takes one member after the other.

use std::io::Write;

use super::*;
use crate::archive::gzip::MemberWriter;

/// What is read, and whether the end was reached.
fn read_all(mut reader: impl Read) -> (Vec<u8>, bool) {
    let (mut read, mut chunk) = (Vec::new(), [0; 7000]);
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return (read, true),
            Ok(count) => read.extend(&chunk[..count]),
            Err(_) => return (read, false),
        }
    }
}

/// Gives what it has in pieces, as a connection does.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(buffer.len()).min(self.0.len());
        let (now, rest) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = rest;
        Ok(count)
    }
}

/// Compares with the serial reader: the same verdict, and the same bytes where they are taken.
fn is_read_alike(bytes: &[u8]) -> (Vec<u8>, bool) {
    let serial = read_all(flate2::read::MultiGzDecoder::new(bytes));
    for piece in [usize::MAX, 1000] {
        let packed = Cell::new(0);
        let ours = read_all(MemberReader::new(Pieces(bytes, piece), &packed));
        assert_eq!(ours.1, serial.1, "{} bytes, {piece} at a time", bytes.len());
        if serial.1 {
            assert!(ours.0 == serial.0, "{} bytes, {piece} at a time", bytes.len());
            assert_eq!(packed.get(), bytes.len() as u64);
        } else {
            // A member that is damaged may have been given in part, or not at all.
            let both = ours.0.len().min(serial.0.len());
            assert!(ours.0[..both] == serial.0[..both]);
        }
    }
    serial
}

fn member(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    out.write_all(bytes).unwrap();
    let mut member = out.finish().unwrap();
    member[..HEADER.len()].copy_from_slice(&HEADER);
    member
}

fn noise(count: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as u8 & 0x1f
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn what_we_write_is_read_back() {
    let bytes = noise(5 << 20);
    let mut writer = MemberWriter::new(Vec::new());
    for piece in bytes.chunks(300_001) {
        writer.write(piece).unwrap();
    }
    let (read, is_whole) = is_read_alike(&writer.finish().unwrap());
    assert!(is_whole && read == bytes);
}

#[test]
fn members_of_every_size_and_of_others_are_read() {
    let big = noise(12 << 20);
    let mut named = flate2::GzBuilder::new()
        .filename("name")
        .write(Vec::new(), flate2::Compression::fast());
    named.write_all(b"by another tool").unwrap();
    let named = named.finish().unwrap();
    let small = || member(b"small", 6);
    for chain in [
        vec![small()],
        vec![member(b"", 6), small(), member(b"", 6)],
        vec![member(&big, 1), small(), member(&big[..3 << 20], 0), small()],
        vec![named.clone(), small(), named.clone()],
        vec![small(); 5000],
        vec![named; 300],
        vec![member(&vec![0; 40 << 20], 9), small()],
    ] {
        assert!(is_read_alike(&chain.concat()).1);
    }
}

#[test]
fn headers_that_are_contents_end_no_member() {
    // Stored blocks keep the bytes as they are: what looks like members in them are none.
    let inner = member(b"a member within", 6).repeat(40);
    let (read, is_whole) = is_read_alike(&[member(&inner, 0), member(b"after", 6)].concat());
    assert!(is_whole && read == [&inner[..], b"after"].concat());
    // So many wrong guesses that none is made any more.
    let many = [member(&inner, 0), member(b"between", 6)].concat().repeat(60);
    assert!(is_read_alike(&many).1);
}

#[test]
fn damage_is_refused_wherever_it_is() {
    let good = [member(b"one", 6), member(&noise(9000), 6), member(b"three", 6)];
    let chain = good.concat();
    assert!(is_read_alike(&chain).1);
    for at in 0..chain.len() {
        let mut bytes = chain.clone();
        bytes[at] ^= 0x41;
        is_read_alike(&bytes);
    }
    for end in 0..chain.len() {
        let is_whole = is_read_alike(&chain[..end]).1;
        let ends = [0, good[0].len(), good[0].len() + good[1].len()];
        assert!(!is_whole || ends.contains(&end), "{end}");
    }
    for tail in [&b"\0"[..], b"\x1f", &HEADER, b"\x1f\x8b\x08\x04", &[0; 600]] {
        assert!(!is_read_alike(&[&chain[..], tail].concat()).1, "{tail:?}");
    }
}

#[test]
fn sizes_that_lie_take_no_memory_and_are_refused() {
    let mut lies = member(b"contents", 6);
    let end = lies.len();
    for size in [0, 7, 9, 8 << 20, u32::MAX] {
        lies[end - 4..].copy_from_slice(&size.to_le_bytes());
        assert!(!is_read_alike(&[member(b"before", 6), lies.clone(), member(b"after", 6)].concat()).1);
    }
}
