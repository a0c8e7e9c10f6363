//! What a repository is expected to have: the blobs of the image that was pushed there last.
//!
//! ```text
//! registries/_pushed/<three digits>.json    {"schema":1,"repository":"a.example/team/f","manifest":"sha256:...",
//!                                            "blobs":["sha256:...", ...],"asked":1796000000}
//! ```
//!
//! The digits are the first of the hash of the repository's name, so there are 4096 notes at most; where two repositories
//! meet, the one that was pushed to later has the note. A note is a hint: one that is missing or damaged says nothing.
//!
//! A registry keeps the blobs of a manifest for as long as it has that manifest. So one question, whether the manifest is
//! still there, answers for all of its blobs, which are most of those of the next version of a function. And a small blob
//! that the last image did not have is new: it is sent without being asked for, which would take as long. Should a registry
//! have lost a blob and kept the manifest, it refuses the new manifest, and everything is asked for blob by blob.
//!
//! Some registry may take a manifest and not look for its blobs. There a lost blob is found when each is asked for: by the
//! first push of any version when that was last done an hour ago (`asked`, in seconds since 1970, which a push that took the
//! manifest's word leaves as it is), and by each push of the very image that was pushed last.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::note::{now, path_of, read_note, write_note};
use super::peer::Documents;
use crate::oci::{Descriptor, Digest};
use crate::store::Store;

/// Sent sooner than asked for: about what a question and its answer have in headers, some times over.
pub(super) const SMALL: u64 = 64 << 10;
/// Seconds for which the manifest answers for blobs. A function in the making is pushed some times an hour, and an image whose
/// blob was lost shall not be missing it for long.
const LONGEST: u64 = 3600;
/// A note stays a small file.
const MOST_BLOBS: usize = 500;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    schema: u32,
    /// Host and name.
    repository: String,
    manifest: Digest,
    blobs: BTreeSet<Digest>,
    /// When the registry was last asked for each blob, or sent it.
    asked: u64,
}

impl Note {
    /// Whether it says what to expect of another image now. A clock that was set back does not make it last longer.
    fn counts(&self, repository: &str, image: &Digest, now: u64) -> bool {
        let is_young = self.asked <= now && now - self.asked < LONGEST;
        self.schema == 1 && self.repository == repository && self.manifest != *image && is_young
    }
}

/// What is expected of the blobs of one image in one repository. The default expects nothing.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The manifest that answers for the known ones.
    manifest: Option<Digest>,
    asked: u64,
    known: BTreeSet<Digest>,
    fresh: BTreeSet<Digest>,
    is_there: OnceLock<bool>,
    is_believed: AtomicBool,
}

impl Expected {
    /// Of the blobs of `image` in `repository`, which is host and name.
    pub(super) fn of(store: &Store, repository: &str, image: &Documents) -> Self {
        let note: Option<Note> = read_note(&path(store, repository)).ok().flatten();
        let Some(note) = note.filter(|note| note.counts(repository, &image.descriptor.digest, now())) else {
            return Self::default();
        };
        let (known, fresh): (Vec<&Descriptor>, _) = blobs(image).partition(|blob| note.blobs.contains(&blob.digest));
        Self {
            manifest: Some(note.manifest),
            asked: note.asked,
            known: known.iter().map(|blob| blob.digest).collect(),
            fresh: fresh
                .iter()
                .filter(|blob| blob.size <= SMALL)
                .map(|blob| blob.digest)
                .collect(),
            ..Self::default()
        }
    }

    /// Whether a blob was there with the last image.
    pub(super) fn knows(&self, blob: &Digest) -> bool {
        self.known.contains(blob)
    }

    /// Whether a blob is there, as far as that is known without asking for it; `has_manifest` asks for a manifest, and is
    /// called once.
    pub(super) fn says(&self, blob: &Digest, has_manifest: impl FnOnce(&Digest) -> bool) -> Option<bool> {
        if self.fresh.contains(blob) {
            return Some(false);
        }
        let manifest = self.manifest.as_ref().filter(|_| self.knows(blob))?;
        let is_there = *self.is_there.get_or_init(|| has_manifest(manifest));
        if is_there {
            self.is_believed.store(true, Ordering::Relaxed);
        }
        is_there.then_some(true)
    }

    /// Whether a blob counted as there that was not asked for.
    pub(super) fn is_believed(&self) -> bool {
        self.is_believed.load(Ordering::Relaxed)
    }
}

/// Notes that `repository` has the manifest of `image`, and so everything that it names, by what was `expected` of it.
pub(super) fn note_pushed(store: &Store, repository: &str, image: &Documents, expected: &Expected) {
    let blobs: BTreeSet<Digest> = blobs(image).map(|blob| blob.digest).collect();
    if blobs.len() > MOST_BLOBS {
        return;
    }
    let note = Note {
        schema: 1,
        repository: repository.to_owned(),
        manifest: image.descriptor.digest,
        blobs,
        asked: if expected.is_believed() { expected.asked } else { now() },
    };
    let path = path(store, repository);
    if read_note(&path).ok().flatten().as_ref() != Some(&note) {
        // Without it the next push asks for each blob.
        let _ = write_note(store, &path, &note);
    }
}

fn blobs(image: &Documents) -> impl Iterator<Item = &Descriptor> {
    std::iter::once(&image.manifest.config).chain(&image.manifest.layers)
}

fn path(store: &Store, repository: &str) -> PathBuf {
    let hex = Digest::of(repository.as_bytes()).hex();
    let slot: String = hex.chars().take(3).collect();
    path_of(store, "_pushed").join(format!("{slot}.json"))
}
