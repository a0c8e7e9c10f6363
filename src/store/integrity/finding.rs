//! What is wrong with a store, as data.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A part of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A blob: a layer as it is shipped, a configuration or a manifest.
    Blob,
    /// A finished download.
    Download,
    /// An unpacked layer.
    Layer,
    /// Several layers as one tree.
    Merged,
    /// What a run needs of an image.
    Snapshot,
    /// A name of an image.
    Name,
    /// The note of an image without a name.
    Unnamed,
    /// An image that a name leads to.
    Image,
    /// What is remembered of a step.
    Memo,
    /// The list of images for other tools.
    Index,
    /// A lease, a lock, a stamp or an unfinished download, which have to be files.
    File,
    /// What a process that has ended left behind.
    Leftover,
}

/// What became of something that was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is as it was found.
    Found,
    /// It is gone, and nothing that is there needs it.
    Removed,
    /// It is whole again, made of what the store has.
    Remade,
    /// It is whole again, from a registry.
    Fetched,
    /// It could not be repaired.
    Kept,
}

/// Something that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What kind of thing it is.
    pub what: Part,
    /// Which one: its path below the root of the store, the name, or the digest of the image.
    pub which: String,
    /// What has to be there.
    pub expected: String,
    /// What is there.
    pub got: String,
    /// The names of the images that need it; of a name, itself.
    pub images: Vec<String>,
    /// What became of it.
    pub state: State,
    /// What to do where it could not be repaired, or to have it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The file or directory that goes when it is repaired; none where nothing has to.
    #[serde(skip)]
    pub(in crate::store) path: Option<PathBuf>,
    /// Which one had that path when it was found, by number and time of change.
    #[serde(skip)]
    seen: Option<(u64, i64, i64)>,
}

impl Finding {
    pub(super) fn new(what: Part, which: String, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self {
            what,
            which,
            expected: expected.into(),
            got: got.into(),
            images: Vec::new(),
            state: State::Found,
            remedy: None,
            path: None,
            seen: None,
        }
    }

    /// With the file or directory that goes when it is repaired.
    pub(super) fn at(self, path: PathBuf) -> Self {
        Self {
            seen: look(&path),
            path: Some(path),
            ..self
        }
    }

    /// Whether what has the path is the very thing that was found, unchanged.
    pub(super) fn is_unchanged(&self) -> bool {
        self.seen.is_some() && self.path.as_deref().and_then(look) == self.seen
    }

    /// With the names of the images that need it.
    pub(super) fn of(self, images: Vec<String>) -> Self {
        Self { images, ..self }
    }

    /// Whether the store is right again where this was wrong.
    pub fn is_repaired(&self) -> bool {
        match self.state {
            State::Removed | State::Remade | State::Fetched => true,
            State::Found | State::Kept => false,
        }
    }
}

fn look(path: &Path) -> Option<(u64, i64, i64)> {
    let found = path.symlink_metadata().ok()?;
    Some((found.ino(), found.ctime(), found.ctime_nsec()))
}
