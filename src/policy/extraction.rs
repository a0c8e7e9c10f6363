//! Limits on the work that a stranger's archive may cause.

/// Limits on one layer, wheel or package while it is read; `bytes` is also the limit of all layers of an image together.
/// A zero means zero, not "unlimited".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractionLimits {
    /// Unpacked bytes of all files together.
    pub bytes: u64,
    /// Entries of any kind in one archive.
    pub entries: u64,
    /// Files, directories and links of all layers of an image together.
    pub image_entries: u64,
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
    /// The largest window of a zstd stream, as a power of two of bytes: reading it takes as much memory.
    pub window_log: u32,
}

impl Default for ExtractionLimits {
    fn default() -> Self {
        Self {
            // The platform's largest image, unpacked about threefold.
            bytes: 6 << 30,
            // Inodes of the worker's disk are the resource, and an entry costs 512 bytes of a plain tar. Wheels with their
            // directories and bytecode, the largest we found: plotly 5 32,000, tensorflow 19,000, torch 17,000. Half of this
            // would refuse a base image with a whole scientific distribution in one layer.
            entries: 150_000,
            // Twice that: such a base and the largest packages on top.
            image_entries: 300_000,
            // Honest wheels stay under 20; zstd can promise 32,000.
            ratio: 200,
            ratio_floor: 100 << 20,
            path: 4096,
            depth: 128,
            header: 1 << 20,
            // 128 MiB is what `zstd --long=27` makes.
            window_log: 27,
        }
    }
}
