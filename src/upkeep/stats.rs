//! What a store holds in numbers that add up: pure, from an inventory.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::eviction::{name_of, CacheLimits};
use crate::oci::{DiffId, Digest};
use crate::store::{Inventory, PartName, StoredImage};

/// A store in numbers. Bytes are those that the disk holds, as `du` counts them.
#[derive(Debug, Clone, Serialize)]
pub struct CacheStats {
    /// Always 1.
    pub schema: u32,
    /// All of the store: the sum of `folders` and the root itself.
    pub physical: u64,
    /// What the images would take if each had all of its own.
    pub logical: u64,
    /// What images take together: parts that any of them needs, once each.
    pub of_images: u64,
    /// Of that, what more than one image needs.
    pub shared: u64,
    /// What only later builds would use.
    pub of_builds: u64,
    /// The rest: names, locks, tools, the journal, what is under way, and what a collection would remove.
    pub other: u64,
    /// Bytes by folder of the store; files in its root by their names.
    pub folders: BTreeMap<String, u64>,
    /// What the store may hold.
    pub limits: LimitsShown,
    /// Images.
    pub count: u64,
    /// Of them those that are pinned.
    pub pinned: u64,
    /// Of them those that are in use.
    pub in_use: u64,
    /// Of them those that no registry is known to have.
    pub only_here: u64,
    /// The image that has been unused for longest.
    pub oldest: Option<Digest>,
    /// The image that needs most.
    pub largest: Option<Digest>,
    /// By last use, the latest first.
    pub images: Vec<ImageRoom>,
    /// Unpacked layers, the largest first.
    pub layers: Vec<LayerRoom>,
}

/// The limits of `[cache]`; null where there is none.
#[derive(Debug, Clone, Serialize)]
pub struct LimitsShown {
    pub max_bytes: Option<u64>,
    pub max_images: Option<u64>,
    pub low_water: u8,
}

/// An image, and what it takes.
#[derive(Debug, Clone, Serialize)]
pub struct ImageRoom {
    /// Its names; none for an image without.
    pub names: Vec<String>,
    /// Its manifest.
    pub digest: Digest,
    /// All that it needs.
    pub logical: u64,
    /// Of that, what neither another image nor a later build needs: what its removal alone frees.
    pub unique: u64,
    /// The rest.
    pub shared: u64,
    /// Seconds since 1970; null when that is not known.
    pub last_use: Option<u64>,
    pub is_pinned: bool,
    pub is_in_use: bool,
    /// Registries that have it: `HOST/REPOSITORY`.
    pub origins: Vec<String>,
}

/// An unpacked layer, and what it takes with its blob.
#[derive(Debug, Clone, Serialize)]
pub struct LayerRoom {
    pub diff_id: DiffId,
    /// Of its tree.
    pub bytes: u64,
    /// Images that need it.
    pub images: u64,
    /// The first of them by name.
    pub of: Option<String>,
}

/// Counts what there is.
pub(crate) fn stats(inventory: &Inventory, limits: CacheLimits) -> CacheStats {
    let count = |parts: &mut dyn Iterator<Item = &usize>| {
        let mut needed = vec![0_u64; inventory.parts.len()];
        for part in parts {
            if let Some(needed) = needed.get_mut(*part) {
                *needed += 1;
            }
        }
        needed
    };
    let by_images = count(&mut inventory.images.iter().flat_map(|image| &image.parts));
    let by_builds = count(&mut inventory.remembered.iter().flat_map(|kept| &kept.parts));
    let sum = |keep: &dyn Fn(u64, u64) -> bool| -> u64 {
        let needed = by_images.iter().zip(&by_builds).zip(&inventory.parts);
        needed
            .filter(|((images, builds), _)| keep(**images, **builds))
            .map(|(_, part)| part.bytes)
            .sum()
    };
    let of_images = sum(&|images, _| images > 0);
    let of_builds = sum(&|images, builds| images == 0 && builds > 0)
        + inventory.remembered.iter().map(|kept| kept.bytes).sum::<u64>();
    let mut images: Vec<ImageRoom> = inventory
        .images
        .iter()
        .map(|image| {
            let bytes = |part: &&usize| inventory.parts.get(**part).map_or(0, |part| part.bytes);
            let alone = |part: &&usize| by_images.get(**part) == Some(&1) && by_builds.get(**part) == Some(&0);
            let logical: u64 = image.parts.iter().map(|part| bytes(&part)).sum();
            let unique: u64 = image.parts.iter().filter(alone).map(|part| bytes(&part)).sum();
            room(image, logical, unique)
        })
        .collect();
    images.sort_by(|one, other| other.last_use.cmp(&one.last_use).then(one.names.cmp(&other.names)));
    let mut layers: Vec<LayerRoom> = inventory
        .parts
        .iter()
        .enumerate()
        .filter_map(|(number, part)| match part.what {
            PartName::Layer(diff_id) => Some(LayerRoom {
                diff_id,
                bytes: part.bytes,
                images: by_images.get(number).copied().unwrap_or_default(),
                of: inventory
                    .images
                    .iter()
                    .find(|image| image.parts.contains(&number))
                    .map(name_of),
            }),
            PartName::Blob(_) | PartName::Merged(_) | PartName::Download(_) => None,
        })
        .collect();
    layers.sort_by(|one, other| other.bytes.cmp(&one.bytes).then(one.diff_id.cmp(&other.diff_id)));
    CacheStats {
        schema: 1,
        physical: inventory.total,
        logical: images.iter().map(|image| image.logical).sum(),
        of_images,
        shared: sum(&|images, _| images > 1),
        of_builds,
        other: inventory.total.saturating_sub(of_images).saturating_sub(of_builds),
        folders: inventory.folders.clone(),
        limits: LimitsShown {
            max_bytes: limits.max_bytes,
            max_images: limits.max_images,
            low_water: limits.low_water,
        },
        count: images.len() as u64,
        pinned: images.iter().filter(|image| image.is_pinned).count() as u64,
        in_use: images.iter().filter(|image| image.is_in_use).count() as u64,
        only_here: images.iter().filter(|image| image.origins.is_empty()).count() as u64,
        oldest: images.last().map(|image| image.digest),
        largest: images
            .iter()
            .max_by_key(|image| image.logical)
            .map(|image| image.digest),
        images,
        layers,
    }
}

fn room(image: &StoredImage, logical: u64, unique: u64) -> ImageRoom {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
    ImageRoom {
        names: image.names.iter().map(ToString::to_string).collect(),
        digest: image.digest,
        logical,
        unique,
        shared: logical.saturating_sub(unique),
        last_use: image.used.and_then(since),
        is_pinned: image.is_pinned,
        is_in_use: image.is_in_use,
        origins: image.origins.iter().cloned().collect(),
    }
}
