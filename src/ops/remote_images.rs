//! What a registry holds is listed and deleted.

use super::images::{ImagesError, Removal};
use crate::oci::Reference;
use crate::progress::{Progress, Silent};
use crate::store::Store;
use crate::transfer::{list_repositories, Keeper, Registries, Rehearsal, Removed, TransferError, Unwanted};

/// The tags of a repository, sorted.
///
/// # Errors
///
/// [`ImagesError`]; also for a reference that is of no registry.
pub fn list_tags(registries: &Registries, repository: &Reference) -> Result<Vec<String>, ImagesError> {
    let listed = Keeper::new(registries, repository, &Silent)?.tags();
    Ok(listed.map_err(|error| registries.explained(error))?)
}

/// The repositories of a registry, where it lists them.
///
/// # Errors
///
/// [`ImagesError`].
pub fn list_catalogue(registries: &Registries, host: &str) -> Result<Vec<String>, ImagesError> {
    Ok(list_repositories(registries, host).map_err(|error| registries.explained(error))?)
}

/// Deletes images of registries, each by its digest and with all its tags, and tells `done` of each; or says what would be
/// deleted. The `store` is told that its own copies cannot be fetched from there again. Returns what stays although it is said to belong to what goes.
///
/// # Errors
///
/// [`ImagesError`]. Of a repository nothing is deleted when something would go along that is to stay; what was deleted of others
/// by then stays deleted.
pub fn remove_remote(
    store: &Store,
    registries: &Registries,
    references: &[Reference],
    removal: Removal,
    progress: &dyn Progress,
    done: &mut dyn FnMut(&Reference, &Removed),
) -> Result<Vec<String>, ImagesError> {
    let rehearsal = match removal {
        Removal::Rehearsed => Rehearsal::Yes,
        Removal::Done => Rehearsal::No,
    };
    let place = |reference: &Reference| match reference {
        Reference::Registry { host, repository, .. } => Some((host.clone(), repository.clone())),
        Reference::Local { .. } | Reference::Digest { .. } | Reference::Layout { .. } => None,
    };
    let mut kept = Vec::new();
    let mut left: Vec<&Reference> = references.iter().collect();
    while let Some(first) = left.first().copied() {
        let (of_it, others): (Vec<&Reference>, Vec<&Reference>) =
            left.into_iter().partition(|one| place(one) == place(first));
        left = others;
        let mut unwanted = Vec::new();
        for reference in of_it {
            unwanted.push(named(reference)?);
        }
        let keeper = Keeper::new(registries, first, progress)?;
        let mut went = |removed: &Removed| {
            if let (Removal::Done, Some((host, repository))) = (removal, place(first)) {
                // It is gone there, whether or not that can be noted here.
                let _ = store
                    .images()
                    .forget_origin(&removed.digest, &format!("{host}/{repository}"));
            }
            done(first, removed);
        };
        let stays = keeper.remove(&unwanted, rehearsal, &mut went);
        let stays = stays.map_err(|error| registries.explained(error))?;
        kept.extend(stays.iter().map(|reason| format!("{first}: something stays: {reason}")));
    }
    Ok(kept)
}

/// What a reference names: both together are one image.
fn named(reference: &Reference) -> Result<Unwanted, TransferError> {
    let not_found = |reason: &str| TransferError::NotFound {
        path: reference.to_string().into(),
        reason: reason.to_owned(),
    };
    match reference {
        Reference::Registry { tag, digest, .. } => match (tag.clone(), *digest) {
            (Some(tag), Some(digest)) => Ok(Unwanted::Both(tag, digest)),
            (Some(tag), None) => Ok(Unwanted::Tag(tag)),
            (None, Some(digest)) => Ok(Unwanted::Digest(digest)),
            (None, None) => Err(not_found(
                "it names neither a tag nor a digest, and what is deleted is named whole",
            )),
        },
        _ => Err(not_found(
            "it is no image of a registry, which is called HOST/REPOSITORY[:TAG]",
        )),
    }
}
