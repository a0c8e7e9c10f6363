//! A bare name, which is of the store alone, where an image goes to or comes from somewhere else.

use std::fmt;

use super::images::ImagesError;
use crate::oci::{looks_like_host, Reference};
use crate::transfer::Registries;

/// The error of a bare name that was to be pulled.
pub(super) fn nothing_to_pull(registries: &Registries, reference: &Reference) -> ImagesError {
    ImagesError::NothingToPull {
        reference: reference.to_string(),
        registry: first_host(registries),
    }
}

/// The error of a push to nowhere: `destination` is a bare name, or the image has no other and no destination was given.
pub(super) fn not_a_place(registries: &Registries, source: &Reference, destination: &Reference) -> ImagesError {
    let (reference, registry) = (source.to_string(), first_host(registries));
    match source == destination {
        true => ImagesError::NoDestination { reference, registry },
        false => ImagesError::NotAPlace {
            reference,
            name: destination.to_string(),
            registry,
        },
    }
}

/// The registry of the configuration that is asked first.
fn first_host(registries: &Registries) -> Option<String> {
    registries.entries().first().map(|entry| entry.host.clone())
}

/// Refuses a host without a repository, where somebody thinks of a registry: as a bare name it would be one of the store.
///
/// # Errors
///
/// [`ImagesError::NoRepository`] with what to type.
pub(super) fn refuse_host(
    registries: &Registries,
    verb: &'static str,
    source: &dyn fmt::Display,
    name: &Reference,
) -> Result<(), ImagesError> {
    let text = name.to_string();
    let Reference::Local { digest: None, .. } = name else {
        return Ok(());
    };
    let is_listed = registries.entries().iter().any(|entry| entry.host == text);
    if !is_listed && !looks_like_host(&text) {
        return Ok(());
    }
    let source = source.to_string();
    let is_bare = matches!(source.parse(), Ok(Reference::Local { .. }));
    let like = if is_bare { source.as_str() } else { "team/image:1" };
    Err(ImagesError::NoRepository {
        verb,
        like: format!("{text}/{like}"),
        host: text,
    })
}
