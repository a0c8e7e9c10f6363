//! What refers to an image is copied with it: signatures, statements, lists of packages.
//!
//! ```text
//! manifest with a subject   listed by the registry, or under the tag sha256-DIGEST of one that lists none
//! cosign's                  under the tags sha256-DIGEST.sig, .att and .sbom
//! ```
//!
//! Whoever may push to a repository may claim that anything refers to an image: what comes along is bounded in number (with all
//! manifests and blobs that it names), size and depth, and each digest is verified. One that is listed and is not there, is not
//! what it is called or is about something else is left out with a warning: it must not keep the image from being copied. What
//! comes is there before the image gets its name, so that nobody meets the image without its signatures. Where another registry
//! answers for the one that was named, it may know less: that is a warning too.

use std::collections::BTreeSet;

use super::error::TOO_MANY_REFERRERS;
use super::peer::{Destination, Incoming, Keeps, Kept, Referrer, Source, StandIn, Tally, Written};
use super::verified::read_verified;
use super::TransferError;
use crate::oci::{media_type, parse_artifact, Artifact, Descriptor, Digest, MAX_REFERRERS};
use crate::policy::one_line;
use crate::progress::{Progress, Silent};
use crate::registry::{Failure, RegistryError};
use crate::store::StoreError;

/// Manifests and blobs of all of them together: five of each.
const MOST_PARTS: usize = 5 * MAX_REFERRERS;
/// Bytes of all of them together.
const MOST_BYTES: u64 = 1 << 30;
/// A signature of a list of packages is at 2.
const MOST_DEPTH: usize = 3;

/// Copies what refers to `image`.
///
/// # Errors
///
/// [`TransferError::Referrers`] when there is too much of it; [`TransferError::Companions`] when a place cannot be asked or
/// does not take it.
pub fn copy_referrers(
    from: &dyn Source,
    image: &Digest,
    to: &dyn Destination,
    progress: &dyn Progress,
) -> Result<(), TransferError> {
    let Some(keeper) = to.keeps_referrers() else {
        return Ok(());
    };
    let copy = Copy {
        from,
        to,
        keeper,
        progress,
        image: *image,
        left: MOST_BYTES,
        counted: BTreeSet::new(),
        done: BTreeSet::new(),
    };
    copy.all().map_err(|error| match error {
        TransferError::Referrers { .. } => error,
        source => TransferError::Companions {
            image: *image,
            source: Box::new(source),
        },
    })
}

/// Says that what refers to `index` stays where it is, as of its images only `image` is copied.
pub(super) fn warn_of_index(from: &dyn Source, index: &Digest, image: &Digest, progress: &dyn Progress) {
    // Nothing of it is copied, so what cannot be known is no error.
    let referrers = from.referrers(index).map_or(0, |found| found.len());
    let companions = from.companions(index).map_or(0, |found| found.len());
    if referrers + companions > 0 {
        progress.warn(&format!(
            "what refers to the index {index} is not copied ({} found): of its images only {image} is",
            referrers + companions
        ));
    }
}

/// Why one of them is not copied.
enum Trouble {
    /// It is at fault itself: the others are copied.
    LeftOut(String),
    /// One of the places is.
    Failed(TransferError),
}

impl From<TransferError> for Trouble {
    fn from(error: TransferError) -> Self {
        Self::Failed(error)
    }
}

impl Trouble {
    /// What it means that the source does not give what is listed there.
    fn of_source(error: TransferError) -> Self {
        let is_at_fault = |one: &RegistryError| {
            matches!(
                one.failure(),
                Failure::NotFound | Failure::WrongBytes | Failure::TooLarge
            )
        };
        let is_left_out = match &error {
            TransferError::Document { .. } | TransferError::NotAFile { .. } => true,
            TransferError::Store(StoreError::Digest { .. } | StoreError::Size { .. } | StoreError::NoBlob { .. }) => {
                true
            }
            TransferError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            TransferError::Registry { failures, .. } => !failures.is_empty() && failures.iter().all(is_at_fault),
            _ => false,
        };
        match is_left_out {
            true => Self::LeftOut(one_line(&error)),
            false => Self::Failed(error),
        }
    }
}

struct Copy<'a> {
    from: &'a dyn Source,
    to: &'a dyn Destination,
    keeper: &'a dyn Keeps,
    progress: &'a dyn Progress,
    image: Digest,
    /// Bytes that may still come.
    left: u64,
    /// What was taken into account, as it was described.
    counted: BTreeSet<(Digest, u64)>,
    /// What is at the destination.
    done: BTreeSet<Digest>,
}

