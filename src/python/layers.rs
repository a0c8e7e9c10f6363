//! Exactly which wheels -> downloads -> one layer for each large wheel, and a few that small ones share.
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

/// A wheel from this size on has a layer of its own: of smaller ones each would cost a mount, and none is much to send again.
const OWN_LAYER: u64 = 128 << 10;
/// Wheels with layers of their own; with those that others share, bytecode of all, base and code that makes 64 layers.
const MOST_OWN: usize = 21;
/// Layers that the other wheels share. The name of a wheel says which, and nothing else does: a wheel that comes, goes or
/// changes leaves all the others where they are.
const SHARED_LAYERS: u8 = 8;
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

/// Large wheels alone, the rest by their names; names order all of them, so that the same set gives the same layers.
fn group(wheels: &[PinnedWheel]) -> Vec<Group> {
    let mut by_size: Vec<&PinnedWheel> = wheels.iter().filter(|wheel| wheel.size >= OWN_LAYER).collect();
    by_size.sort_by_key(|wheel| std::cmp::Reverse(wheel.size));
    let own: BTreeSet<&str> = by_size.iter().take(MOST_OWN).map(|wheel| wheel.name.as_str()).collect();
    let (own, others): (Vec<_>, Vec<_>) = wheels
        .iter()
        .cloned()
        .partition(|wheel| own.contains(wheel.name.as_str()));
    let mut shared: BTreeMap<u8, Vec<PinnedWheel>> = BTreeMap::new();
    for wheel in others {
        shared.entry(shared_layer(&wheel.name)).or_default().push(wheel);
    }
    let own = own.into_iter().map(|wheel| vec![wheel]);
    own.chain(shared.into_values()).map(Group).collect()
}

/// Which of the shared layers the wheel `name` lies in.
fn shared_layer(name: &str) -> u8 {
    let hex = Digest::of(name.as_bytes()).hex();
    let first = hex.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    first.unwrap_or_default() % SHARED_LAYERS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wheel(name: &str, size: u64) -> PinnedWheel {
        PinnedWheel {
            name: name.to_owned(),
            version: "1".to_owned(),
            file_name: String::new(),
            size,
            sha256: Digest::of(name.as_bytes()),
        }
    }

    fn reasons(wheels: &[PinnedWheel]) -> Vec<String> {
        group(wheels).iter().map(Group::reason).collect()
    }

    #[test]
    fn large_wheels_have_their_own_layers_and_the_rest_share_some() {
        let wheels = [
            wheel("a", 10),
            wheel("b", 5 << 20),
            wheel("h", 20),
            wheel("k", OWN_LAYER),
        ];
        assert_eq!((shared_layer("a"), shared_layer("h")), (2, 2));
        assert_eq!(reasons(&wheels), ["wheel b 1", "wheel k 1", "wheels a 1, h 1"]);
        let many: Vec<PinnedWheel> = (0..400)
            .map(|number| wheel(&format!("w{number:03}"), number << 10))
            .collect();
        assert_eq!(group(&many).len(), MOST_OWN + usize::from(SHARED_LAYERS));
    }

    #[test]
    fn a_wheel_that_comes_leaves_all_others_where_they_are() {
        let names = [
            "cycler",
            "h11",
            "idna",
            "packaging",
            "pandas",
            "pytz",
            "python-dateutil",
            "sniffio",
            "typing-extensions",
        ];
        let wheels: Vec<PinnedWheel> = names.map(|name| wheel(name, 60 << 10)).to_vec();
        let before: BTreeSet<String> = reasons(&wheels).into_iter().collect();
        let more: Vec<PinnedWheel> = wheels.into_iter().chain([wheel("six", 11 << 10)]).collect();
        let after: BTreeSet<String> = reasons(&more).into_iter().collect();
        let new: Vec<&String> = after.difference(&before).collect();
        assert!(new.len() == 1 && new[0].contains("six 1"), "{new:?}");
    }
}
