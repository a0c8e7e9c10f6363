//! Content descriptors: what a document says about a blob before anyone has read it.

use std::collections::BTreeMap;

use base64::prelude::{Engine as _, BASE64_STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use super::Digest;

/// The annotation under which tools look up names in an index (OCI image specification, "Pre-Defined Annotation Keys").
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Media types gantry writes or accepts (OCI image specification 1.1, Docker schema 2).
pub mod media_type {
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An index of manifests.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A gzip-compressed layer.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A zstd-compressed layer.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// An uncompressed layer.
    pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker's name for an image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's name for an index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's name for an image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's name for a gzip-compressed layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's name for an uncompressed layer.
    pub const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's name for a zstd-compressed layer.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    /// Whether a descriptor of this type leads to an image manifest.
    pub fn is_manifest(name: &str) -> bool {
        matches!(name, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether a descriptor of this type leads to an index.
    pub fn is_index(name: &str) -> bool {
        matches!(name, INDEX | DOCKER_INDEX)
    }
}

/// Digest, size and media type of a blob (OCI image specification, "Content Descriptors").
///
/// Size and digest are checked while the blob is read, never after. `urls` and `data` are never used: content comes from the
/// store or the place that was asked, not from where a stranger's document points. They are read so that a layer that
/// lies elsewhere, and data that contradict the digest, are refused; they are never written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the bytes are.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// Their hash.
    pub digest: Digest,
    /// Their length in bytes.
    pub size: u64,
    /// Free-form notes, in key order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what sort of artifact it is, when it is no image.
    #[serde(rename = "artifactType", default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// In an index: which machine the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where else the content is said to be.
    #[serde(default, skip_serializing)]
    pub urls: Vec<String>,
    /// The content in base64, as the document has it.
    #[serde(default, skip_serializing)]
    pub data: Option<String>,
}

/// The machine an image is for, as far as gantry looks: it runs linux/amd64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `linux`, ...
    pub os: String,
}

impl Descriptor {
    /// A descriptor without annotations or platform.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: BTreeMap::new(),
            artifact_type: None,
            platform: None,
            urls: Vec::new(),
            data: None,
        }
    }

    /// Whether the embedded data, if there are any, are the bytes that digest and size describe.
    pub(super) fn data_agrees(&self) -> bool {
        let Some(data) = &self.data else { return true };
        BASE64
            .decode(data)
            .is_ok_and(|bytes| bytes.len() as u64 == self.size && Digest::of(&bytes) == self.digest)
    }
}
