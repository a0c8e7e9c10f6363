//! A gzip file as a chain of members (RFC 1952, 2.2): some compressed here, some copied from a zip as they are.

use std::io::{self, Write};

use libdeflater::{CompressionLvl, Compressor};

/// Level of what is compressed here. Part of every layer's bytes: another level is another format version.
const LEVEL: i32 = 6;
/// Most bytes of a member compressed here: larger members gain nothing, smaller ones lose ratio.
const MEMBER: usize = 1 << 20;
/// Magic, deflate, no flags, no time, no extra flags, unknown system: the same bytes on every machine.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Writes members to `out`.
pub(super) struct MemberWriter<W: Write> {
    out: W,
    pending: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Compressor,
}

impl<W: Write> MemberWriter<W> {
    /// Writes to `out`.
    pub(super) fn new(out: W) -> Self {
        let level = CompressionLvl::new(LEVEL).unwrap_or_default();
        Self {
            out,
            pending: Vec::with_capacity(MEMBER),
            compressed: Vec::new(),
            compressor: Compressor::new(level),
        }
    }

    /// Adds bytes that are compressed here. Members end after [`MEMBER`] bytes, before what is spliced and at the end:
    /// how the bytes are split over calls makes no difference.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if let (true, Some((member, rest))) = (self.pending.is_empty(), bytes.split_at_checked(MEMBER)) {
                self.member(member)?;
                bytes = rest;
                continue;
            }
            let (next, rest) = bytes.split_at(bytes.len().min(MEMBER - self.pending.len()));
            self.pending.extend_from_slice(next);
            bytes = rest;
            if self.pending.len() == MEMBER {
                self.flush_member()?;
            }
        }
        Ok(())
    }

    /// Adds a raw deflate stream as a member of its own. `crc` and `size` describe what it inflates to; the caller has
    /// checked them, and that the stream ends with its last byte.
    pub(super) fn splice(&mut self, deflated: &[u8], crc: u32, size: u32) -> io::Result<()> {
        self.flush_member()?;
        self.out.write_all(&HEADER)?;
        self.out.write_all(deflated)?;
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.write_all(&size.to_le_bytes())
    }

    /// Writes what is pending and returns the output.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.flush_member()?;
        Ok(self.out)
    }

    fn flush_member(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let written = self.member(&pending);
        pending.clear();
        self.pending = pending;
        written
    }

    fn member(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bound = self.compressor.deflate_compress_bound(bytes.len());
        self.compressed.resize(bound.max(self.compressed.len()), 0);
        let length = self
            .compressor
            .deflate_compress(bytes, &mut self.compressed)
            .map_err(|_| io::Error::other("libdeflate needs more room than its own bound"))?;
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.out.write_all(&HEADER)?;
        self.out.write_all(self.compressed.get(..length).unwrap_or_default())?;
        self.out.write_all(&libdeflater::crc32(bytes).to_le_bytes())?;
        self.out.write_all(&size.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn members(calls: &[&[u8]]) -> Vec<u8> {
        let mut writer = MemberWriter::new(Vec::new());
        for bytes in calls {
            writer.write(bytes).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn members_end_at_the_same_bytes_however_they_are_written() {
        let bytes: Vec<u8> = (0..3 * MEMBER + 5).map(|at| (at % 251) as u8).collect();
        let whole = members(&[&bytes]);
        let pieces: Vec<&[u8]> = bytes.chunks(700_001).collect();
        assert_eq!(members(&pieces), whole);
        let mut read = Vec::new();
        flate2::read::MultiGzDecoder::new(&whole[..])
            .read_to_end(&mut read)
            .unwrap();
        assert_eq!(read, bytes);
        let sizes = whole.windows(HEADER.len()).filter(|window| *window == HEADER).count();
        assert_eq!(sizes, 4);
        assert_eq!(whole[whole.len() - 4..], 5u32.to_le_bytes());
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(members(&[b""]), b"");
    }
}
