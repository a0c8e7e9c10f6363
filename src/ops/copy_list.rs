//! A list of images is copied: those that are there already are skipped, the failure of one stops no other, and what was not
//! done is done by the same command again.
//!
//! A registry that was away for several images in a row is not asked for the others: each would cost all the patience that one
//! image is worth.

use std::time::Instant;

use serde::Serialize;

use super::copies::{copy, Transport};
use super::image_list::ListedCopy;
use super::images::ImagesError;
use super::outages::{untried, Outages};
use super::steps_only::StepsOnly;
use crate::oci::{Digest, Place, Reference};
use crate::policy::{one_line, Kind};
use crate::store::StoreError;
use crate::sys::pool;
use crate::transfer::{copy_referrers, resolve_image, Asked, Attempt, Companions, Failover, Remote, RemoteTarget};

/// Images that are copied at once. Each has its own layers under way.
const AT_ONCE: usize = 4;

/// What came of one image of a list.
#[derive(Debug, Serialize)]
pub struct CopiedOfList {
    /// Where it comes from.
    pub source: String,
    /// Where it goes.
    pub destination: String,
    /// `copied`, `equal` when it was there already, or `failed`.
    pub status: &'static str,
    /// The image, when it is there now.
    pub digest: Option<Digest>,
    /// Why it is not.
    pub error: Option<String>,
    /// Whether another try may help.
    pub is_retryable: bool,
    /// The registries that were asked, and how that went.
    pub attempts: Vec<Attempt>,
    /// How long it took.
    pub seconds: f64,
    /// What sort of failure it was.
    #[serde(skip)]
    pub kind: Option<Kind>,
    /// The failure itself, when it was tried.
    #[serde(skip)]
    pub failure: Option<ImagesError>,
}

/// Copies every image of a list, several at once, and tells `done` of each.
///
/// # Errors
/// [`StoreError`] when this process is about to end.
pub fn copy_list(
    transport: &Transport<'_>,
    list: &[ListedCopy],
    done: &(dyn Fn(&CopiedOfList) + Sync),
) -> Result<Vec<CopiedOfList>, StoreError> {
    let (steps, outages) = (StepsOnly(transport.progress), Outages::default());
    pool::each(AT_ONCE, list, |one, _| {
        transport.store.check_not_ending()?;
        let mut own = Transport::new(transport.store, transport.registries, &steps);
        own.companions = transport.companions;
        let copied = match outages.find([&one.source, &one.destination]) {
            Some(host) => CopiedOfList::untried(one, &host),
            None => copy_one(&own, one),
        };
        if copied.kind.is_some() {
            transport.store.check_not_ending()?;
        }
        outages.note(&copied.attempts);
        done(&copied);
        Ok(copied)
    })
}

fn copy_one(transport: &Transport<'_>, one: &ListedCopy) -> CopiedOfList {
    let began = Instant::now();
    let compared = Asked::default();
    let (result, asked) = match find_equal(transport, one, &compared) {
        Ok(Some(digest)) => (Ok(("equal", digest)), &compared),
        // The copy would wait for it once more.
        Err(error) if error.kind().is_away() => (Err(error), &compared),
        // Whatever else keeps us from comparing is met again by the copy, which says it better.
        Ok(None) | Err(_) => {
            let copied = copy(transport, &one.source, &one.destination).map(|copied| ("copied", copied.digest));
            (copied, &transport.asked)
        }
    };
    let kind = result.as_ref().err().map(ImagesError::kind);
    CopiedOfList {
        source: one.source.to_string(),
        destination: one.destination.to_string(),
        status: result.as_ref().map_or("failed", |(status, _)| status),
        digest: result.as_ref().ok().map(|(_, digest)| *digest),
        error: result.as_ref().err().map(|error| one_line(error)),
        is_retryable: kind.is_some_and(Kind::is_away),
        attempts: asked.attempts(),
        seconds: began.elapsed().as_secs_f64(),
        kind,
        failure: result.err(),
    }
}

impl CopiedOfList {
    /// An image of a registry that was away for those before it.
    fn untried(one: &ListedCopy, host: &str) -> Self {
        Self {
            source: one.source.to_string(),
            destination: one.destination.to_string(),
            status: "failed",
            digest: None,
            error: Some(untried(host)),
            is_retryable: true,
            attempts: Vec::new(),
            seconds: 0.0,
            kind: Some(Kind::Unavailable),
            failure: None,
        }
    }
}

/// The image, when source and destination say that it is there already: two questions for a digest, and no bytes. What refers to
/// it may have come later, such as a signature: it is copied where that is wanted. Who is asked is noted in `asked`.
fn find_equal(transport: &Transport<'_>, one: &ListedCopy, asked: &Asked) -> Result<Option<Digest>, ImagesError> {
    let Place::Image(destination @ Reference::Registry { .. }) = &one.destination else {
        return Ok(None);
    };
    let Transport { store, registries, .. } = *transport;
    let target = RemoteTarget::new(store, registries, destination, transport.progress)?.told_to(asked);
    let is_there = |wanted: Digest| Ok::<_, ImagesError>(target.find()?.filter(|there| *there == wanted));
    match &one.source {
        Place::Image(source @ Reference::Registry { .. }) => {
            let alone = registries.clone().with_failover(Failover::Forbidden);
            let remote = Remote::new(store, &alone, source, transport.progress)?.told_to(asked);
            let equal = is_there(resolve_image(&remote, &remote.find()?)?)?;
            if let Some(image) = equal.filter(|_| transport.companions == Companions::Along) {
                copy_referrers(&remote, &image, &target, transport.progress)?;
            }
            Ok(equal)
        }
        Place::Image(source @ (Reference::Local { .. } | Reference::Digest { .. })) => {
            store.names().find(source)?.map_or(Ok(None), is_there)
        }
        Place::Image(Reference::Layout { .. }) | Place::Archive { .. } => Ok(None),
    }
}
