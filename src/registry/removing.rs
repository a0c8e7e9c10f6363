//! Deletes manifests (distribution specification, "Content Management").

use super::client::{Access, Asked, Repository};
use super::RegistryError;
use crate::net::{Call, Payload, Verb};
use crate::oci::Digest;

/// Deletes a manifest by its digest, and with it all its tags. One that is gone is no error.
///
/// # Errors
///
/// [`RegistryError`]; with the status 405 for a registry that deletes nothing.
pub(super) fn delete_manifest(repository: &Repository, digest: &Digest) -> Result<(), RegistryError> {
    let asked = Asked {
        doing: "delete manifest",
        url: repository.url(&format!("manifests/{digest}")),
        access: Access::Delete,
    };
    let answer = repository.exchange(&asked, &mut |url| Call {
        verb: Verb::Delete,
        url,
        headers: Vec::new(),
        payload: Payload::Empty,
    });
    match answer {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
