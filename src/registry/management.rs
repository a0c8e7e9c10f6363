//! What a repository holds and how something of it is deleted, at registries that say so in different ways.
//!
//! ```text
//! distribution   tags by /v2/NAME/tags/list, DELETE of a manifest by its digest
//! scaleway       an API that deletes tags; a digest that several tags share goes by the protocol
//! github         an API of versions: a version is a manifest, and its tags go with it
//! ```
//!
//! A digest is deleted, never a tag of it alone, so whoever asks has to know all tags of it: that is what [`Management::list`]
//! is for, and [`plan_removal`](super::plan_removal) decides by it. An API gets the
//! password of the registry, and no other server does.

use std::collections::BTreeMap;

use super::RegistryError;
use crate::oci::Digest;

/// A manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Its digest.
    pub digest: Digest,
    /// All its tags, sorted.
    pub tags: Vec<String>,
    /// Whether it is an index, where that was said.
    pub is_index: Option<bool>,
    /// What an API calls it: a version, or each of its tags.
    pub ids: Vec<String>,
}

/// What a registry lists: a manifest, or a tag of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// The manifest, where that was said.
    pub digest: Option<Digest>,
    /// Its tags; of an entry without a digest the one tag.
    pub tags: Vec<String>,
    /// What an API calls it.
    pub id: Option<String>,
}

/// A repository whose manifests are listed and deleted.
pub(crate) trait Management: Send + Sync {
    /// Its manifests: all that have a tag, and those without one where the registry knows them.
    ///
    /// # Errors
    ///
    /// When the list is not complete: what is not known would be deleted with what is.
    fn list(&self) -> Result<Vec<Entry>, RegistryError>;

    /// Deletes a manifest with all its tags. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// When the registry does not do it.
    fn delete(&self, holding: &Holding) -> Result<(), RegistryError>;
}

impl Holding {
    /// A manifest without a tag, of which an API knows nothing.
    pub(crate) fn untagged(digest: Digest) -> Self {
        Self {
            digest,
            tags: Vec::new(),
            is_index: None,
            ids: Vec::new(),
        }
    }
}

/// The manifests of all entries, each with what it is and whether that is an index, where that is known.
pub(crate) fn gather(all: impl IntoIterator<Item = (Digest, Option<bool>, Entry)>) -> Vec<Holding> {
    let mut found = BTreeMap::<Digest, Holding>::new();
    for (digest, is_index, entry) in all {
        let holding = found.entry(digest).or_insert_with(|| Holding::untagged(digest));
        holding.is_index = holding.is_index.or(is_index);
        holding.tags.extend(entry.tags);
        holding.ids.extend(entry.id);
    }
    let mut found: Vec<Holding> = found.into_values().collect();
    for holding in &mut found {
        holding.tags.sort();
        holding.tags.dedup();
    }
    found
}

/// Times that a list is read whose pages go by number.
const MOST_READINGS: usize = 6;

/// Reads a list until two readings agree: what is added or deleted while pages are read by number shifts the rest, and a page
/// may pass over what is there. None when it does not stand still.
pub(super) fn agreed(
    read: &mut dyn FnMut() -> Result<Vec<Entry>, RegistryError>,
) -> Result<Option<Vec<Entry>>, RegistryError> {
    let mut read = || {
        read().map(|mut all| {
            all.sort();
            all
        })
    };
    let mut before = read()?;
    for _ in 1..MOST_READINGS {
        let now = read()?;
        // One entry twice is a sign of the same.
        let is_clean = now.windows(2).all(|pair| pair.first() != pair.last());
        if now == before && is_clean {
            return Ok(Some(now));
        }
        before = now;
    }
    Ok(None)
}
