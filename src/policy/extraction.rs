//! How much an archive of a stranger may make us do.

/// Limits on one layer, wheel or package while it is read; bytes and entries are also those of all layers of an image
/// together. A zero means zero, not "unlimited".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractionLimits {
    /// Unpacked bytes of all files together.
    pub bytes: u64,
    /// Entries of any kind.
    pub entries: u64,
    /// Unpacked over packed bytes, looked at once `ratio_floor` bytes are unpacked.
    pub ratio: u64,
    /// Unpacked bytes below which the ratio does not matter.
    pub ratio_floor: u64,
    /// Bytes of one path.
    pub path: usize,
    /// Components of one path.
    pub depth: usize,
    /// Bytes of one extended header or long name.
    pub header: u64,
}

impl Default for ExtractionLimits {
    fn default() -> Self {
        Self {
            // The platform's largest image, unpacked about threefold.
            bytes: 6 << 30,
            // torch has 25,000 files; inodes of the worker's disk are the resource.
            entries: 500_000,
            // Honest wheels stay under 20; zstd can promise 32,000.
            ratio: 200,
            ratio_floor: 100 << 20,
            path: 4096,
            depth: 128,
            header: 1 << 20,
        }
    }
}
