//! What refers to an image is copied with it: signatures, statements, lists of packages.
//!
//! ```text
//! manifest with a subject   listed by the registry, or under the tag sha256-DIGEST of one that lists none
//! cosign's                  under the tags sha256-DIGEST.sig, .att and .sbom
//! ```
//!
//! Whoever may push to a repository may claim that anything refers to an image: what comes along is bounded in number, size and
//! depth, each digest is verified, and an entry whose manifest is about something else is left out with a warning. It is there
//! before the image gets its name, so that nobody meets the image without its signatures.

use std::collections::BTreeSet;

use super::peer::{Destination, Incoming, Keeps, Referrer, Source, Tally, Written};
use super::verified::read_verified;
use super::TransferError;
use crate::oci::{parse_artifact, Artifact, Descriptor, Digest};
use crate::progress::{Progress, Silent};

/// Referrers of one image, with those that refer to them.
const MOST: usize = 200;
/// Bytes of all of them together.
const MOST_BYTES: u64 = 1 << 30;
/// A signature of a list of packages is at 2.
const MOST_DEPTH: usize = 3;

/// Copies what refers to `image`.
///
/// # Errors
///
/// [`TransferError::Referrers`] when there is too much of it; else as [`copy_image`](super::copy_image).
pub fn copy_referrers(
    from: &dyn Source,
    image: &Digest,
    to: &dyn Destination,
    progress: &dyn Progress,
) -> Result<(), TransferError> {
    let Some(keeper) = to.keeps_referrers() else {
        return Ok(());
    };
    let mut copy = Copy {
        from,
        to,
        keeper,
        progress,
        image: *image,
        left: MOST_BYTES,
        done: BTreeSet::new(),
    };
    for referrer in find(from, image, progress)? {
        copy.artifact(&referrer.descriptor, referrer.tag.as_deref(), 0)?;
    }
    Ok(())
}

/// Everything that refers to the image, or to what refers to it.
fn find(from: &dyn Source, image: &Digest, progress: &dyn Progress) -> Result<Vec<Referrer>, TransferError> {
    let mut found = from.companions(image)?;
    let mut seen: BTreeSet<Digest> = found.iter().map(|one| one.descriptor.digest).collect();
    seen.insert(*image);
    let mut waiting = vec![(*image, 1)];
    while let Some((subject, depth)) = waiting.pop() {
        for descriptor in from.referrers(&subject)? {
            if !seen.insert(descriptor.digest) {
                continue;
            }
            if seen.len() > MOST {
                return Err(too_much(image, "there are more than 200 of them"));
            }
            let raw = read_verified(from, "artifact manifest", &descriptor)?;
            let artifact = parsed(from, &descriptor, &raw)?;
            if artifact.subject != Some(subject) {
                let digest = descriptor.digest;
                progress.warn(&format!(
                    "{digest} is listed as a referrer of {subject} and refers to something else; left out"
                ));
                continue;
            }
            if depth < MOST_DEPTH {
                waiting.push((descriptor.digest, depth + 1));
            }
            found.push(Referrer { descriptor, tag: None });
        }
    }
    Ok(found)
}

fn parsed(from: &dyn Source, descriptor: &Descriptor, raw: &[u8]) -> Result<Artifact, TransferError> {
    parse_artifact(raw).map_err(|source| TransferError::Document {
        path: from.place(&descriptor.digest),
        source,
    })
}

fn too_much(image: &Digest, reason: &'static str) -> TransferError {
    TransferError::Referrers { image: *image, reason }
}

struct Copy<'a> {
    from: &'a dyn Source,
    to: &'a dyn Destination,
    keeper: &'a dyn Keeps,
    progress: &'a dyn Progress,
    image: Digest,
    /// Bytes that may still come.
    left: u64,
    done: BTreeSet<Digest>,
}

impl Copy<'_> {
    fn artifact(&mut self, descriptor: &Descriptor, tag: Option<&str>, depth: usize) -> Result<(), TransferError> {
        if tag.is_none() && !self.done.insert(descriptor.digest) {
            return Ok(());
        }
        if depth > MOST_DEPTH {
            return Err(too_much(&self.image, "indexes are nested too deep"));
        }
        self.take(descriptor.size)?;
        let raw = read_verified(self.from, "artifact manifest", descriptor)?;
        let artifact = parsed(self.from, descriptor, &raw)?;
        self.progress
            .step("Copying", &format!("referrer {}", descriptor.digest));
        for manifest in &artifact.manifests {
            self.artifact(manifest, None, depth + 1)?;
        }
        for blob in &artifact.blobs {
            self.blob(blob)?;
        }
        self.keeper.put_artifact(&Written {
            descriptor,
            raw: &raw,
            artifact: &artifact,
            tag,
            is_part: depth > 0,
        })
    }

    fn take(&mut self, size: u64) -> Result<(), TransferError> {
        let left = self.left.checked_sub(size);
        self.left = left.ok_or_else(|| too_much(&self.image, "they are over 1 GiB together"))?;
        Ok(())
    }

    fn blob(&mut self, blob: &Descriptor) -> Result<(), TransferError> {
        if !self.done.insert(blob.digest) {
            return Ok(());
        }
        self.take(blob.size)?;
        if self.to.has(blob)? {
            return self.from.prove(blob);
        }
        // They are small beside the layers, which is what is counted.
        let tally = Tally::new(&Silent, 0);
        loop {
            let mut incoming = Incoming::new(blob, self.from, &tally);
            match self.to.put(blob, &mut incoming) {
                Err(error) if self.to.starts_over() && self.from.gives_again(blob, &error) => {}
                other => return other,
            }
        }
    }
}
