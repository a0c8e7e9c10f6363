//! Which images go when the store is over a limit: pure, from an inventory to a plan with a reason for each item.
//!
//! What has been unused for long goes first, weighted by what it frees and by how often it was used:
//!
//! ```text
//! rank = seconds since the last use x cube root of the bytes that only it needs / uses, of which sixteen count
//! ```
//!
//! Bytes that another image needs stay, so they do not count, and each removal changes what the next one would free. The cube
//! root is between two mistakes: without it one large image costs as many small ones their places as are as old; by the bytes
//! themselves every large image goes as soon as it came. docs/decisions.md has what each of them was measured to cost.
//!
//! What a collection would take goes before all of that, the longest unused first: images that nobody keeps, what nothing needs,
//! programs of other versions. An image that no registry is known to have goes after all that can be had again, or not at all;
//! also after what is on its way, which can go itself once it is there. Pinned images and those in use never go.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde::Serialize;

use crate::oci::{Digest, Reference};
use crate::policy::{rough_time, Bytes};
use crate::store::{Doomed, Inventory, Remembered, StoredImage, Tally};

/// What a store may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes on the disk.
    pub max_bytes: Option<u64>,
    /// Images.
    pub max_images: Option<u64>,
    /// How far an eviction goes, in percent of these limits: the next pulls need none then.
    pub low_water: u8,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            max_bytes: None,
            max_images: None,
            low_water: 90,
        }
    }
}

impl CacheLimits {
    /// Whether there is a limit.
    pub fn are_set(&self) -> bool {
        self.max_bytes.is_some() || self.max_images.is_some()
    }

    fn low(&self, most: u64) -> u64 {
        let low = (u128::from(most) * u128::from(self.low_water)).div_ceil(100);
        u64::try_from(low).unwrap_or(most)
    }
}

/// What becomes of images that no registry is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnlyHere {
    /// They go when nothing else is left.
    Last,
    /// They stay.
    Stay,
}

/// What room is wanted for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoomWanted<'a> {
    /// What the store may hold.
    pub limits: CacheLimits,
    /// Bytes that are about to come.
    pub coming_bytes: u64,
    /// Images that are about to come.
    pub coming_images: u64,
    /// Bytes that the disk lacks.
    pub disk_lacks: u64,
    /// What becomes of images that no registry is known to have.
    pub only_here: OnlyHere,
    /// Whether what later builds would use may go, and what nothing leads to; not while a build is at work.
    pub may_forget: bool,
    /// The programs in `tools/` that this version of gantry uses.
    pub tools: &'a [&'a str],
    /// The image that all this is for.
    pub spared: Option<Digest>,
}

/// What goes, and why.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EvictionPlan {
    /// In the order in which it goes.
    pub items: Vec<Planned>,
    /// Images that would have to go and do not.
    pub kept: Vec<KeptImage>,
    /// Bytes of the store on the disk.
    pub bytes_before: u64,
    /// Without the items.
    pub bytes_after: u64,
    /// Images.
    pub images_before: u64,
    /// Without the items.
    pub images_after: u64,
    /// Whether that is enough.
    pub is_enough: bool,
    /// Whether it is once those have ended that bring or build something now: the last of them has the rest go.
    #[serde(skip)]
    pub is_enough_soon: bool,
    /// What to take out of the store.
    #[serde(skip)]
    pub doomed: Doomed,
}

/// Something that goes.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// `image`; `remembered`: what is kept for later builds; `garbage`: what nothing needs, with images that nobody keeps.
    pub kind: &'static str,
    /// The names of an image, else its digest; of anything else its file in the store.
    pub name: String,
    /// Of an image.
    pub digest: Option<Digest>,
    /// Bytes that the disk gets back, when all before it is gone.
    pub frees: u64,
    /// Bytes that a registry sends when it is wanted again.
    pub fetches: u64,
    /// Why it goes, and why now.
    pub reason: String,
    /// The names of an image.
    #[serde(skip)]
    pub names: Vec<String>,
    /// `HOST/REPOSITORY` of a registry that has the image; none when no registry is known to have it.
    #[serde(skip)]
    pub origin: Option<String>,
}

/// Why an image stays: somebody pinned it.
pub(crate) const PINNED: &str = "pinned";
/// Why an image stays: a run or another command uses it.
pub(crate) const IN_USE: &str = "in use";
/// Why an image stays that could not be had again.
pub(crate) const ONLY_HERE: &str = "no registry is known to have it";

/// An image that stays whatever is needed.
#[derive(Debug, Clone, Serialize)]
pub struct KeptImage {
    /// Its names, else its digest.
    pub name: String,
    pub digest: Digest,
    /// Why.
    pub reason: &'static str,
}

