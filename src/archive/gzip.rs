//! A gzip file as a chain of members (RFC 1952, 2.2): some compressed here, some copied from a zip as they are.

use std::io::{self, Write};

use libdeflater::{CompressionLvl, Compressor};

/// Level of what is compressed here. Part of every layer's bytes: another level is another format version.
const LEVEL: i32 = 6;
/// Bytes gathered before they become a member: larger members gain nothing, smaller ones lose ratio.
const MEMBER: usize = 1 << 20;
/// Magic, deflate, no flags, no time, no extra flags, unknown system: the same bytes on every machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Writes members to `out`.
pub struct MemberWriter<W: Write> {
    out: W,
    pending: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Compressor,
}

impl<W: Write> MemberWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        let level = CompressionLvl::new(LEVEL).unwrap_or_default();
        Self {
            out,
            pending: Vec::with_capacity(MEMBER * 2),
            compressed: Vec::new(),
            compressor: Compressor::new(level),
        }
    }

    /// Adds bytes that are compressed here. Where members end depends on the calls alone, not on timing.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= MEMBER {
            self.flush_member()?;
        }
        Ok(())
    }

    /// Adds a raw deflate stream as a member of its own. `crc` and `size` describe what it inflates to; the caller has
    /// checked them.
    pub fn splice(&mut self, deflated: &[u8], crc: u32, size: u32) -> io::Result<()> {
        self.flush_member()?;
        self.out.write_all(&HEADER)?;
        self.out.write_all(deflated)?;
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.write_all(&size.to_le_bytes())
    }

    /// Writes what is pending and returns the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush_member()?;
        Ok(self.out)
    }

    fn flush_member(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bound = self.compressor.deflate_compress_bound(self.pending.len());
        self.compressed.resize(bound, 0);
        let length = self
            .compressor
            .deflate_compress(&self.pending, &mut self.compressed)
            .map_err(|_| io::Error::other("libdeflate needs more room than its own bound"))?;
        let mut crc = libdeflater::Crc::new();
        crc.update(&self.pending);
        let size = u32::try_from(self.pending.len()).map_err(io::Error::other)?;
        self.out.write_all(&HEADER)?;
        self.out.write_all(self.compressed.get(..length).unwrap_or_default())?;
        self.out.write_all(&crc.sum().to_le_bytes())?;
        self.out.write_all(&size.to_le_bytes())?;
        self.pending.clear();
        Ok(())
    }
}
