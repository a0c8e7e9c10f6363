//! What is said of images that went to make room, and of how an evicted one comes back.

use std::path::Path;

use crate::journal::{self, EvictedImage};
use crate::oci::Reference;
use crate::ops::{EvictionPlan, Planned};
use crate::policy::{counted, Bytes, Verbosity};
use crate::sys::clock;

/// Images that can be had again and are named by an eviction that nobody asked for; the others are counted.
const MOST: usize = 10;

/// A line for each image that goes, with why it goes, and one for what is kept for later builds, which has a line each for who
/// wants to know everything.
pub(super) fn lines(plan: &EvictionPlan, verb: &str, verbosity: Verbosity) -> Vec<String> {
    let line = |item: &&Planned| format!("{verb} {}, {}: {}", item.name, Bytes(item.frees), item.reason);
    let (images, others): (Vec<&Planned>, Vec<&Planned>) = plan.items.iter().partition(|item| is_image(item));
    let (garbage, remembered): (Vec<&Planned>, Vec<&Planned>) =
        others.into_iter().partition(|item| item.kind == "garbage");
    let mut lines: Vec<String> = images.iter().map(line).collect();
    match verbosity {
        Verbosity::Verbose => lines.extend(garbage.iter().chain(&remembered).map(line)),
        Verbosity::Quiet | Verbosity::Normal => {
            lines.extend(summed(&garbage, verb, "that nothing needs"));
            lines.extend(summed(&remembered, verb, "kept for later builds"));
        }
    }
    lines
}

/// As [`lines`], of an eviction that nobody asked for. What cannot be had again is named whatever else there is, and however
/// little is to be said.
pub(super) fn told(went: &EvictionPlan, verbosity: Verbosity) -> Vec<String> {
    if verbosity == Verbosity::Verbose {
        return lines(went, "Evicted", verbosity);
    }
    let (only_here, others): (Vec<Planned>, Vec<Planned>) = went
        .items
        .iter()
        .cloned()
        .partition(|item| is_image(item) && item.origin.is_none());
    let plan = |items: Vec<Planned>| EvictionPlan {
        items,
        ..EvictionPlan::default()
    };
    let mut said = lines(&plan(only_here), "Evicted", verbosity);
    if verbosity == Verbosity::Quiet {
        return said;
    }
    let (images, remembered): (Vec<Planned>, Vec<Planned>) = others.into_iter().partition(is_image);
    let (named, counted) = images.split_at(images.len().min(MOST));
    said.extend(lines(&plan(named.to_vec()), "Evicted", verbosity));
    said.extend(summed(
        &counted.iter().collect::<Vec<_>>(),
        "Evicted",
        "that registries have",
    ));
    said.extend(lines(&plan(remembered), "Evicted", verbosity));
    said
}

fn is_image(item: &Planned) -> bool {
    item.kind == "image"
}

/// One line for all of `items`; none for none.
fn summed(items: &[&Planned], verb: &str, what: &str) -> Option<String> {
    let bytes: u64 = items.iter().map(|item| item.frees).sum();
    let word = match items.first() {
        Some(first) if is_image(first) => counted(items.len() as u64, "more image", "more images"),
        _ => counted(items.len() as u64, "thing", "things"),
    };
    (!items.is_empty()).then(|| format!("{verb} {word} {what}, {}", Bytes(bytes)))
}

/// How the image that is called `reference` comes back that was evicted from the store at `root`; none when it was not.
pub(super) fn find_way_back(root: &Path, reference: &Reference) -> Option<String> {
    let name = reference.with_tag();
    let evicted = journal::find_evicted(root, &name, clock::now()).ok()??;
    let EvictedImage { at, digest, origin } = evicted;
    if reference
        .digest()
        .is_some_and(|wanted| wanted.to_string() != digest && !matches!(reference, Reference::Digest { .. }))
    {
        return None;
    }
    let day = clock::rfc3339(at, "");
    let day = day.split('T').next().unwrap_or_default();
    Some(match (origin, reference) {
        (Some(origin), Reference::Local { .. }) => {
            format!("it was evicted on {day} to make room: `gantry pull {origin}@{digest} --tag {name}` brings it back")
        }
        (Some(_), Reference::Registry { .. }) => {
            format!("it was evicted on {day} to make room: `gantry pull {reference}` brings it back")
        }
        (Some(origin), Reference::Digest { .. } | Reference::Layout { .. }) => {
            format!("it was evicted on {day} to make room: `gantry pull {origin}@{digest}` brings it back")
        }
        (None, _) => format!(
            "it was evicted on {day} to make room, and no registry is known to have it: build it or load it again; `gantry cache pin IMAGE` keeps an image"
        ),
    })
}
