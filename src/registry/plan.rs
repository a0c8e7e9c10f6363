//! What is deleted when some tags or digests of a repository are to go: decided before anything is.
//!
//! A digest that was named goes with all its tags or not at all. What an index lists goes with it when nothing that stays needs it,
//! and what an index that stays lists does not go. What belongs to an image by a tag, as cosign names it, or by the list of its
//! referrers goes with it, unless it is an image itself, has another tag, or refers to something else: whoever may push a tag or a list
//! says there what he likes. It then stays, and that is said.
//!
//! What belongs to an image goes before it, so that the same command finds the rest when it was interrupted; an index goes before
//! what it lists.

use std::collections::{BTreeMap, BTreeSet};

use super::management::Holding;
use crate::oci::{companion_tags, fallback_tag, media_type, parse_artifact, Digest, ParseImageError};

/// What is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwanted {
    /// What a tag means.
    Tag(String),
    /// A manifest.
    Digest(Digest),
    /// What a tag means, as long as that is this manifest.
    Both(String, Digest),
}

/// Why something stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeptBecause {
    /// It is not there: a digest, or `tag 1`.
    #[error("there is no {0}")]
    Unknown(String),
    /// The tag means another manifest than was named with it.
    #[error("{tag} means {now}, and not {named}")]
    Moved {
        /// The tag.
        tag: String,
        /// What was named with it.
        named: Digest,
        /// What it means.
        now: Digest,
    },
    /// Its digest has a tag that is not to go.
    #[error("{digest} is also {}, which would go with it", .tags.join(", "))]
    Shared {
        /// The manifest.
        digest: Digest,
        /// Its other tags.
        tags: Vec<String>,
    },
    /// There are more manifests than are looked at.
    #[error("the repository has {0} manifests, more than can be looked at")]
    TooMany(usize),
    /// An index that stays lists it.
    #[error("{digest} is a part of the index {index}, which stays")]
    Listed {
        /// The manifest.
        digest: Digest,
        /// The index.
        index: Digest,
    },
    /// A tag or a list says that it belongs to what goes, and it does not look so.
    #[error("{digest} is said to belong to {of}, but it is an image itself or refers to something else")]
    Foreign {
        /// The manifest.
        digest: Digest,
        /// To what it is said to belong.
        of: Digest,
    },
}

/// What sort of manifest one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// It lists others.
    Index,
    /// It can be run, or nobody knows.
    Image,
    /// Anything else: a signature, a statement.
    Artifact,
}

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// What it is.
    pub sort: Sort,
    /// What it refers to.
    pub subject: Option<Digest>,
    /// What it lists.
    pub parts: Vec<Digest>,
}

impl Known {
    /// Reads a manifest that is of the type `name`, as the registry says.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub(crate) fn read(name: &str, raw: &[u8]) -> Result<Self, ParseImageError> {
        let artifact = parse_artifact(raw)?;
        let sort = match artifact.blobs.split_first() {
            None if media_type::is_index(name) || !artifact.manifests.is_empty() => Sort::Index,
            None => Sort::Image,
            // Signatures, too, may say to have the configuration of an image.
            Some((config, layers)) => {
                let has_config = matches!(
                    config.media_type.as_str(),
                    media_type::CONFIG | media_type::DOCKER_CONFIG
                );
                match has_config && (layers.is_empty() || layers.iter().any(|layer| is_layer(&layer.media_type))) {
                    true => Sort::Image,
                    false => Sort::Artifact,
                }
            }
        };
        Ok(Self {
            sort,
            subject: artifact.subject,
            parts: artifact.manifests.iter().map(|part| part.digest).collect(),
        })
    }

    /// One that nobody can read: it may be anything, so an image.
    pub(crate) fn unreadable() -> Self {
        Self {
            sort: Sort::Image,
            subject: None,
            parts: Vec::new(),
        }
    }
}

/// Whether a media type is that of a part of a file system, of whatever sort.
fn is_layer(name: &str) -> bool {
    name.starts_with("application/vnd.oci.image.layer.") || name.starts_with("application/vnd.docker.image.rootfs.")
}

/// What goes and what does not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What goes, in this order.
    pub going: Vec<Digest>,
    /// What was not named, is said to belong to what goes, and stays.
    pub left: Vec<KeptBecause>,
    /// What has to be read before anything can be said: then nothing goes.
    pub unread: Vec<Digest>,
}

