//! Manifests, configurations and indexes: parsed strictly, written canonically (keys in order, no spaces).
//!
//! The digest of a document is that of its raw bytes; whoever parses keeps the bytes. Unknown fields are
//! allowed (the specification demands it), duplicate keys are refused by serde for known fields.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{media_type, Descriptor, DiffId};

/// Largest manifest, config or index that is read: registries must accept 4 MiB manifests (distribution
/// specification), so a smaller bound would refuse legal images and a larger one only helps an attacker.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Most layers in an image: Docker and containers/storage stop at 127.
pub const MAX_LAYERS: usize = 127;

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

/// The execution defaults of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfigBody {
    /// `uid[:gid]` or a name.
    #[serde(rename = "User", default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `NAME=value` strings.
    #[serde(rename = "Env", default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Prefix of the command.
    #[serde(rename = "Entrypoint", default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Default command or its arguments.
    #[serde(rename = "Cmd", default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Where the command starts.
    #[serde(rename = "WorkingDir", default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Labels, in key order.
    #[serde(rename = "Labels", default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
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

/// Why an image document was refused.
#[derive(Debug, thiserror::Error)]
pub enum ParseImageError {
    /// Larger than [`MAX_DOCUMENT_BYTES`].
    #[error("parse {document}: size is {size}, at most {MAX_DOCUMENT_BYTES} is read")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// Its size in bytes.
        size: u64,
    },
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("parse {document}")]
    Json {
        /// Which document.
        document: &'static str,
        /// What serde says.
        source: serde_json::Error,
    },
    /// A field has a value gantry cannot use.
    #[error("parse {document}: {field} is {got}, expected {expected}")]
    Field {
        /// Which document.
        document: &'static str,
        /// The field's path.
        field: &'static str,
        /// Its value, cut to 100 characters.
        got: String,
        /// What would do.
        expected: &'static str,
    },
}

/// Parses a manifest and checks everything that needs no other document.
pub fn parse_manifest(raw: &[u8]) -> Result<Manifest, ParseImageError> {
    const DOCUMENT: &str = "manifest";
    let manifest: Manifest = parse(DOCUMENT, raw)?;
    check(
        DOCUMENT,
        "schemaVersion",
        manifest.schema_version == 2,
        &manifest.schema_version.to_string(),
        "2",
    )?;
    if let Some(kind) = &manifest.media_type {
        let known = kind == media_type::MANIFEST || kind == media_type::DOCKER_MANIFEST;
        check(DOCUMENT, "mediaType", known, kind, "an OCI or Docker image manifest")?;
    }
    let layers = manifest.layers.len();
    check(
        DOCUMENT,
        "layers",
        layers <= MAX_LAYERS,
        &layers.to_string(),
        "127 layers at most",
    )?;
    Ok(manifest)
}

/// Parses a configuration and checks it against its manifest.
pub fn parse_config(raw: &[u8], manifest: &Manifest) -> Result<ImageConfig, ParseImageError> {
    const DOCUMENT: &str = "image config";
    let config: ImageConfig = parse(DOCUMENT, raw)?;
    check(DOCUMENT, "os", config.os == "linux", &config.os, "linux")?;
    check(
        DOCUMENT,
        "architecture",
        config.architecture == "amd64",
        &config.architecture,
        "amd64",
    )?;
    check(
        DOCUMENT,
        "rootfs.type",
        config.rootfs.kind == "layers",
        &config.rootfs.kind,
        "layers",
    )?;
    let count = config.rootfs.diff_ids.len();
    check(
        DOCUMENT,
        "rootfs.diff_ids",
        count == manifest.layers.len(),
        &count.to_string(),
        "as many as the manifest has layers",
    )?;
    Ok(config)
}

/// Parses an index.
pub fn parse_index(raw: &[u8]) -> Result<ImageIndex, ParseImageError> {
    const DOCUMENT: &str = "index";
    let index: ImageIndex = parse(DOCUMENT, raw)?;
    check(
        DOCUMENT,
        "schemaVersion",
        index.schema_version == 2,
        &index.schema_version.to_string(),
        "2",
    )?;
    Ok(index)
}

/// Compact JSON with the keys of every object in byte order, so that equal values give equal bytes.
pub fn to_canonical_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    // serde_json's Map is a BTreeMap unless some crate turns on `preserve_order`; the test below would notice.
    serde_json::to_vec(&serde_json::to_value(value)?)
}

fn parse<'a, T: Deserialize<'a>>(document: &'static str, raw: &'a [u8]) -> Result<T, ParseImageError> {
    let size = raw.len() as u64;
    if size > MAX_DOCUMENT_BYTES {
        return Err(ParseImageError::TooLarge { document, size });
    }
    serde_json::from_slice(raw).map_err(|source| ParseImageError::Json { document, source })
}

fn check(
    document: &'static str,
    field: &'static str,
    holds: bool,
    got: &str,
    expected: &'static str,
) -> Result<(), ParseImageError> {
    if holds {
        return Ok(());
    }
    Err(ParseImageError::Field {
        document,
        field,
        got: got.chars().take(100).collect(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_sorts_keys() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":{"d":1,"c":2}}"#).unwrap();
        assert_eq!(to_canonical_json(&value).unwrap(), br#"{"a":{"c":2,"d":1},"b":1}"#);
    }

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
