//! Requirements, and the wheels that a base pins -> wheel layers, and the bytecode of each.
//!
//! A wheel's layer is the same whoever wants it: a base with numpy and a function that requires numpy share it. So an
//! image on such a base holds the wheels of both as if the function had required them all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::base::{ensure_stdlib, BaseImage};
use super::build::BuildError;
use super::compile::ensure_bytecode;
use super::overlap;
use super::sdist::Bench;
use crate::build::fetch::{fetch, FetchItem};
use crate::build::layers::{ensure_layer, find_layer, BuiltLayer, LayerNote, LayerWanted};
use crate::build::lock::{Lock, LockError, Resolver};
use crate::build::pins::{self, PinnedWheel};
use crate::build::ports::Compiler;
use crate::build::requirements::Requirements;
use crate::build::wheel::{self, Wheel};
use crate::net::Client;
use crate::oci::Digest;
use crate::progress::Progress;
use crate::store::{Flight, Key, Memo, Roots, Store, StoreError, Task};
use crate::sys::pool;

/// Where wheels are, inside an image.
const SITE: &str = "/opt/py/site";
/// A wheel from this size on has a layer of its own: smaller ones would only add mounts.
const OWN_LAYER: u64 = 1 << 20;
/// Wheels with layers of their own; with bytecode, base, bundle and code that makes 64 layers.
const MOST_OWN: usize = 28;
/// Layers that are made at once: each keeps a core busy, and holds the files of its wheels in memory.
const AT_ONCE: usize = 2;

/// What layers of wheels are made with.
pub(super) struct WheelMaker<'a> {
    pub store: &'a Store,
    pub resolver: &'a (dyn Fn() -> Result<Resolver, LockError> + Sync),
    pub compiler: &'a dyn Compiler,
    pub progress: &'a dyn Progress,
    /// How old a lock may be.
    pub lock_age: Duration,
}

/// Exactly the wheels of one image.
pub(super) struct WheelSet {
    /// Sorted by name.
    pub wheels: Vec<PinnedWheel>,
    /// Those among them that the base pins.
    pins: Vec<PinnedWheel>,
    /// Where the others are.
    addresses: BTreeMap<Digest, String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A layer of wheels, in the store.
pub(super) struct WheelLayer {
    /// The layer.
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

impl WheelMaker<'_> {
    /// The wheels of an image: those that the requirements ask for, and those of the base unless one of them is
    /// contradicted. Packages that have no wheel get one that is built on `bench`, when it is given.
    pub(super) fn choose(
        &self,
        requirements: &Requirements,
        pins: &[PinnedWheel],
        bench: Option<&Bench<'_>>,
    ) -> Result<WheelSet, BuildError> {
        let (lock, mut warnings) = self.lock(requirements, pins, bench)?;
        let contradictions = pins::contradictions(pins, &lock);
        let others: Vec<String> = contradictions
            .iter()
            .map(|wheel| format!("{} {}", wheel.name, wheel.version))
            .collect();
        if !others.is_empty() {
            let own: Vec<String> = pins.iter().map(|pin| format!("{} {}", pin.name, pin.version)).collect();
            warnings.push(format!(
                "the requirements need {}: the wheels of the base ({}) are left out",
                others.join(", "),
                own.join(", ")
            ));
        }
        let kept = if others.is_empty() { pins.to_vec() } else { Vec::new() };
        Ok(WheelSet::new(&lock, kept, warnings))
    }

    /// What the requirements ask for, and what the user should know of it.
    fn lock(
        &self,
        requirements: &Requirements,
        pins: &[PinnedWheel],
        bench: Option<&Bench<'_>>,
    ) -> Result<(Lock, Vec<String>), BuildError> {
        if requirements.wanted.is_empty() {
            return Ok(Default::default());
        }
        let resolver = (self.resolver)()?;
        match bench {
            Some(bench) => self.lock_with_sdists(bench, &resolver, requirements, pins),
            None => self.lock_wheels(&resolver, requirements, pins),
        }
    }