/// Plans what goes. `read` has what was read: all indexes that are known, and nothing for a digest that is not there.
///
/// # Errors
///
/// [`KeptBecause`] for the first that was named and cannot go alone; nothing is deleted then.
pub(crate) fn plan_removal(
    there: &[Holding],
    read: &BTreeMap<Digest, Option<Known>>,
    unwanted: &[Unwanted],
) -> Result<Plan, KeptBecause> {
    let mut planner = Planner::new(there, read);
    for one in unwanted {
        planner.name(one)?;
    }
    planner.refuse_shared()?;
    loop {
        let before = planner.going.len();
        planner.left.clear();
        let mut at = 0;
        while let Some(one) = planner.going.get(at).cloned() {
            planner.add_companions(&one.digest);
            planner.add_referrers(&one.digest);
            if !one.is_dependent {
                planner.add_parts(&one.digest);
            }
            at += 1;
        }
        if planner.going.len() == before {
            break;
        }
    }
    if !planner.unread.is_empty() {
        return Ok(Plan {
            unread: planner.unread.into_iter().collect(),
            ..Plan::default()
        });
    }
    if let Some(kept) = planner.goes.iter().find_map(|digest| planner.listed(digest)) {
        return Err(kept);
    }
    Ok(Plan {
        going: planner.in_order(),
        left: planner.left.into_values().collect(),
        unread: Vec::new(),
    })
}

/// Something that goes.
#[derive(Debug, Clone)]
struct Going {
    digest: Digest,
    /// It goes because it belongs to another one, as a tag or a list says.
    is_dependent: bool,
}

struct Planner<'a> {
    by_tag: BTreeMap<&'a str, Digest>,
    by_digest: BTreeMap<Digest, &'a Holding>,
    read: &'a BTreeMap<Digest, Option<Known>>,
    /// The indexes that list a manifest.
    lists: BTreeMap<Digest, Vec<Digest>>,
    going: Vec<Going>,
    goes: BTreeSet<Digest>,
    /// The tags that may go: those that were named, and those that belong to what goes.
    tags: BTreeSet<String>,
    left: BTreeMap<Digest, KeptBecause>,
    unread: BTreeSet<Digest>,
}

impl<'a> Planner<'a> {
    fn new(there: &'a [Holding], read: &'a BTreeMap<Digest, Option<Known>>) -> Self {
        let mut lists = BTreeMap::<Digest, Vec<Digest>>::new();
        for (index, known) in read {
            for part in known.iter().flat_map(|known| &known.parts) {
                lists.entry(*part).or_default().push(*index);
            }
        }
        let tags = |holding: &'a Holding| holding.tags.iter().map(|tag| (tag.as_str(), holding.digest));
        Self {
            by_tag: there.iter().flat_map(tags).collect(),
            by_digest: there.iter().map(|holding| (holding.digest, holding)).collect(),
            read,
            lists,
            going: Vec::new(),
            goes: BTreeSet::new(),
            tags: BTreeSet::new(),
            left: BTreeMap::new(),
            unread: BTreeSet::new(),
        }
    }

    /// Adds what was named.
    fn name(&mut self, one: &Unwanted) -> Result<(), KeptBecause> {
        let digest = match one {
            Unwanted::Tag(tag) | Unwanted::Both(tag, _) => {
                let found = self.by_tag.get(tag.as_str()).copied();
                let now = found.ok_or_else(|| KeptBecause::Unknown(format!("tag {tag}")))?;
                self.tags.insert(tag.clone());
                now
            }
            Unwanted::Digest(digest) => *digest,
        };
        match one {
            Unwanted::Both(tag, named) if *named != digest => {
                return Err(KeptBecause::Moved {
                    tag: tag.clone(),
                    named: *named,
                    now: digest,
                });
            }
            _ => {}
        }
        if !self.by_digest.contains_key(&digest) {
            match self.read.get(&digest) {
                None => {
                    self.unread.insert(digest);
                }
                Some(None) => return Err(KeptBecause::Unknown(digest.to_string())),
                Some(Some(_)) => {}
            }
        }
        self.add(digest, false);
        Ok(())
    }

    fn add(&mut self, digest: Digest, is_dependent: bool) {
        if self.goes.insert(digest) {
            self.going.push(Going { digest, is_dependent });
            self.tags.extend(companion_tags(&digest));
            self.tags.insert(fallback_tag(&digest));
        }
    }