/// The plan of a store that has room for what is wanted, by what it takes alone: nothing goes. None when something has to.
pub(crate) fn is_within(tally: &Tally, wanted: &RoomWanted<'_>) -> Option<EvictionPlan> {
    let goal = Goal::over(tally.total, tally.images, wanted, |most| most);
    goal.is_met().then(|| EvictionPlan {
        bytes_before: tally.total,
        bytes_after: tally.total,
        images_before: tally.images,
        images_after: tally.images,
        is_enough: true,
        is_enough_soon: true,
        ..EvictionPlan::default()
    })
}

/// Chooses what goes until there is room for what is wanted; nothing when there is.
pub(crate) fn plan(inventory: &Inventory, wanted: &RoomWanted<'_>, now: SystemTime) -> EvictionPlan {
    let mut goal = Goal::of(inventory, wanted);
    // Nobody can bring an image back that no registry has: it goes for a limit, and not for the room below one.
    let mut last = Goal::without_coming(inventory, wanted);
    let mut plan = EvictionPlan {
        bytes_before: inventory.total,
        bytes_after: inventory.total,
        images_before: inventory.images.len() as u64,
        images_after: inventory.images.len() as u64,
        is_enough: goal.is_met(),
        is_enough_soon: goal.is_met(),
        ..EvictionPlan::default()
    };
    if plan.is_enough {
        return plan;
    }
    goal.lower(inventory, wanted);
    let mut pool = Pool::of(inventory, wanted, now);
    while !goal.is_met() {
        let Some(chosen) = pool.choose(goal.wants_images_alone()) else {
            break;
        };
        if pool.is_last(chosen) && last.is_met() {
            break;
        }
        let frees = pool.frees(chosen);
        let fetches = pool.fetches(chosen);
        pool.remove(chosen);
        goal.freed(frees, pool.is_image(chosen));
        last.freed(frees, pool.is_image(chosen));
        plan.bytes_after = plan.bytes_after.saturating_sub(frees);
        let garbage = |name: String, digest| Planned {
            kind: "garbage",
            name,
            digest,
            frees,
            fetches: 0,
            reason: "nothing needs it".to_owned(),
            names: Vec::new(),
            origin: None,
        };
        match pool.items.get(chosen).map(|item| item.what) {
            Some(What::Nameless(image)) => {
                plan.doomed.images.push((image.digest, image.used));
                plan.items.push(garbage(name_of(image), Some(image.digest)));
            }
            Some(What::Loose(file)) => {
                plan.doomed.loose.push(file.file.clone());
                plan.items.push(garbage(file.file.display().to_string(), None));
            }
            Some(What::OldTool(tool)) => {
                plan.doomed.remembered.push(tool.file.clone());
                plan.items.push(garbage(tool.file.display().to_string(), None));
            }
            Some(What::Image(image)) => {
                plan.images_after = plan.images_after.saturating_sub(1);
                plan.doomed.images.push((image.digest, image.used));
                plan.items.push(Planned {
                    kind: "image",
                    name: name_of(image),
                    digest: Some(image.digest),
                    frees,
                    fetches,
                    reason: reason(image, now, fetches),
                    names: image.names.iter().map(Reference::to_string).collect(),
                    origin: image.origins.first().cloned(),
                });
            }
            Some(What::Remembered(kept)) => {
                plan.doomed.remembered.push(kept.file.clone());
                plan.items.push(Planned {
                    kind: "remembered",
                    name: kept.file.display().to_string(),
                    digest: None,
                    frees,
                    fetches: 0,
                    reason: format!(
                        "unused for {}; a build that needs it makes it again",
                        unused(kept.used, now)
                    ),
                    names: Vec::new(),
                    origin: None,
                });
            }
            None => break,
        }
    }
    plan.is_enough = Goal::of(inventory, wanted).less(
        plan.bytes_before - plan.bytes_after,
        plan.images_before - plan.images_after,
    );
    plan.is_enough_soon = plan.is_enough || last.is_met();
    plan.kept = inventory
        .images
        .iter()
        .filter_map(|image| kept(image, wanted))
        .collect();
    plan
}