    /// Locks `requirements` by wheels of the index alone. Also returns what the user should know.
    pub(super) fn lock_wheels(
        &self,
        resolver: &Resolver,
        requirements: &Requirements,
        pins: &[PinnedWheel],
    ) -> Result<(Lock, Vec<String>), BuildError> {
        let key = pins::constrained(requirements, pins).key(&[&resolver.settings()]);
        let make = || {
            self.announce_resolving(resolver, requirements);
            with_or_without(pins, requirements, |requirements| {
                Ok(resolver.resolve(self.store, requirements)?)
            })
        };
        let flight = Flight::Resolution(&key);
        self.young_lock((resolver, requirements), flight, &[key], |_| true, |_| key, make)
    }

    pub(super) fn announce_resolving(&self, resolver: &Resolver, requirements: &Requirements) {
        let count = requirements.wanted.len();
        let object = format!("{count} requirements for Python {}", resolver.python);
        // An index that cannot be found is the resolver's error, in a moment.
        let index = resolver.index().ok().flatten();
        let of = index.map(|index| format!(" at {} ({})", index.url.shown(), index.source));
        self.progress.step("Resolving", &(object + &of.unwrap_or_default()));
    }

    /// Fetches the wheels whose layers have to be made.
    pub(super) fn download(&self, set: &WheelSet) -> Result<(), BuildError> {
        let mut missing = Vec::new();
        for group in group(&set.wheels) {
            if self.find(&group)?.is_none() {
                missing.extend(group.0);
            }
        }
        missing.retain(|wheel| self.store.find_download(&wheel.sha256, wheel.size).is_none());
        if missing.is_empty() {
            return Ok(());
        }
        let mut addresses = set.addresses.clone();
        if missing.iter().any(|wheel| !addresses.contains_key(&wheel.sha256)) {
            addresses.extend(self.addresses(&set.pins)?);
        }
        let item = |wheel: &PinnedWheel| {
            let url = addresses.get(&wheel.sha256).ok_or_else(|| LockError::Answer {
                reason: format!("the index does not say where {} is", wheel.file_name),
            })?;
            Ok::<_, LockError>(FetchItem {
                name: format!("{} {}", wheel.name, wheel.version),
                url: url.clone(),
                size: wheel.size,
                sha256: wheel.sha256,
            })
        };
        let items = missing.iter().map(item).collect::<Result<Vec<_>, _>>()?;
        let credentials = (self.resolver)()?.credentials()?;
        let client = Client::new()?.with_credentials(credentials.as_ref());
        fetch(self.store, &client, &items, self.progress)?;
        Ok(())
    }

    /// Where the index has the wheels of a base.
    fn addresses(&self, pins: &[PinnedWheel]) -> Result<BTreeMap<Digest, String>, BuildError> {
        let resolver = (self.resolver)()?;
        let requirements = pins::requirements(pins);
        let key = requirements.key(&[&resolver.settings()]);
        if let Some(Addresses(lock)) = self.store.memos().find(&key)? {
            return Ok(pins::addresses(pins, &lock)?);
        }
        let task = Task {
            does: "resolves the wheels of the base",
            progress: self.progress,
        };
        let _single = self.store.exclusive(Flight::Resolution(&key), task)?;
        if let Some(Addresses(lock)) = self.store.memos().find(&key)? {
            return Ok(pins::addresses(pins, &lock)?);
        }
        self.progress.step("Resolving", "the wheels of the base");
        let lock = resolver.resolve(self.store, &requirements)?;
        let addresses = pins::addresses(pins, &lock)?;
        self.store.memos().put(&key, &Addresses(lock))?;
        Ok(addresses)
    }