    fn tags_of(&self, digest: &Digest) -> &'a [String] {
        let holding = self.by_digest.get(digest);
        holding.map(|holding| holding.tags.as_slice()).unwrap_or_default()
    }

    /// The tags of a digest that may not go.
    fn foreign_tags(&self, digest: &Digest) -> Option<KeptBecause> {
        let tags = self.tags_of(digest).iter().filter(|tag| !self.tags.contains(*tag));
        let tags: Vec<String> = tags.cloned().collect();
        (!tags.is_empty()).then_some(KeptBecause::Shared { digest: *digest, tags })
    }

    /// Refuses what was named when it has tags that were not.
    fn refuse_shared(&self) -> Result<(), KeptBecause> {
        let shared = self.going.iter().find_map(|one| self.foreign_tags(&one.digest));
        shared.map_or(Ok(()), Err)
    }

    /// The index that stays and lists a digest.
    fn listed(&self, digest: &Digest) -> Option<KeptBecause> {
        let mut lists = self.lists.get(digest).into_iter().flatten();
        let index = lists.find(|index| !self.goes.contains(index))?;
        Some(KeptBecause::Listed {
            digest: *digest,
            index: *index,
        })
    }

    /// Adds what is said to belong to `of`, when it looks as such a thing does.
    fn consider(&mut self, digest: Digest, of: &Digest, fits: &dyn Fn(&Known) -> bool) {
        if self.goes.contains(&digest) {
            return;
        }
        let known = match self.read.get(&digest) {
            None => {
                self.unread.insert(digest);
                return;
            }
            Some(None) => return,
            Some(Some(known)) => known,
        };
        let foreign = (!fits(known)).then_some(KeptBecause::Foreign { digest, of: *of });
        let stays = foreign.or_else(|| self.foreign_tags(&digest));
        match stays.or_else(|| self.listed(&digest)) {
            Some(reason) => {
                self.left.insert(digest, reason);
            }
            None => self.add(digest, true),
        }
    }

    /// Adds what belongs to `of` by its tag.
    fn add_companions(&mut self, of: &Digest) {
        for tag in companion_tags(of) {
            if let Some(companion) = self.by_tag.get(tag.as_str()).copied() {
                self.consider(companion, of, &|known| known.sort == Sort::Artifact);
            }
        }
    }

    /// Adds the list of what refers to `of`, and of what it lists what does refer to it.
    fn add_referrers(&mut self, of: &Digest) {
        let Some(list) = self.by_tag.get(fallback_tag(of).as_str()).copied() else {
            return;
        };
        self.consider(list, of, &|known| known.sort == Sort::Index);
        if !self.goes.contains(&list) || list == *of {
            return;
        }
        let entries = self.known(&list).map(|list| list.parts.clone());
        for entry in entries.unwrap_or_default() {
            let refers = |known: &Known| known.sort != Sort::Image && known.subject == Some(*of);
            self.consider(entry, of, &refers);
        }
    }

    /// Adds what an index lists and nothing that stays needs. What a list of referrers has is not what it is made of.
    fn add_parts(&mut self, index: &Digest) {
        if self.tags_of(index).iter().any(|tag| is_list_tag(tag)) {
            return;
        }
        for part in self.known(index).map(|index| index.parts.clone()).unwrap_or_default() {
            if self.goes.contains(&part) || !self.tags_of(&part).is_empty() || self.listed(&part).is_some() {
                continue;
            }
            match self.read.get(&part) {
                // Whether it is there, and what it lists itself.
                None if !self.by_digest.contains_key(&part) => {
                    self.unread.insert(part);
                }
                Some(None) => {}
                None | Some(Some(_)) => self.add(part, false),
            }
        }
    }

    fn known(&self, digest: &Digest) -> Option<&'a Known> {
        self.read.get(digest)?.as_ref()
    }

    /// What belongs to others first, the last that was found first; then the rest, an index before what it lists.
    fn in_order(&self) -> Vec<Digest> {
        let is_part = |digest: &Digest| {
            let of = self.lists.get(digest).into_iter().flatten();
            of.into_iter().any(|index| {
                let is_rest = |one: &Going| one.digest == *index && !one.is_dependent;
                self.going.iter().any(is_rest)
            })
        };
        let (first, rest): (Vec<&Going>, Vec<&Going>) = self
            .going
            .iter()
            .partition(|one| one.is_dependent && !is_part(&one.digest));
        let mut order: Vec<Digest> = first.iter().rev().map(|one| one.digest).collect();
        let mut rest: Vec<Digest> = rest.iter().map(|one| one.digest).collect();
        while !rest.is_empty() {
            let is_free = |digest: &Digest| {
                let mut lists = self.lists.get(digest).into_iter().flatten();
                !lists.any(|index| rest.contains(index))
            };
            // There is always one: no digest can be in what it is the digest of.
            let next = rest.iter().position(is_free).unwrap_or_default();
            order.push(rest.remove(next));
        }
        order
    }
}

/// Whether a tag is that of a list of referrers.
fn is_list_tag(tag: &str) -> bool {
    let hex = tag.strip_prefix("sha256-").unwrap_or_default();
    format!("sha256:{hex}").parse::<Digest>().is_ok()
}

#[cfg(test)]
mod tests;
