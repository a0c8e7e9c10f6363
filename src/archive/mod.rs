//! Archive formats, read as hostile input and written deterministically: layers (tar + gzip), wheels (zip), packages
//! (ar + tar). Nothing here opens a path: readers and writers are handed in.

pub mod deb;
pub(crate) mod elf;
mod ending;
mod gzip;
pub mod layer;
mod members;
#[cfg(test)]
pub(crate) mod packed;
mod path;
pub mod tar_reader;
pub mod zip;
mod zstd_decoder;

pub(crate) use members::read_fuzzed_gzip;
pub(crate) use path::check_foreign_path;
pub use path::{check_path, PathProblem};
