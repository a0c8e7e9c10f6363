//! What to do about an image that did not get to or from a registry. Used by `hint`.

use crate::registry::{Failure, RegistryError};
use crate::transfer::TransferError;

pub(super) fn of_transfer(error: &TransferError) -> Option<&'static str> {
    match error {
        TransferError::Registry { failures, .. } => failures.iter().find_map(of_registry),
        TransferError::PullOnly { .. } => Some(
            "whoever may push has `role = \"push\"` for the registry under [[registry]] in the configuration; `gantry copy` brings the image elsewhere",
        ),
        TransferError::Immutable { .. } => Some("push it under another tag, or by its digest: HOST/REPOSITORY@sha256:..."),
        TransferError::Companions { .. } => Some("`--no-referrers` copies the image without what refers to it"),
        TransferError::Io { .. }
        | TransferError::NotAFile { .. }
        | TransferError::NotADirectory { .. }
        | TransferError::Document { .. }
        | TransferError::NotFound { .. }
        | TransferError::NoTag { .. }
        | TransferError::Login { .. }
        | TransferError::Busy { .. }
        | TransferError::Unlisted { .. }
        | TransferError::NotAnArchive { .. }
        | TransferError::Entry { .. }
        | TransferError::TooMany { .. }
        | TransferError::Missing { .. }
        | TransferError::ArchivedLayer { .. }
        | TransferError::Kept { .. }
        | TransferError::Referrers { .. }
        | TransferError::Contended { .. }
        | TransferError::Store(_) => None,
    }
}

fn of_registry(error: &RegistryError) -> Option<&'static str> {
    match error.failure() {
        Failure::Denied | Failure::Unauthorized | Failure::Login => Some(
            "`gantry login HOST` writes credentials where docker keeps them; `credentials` under [[registry]] in the configuration names others",
        ),
        Failure::Untrusted => Some("SSL_CERT_FILE names certificates that are accepted instead of the system's"),
        Failure::Unresolved => Some(
            "the host is mistyped, or the name servers of this machine do not know it: `gantry registries` lists those of the configuration",
        ),
        Failure::Unreachable
        | Failure::Silent
        | Failure::Broken
        | Failure::ServerError
        | Failure::Elsewhere
        | Failure::Busy
        | Failure::NotFound
        | Failure::WrongBytes
        | Failure::Redirect
        | Failure::TooLarge
        | Failure::Refused
        | Failure::Setup => None,
    }
}
