//! The list of what refers to an image, in a registry that keeps none: an index under the tag `sha256-DIGEST`, which whoever
//! pushes a referrer has to maintain (distribution specification, "Referrers Tag Schema").
//!
//! A registry knows no compare and swap. The list is read, written and read again: what another one wrote meanwhile is put back,
//! and what is written over ours is written once more.

use super::peer::Written;
use super::TransferError;
use crate::oci::{fallback_tag, listed, media_type, with_referrers, Digest};
use crate::registry::{Contents, Pushes, RegistryError, Repository};

/// Times that the list is written. Each time another one was faster.
const MOST_TRIES: usize = 8;

/// A request whose answer is a document, or nothing.
type Work<'a> = dyn FnMut() -> Result<Option<Vec<u8>>, RegistryError> + 'a;

/// Makes a request, and tries again.
type Ask<'a> = dyn FnMut(&mut Work<'_>) -> Result<Option<Vec<u8>>, TransferError> + 'a;

/// Lists a referrer of `subject` under the fallback tag.
pub(super) fn list_referrer(
    repository: &Repository,
    subject: &Digest,
    written: &Written<'_>,
    ask: &mut Ask<'_>,
) -> Result<(), TransferError> {
    let tag = fallback_tag(subject);
    let mut known = vec![listed(written.descriptor, written.artifact)];
    for _ in 0..MOST_TRIES {
        let there = ask(&mut || {
            let contents = Contents::of(repository);
            // By the tag and not by what a cache said that it means.
            contents.find_document(&tag)
        })?;
        let next = with_referrers(there.as_deref(), &mut known).map_err(|source| TransferError::Document {
            path: format!("{}:{tag}", repository.shown()).into(),
            source,
        })?;
        let Some(next) = next else {
            return Ok(());
        };
        ask(&mut || {
            let pushed = Pushes::to(repository).put_manifest(&tag, media_type::INDEX, &next);
            pushed.map(|()| None)
        })?;
    }
    Err(TransferError::Contended {
        image: *subject,
        place: repository.shown(),
    })
}
