//! Results of steps, remembered by the [`Key`] of what the step depends on. A memo is a hint: one that is missing or
//! damaged costs time, never correctness.
//!
//! ```text
//! memo/<folder>/<hex of the key>.json    {"memo":2,"roots":{"blobs":[],"layers":[],"downloads":[]},"value":...}
//! ```
//!
//! Each shape of value is a type of its own that implements [`Memo`]. The file says in `roots` what the value needs, so
//! that garbage collection keeps it without knowing the value. Earlier versions wrote the value alone: it is still read,
//! and its roots are what was then called `digest` (a blob) and `diff_id` (a layer).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::oci::{DiffId, Digest};
use crate::store::disk::Disk;
use crate::store::key::Key;
use crate::store::{io_error, StoreError};

const FORMAT: u32 = 2;

/// A result that is remembered.
pub trait Memo: Serialize + DeserializeOwned {
    /// The folder below `memo/` that holds values of this type and of no other.
    const FOLDER: &'static str;
    /// The folder in which earlier versions kept such values, if it was another one. It is only read.
    const FORMER_FOLDER: Option<&'static str> = None;

    /// What the value is of no use without.
    fn roots(&self) -> Roots;
}

/// What a memo keeps from garbage collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Roots {
    /// Blobs of the store.
    pub blobs: Vec<Digest>,
    /// Unpacked layers. One that is gone can be unpacked again when its blob is a root as well.
    pub layers: Vec<DiffId>,
    /// Finished downloads.
    pub downloads: Vec<Digest>,
}

#[derive(Serialize)]
struct Written<'a, T> {
    memo: u32,
    roots: Roots,
    value: &'a T,
}

/// What tells a memo of this version and later ones from a value alone.
#[derive(Deserialize)]
struct Version {
    memo: u32,
}

#[derive(Deserialize)]
struct Read<T> {
    value: T,
}

fn parse<T: Memo>(json: &[u8]) -> Option<T> {
    match serde_json::from_slice(json) {
        Ok(Version { memo: FORMAT }) => serde_json::from_slice(json).ok().map(|read: Read<T>| read.value),
        Ok(Version { .. }) => None,
        Err(_) => serde_json::from_slice(json).ok(),
    }
}

/// The part of a memo that garbage collection needs.
#[derive(Deserialize)]
#[serde(untagged)]
enum Rooted {
    Enveloped { memo: u32, roots: Roots },
    Layer { digest: Digest, diff_id: DiffId },
    Other(IgnoredAny),
}

impl Roots {
    /// The roots of a memo's file; none when it is damaged or of a later version.
    pub(in crate::store) fn of_file(json: &[u8]) -> Option<Self> {
        match serde_json::from_slice(json).ok()? {
            Rooted::Enveloped { memo, roots } => (memo == FORMAT).then_some(roots),
            Rooted::Layer { digest, diff_id } => Some(Self {
                blobs: vec![digest],
                layers: vec![diff_id],
                downloads: Vec::new(),
            }),
            Rooted::Other(_) => Some(Self::default()),
        }
    }
}

/// What a store remembers of the results of steps.
#[derive(Debug, Clone, Copy)]
pub struct Memos<'a> {
    disk: &'a Disk,
}

impl<'a> Memos<'a> {
    pub(in crate::store) fn of(disk: &'a Disk) -> Self {
        Self { disk }
    }

    /// What is remembered for `key`; none when that is nothing, or damaged.
    pub fn find<T: Memo>(self, key: &Key) -> Result<Option<T>, StoreError> {
        let folders = std::iter::once(T::FOLDER).chain(T::FORMER_FOLDER);
        for folder in folders {
            let path = self.disk.path(name(folder, key));
            match fs::read(&path) {
                Ok(json) => {
                    Disk::note_use(&path);
                    return Ok(parse(&json));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(io_error("read", &path)(source)),
            }
        }
        Ok(None)
    }

    /// Remembers `value` for `key`, in the place of what was remembered before.
    pub fn put<T: Memo>(self, key: &Key, value: &T) -> Result<(), StoreError> {
        let name = name(T::FOLDER, key);
        let written = Written {
            memo: FORMAT,
            roots: value.roots(),
            value,
        };
        let json = serde_json::to_vec(&written).map_err(|source| StoreError::Json {
            action: "write",
            path: self.disk.path(&name),
            source,
        })?;
        self.disk.make_folder(Path::new("memo").join(T::FOLDER))?;
        self.disk.write_atomically(&name, &json)
    }
}

fn name(folder: &str, key: &Key) -> PathBuf {
    Path::new("memo").join(folder).join(format!("{}.json", key.hex()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::Step;
    use crate::store::tests::store;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Layer {
        digest: Digest,
        diff_id: DiffId,
    }

    impl Memo for Layer {
        const FOLDER: &'static str = "new";
        const FORMER_FOLDER: Option<&'static str> = Some("old");

        fn roots(&self) -> Roots {
            Roots {
                blobs: vec![self.digest],
                layers: vec![self.diff_id],
                downloads: Vec::new(),
            }
        }
    }

    fn layer() -> Layer {
        Layer {
            digest: Digest::of(b"blob"),
            diff_id: DiffId::of(b"tree"),
        }
    }

    fn key() -> Key {
        Key::of(Step::CodeLayer).with("a").finish()
    }

    #[test]
    fn what_is_remembered_comes_back_and_says_its_roots() {
        let (_scratch, store) = store();
        assert_eq!(store.memos().find::<Layer>(&key()).unwrap(), None);
        store.memos().put(&key(), &layer()).unwrap();
        assert_eq!(store.memos().find(&key()).unwrap(), Some(layer()));
        let file = fs::read(store.root().join(name("new", &key()))).unwrap();
        assert_eq!(Roots::of_file(&file), Some(layer().roots()));
    }

    #[test]
    fn a_memo_of_an_earlier_version_is_read_in_its_place_and_keeps_its_roots() {
        let (_scratch, store) = store();
        let bare = serde_json::to_vec(&layer()).unwrap();
        let path = store.root().join(name("old", &key()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bare).unwrap();
        assert_eq!(store.memos().find(&key()).unwrap(), Some(layer()));
        assert_eq!(Roots::of_file(&bare), Some(layer().roots()));
        assert_eq!(Roots::of_file(br#"["setuptools"]"#), Some(Roots::default()));
    }

    #[test]
    fn a_damaged_memo_is_none() {
        let (_scratch, store) = store();
        store.memos().put(&key(), &layer()).unwrap();
        let path = store.root().join(name("new", &key()));
        for damage in ["", "{", "{\"memo\":2}", "{\"memo\":3,\"roots\":{},\"value\":null}"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(store.memos().find::<Layer>(&key()).unwrap(), None, "{damage}");
        }
        assert_eq!(Roots::of_file(b""), None);
        assert_eq!(Roots::of_file(br#"{"memo":3,"roots":{},"value":null}"#), None);
    }
}
