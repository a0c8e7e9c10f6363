//! SHA-256 digests: of bytes as shipped ([`Digest`]) and of uncompressed layers ([`DiffId`]).
//!
//! The two are different types so that a compressed blob can never be looked up where an unpacked layer is
//! meant. Only sha256 exists here: a registry that offers another algorithm is refused while parsing.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The hash of bytes exactly as they are shipped or stored, printed as `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The hash of a layer's uncompressed tar stream (OCI image specification, "Layer DiffID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiffId([u8; 32]);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse digest {text:?}: want sha256: and 64 lower-case hexadecimal digits")]
pub struct ParseDigestError {
    /// The offending text, cut to 100 characters.
    pub text: String,
}

macro_rules! digest_type {
    ($name:ident) => {
        impl $name {
            /// The digest of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }

            /// Wraps a finished SHA-256 value.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 64 hexadecimal digits, without the algorithm.
            pub fn hex(&self) -> String {
                let nibbles = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                nibbles
                    .filter_map(|nibble| char::from_digit(nibble.into(), 16))
                    .collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, ParseDigestError> {
                parse(text).map(Self).ok_or_else(|| ParseDigestError {
                    text: text.chars().take(100).collect(),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest_type!(Digest);
digest_type!(DiffId);

impl DiffId {
    /// Of a layer that is not compressed: what is shipped is what it unpacks to.
    pub fn of_plain(layer: &Digest) -> Self {
        Self(layer.0)
    }
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?.as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair.first()?)? << 4 | nibble(pair.get(1)?)?;
    }
    Some(bytes)
}

fn nibble(digit: &u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A running SHA-256 and byte count; also an [`io::Write`] that swallows what it hashes.
#[derive(Clone, Default)]
pub struct Hasher {
    state: Sha256,
    bytes: u64,
}

impl Hasher {
    /// An empty hash.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes` to the hash.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes were hashed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The hash as that of shipped bytes.
    pub fn digest(self) -> Digest {
        Digest(self.state.finalize().into())
    }

    /// The hash as that of an uncompressed layer.
    pub fn diff_id(self) -> DiffId {
        DiffId(self.state.finalize().into())
    }
}

/// Hashes what is written to `out`.
#[derive(Debug)]
pub struct Hashed<W> {
    /// Where the bytes go.
    pub out: W,
    /// Of those that went there.
    pub hasher: Hasher,
}

impl<W> Hashed<W> {
    /// Nothing is hashed yet.
    pub fn new(out: W) -> Self {
        Self {
            out,
            hasher: Hasher::new(),
        }
    }
}

impl<W: io::Write> io::Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parse_then_print_is_the_identity() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap().to_string(), EMPTY);
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(DiffId::of(b"").to_string(), EMPTY);
    }

    #[test]
    fn refuses_what_could_form_another_path() {
        for text in [
            "",
            "sha256:",
            "sha256:..",
            "sha512:00",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            &format!("{EMPTY}/x"),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
