//! The pure vocabulary of OCI images: no I/O, no clock, no kernel.
//!
//! Everything here is an immutable value; parsing validates, printing is the inverse of parsing.

mod artifact;
mod compression;
mod config_body;
mod descriptor;
mod digest;
mod docker_archive;
mod document;
mod function_name;
mod location;
mod manifest;
mod reference;
mod shared_index;
mod tag_template;
mod template;

pub use artifact::{
    companion_tags, fallback_tag, is_companion_tag, listed, parse_artifact, parse_referrers, with_referrers, Artifact,
    MAX_REFERRERS,
};
pub use compression::Compression;
pub use config_body::ImageConfigBody;
pub use descriptor::{media_type, Descriptor, REF_NAME};
pub use digest::{DiffId, Digest, Hashed, Hasher, ParseDigestError};
pub use docker_archive::{parse_docker_archive, DockerImage};
pub use document::{to_canonical_json, ParseImageError, MAX_DOCUMENT_BYTES};
pub use function_name::{Field, FunctionName, NamingError};
pub use location::{archive_file, Place};
pub use manifest::{
    parse_config, parse_index, parse_layout_version, parse_manifest, ImageConfig, ImageIndex, Manifest, RootFs,
    LAYOUT_VERSION, MAX_LAYERS,
};
pub(crate) use reference::{looks_like_host, normal_host};
pub use reference::{ParseReferenceError, Reference};
pub use shared_index::put_in_index;
pub use tag_template::TagTemplate;
pub use template::Template;