/// What an image is called.
pub(crate) fn name_of(image: &StoredImage) -> String {
    match image.names.is_empty() {
        true => image.digest.to_string(),
        false => image
            .names
            .iter()
            .map(Reference::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn reason(image: &StoredImage, now: SystemTime, fetches: u64) -> String {
    let unused = format!("unused for {}", unused(image.used, now));
    match image.origins.first() {
        Some(origin) => format!("{unused}; {origin} has it, {} to fetch again", Bytes(fetches)),
        None => format!("{unused}; no registry is known to have it, and nothing else is left to go"),
    }
}

fn unused(used: Option<SystemTime>, now: SystemTime) -> String {
    match used.and_then(|used| now.duration_since(used).ok()) {
        Some(age) => rough_time(age),
        None => "an unknown time".to_owned(),
    }
}

fn kept(image: &StoredImage, wanted: &RoomWanted<'_>) -> Option<KeptImage> {
    let reason = match image {
        StoredImage { is_pinned: true, .. } => PINNED,
        StoredImage { is_in_use: true, .. } => IN_USE,
        _ if wanted.spared == Some(image.digest) => return None,
        _ if wanted.only_here == OnlyHere::Stay && image.origins.is_empty() => ONLY_HERE,
        _ => return None,
    };
    Some(KeptImage {
        name: name_of(image),
        digest: image.digest,
        reason,
    })
}

/// How much has still to go.
#[derive(Debug, Clone, Copy)]
struct Goal {
    bytes: u64,
    images: u64,
}

impl Goal {
    fn of(inventory: &Inventory, wanted: &RoomWanted<'_>) -> Self {
        Self::below(inventory, wanted, |most| most)
    }

    /// What has to go also when all has gone that is on its way, and the garbage that stays while a build is at work.
    fn without_coming(inventory: &Inventory, wanted: &RoomWanted<'_>) -> Self {
        let images = inventory.images.len() as u64;
        let garbage = match wanted.may_forget {
            true => 0,
            false => inventory.loose.iter().map(|file| file.bytes).sum::<u64>(),
        };
        let (total, images) = (
            inventory.total.saturating_sub(inventory.coming.bytes + garbage),
            images.saturating_sub(inventory.coming.images),
        );
        Self::over(total, images, wanted, |most| most)
    }

    /// Goes further for those limits that are exceeded.
    fn lower(&mut self, inventory: &Inventory, wanted: &RoomWanted<'_>) {
        let low = Self::below(inventory, wanted, |most| wanted.limits.low(most));
        if self.bytes > 0 {
            self.bytes = low.bytes;
        }
        if self.images > 0 {
            self.images = low.images;
        }
    }

    fn below(inventory: &Inventory, wanted: &RoomWanted<'_>, level: impl Fn(u64) -> u64) -> Self {
        Self::over(inventory.total, inventory.images.len() as u64, wanted, level)
    }

    fn over(total: u64, images: u64, wanted: &RoomWanted<'_>, level: impl Fn(u64) -> u64) -> Self {
        let over = |is: u64, coming: u64, most: Option<u64>| {
            most.map_or(0, |most| is.saturating_add(coming).saturating_sub(level(most)))
        };
        let limits = &wanted.limits;
        Self {
            bytes: over(total, wanted.coming_bytes, limits.max_bytes).max(wanted.disk_lacks),
            images: over(images, wanted.coming_images, limits.max_images),
        }
    }

    fn freed(&mut self, bytes: u64, is_image: bool) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.images = self.images.saturating_sub(u64::from(is_image));
    }

    fn less(self, bytes: u64, images: u64) -> bool {
        self.bytes <= bytes && self.images <= images
    }

    fn is_met(self) -> bool {
        self.less(0, 0)
    }

    fn wants_images_alone(self) -> bool {
        self.bytes == 0
    }
}

#[derive(Debug, Clone, Copy)]
enum What<'a> {
    Image(&'a StoredImage),
    Remembered(&'a Remembered),
    /// An image that nobody keeps.
    Nameless(&'a StoredImage),
    /// What nothing needs.
    Loose(&'a Remembered),
    /// A program that another version of gantry used.
    OldTool(&'a Remembered),
}

impl What<'_> {
    /// Whether a collection takes it.
    fn is_garbage(self) -> bool {
        match self {
            Self::Nameless(_) | Self::Loose(_) | Self::OldTool(_) => true,
            Self::Image(_) | Self::Remembered(_) => false,
        }
    }
}

struct Item<'a> {
    what: What<'a>,
    parts: &'a [usize],
    /// Bytes of parts that nothing else needs, and its own.
    frees: u64,
    /// Of the parts that nothing else needs, what a registry would send.
    fetches: u64,
    /// Seconds without use by uses.
    weight: f64,
    may_go: bool,
    is_last: bool,
}

/// What there is, what needs what, and what each would free now.
struct Pool<'a> {
    inventory: &'a Inventory,
    items: Vec<Item<'a>>,
    /// The items that need each part.
    owners: Vec<BTreeSet<usize>>,
}

impl<'a> Pool<'a> {
    fn of(inventory: &'a Inventory, wanted: &RoomWanted<'_>, now: SystemTime) -> Self {
        let weight = |used: Option<SystemTime>, uses: u64| {
            let age = used.map(|used| now.duration_since(used).unwrap_or_default().as_secs_f64());
            // What nobody can tell the age of is old.
            age.unwrap_or(f64::from(u32::MAX)).max(1e-9) / uses.max(1) as f64
        };
        let images = inventory.images.iter().map(|image| Item {
            what: What::Image(image),
            parts: &image.parts,
            frees: 0,
            fetches: 0,
            weight: weight(image.used, image.uses),
            may_go: !image.is_pinned
                && !image.is_in_use
                && wanted.spared != Some(image.digest)
                && (wanted.only_here == OnlyHere::Last || !image.origins.is_empty()),
            is_last: image.origins.is_empty(),
        });
        let nameless = inventory.nameless.iter().map(|image| Item {
            what: What::Nameless(image),
            parts: &image.parts,
            frees: 0,
            fetches: 0,
            weight: weight(image.used, 1),
            may_go: wanted.spared != Some(image.digest),
            is_last: false,
        });
        let of_builds = |what, kept: &'a Remembered| Item {
            what,
            parts: &kept.parts,
            frees: kept.bytes,
            fetches: 0,
            weight: weight(kept.used, 1),
            may_go: wanted.may_forget,
            is_last: false,
        };
        let remembered = inventory.remembered.iter();
        let remembered = remembered.map(|kept| of_builds(What::Remembered(kept), kept));
        let loose = inventory.loose.iter().map(|file| of_builds(What::Loose(file), file));
        let tools = inventory.tools.iter().filter_map(|tool| {
            let name = tool.file.file_name()?.to_str()?;
            let what = match (name.ends_with("-cache"), wanted.tools.contains(&name)) {
                (true, _) => What::Remembered(tool),
                (false, false) => What::OldTool(tool),
                (false, true) => return None,
            };
            Some(of_builds(what, tool))
        });
        let others = nameless.chain(remembered).chain(loose).chain(tools);
        let items: Vec<Item<'_>> = images.chain(others).collect();
        let mut owners = vec![BTreeSet::new(); inventory.parts.len()];
        for (number, item) in items.iter().enumerate() {
            for part in item.parts {
                if let Some(owners) = owners.get_mut(*part) {
                    owners.insert(number);
                }
            }
        }
        let mut pool = Self {
            inventory,
            items,
            owners,
        };
        (0..inventory.parts.len()).for_each(|part| pool.credit(part));
        pool
    }

    /// Counts a part for the one that needs it, if that is the only one.
    fn credit(&mut self, part: usize) {
        let Some(owners) = self.owners.get(part).filter(|owners| owners.len() == 1) else {
            return;
        };
        let item = owners.first().and_then(|owner| self.items.get_mut(*owner));
        if let (Some(item), Some(part)) = (item, self.inventory.parts.get(part)) {
            item.frees += part.bytes;
            item.fetches += part.fetched;
        }
    }

    /// The one that goes next.
    fn choose(&self, images_alone: bool) -> Option<usize> {
        let goes = |item: &&(usize, &Item<'_>)| {
            let is_image = matches!(item.1.what, What::Image(_));
            item.1.may_go
                && if images_alone {
                    is_image
                } else {
                    item.1.frees > 0 || is_image
                }
        };
        let rank = |item: &Item<'_>| match item.what.is_garbage() {
            // Nobody misses it: the oldest is the least likely to be what somebody is about to go on with.
            true => (2, item.weight),
            false => (u8::from(!item.is_last), item.weight * (item.frees.max(1) as f64).cbrt()),
        };
        let better = |one: &(usize, &Item<'_>), other: &(usize, &Item<'_>)| {
            let (one, other) = (rank(one.1), rank(other.1));
            one.0.cmp(&other.0).then(one.1.total_cmp(&other.1))
        };
        let items = self.items.iter().enumerate();
        items
            .filter(|item| goes(&item))
            .max_by(better)
            .map(|(number, _)| number)
    }

    fn remove(&mut self, chosen: usize) {
        let Some(item) = self.items.get_mut(chosen) else { return };
        item.may_go = false;
        for part in item.parts {
            if let Some(owners) = self.owners.get_mut(*part) {
                owners.remove(&chosen);
            }
            self.credit(*part);
        }
    }

    fn frees(&self, chosen: usize) -> u64 {
        self.items.get(chosen).map_or(0, |item| item.frees)
    }

    fn fetches(&self, chosen: usize) -> u64 {
        self.items.get(chosen).map_or(0, |item| item.fetches)
    }

    fn is_last(&self, chosen: usize) -> bool {
        self.items.get(chosen).is_some_and(|item| item.is_last)
    }

    fn is_image(&self, chosen: usize) -> bool {
        self.items
            .get(chosen)
            .is_some_and(|item| matches!(item.what, What::Image(_)))
    }
}

#[cfg(test)]
mod tests;
