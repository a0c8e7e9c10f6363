//! What to do about an image that is not where it was looked for, and about a store that others use. Used by `hint`.

use std::error::Error;

use super::gone_images::find_way_back;
use super::registry_hint::of_transfer;
use crate::config::Environment;
use crate::oci::Reference;
use crate::ops::{ImagesError, RunError};
use crate::store::StoreError;
use crate::sys::lockers::lockers;

/// Who uses a store in which nothing can be collected therefore.
pub(super) fn of_users(error: &StoreError) -> Option<String> {
    let StoreError::Busy { path } = error else {
        return None;
    };
    let users = lockers(&path.join("locks/collector"));
    let more = match users.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let first = users.first()?;
    Some(format!(
        "process {} ({}){more} uses the store: try again when it is done",
        first.process, first.command
    ))
}

/// What to do about an image that is not there, or did not get where it was to be.
pub(super) fn of_image(cause: &(dyn Error + 'static)) -> Option<String> {
    let absent = |text: &str| {
        let reference: Reference = text.parse().ok()?;
        let way_back = Environment::read()
            .store_root()
            .and_then(|root| find_way_back(&root, &reference));
        way_back.or_else(|| match reference {
            Reference::Registry { .. } => Some(format!("`gantry pull {reference}` brings it into the store")),
            Reference::Local { .. } | Reference::Digest { .. } | Reference::Layout { .. } => None,
        })
    };
    let of_run = |error: &RunError| match error {
        RunError::UnknownImage { reference } => absent(reference),
        _ => None,
    };
    let of_images = |error: &ImagesError| match error {
        ImagesError::Unknown { reference } => absent(reference),
        _ => None,
    };
    let of_transfer = || of_transfer(cause.downcast_ref()?);
    of_transfer()
        .or_else(|| of_run(cause.downcast_ref()?))
        .or_else(|| of_images(cause.downcast_ref()?))
}
