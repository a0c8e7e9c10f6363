//! Packs bytes as other tools do, for tests.

use std::io::Write;

/// In gzip.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// In zstd with a window of two to the `window_log` bytes.
pub(crate) fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let window = zstd::zstd_safe::CParameter::WindowLog(window_log);
    out.set_parameter(window).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}