    /// The layers of `set`, made where they are missing; everything they need must be downloaded. Also returns what the
    /// user should know of them.
    pub(super) fn layers(&self, set: &WheelSet) -> Result<(Vec<WheelLayer>, Vec<String>), BuildError> {
        let groups = group(&set.wheels);
        let layers = pool::each(AT_ONCE, &groups, |group, _| self.layer(group))?;
        let trees = layers
            .iter()
            .zip(&groups)
            .map(|(made, group)| (group.names(), self.store.layer_path(&made.layer.diff_id)));
        let mut warnings: Vec<String> = layers.iter().flat_map(|made| made.note.warnings.clone()).collect();
        warnings.extend(overlap::check(&trees.collect::<Vec<_>>())?);
        Ok((layers, warnings))
    }

    fn find(&self, group: &Group) -> Result<Option<(BuiltLayer, WheelNote)>, StoreError> {
        let (key, reason) = (group.key(), group.reason());
        find_layer(
            self.store,
            LayerWanted {
                key: &key,
                reason: &reason,
            },
        )
    }

    fn layer(&self, group: &Group) -> Result<WheelLayer, BuildError> {
        let (key, reason) = (group.key(), group.reason());
        let wanted = LayerWanted {
            key: &key,
            reason: &reason,
        };
        let (layer, note) = ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            self.progress.step("Building", &reason);
            let open = |pin: &PinnedWheel| {
                let missing = || StoreError::NoBlob { digest: pin.sha256 };
                let file = self.store.find_download(&pin.sha256, pin.size).ok_or_else(missing)?;
                Ok::<_, BuildError>(Wheel::open(file, &pin.file_name)?)
            };
            let wheels = group.0.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            let (written, warnings) = wheel::write_layer(&wheels, blob, Some(tree))?;
            let has_sources = wheels.iter().any(Wheel::has_sources);
            Ok::<_, BuildError>((written, WheelNote { has_sources, warnings }))
        })?;
        Ok(WheelLayer { layer, note })
    }

    /// Bytecode layers by the Python of `base`: of its standard library, when it is ours, and of `wheels`. They do not depend
    /// on each other: while one is written, another is compiled.
    pub(super) fn bytecode(
        &self,
        base: &BaseImage,
        wheels: &[WheelLayer],
    ) -> Result<(Option<BuiltLayer>, Vec<BuiltLayer>), BuildError> {
        let sources = wheels.iter().filter(|made| made.note.has_sources).map(Some);
        let all: Vec<Option<&WheelLayer>> = std::iter::once(None).chain(sources).collect();
        let mut made = pool::each(AT_ONCE, &all, |sources, _| match sources {
            None => Ok::<_, BuildError>(ensure_stdlib(self.store, base, self.compiler, self.progress)?),
            Some(made) => Ok(Some(self.bytecode_of(base, &made.layer)?)),
        })?
        .into_iter();
        Ok((made.next().flatten(), made.flatten().collect()))
    }

    fn bytecode_of(&self, base: &BaseImage, layer: &BuiltLayer) -> Result<BuiltLayer, BuildError> {
        let reason = format!("bytecode of {}", layer.reason);
        let compile = |request: &_| Ok::<_, BuildError>(self.compiler.compile(request)?);
        let wanted = (layer, reason.as_str());
        ensure_bytecode(self.store, base, wanted, SITE, 0, self.progress, compile)
    }
}

impl WheelSet {
    /// The wheels of `lock`, and those that a base pins.
    pub(super) fn new(lock: &Lock, pins: Vec<PinnedWheel>, warnings: Vec<String>) -> Self {
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
            warnings,
        }
    }
}

/// The lock of `requirements` with the versions of `pins`. When there is none, the one without them: the answer, or the
/// explanation, is then that of any other base.
pub(super) fn with_or_without(
    pins: &[PinnedWheel],
    requirements: &Requirements,
    lock: impl Fn(&Requirements) -> Result<Lock, BuildError>,
) -> Result<Lock, BuildError> {
    match lock(&pins::constrained(requirements, pins)) {
        Err(BuildError::Lock(LockError::Unsatisfiable { .. } | LockError::NoWheel { .. } | LockError::Hash { .. }))
            if !pins.is_empty() =>
        {
            lock(requirements)
        }
        other => other,
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
