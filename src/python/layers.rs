//! Exactly which wheels -> downloads -> one layer for each large wheel, and one for the small ones.
//!
//! A wheel's layer is the same whoever wants it: a base with numpy and a function that requires numpy share it. So an
//! image on such a base holds the wheels of both as if the function had required them all.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::pins::{self, PinnedWheel};
use super::resolve::{Lock, LockError};
use super::supply::Supply;
use super::wheel::{self, Wheel};
use super::{overlap, PythonError};
use crate::net::{Address, Client};
use crate::oci::Digest;
use crate::progress::Progress;
use crate::store::{
    ensure_layer, find_layer, BuiltLayer, Flight, Key, LayerNote, LayerWanted, Memo, Roots, Store, StoreError, Task,
};
use crate::sys::pool;
use crate::transfer::{fetch, FetchItem};

/// A wheel from this size on has a layer of its own: smaller ones would only add mounts.
const OWN_LAYER: u64 = 1 << 20;
/// Wheels with layers of their own; with bytecode, base, bundle and code that makes 64 layers.
const MOST_OWN: usize = 28;
/// Layers that are made at once: each keeps a core busy, and holds the files of its wheels in memory.
const AT_ONCE: usize = 2;

/// Exactly the wheels of one image.
pub(crate) struct WheelSet {
    /// Sorted by name.
    pub wheels: Vec<PinnedWheel>,
    /// Those among them that the base pins.
    pins: Vec<PinnedWheel>,
    /// Where the others are.
    addresses: BTreeMap<Digest, String>,
}

/// A layer of wheels, in the store.
pub(crate) struct WheelLayer {
    pub layer: BuiltLayer,
    note: WheelNote,
}

/// What is remembered of a wheel layer besides its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct WheelNote {
    has_sources: bool,
    /// What the user should know of it.
    #[serde(default)]
    warnings: Vec<String>,
}

impl LayerNote for WheelNote {
    const FOLDER: &'static str = "wheel";
}

/// A lock that is remembered for where the index has the wheels of a base. It never gets old: their hashes are pinned.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Addresses(Lock);

