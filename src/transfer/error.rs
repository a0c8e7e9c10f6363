//! Why an image did not get from one place to another.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::{DiffId, Digest, ParseImageError};
use crate::policy::Kind;
use crate::registry::{Failure, KeptBecause, RegistryError};
use crate::store::StoreError;

/// The index of a layout is locked for the time it takes to write a few kilobytes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// What [`TransferError::Referrers`] says of more than [`MAX_REFERRERS`](crate::oci::MAX_REFERRERS).
pub(super) const TOO_MANY_REFERRERS: &str = "there are more than 1000 of them";
/// Most names in the index of an archive: each distinct image costs a manifest and a configuration of up to 4 MiB to read.
pub(super) const MAX_IMAGES: usize = 1000;

/// Why an image did not get from one place to another.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file system refused, or an archive could not be read or written.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what; `archive` for a stream.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Not a regular file.
    #[error("read {path}: it is no regular file")]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A link or something else in the place of a directory.
    #[error("write into {path}: it is no directory")]
    NotADirectory {
        /// Which.
        path: PathBuf,
    },
    /// A document that is refused.
    #[error("read {path}")]
    Document {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ParseImageError,
    },
    /// No image of that name, or more than one and none was named.
    #[error("find an image in {path}: {reason}")]
    NotFound {
        /// The layout, archive or index.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// Another process is writing the layout and does not end.
    #[error("write into {path}: another process has locked it for more than {} seconds", PATIENCE.as_secs())]
    Busy {
        /// The layout.
        path: PathBuf,
    },
    /// Something else than an archive.
    #[error("read archive: {found}")]
    NotAnArchive {
        /// What it is, and what to do about it.
        found: &'static str,
    },
    /// The beginning of an archive.
    #[error("read archive: it ends early, after {at} bytes: {lacks}")]
    EndsEarly {
        /// How much of it there is.
        at: u64,
        /// What is not there.
        lacks: String,
    },
    /// An entry that no archive of images has.
    #[error("read archive entry {path:?}: {reason}")]
    Entry {
        /// Its name.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A layer of an archive that is not the one that its image means.
    #[error(
        "read archive entry {path:?}: its bytes have the digest {got}, and the config of its image wants {expected}"
    )]
    ArchivedLayer {
        /// The entry.
        path: String,
        /// What the config says.
        expected: DiffId,
        /// What it is.
        got: DiffId,
    },
    /// More refers to an image than is copied with it.
    #[error("copy what refers to {image}: {reason}; --no-referrers leaves it")]
    Referrers {
        /// The image.
        image: Digest,
        /// What there is too much of.
        reason: &'static str,
    },
    /// What refers to an image cannot be copied with it.
    #[error("copy what refers to {image}")]
    Companions {
        /// The image.
        image: Digest,
        /// Why.
        source: Box<TransferError>,
    },
    /// The list of what refers to an image is changed by others all the time.
    #[error("list a referrer of {image} in {place}: others change the list again and again")]
    Contended {
        /// The image.
        image: Digest,
        /// The repository.
        place: String,
    },
    /// More images than an archive may have.
    #[error("read archive: its index has {got} images of at most {MAX_IMAGES}")]
    TooMany {
        /// How many.
        got: usize,
    },
    /// A part of an archive is missing.
    #[error("read archive: it has no {part}")]
    Missing {
        /// Which.
        part: &'static str,
    },
    /// No registry did what it was asked.
    #[error("{}", listed(reference, failures))]
    Registry {
        /// The image, as typed.
        reference: String,
        /// What each of them said.
        failures: Vec<RegistryError>,
    },
    /// The registries do not know the tag, and know others.
    #[error("find {reference}: no registry has this tag; its tags are: {}", .tags.join(", "))]
    NoTag {
        /// The image, as typed.
        reference: String,
        /// Some of them.
        tags: Vec<String>,
    },
    /// The registries do not know the repository.
    #[error("find {reference}: {host} has no repository {repository}, or does not show it")]
    NoRepository {
        /// The image, as typed.
        reference: String,
        /// The registry that says so.
        host: String,
        /// Below its host.
        repository: String,
    },
    /// A host answers, and not as registries do.
    #[error("reach {reference}: {host} answers, but is no registry: {url} gives {answer}, where a registry gives 200 and JSON, or 401")]
    NoRegistry {
        /// The image or the registry, as typed.
        reference: String,
        /// Who answers.
        host: String,
        /// What it was asked.
        url: String,
        /// What it answered.
        answer: String,
    },
    /// A tag that is not moved means another image.
    #[error("push {reference}: its tag means {there} already, and this machine's configuration does not move tags there (immutable)")]
    Immutable {
        /// The image, as typed.
        reference: String,
        /// What the tag means.
        there: Digest,
    },
    /// What is to be deleted would take something along that is to stay, or is not there.
    #[error("delete from {reference}: {reason}; nothing is deleted")]
    Kept {
        /// The repository, as typed.
        reference: String,
        /// What stays, and why.
        reason: KeptBecause,
    },
    /// Nothing is pushed there, and nothing deleted.
    #[error("{verb} {host}: this machine's configuration only pulls from it (role = \"pull\")")]
    PullOnly {
        /// What was attempted: `push to` or `delete from`.
        verb: &'static str,
        /// The registry.
        host: String,
        /// Whether it stands in for the one that was named, as it is preferred.
        is_preferred: bool,
    },
    /// A registry that the configuration does not know.
    #[error("prefer {host}: it is no [[registry]] of the configuration, which has {}", names(.listed))]
    Unlisted {
        /// As typed.
        host: String,
        /// Those that it knows.
        listed: Vec<String>,
    },
    /// Credentials that were tried and are right cannot be kept.
    #[error("keep the credentials for {host}: {reason}")]
    Login {
        /// The registry.
        host: String,
        /// Which file or program, and why not.
        reason: String,
    },
    /// The store failed, or a blob is not what it is called.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl TransferError {
    /// Whether the disk of the store is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }

    /// Whether something is not in the store that was there.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_lost())
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Companions { source, .. } => source.kind(),
            Self::PullOnly { .. } | Self::Immutable { .. } => Kind::Refused,
            Self::Kept {
                reason: KeptBecause::Unknown(_),
                ..
            } => Kind::Failed,
            Self::Kept { .. } => Kind::Refused,
            // One that may answer later is worth another try.
            Self::Registry { failures, .. } => {
                let kinds = || failures.iter().map(RegistryError::kind);
                kinds()
                    .find(|kind| kind.is_away())
                    .or(kinds().next())
                    .unwrap_or(Kind::Failed)
            }
            Self::Unlisted { .. } => Kind::Usage,
            Self::Busy { .. } | Self::Contended { .. } => Kind::Busy,
            Self::TooMany { .. } | Self::Referrers { .. } => Kind::Refused,
            Self::Io { .. }
            | Self::NotAFile { .. }
            | Self::NotADirectory { .. }
            | Self::Document { .. }
            | Self::NotFound { .. }
            | Self::NoTag { .. }
            | Self::NoRepository { .. }
            | Self::NoRegistry { .. }
            | Self::Login { .. }
            | Self::NotAnArchive { .. }
            | Self::EndsEarly { .. }
            | Self::Entry { .. }
            | Self::ArchivedLayer { .. }
            | Self::Missing { .. } => Kind::Failed,
        }
    }
}

impl TransferError {
    /// Whether every registry that was asked says that it has no such image.
    pub(crate) fn is_not_found(&self) -> bool {
        match self {
            Self::Registry { failures, .. } => !failures.is_empty() && failures.iter().all(RegistryError::is_not_found),
            Self::NoTag { .. } | Self::NoRepository { .. } => true,
            _ => false,
        }
    }

    /// Whether there is nobody at the hosts that were asked: their names have no address, or nobody accepts a connection there.
    pub(crate) fn is_of_nobody(&self) -> bool {
        let is_nobody = |error: &RegistryError| matches!(error.failure(), Failure::Unreachable | Failure::Unresolved);
        matches!(self, Self::Registry { failures, .. } if !failures.is_empty() && failures.iter().all(is_nobody))
    }
}

fn names(listed: &[String]) -> String {
    match listed {
        [] => "none".to_owned(),
        some => some.join(", "),
    }
}

/// What each registry said of an image.
fn listed(reference: &str, failures: &[RegistryError]) -> String {
    match failures {
        [] => format!("reach {reference}: no registry could be asked"),
        [one] => one.to_string(),
        several => {
            let all: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!(
                "reach {reference}: no registry of {} did it: {}",
                several.len(),
                all.join("; ")
            )
        }
    }
}
