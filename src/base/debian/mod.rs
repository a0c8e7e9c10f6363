//! A Debian archive: where this machine gets it from, whom it trusts to sign it, and what its signed index lists.

mod list;
mod mirror;
mod offer;
mod pinned;
mod relation;
mod release;
mod signature;
mod version;

pub(crate) use list::{find_newest, read_paragraphs};
pub(crate) use mirror::{find_mirrors, Configured, Mirror, MirrorError, Mirrors};
pub(crate) use offer::{Candidate, Offer};
pub(crate) use pinned::{parse_locked, Archive, LockedDeb};
pub(crate) use relation::{is_package_name, read_relations, Relation};
pub(crate) use release::Release;
pub(crate) use signature::{signed_text, SignatureError};
pub(crate) use version::compare;
