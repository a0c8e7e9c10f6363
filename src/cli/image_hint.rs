//! What to do about an image that is not where it was looked for, and about a store that others use or own. Used by `hint`.

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::gone_images::find_way_back;
use super::registry_hint::of_transfer;
use crate::config::Environment;
use crate::oci::Reference;
use crate::ops::{BundleError, ImagesError, RunError};
use crate::policy::nearest;
use crate::store::{Store, StoreError};
use crate::sys::lockers::lockers;

/// Tags of one name that are named: more fill the line, and `gantry images ls` has them.
const MOST_TAGS: usize = 3;

/// Who uses a store in which nothing can be collected therefore, or owns one in which this user writes nothing.
pub(super) fn of_users(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Busy { path } => of_lockers(path),
        StoreError::Place { path, .. } => of_owner(path),
        _ => None,
    }
}

fn of_lockers(root: &Path) -> Option<String> {
    let users = lockers(&root.join("locks/collector"));
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

fn of_owner(root: &Path) -> Option<String> {
    let owner = fs::metadata(root.join("version")).ok()?.uid();
    let is_anothers = owner != rustix::process::geteuid().as_raw();
    is_anothers.then(|| {
        format!("run gantry as user {owner} (`id -un {owner}` says the name), or set GANTRY_ROOT to a directory of your own")
    })
}

/// What to do about an image that is not there, or did not get where it was to be.
pub(super) fn of_image(cause: &(dyn Error + 'static)) -> Option<String> {
    let of_run = |error: &RunError| match error {
        RunError::UnknownImage { reference } => of_absent(reference),
        _ => None,
    };
    let of_images = |error: &ImagesError| match error {
        ImagesError::Unknown { reference } => of_absent(reference),
        ImagesError::Archive { path, .. } => of_no_file(path),
        ImagesError::NothingToPull { reference, registry } => Some(of_bare("pull ", reference, registry.as_deref())),
        ImagesError::NoDestination { reference, registry }
        | ImagesError::NotAPlace {
            reference, registry, ..
        } => {
            let verb = format!("push {reference} ");
            Some(of_bare(&verb, reference, registry.as_deref()))
        }
        _ => None,
    };
    let of_bundle = |error: &BundleError| match error {
        BundleError::Unknown { reference } => of_absent(reference),
        _ => None,
    };
    let of_store = |error: &StoreError| match error {
        StoreError::NotAName { reference } => of_place(reference),
        _ => None,
    };
    let of_transfer = || of_transfer(cause.downcast_ref()?);
    of_transfer()
        .or_else(|| of_run(cause.downcast_ref()?))
        .or_else(|| of_images(cause.downcast_ref()?))
        .or_else(|| of_bundle(cause.downcast_ref()?))
        .or_else(|| of_store(cause.downcast_ref()?))
}

fn of_absent(text: &str) -> Option<String> {
    let reference: Reference = text.parse().ok()?;
    let root = Environment::read().store_root();
    let way_back = root.as_deref().and_then(|root| find_way_back(root, &reference));
    way_back.or_else(|| match &reference {
        Reference::Registry { .. } => Some(format!("`gantry pull {reference}` brings it into the store")),
        Reference::Local {
            name,
            tag,
            digest: None,
        } => {
            let store = Store::open(root.as_deref()?).ok()?;
            let of_id = || tag.is_none().then(|| of_digits(&store, name)).flatten();
            of_id()
                .or_else(|| of_tags(&store, name, &reference))
                .or_else(|| of_similar(&store, name))
        }
        Reference::Local { .. } | Reference::Digest { .. } | Reference::Layout { .. } => None,
    })
}

/// What to type for an image whose digest begins with `digits`, which alone are a name.
fn of_digits(store: &Store, digits: &str) -> Option<String> {
    let id = format!("sha256:{digits}");
    match store.names().find(&id.parse().ok()?) {
        Ok(Some(_)) | Err(StoreError::Ambiguous { .. }) => Some(format!(
            "{digits} alone is a name; `{id}` means the image whose digest begins so"
        )),
        Ok(None) | Err(_) => None,
    }
}

/// What the store has by the same name with other tags.
fn of_tags(store: &Store, name: &str, reference: &Reference) -> Option<String> {
    let listed = store.names().list().ok()?;
    let is_of_name = |known: &Reference| matches!(known, Reference::Local { name: its, .. } if its == name);
    let known = listed.into_iter().map(|(known, _)| known).filter(is_of_name);
    let known: Vec<String> = known.map(|known| known.to_string()).collect();
    let (named, others) = known.split_at(known.len().min(MOST_TAGS));
    let named = named.join(", ");
    let more = match others.len() {
        0 => String::new(),
        more => format!(" and {more} more (`gantry images ls`)"),
    };
    let meant = reference.with_tag();
    let begin = match reference.to_string() == meant {
        true => String::new(),
        false => format!("`{reference}` means {meant}; "),
    };
    (!known.is_empty()).then(|| format!("{begin}the store has {named}{more}"))
}

/// What the store has by a name that is spelled almost as `name`.
fn of_similar(store: &Store, name: &str) -> Option<String> {
    let listed = store.names().list().ok()?;
    let names = listed.iter().filter_map(|(known, _)| match known {
        Reference::Local { name, .. } => Some(name.as_str()),
        _ => None,
    });
    let meant = nearest(name, names)?;
    let of_it = listed.iter().map(|(known, _)| known);
    let of_it = of_it.filter(|known| matches!(known, Reference::Local { name, .. } if name == meant));
    let named: Vec<String> = of_it.take(MOST_TAGS).map(|known| known.to_string()).collect();
    Some(format!("did you mean {meant}? The store has {}", named.join(", ")))
}

/// What to type where an image goes out or comes in, and it has to be said where: `command` is all before the place.
fn of_bare(command: &str, name: &str, registry: Option<&str>) -> String {
    let host = registry.unwrap_or("registry.example.org");
    // Digits of a digest are no name.
    let name = if name.contains("sha256:") { "image:1" } else { name };
    let example = format!("such as `gantry {command}{host}/team/{name}`");
    match registry {
        Some(_) => format!("{example}; `gantry registries` lists the registries of the configuration"),
        None => {
            format!("{example}; {}", no_registry())
        }
    }
}

/// What names registries, where none is.
pub(super) fn no_registry() -> String {
    let file = Environment::read().user_config(None);
    let file = file.map_or("the configuration".to_owned(), |file| file.display().to_string());
    format!(
        "no registry is configured: an image is asked of the host in its name. `[[registry]]` in {file} names those that have a backup or want a password (`gantry config init -` shows how)"
    )
}

/// What to do with an image of a layout where an image of the store was asked for.
fn of_place(text: &str) -> Option<String> {
    let is_layout = matches!(text.parse(), Ok(Reference::Layout { .. }));
    is_layout.then(|| {
        format!("{text} is a place outside the store: `gantry copy {text} NAME` brings its image in, and NAME is what to type here then")
    })
}

/// What to do with a directory where an archive was asked for.
fn of_no_file(path: &str) -> Option<String> {
    let directory = Path::new(path);
    if !directory.is_dir() {
        return None;
    }
    Some(match directory.join("index.json").exists() {
        true => format!("{path} is the directory of an image layout: `gantry copy oci:{path} NAME` brings its image into the store, oci:{path}:TAG is one of several"),
        false => format!("{path} is a directory; an archive is a file, as `gantry save`, `docker save` and `podman save` write it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_another_user_calls_for_that_user_and_for_no_other_disk() {
        let refused = |path: &str| StoreError::Place {
            path: path.into(),
            reason: String::new(),
        };
        // Root owns `/proc/version`.
        let hint = of_users(&refused("/proc")).unwrap();
        assert!(hint.starts_with("run gantry as user 0 ("), "{hint}");
        assert!(!hint.contains("file system"), "{hint}");
        assert_eq!(of_users(&refused("/nonexistent")), None);
    }
}
