//! Tells a host that answers and is no registry from a registry that has not got what it was asked for: the name is mistyped,
//! or the port is another service's.

use super::TransferError;
use crate::oci::Reference;
use crate::registry::{find_stranger, Registry, RegistryError, Stranger};

/// A host that may be no registry.
pub(super) struct Suspect<'a> {
    pub host: String,
    /// What it was asked for, as typed.
    pub reference: &'a str,
    pub answer: &'a RegistryError,
}

/// The host whose one answer was `error`, when it had no word of a registry.
pub(super) fn find_suspect(error: &TransferError) -> Option<Suspect<'_>> {
    let TransferError::Registry { reference, failures } = error else {
        return None;
    };
    // Where several were asked, one of them may be a registry.
    let [answer] = failures.as_slice() else {
        return None;
    };
    let host = match (answer.circumstances(), reference.parse()) {
        (Some(known), _) => known.host.clone(),
        (None, Ok(Reference::Registry { host, .. })) => host,
        // It was asked about itself.
        (None, _) => reference.clone(),
    };
    answer.is_wordless().then_some(Suspect {
        host,
        reference,
        answer,
    })
}

/// That `client`, which gave this `answer` when it was asked for `reference`, is no registry, if that is so. It is asked once more, and
/// only when its answer had no word of a registry.
pub(super) fn find_no_registry(client: &Registry, reference: &str, answer: &RegistryError) -> Option<TransferError> {
    let stranger = answer.is_wordless().then(|| find_stranger(client)).flatten()?;
    Some(no_registry(client, reference, stranger))
}

/// The error of a host that is none.
pub(super) fn no_registry(client: &Registry, reference: &str, stranger: Stranger) -> TransferError {
    TransferError::NoRegistry {
        reference: reference.to_owned(),
        host: client.host().to_owned(),
        url: stranger.url,
        answer: stranger.answer,
    }
}
