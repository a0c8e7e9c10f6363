//! What the contents of a file of a tree are called in its [listing](super::listing): by BLAKE3, made while the file is
//! written, four times as fast as SHA-256 is by instructions of its own; by SHA-256 in a listing of an older gantry.
//!
//! It tells whether a disk still has what was written. What is unpacked, shipped or signed is called by SHA-256
//! ([`oci::digest`](crate::oci)), and no digest of a file is ever looked up.

use std::fmt;
use std::fs::File;
use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::oci::Digest;
use crate::store::content::whole;

/// What the contents of a file are called: a field of its entry, named by how it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::store) enum FileDigest {
    Blake3(Blake3),
    Sha256(Digest),
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(Blake3(hash)) => write!(f, "blake3:{hash}"),
            Self::Sha256(digest) => digest.fmt(f),
        }
    }
}

/// BLAKE3 of the contents of a file, written as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Blake3(blake3::Hash);

impl Serialize for Blake3 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_hex())
    }
}

impl<'de> Deserialize<'de> for Blake3 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(hex.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self(hash))
    }
}

/// Makes the digest of a file that is being written.
#[derive(Debug, Default)]
pub(super) struct FileHasher(blake3::Hasher);

impl FileHasher {
    /// Adds what follows in the file. Pieces of 16 KiB and more are hashed sixteen blocks at once.
    pub(super) fn update(&mut self, contents: &[u8]) {
        self.0.update(contents);
    }

    /// How many bytes the file has so far.
    pub(super) fn bytes(&self) -> u64 {
        self.0.count()
    }

    pub(super) fn digest(&self) -> FileDigest {
        FileDigest::Blake3(Blake3(self.0.finalize()))
    }
}

/// The digest of what is left to read of a file, as a listing of today names it.
pub(super) fn blake3_of(file: File) -> io::Result<FileDigest> {
    let mut hasher = FileHasher::default();
    whole::read_in_chunks(file, &mut |chunk| hasher.update(chunk))?;
    Ok(hasher.digest())
}

/// The digest of what is left to read of a file, as a listing of an older gantry names it.
pub(super) fn sha256_of(file: File) -> io::Result<FileDigest> {
    whole::hash(file).map(FileDigest::Sha256)
}