impl Copy<'_> {
    fn all(mut self) -> Result<(), TransferError> {
        let found = self.find()?;
        if let Some(StandIn { named, asked }) = self.from.stand_in() {
            self.progress.warn(&format!(
                "{asked} was asked what refers to {} ({} found), and not {named}: signatures that only {named} has are not copied",
                self.image,
                found.len()
            ));
        }
        for Referrer { descriptor, tag } in found {
            match self.artifact(&descriptor, tag.as_deref(), 0) {
                Ok(()) => {}
                Err(Trouble::LeftOut(reason)) => self.leave_out(&descriptor.digest, &self.image, &reason),
                Err(Trouble::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Everything that refers to the image, or to what refers to it.
    fn find(&mut self) -> Result<Vec<Referrer>, TransferError> {
        let mut found = self.from.companions(&self.image)?;
        let mut seen: BTreeSet<Digest> = found.iter().map(|one| one.descriptor.digest).collect();
        seen.insert(self.image);
        let mut waiting = vec![(self.image, 1)];
        while let Some((subject, depth)) = waiting.pop() {
            for descriptor in self.from.referrers(&subject)? {
                if !seen.insert(descriptor.digest) {
                    continue;
                }
                if seen.len() > MAX_REFERRERS {
                    return Err(self.too_much(TOO_MANY_REFERRERS));
                }
                match self.read(&descriptor) {
                    Ok((_, _, artifact)) if artifact.subject == Some(subject) => {}
                    Ok(_) => {
                        self.leave_out(&descriptor.digest, &subject, "it refers to something else");
                        continue;
                    }
                    Err(Trouble::LeftOut(reason)) => {
                        self.leave_out(&descriptor.digest, &subject, &reason);
                        continue;
                    }
                    Err(Trouble::Failed(error)) => return Err(error),
                }
                if depth < MOST_DEPTH {
                    waiting.push((descriptor.digest, depth + 1));
                }
                found.push(Referrer { descriptor, tag: None });
            }
        }
        Ok(found)
    }

    fn leave_out(&self, digest: &Digest, subject: &Digest, reason: &str) {
        self.progress.warn(&format!(
            "{digest}, listed as a referrer of {subject}, is left out: {reason}"
        ));
    }

    /// The manifest of an artifact, called what it is called by itself, and what it says.
    fn read(&mut self, listed: &Descriptor) -> Result<(Descriptor, Vec<u8>, Artifact), Trouble> {
        check_type(&listed.media_type)?;
        self.take(listed)?;
        let raw = read_verified(self.from, "artifact manifest", listed).map_err(Trouble::of_source)?;
        let artifact = parse_artifact(&raw).map_err(|error| Trouble::LeftOut(one_line(&error)))?;
        let mut descriptor = listed.clone();
        if let Some(name) = &artifact.media_type {
            check_type(name)?;
            descriptor.media_type.clone_from(name);
        }
        Ok((descriptor, raw, artifact))
    }

    fn artifact(&mut self, listed: &Descriptor, tag: Option<&str>, depth: usize) -> Result<(), Trouble> {
        if tag.is_none() && self.done.contains(&listed.digest) {
            return Ok(());
        }
        if depth > MOST_DEPTH {
            return Err(self.too_much("indexes are nested too deep").into());
        }
        let (descriptor, raw, artifact) = self.read(listed)?;
        self.progress
            .step("Copying", &format!("referrer {}", descriptor.digest));
        for manifest in &artifact.manifests {
            self.artifact(manifest, None, depth + 1)?;
        }
        for blob in &artifact.blobs {
            self.blob(blob)?;
        }
        let kept = self.keeper.put_artifact(&Written {
            descriptor: &descriptor,
            raw: &raw,
            artifact: &artifact,
            tag,
            is_part: depth > 0,
        })?;
        self.done.insert(descriptor.digest);
        let tag = tag.unwrap_or_default();
        match kept {
            Kept::There => {}
            Kept::InPlaceOf(there) => self
                .progress
                .warn(&format!("the tag {tag} of the destination meant {there} and is replaced")),
            Kept::NotFor(there) => self.progress.warn(&format!(
                "the tag {tag} of the destination means {there} and stays: this machine's configuration does not move tags there (immutable)"
            )),
        }
        Ok(())
    }

    fn too_much(&self, reason: &'static str) -> TransferError {
        let image = self.image;
        TransferError::Referrers { image, reason }
    }

    /// Takes a blob into account, once however often it is named.
    fn take(&mut self, blob: &Descriptor) -> Result<(), TransferError> {
        if !self.counted.insert((blob.digest, blob.size)) {
            return Ok(());
        }
        if self.counted.len() > MOST_PARTS {
            return Err(self.too_much("they have more than 5000 manifests and blobs together"));
        }
        let left = self.left.checked_sub(blob.size);
        self.left = left.ok_or_else(|| self.too_much("they are over 1 GiB together"))?;
        Ok(())
    }

    fn blob(&mut self, blob: &Descriptor) -> Result<(), Trouble> {
        if self.done.contains(&blob.digest) {
            return Ok(());
        }
        self.take(blob)?;
        if self.to.has(blob)? {
            self.from.prove(blob).map_err(Trouble::of_source)?;
        } else {
            self.put(blob)?;
        }
        self.done.insert(blob.digest);
        Ok(())
    }

    fn put(&self, blob: &Descriptor) -> Result<(), Trouble> {
        if !self.to.starts_over() {
            // What it does not give must be known before it is begun.
            self.from.prove(blob).map_err(Trouble::of_source)?;
        }
        // They are small beside the layers, which is what is counted.
        let tally = Tally::new(&Silent, 0);
        loop {
            let mut incoming = Incoming::new(blob, self.from, &tally);
            match self.to.put(blob, &mut incoming) {
                Ok(()) => return Ok(()),
                Err(error) if !self.to.starts_over() => return Err(Trouble::Failed(error)),
                Err(error) if self.from.gives_again(blob, &error) => {}
                Err(TransferError::Store(error @ (StoreError::Digest { .. } | StoreError::Size { .. }))) => {
                    return Err(Trouble::of_source(error.into()))
                }
                // Either side's; the source is at fault when it does not have it.
                Err(error) => {
                    let proof = self.from.prove(blob).map_err(Trouble::of_source);
                    return Err(match proof {
                        Err(left_out @ Trouble::LeftOut(_)) => left_out,
                        Ok(()) | Err(Trouble::Failed(_)) => Trouble::Failed(error),
                    });
                }
            }
        }
    }
}

/// Anything else is a blob, of which a registry makes no manifest.
fn check_type(name: &str) -> Result<(), Trouble> {
    match media_type::is_manifest(name) || media_type::is_index(name) {
        true => Ok(()),
        false => Err(Trouble::LeftOut(format!("its media type {name:?} is no manifest's"))),
    }
}
