//! The pure vocabulary of OCI images: no I/O, no clock, no kernel.
//!
//! Everything here is an immutable value; parsing validates, printing is the inverse of parsing.

mod descriptor;
mod digest;
mod image;
mod reference;

pub use descriptor::{media_type, Descriptor};
pub use digest::{DiffId, Digest, Hashed, Hasher, ParseDigestError};
pub use image::{
    parse_config, parse_index, parse_manifest, to_canonical_json, ImageConfig, ImageConfigBody, ImageIndex, Manifest,
    ParseImageError, RootFs, MAX_DOCUMENT_BYTES, MAX_LAYERS,
};
pub use reference::{ParseReferenceError, Reference};