impl Memo for Addresses {
    const FOLDER: &'static str = "addresses";

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// Fetches the wheels whose layers have to be made.
pub(crate) fn download(supply: &Supply<'_>, set: &WheelSet) -> Result<(), PythonError> {
    let mut missing = Vec::new();
    for group in group(&set.wheels) {
        if find(supply.store, &group)?.is_none() {
            missing.extend(group.0);
        }
    }
    missing.retain(|wheel| supply.store.downloads().find(&wheel.sha256, wheel.size).is_none());
    if missing.is_empty() {
        return Ok(());
    }
    let mut addresses = set.addresses.clone();
    if missing.iter().any(|wheel| !addresses.contains_key(&wheel.sha256)) {
        addresses.extend(find_addresses(supply, &set.pins)?);
    }
    let item = |wheel: &PinnedWheel| {
        let url = addresses.get(&wheel.sha256).ok_or_else(|| LockError::Answer {
            reason: format!("the index does not say where {} is", wheel.file_name),
        })?;
        Ok::<_, LockError>(FetchItem {
            name: format!("{} {}", wheel.name, wheel.version),
            url: Address::new(url),
            size: wheel.size,
            sha256: wheel.sha256,
        })
    };
    let items = missing.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    let connect = || {
        let credentials = (supply.resolver)()?.credentials()?;
        Ok::<_, PythonError>(Client::new()?.with_credentials(&credentials))
    };
    fetch(supply.store, connect, &items, supply.progress)?;
    Ok(())
}

/// Where the index has the wheels of a base.
fn find_addresses(supply: &Supply<'_>, pins: &[PinnedWheel]) -> Result<BTreeMap<Digest, String>, PythonError> {
    // Pinned by their hashes, they may come from anywhere.
    let resolver = (supply.resolver)()?.of_main_index();
    let requirements = pins::requirements(pins);
    let key = requirements.key(&[&resolver.settings()]);
    if let Some(Addresses(lock)) = supply.store.memos().find(&key)? {
        return Ok(pins::addresses(pins, &lock)?);
    }
    let task = Task {
        does: "resolves the wheels of the base",
        progress: supply.progress,
    };
    let _single = supply.store.locks().exclusive(Flight::Resolution(&key), task)?;
    if let Some(Addresses(lock)) = supply.store.memos().find(&key)? {
        return Ok(pins::addresses(pins, &lock)?);
    }
    resolver.ensure(supply.store, supply.progress)?;
    supply.progress.step("Resolving", "the wheels of the base");
    let lock = resolver.resolve(supply.store, &requirements)?;
    let addresses = pins::addresses(pins, &lock)?;
    supply.store.memos().put(&key, &Addresses(lock))?;
    Ok(addresses)
}

/// The layers of `set`, made where they are missing; everything they need must be [downloaded](download). Warns of files
/// that two of its wheels bring.
pub(crate) fn ensure_layers(
    store: &Store,
    set: &WheelSet,
    progress: &dyn Progress,
) -> Result<Vec<WheelLayer>, PythonError> {
    let groups = group(&set.wheels);
    let layers = pool::each(AT_ONCE, &groups, |group, _| ensure(store, group, progress))?;
    let warnings = layers.iter().flat_map(|made| &made.note.warnings);
    warnings.for_each(|warning| progress.warn(warning));
    let trees = layers
        .iter()
        .zip(&groups)
        .map(|(made, group)| (group.names(), store.trees().path(&made.layer.diff_id)));
    let warnings = overlap::check(&trees.collect::<Vec<_>>())?;
    warnings.iter().for_each(|warning| progress.warn(warning));
    Ok(layers)
}

fn find(store: &Store, group: &Group) -> Result<Option<(BuiltLayer, WheelNote)>, StoreError> {
    let (key, reason) = (group.key(), group.reason());
    find_layer(
        store,
        LayerWanted {
            key: &key,
            reason: &reason,
        },
    )
}

fn ensure(store: &Store, group: &Group, progress: &dyn Progress) -> Result<WheelLayer, PythonError> {
    let (key, reason) = (group.key(), group.reason());
    let wanted = LayerWanted {
        key: &key,
        reason: &reason,
    };
    let (layer, note) = ensure_layer(store, wanted, progress, |blob, tree| {
        progress.step("Packing", &reason);
        let open = |pin: &PinnedWheel| {
            let missing = || StoreError::NoBlob { digest: pin.sha256 };
            let file = store.downloads().find(&pin.sha256, pin.size).ok_or_else(missing)?;
            Ok::<_, PythonError>(Wheel::open(file, &pin.file_name)?)
        };
        let wheels = group.0.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (written, warnings) = wheel::write_layer(&wheels, blob, Some(tree))?;
        let has_sources = wheels.iter().any(Wheel::has_sources);
        Ok::<_, PythonError>((written, WheelNote { has_sources, warnings }))
    })?;
    Ok(WheelLayer { layer, note })
}

impl WheelSet {
    /// The wheels of `lock`, and those that a base pins.
    pub(crate) fn new(lock: &Lock, pins: Vec<PinnedWheel>) -> Self {
        let mut wheels = pins.clone();
        wheels.extend(
            lock.wheels
                .iter()
                .map(PinnedWheel::from)
                .filter(|wheel| !pins.iter().any(|pin| pin.sha256 == wheel.sha256)),
        );
        wheels.sort_by(|one, other| one.name.cmp(&other.name));
        // What was built here is nowhere else.
        let elsewhere = lock.wheels.iter().filter(|wheel| wheel.sdist.is_none());
        Self {
            wheels,
            pins,
            addresses: elsewhere.map(|wheel| (wheel.sha256, wheel.url.clone())).collect(),
        }
    }
}

impl WheelLayer {
    /// Whether it holds sources, for which bytecode is worth making.
    pub(crate) fn has_sources(&self) -> bool {
        self.note.has_sources
    }
}

/// Wheels of one layer.
struct Group(Vec<PinnedWheel>);

impl Group {
    fn key(&self) -> Key {
        wheel::layer_key(&self.0.iter().map(|wheel| wheel.sha256).collect::<Vec<_>>())
    }

    fn names(&self) -> String {
        let names: Vec<String> = self
            .0
            .iter()
            .map(|wheel| format!("{} {}", wheel.name, wheel.version))
            .collect();
        names.join(", ")
    }

    fn reason(&self) -> String {
        format!("wheel{} {}", if self.0.len() == 1 { "" } else { "s" }, self.names())
    }
}

/// Large wheels alone, the rest together; names order both, so that the same set gives the same layers.
fn group(wheels: &[PinnedWheel]) -> Vec<Group> {
    let mut by_size: Vec<&PinnedWheel> = wheels.iter().filter(|wheel| wheel.size >= OWN_LAYER).collect();
    by_size.sort_by_key(|wheel| std::cmp::Reverse(wheel.size));
    let own: BTreeSet<&str> = by_size.iter().take(MOST_OWN).map(|wheel| wheel.name.as_str()).collect();
    let (own, bundle): (Vec<_>, Vec<_>) = wheels
        .iter()
        .cloned()
        .partition(|wheel| own.contains(wheel.name.as_str()));
    let mut groups: Vec<Group> = own.into_iter().map(|wheel| Group(vec![wheel])).collect();
    if !bundle.is_empty() {
        groups.push(Group(bundle));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_wheels_have_their_own_layers_and_the_rest_share_one() {
        let wheel = |name: &str, size| PinnedWheel {
            name: name.to_owned(),
            version: "1".to_owned(),
            file_name: String::new(),
            size,
            sha256: Digest::of(name.as_bytes()),
        };
        let wheels = [wheel("a", 10), wheel("b", 5 << 20), wheel("c", 20), wheel("d", 2 << 20)];
        let reasons: Vec<String> = group(&wheels).iter().map(Group::reason).collect();
        assert_eq!(reasons, ["wheel b 1", "wheel d 1", "wheels a 1, c 1"]);
        let many: Vec<PinnedWheel> = (0..40).map(|number| wheel(&format!("w{number:02}"), 2 << 20)).collect();
        assert_eq!(group(&many).len(), MOST_OWN + 1);
    }
}
