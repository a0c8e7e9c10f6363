//! How a layer is compressed: what its media type says, and what its first bytes are.
//!
//! The two must agree. Tools differ in which of the two they believe, so a layer whose bytes are of another kind would be
//! one thing to a scanner and another to a sandbox.

use std::fmt;

use super::document::shown;
use super::{media_type, Descriptor, ParseImageError};

/// How the tar of a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, one or several members (RFC 1952).
    Gzip,
    /// Zstandard frames (RFC 8878).
    Zstd,
}

impl Compression {
    /// Bytes that [`Compression::of_bytes`] looks at.
    pub const MAGIC: usize = 4;

    /// What the beginning of a blob looks like.
    pub fn of_bytes(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// What the media type of a layer says.
    ///
    /// # Errors
    ///
    /// [`ParseImageError::Layer`] for a type that no layer has, for layers that are encrypted, and for those whose content
    /// is to be had elsewhere.
    pub fn of_layer(layer: &Descriptor) -> Result<Self, ParseImageError> {
        let refused = |reason| ParseImageError::Layer {
            digest: layer.digest,
            media_type: shown(&layer.media_type),
            reason,
        };
        let name = layer.media_type.as_str();
        if !layer.urls.is_empty() {
            return Err(refused(
                "it names urls to fetch its content from, and only content that is with the image is used",
            ));
        }
        match name {
            media_type::LAYER_TAR | media_type::DOCKER_LAYER_TAR => Ok(Self::Plain),
            media_type::LAYER_GZIP | media_type::DOCKER_LAYER => Ok(Self::Gzip),
            media_type::LAYER_ZSTD | media_type::DOCKER_LAYER_ZSTD => Ok(Self::Zstd),
            _ if name.ends_with("+encrypted") => Err(refused("it is encrypted")),
            _ if name.contains(".nondistributable.") || name.contains(".foreign.") => Err(refused(
                "it is a foreign layer, whose content is to be fetched from elsewhere",
            )),
            _ => Err(refused("it is no layer that can be unpacked")),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "a plain tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn of(media_type: &str) -> Result<Compression, ParseImageError> {
        Compression::of_layer(&Descriptor::new(media_type, Digest::of(b""), 0))
    }

    #[test]
    fn knows_the_layers_of_both_worlds() {
        for (media_type, compression) in [
            ("application/vnd.oci.image.layer.v1.tar", Compression::Plain),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
            ("application/vnd.docker.image.rootfs.diff.tar", Compression::Plain),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Compression::Zstd),
        ] {
            assert_eq!(of(media_type).unwrap(), compression);
        }
    }

    #[test]
    fn refuses_layers_that_are_encrypted_foreign_or_unknown() {
        for (name, part) in [
            ("application/vnd.oci.image.layer.v1.tar+encrypted", "encrypted"),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
            ("application/vnd.oci.image.layer.v1.tar+zstd+encrypted", "encrypted"),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", "foreign"),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "foreign",
            ),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
            ("application/vnd.oci.image.layer.v1.tar+xz", "no layer"),
            ("application/vnd.oci.image.config.v1+json", "no layer"),
            ("APPLICATION/VND.OCI.IMAGE.LAYER.V1.TAR", "no layer"),
            ("", "no layer"),
        ] {
            match of(name) {
                Err(ParseImageError::Layer {
                    digest,
                    media_type,
                    reason,
                }) => {
                    assert_eq!((digest, media_type.as_str()), (Digest::of(b""), name));
                    assert!(reason.contains(part), "{name}: {reason}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        let mut elsewhere = Descriptor::new(media_type::LAYER_GZIP, Digest::of(b""), 0);
        elsewhere.urls = vec!["https://layers.example/1".to_owned()];
        let refused = Compression::of_layer(&elsewhere);
        assert!(matches!(refused, Err(ParseImageError::Layer { reason, .. }) if reason.contains("urls")),);
    }
}
