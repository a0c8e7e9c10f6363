//! Manifests, configurations and indexes, parsed strictly.
//!
//! The digest of a document is that of its raw bytes; whoever parses keeps the bytes. Unknown fields are allowed (the
//! specification demands it); what two tools may read as two different images is refused.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::config_body::{check_process, ImageConfigBody};
use super::document::{check, parse};
use super::{media_type, Compression, Descriptor, DiffId, ParseImageError};

/// Most layers in an image: Docker and containers/storage stop at 127.
pub const MAX_LAYERS: usize = 127;

/// The contents of the `oci-layout` file that every image layout has (OCI image specification, "Image Layout").
pub const LAYOUT_VERSION: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// [`media_type::MANIFEST`] or Docker's; absent in some old images.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration blob.
    pub config: Descriptor,
    /// Layer blobs, base first.
    pub layers: Vec<Descriptor>,
    /// Free-form notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index: a list of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageIndex {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// [`media_type::INDEX`] or Docker's.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

/// An image configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// RFC 3339; the only field of an image that depends on the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What to run and how.
    #[serde(default)]
    pub config: ImageConfigBody,
    /// The layers' uncompressed hashes.
    pub rootfs: RootFs,
    /// One entry per layer, for people; carries no command lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<serde_json::Value>,
}

/// The ordered uncompressed hashes of the layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Base first; as many as the manifest has layers.
    pub diff_ids: Vec<DiffId>,
}

/// Parses a manifest and checks everything that needs no other document.
///
/// # Errors
///
/// [`ParseImageError`] names the field and what is wrong with it.
pub fn parse_manifest(raw: &[u8]) -> Result<Manifest, ParseImageError> {
    const DOCUMENT: &str = "manifest";
    let manifest: Manifest = parse(DOCUMENT, raw)?;
    check_schema(DOCUMENT, manifest.schema_version)?;
    if let Some(name) = &manifest.media_type {
        let expected = "an OCI or Docker image manifest";
        check(DOCUMENT, "mediaType", media_type::is_manifest(name), name, expected)?;
    }
    let confused: Shape = parse(DOCUMENT, raw)?;
    check(
        DOCUMENT,
        "manifests",
        confused.manifests.is_none(),
        "there",
        "nothing: that is a field of an index",
    )?;
    let layers = manifest.layers.len();
    let expected = "127 layers at most";
    check(DOCUMENT, "layers", layers <= MAX_LAYERS, &layers.to_string(), expected)?;
    let config = &manifest.config.media_type;
    let is_config = matches!(config.as_str(), media_type::CONFIG | media_type::DOCKER_CONFIG);
    check(
        DOCUMENT,
        "config.mediaType",
        is_config,
        config,
        "an OCI or Docker image configuration",
    )?;
    for layer in &manifest.layers {
        Compression::of_layer(layer)?;
    }
    check_data(DOCUMENT, manifest.layers.iter().chain([&manifest.config]))?;
    Ok(manifest)
}

/// Parses a configuration and checks it against its manifest.
///
/// # Errors
///
/// [`ParseImageError`] names the field and what is wrong with it.
pub fn parse_config(raw: &[u8], manifest: &Manifest) -> Result<ImageConfig, ParseImageError> {
    const DOCUMENT: &str = "image config";
    let config: ImageConfig = parse(DOCUMENT, raw)?;
    check(DOCUMENT, "os", config.os == "linux", &config.os, "linux")?;
    let machine = &config.architecture;
    check(DOCUMENT, "architecture", machine == "amd64", machine, "amd64")?;
    let kind = &config.rootfs.kind;
    check(DOCUMENT, "rootfs.type", kind == "layers", kind, "layers")?;
    let count = config.rootfs.diff_ids.len();
    let expected = "as many as the manifest has layers";
    check(
        DOCUMENT,
        "rootfs.diff_ids",
        count == manifest.layers.len(),
        &count.to_string(),
        expected,
    )?;
    check_process(DOCUMENT, &config.config)?;
    Ok(config)
}

/// Parses the `oci-layout` file of an image layout, whose version is the only one there is.
///
/// # Errors
///
/// [`ParseImageError`] for another version, or another document.
pub fn parse_layout_version(raw: &[u8]) -> Result<(), ParseImageError> {
    #[derive(Deserialize)]
    struct Layout {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    const DOCUMENT: &str = "oci-layout";
    let layout: Layout = parse(DOCUMENT, raw)?;
    check(
        DOCUMENT,
        "imageLayoutVersion",
        layout.version == "1.0.0",
        &layout.version,
        "1.0.0",
    )
}

/// Parses an index.
///
/// # Errors
///
/// [`ParseImageError`] names the entry and what is wrong with it.
pub fn parse_index(raw: &[u8]) -> Result<ImageIndex, ParseImageError> {
    const DOCUMENT: &str = "index";
    let index: ImageIndex = parse(DOCUMENT, raw)?;
    check_schema(DOCUMENT, index.schema_version)?;
    if let Some(name) = &index.media_type {
        check(
            DOCUMENT,
            "mediaType",
            media_type::is_index(name),
            name,
            "an OCI or Docker index",
        )?;
    }
    let confused: Shape = parse(DOCUMENT, raw)?;
    let is_index = confused.config.is_none() && confused.layers.is_none();
    check(
        DOCUMENT,
        "layers",
        is_index,
        "there",
        "nothing: that is a field of a manifest",
    )?;
    check_data(DOCUMENT, &index.manifests)?;
    Ok(index)
}

/// Fields that make a document a manifest to one reader and an index to another (CVE-2021-41190).
#[derive(Deserialize)]
struct Shape {
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

fn check_schema(document: &'static str, version: u32) -> Result<(), ParseImageError> {
    check(document, "schemaVersion", version == 2, &version.to_string(), "2")
}

fn check_data<'d>(
    document: &'static str,
    descriptors: impl IntoIterator<Item = &'d Descriptor>,
) -> Result<(), ParseImageError> {
    match descriptors.into_iter().find(|descriptor| !descriptor.data_agrees()) {
        Some(wrong) => Err(ParseImageError::Data {
            document,
            digest: wrong.digest,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_manifest_of_another_schema() {
        let raw = br#"{"schemaVersion":1,"config":{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
        assert!(matches!(
            parse_manifest(raw),
            Err(ParseImageError::Field {
                field: "schemaVersion",
                ..
            })
        ));
    }

    #[test]
    fn refuses_duplicate_keys() {
        let raw = br#"{"schemaVersion":2,"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(parse_index(raw), Err(ParseImageError::Json { .. })));
    }
}
