//! Results of steps by their keys. A memo is a hint: one that is missing or damaged costs time, never correctness.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::{io_error, Store, StoreError};
use crate::oci::Digest;

/// Which step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoKind {
    /// Wheels -> layer.
    Wheel,
    /// Requirements -> lock.
    Lock,
    /// Base definition -> layer.
    Base,
    /// Code directory -> layer.
    Code,
    /// Sources -> bytecode layer.
    Bytecode,
    /// Source distribution -> wheel.
    Sdist,
}

impl MemoKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Wheel,
        Self::Lock,
        Self::Base,
        Self::Code,
        Self::Bytecode,
        Self::Sdist,
    ];

    /// Its folder under `memo/`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Wheel => "wheel",
            Self::Lock => "lock",
            Self::Base => "base",
            Self::Code => "code",
            Self::Bytecode => "bytecode",
            Self::Sdist => "sdist",
        }
    }
}

impl Store {
    /// What is remembered for `key`.
    pub fn memo<T: DeserializeOwned>(&self, kind: MemoKind, key: &Digest) -> Result<Option<T>, StoreError> {
        let path = self.root.join(memo_name(kind, key));
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path)(source)),
        }
    }

    /// Remembers `value` for `key`.
    pub fn put_memo<T: Serialize>(&self, kind: MemoKind, key: &Digest, value: &T) -> Result<(), StoreError> {
        let name = memo_name(kind, key);
        let json = serde_json::to_vec(value);
        let json = json.map_err(|source| StoreError::Json {
            action: "write",
            path: self.root.join(&name),
            source,
        })?;
        // A store made before there was this kind has no folder for it.
        let folder = self.root.join("memo").join(kind.folder());
        fs::create_dir_all(&folder).map_err(io_error("make directory", &folder))?;
        self.write_atomically(&name, &json)
    }
}

fn memo_name(kind: MemoKind, key: &Digest) -> PathBuf {
    PathBuf::from("memo")
        .join(kind.folder())
        .join(format!("{}.json", key.hex()))
}
