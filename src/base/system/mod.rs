//! System packages: what a function's `packages.txt` names and the base lacks, from Debian's archive, as one layer.
//!
//! ```text
//! packages.txt -> wish -> allowed? (shipped, configuration) -> closure (offer, installed) -> chosen: the lock
//!              -> unpacking (maintainer, alternatives) -> set_up in the sandbox, loader -> one layer
//! ```
//!
//! No maintainer script is run. What the known ones make is made here; a package with another one is refused by name.

mod alternatives;
mod chosen;
mod closure;
mod error;
mod installed;
mod likeness;
mod loader;
mod maintainer;
mod set_up;
mod shipped;
mod unpacking;
mod wish;

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use error::SystemError;
pub(crate) use maintainer::read_fuzzed_script;
pub(crate) use shipped::Shipped;
pub(crate) use wish::{warn_of_mistaken, SystemWish, FILE};

use super::debian::{LockedDeb, Mirrors};
use super::packages::{address_of, is_gone};
use super::{BaseImage, BaseSettings};
use crate::archive::layer::FORMAT;
use crate::net::Client;
use crate::oci::Digest;
use crate::policy::Promise;
use crate::progress::Progress;
use crate::store::{ensure_layer, find_layer, BuiltLayer, Key, LayerNote, LayerStack, LayerWanted, Step, Store};
use crate::transfer::{fetch, FetchItem};
use chosen::{Choice, Chosen};
use installed::Installed;
use set_up::Room;

/// Which packages functions may ask for on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Allowed {
    /// Those that gantry ships a list of.
    #[default]
    Shipped,
    /// These alone.
    These(Vec<String>),
    /// Any.
    Any,
}

/// What is wanted, and within which bounds.
pub(crate) struct SystemRequest<'a> {
    pub wish: &'a SystemWish,
    pub allowed: &'a Allowed,
    /// Where packages come from.
    pub settings: &'a BaseSettings,
    /// How old the lock may be.
    pub lock_age: Duration,
    /// Bytes that the packages may have together.
    pub most: u64,
    /// Promises whose loss does not refuse what is run in the sandbox.
    pub allow_degraded: &'a BTreeSet<Promise>,
    pub progress: &'a dyn Progress,
}

/// A package of the layer, as a report has it.
#[derive(Debug, Clone, Serialize)]
pub struct SystemPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Bytes of its file in the archive.
    pub size: u64,
    /// SHA-256 of that file.
    pub sha256: Digest,
    /// Whether `packages.txt` names it; the others are needed by one that it names.
    pub requested: bool,
}

/// The layer of system packages, and what is in it.
#[derive(Debug)]
pub(crate) struct SystemLayer {
    /// None when the base has all of it.
    pub layer: Option<BuiltLayer>,
    pub packages: Vec<SystemPackage>,
}

/// Nothing is remembered of the layer besides its bytes: the lock says what is in it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SystemNote;

impl LayerNote for SystemNote {
    const FOLDER: &'static str = "system";
}

/// Refuses a wish for a package that `allowed` does not have, by its first line in the file.
pub(crate) fn check_allowed(wish: &SystemWish, allowed: &Allowed, shipped: &Shipped) -> Result<(), SystemError> {
    let names: Vec<&str> = match allowed {
        Allowed::Any => return Ok(()),
        Allowed::These(names) => names.iter().map(String::as_str).collect(),
        Allowed::Shipped => shipped.allowed().collect(),
    };
    let mut beyond: Vec<_> = wish
        .names
        .iter()
        .filter(|(name, _)| !names.contains(&name.as_str()))
        .collect();
    beyond.sort_by_key(|(_, line)| *line);
    let Some((package, line)) = beyond.first() else {
        return Ok(());
    };
    let hint = match shipped.advice(package) {
        Some(advice) => format!("; {advice}"),
        None => likeness::did_you_mean(package, names.into_iter()),
    };
    Err(SystemError::NotAllowed {
        line: *line,
        package: package.clone(),
        hint,
    })
}

/// The layer of the packages that `request` wishes for on `base`, made when it is not there.
pub(crate) fn ensure_system(
    store: &Store,
    base: &BaseImage,
    request: &SystemRequest<'_>,
) -> Result<SystemLayer, SystemError> {
    let shipped = Shipped::read()?;
    check_allowed(request.wish, request.allowed, &shipped)?;
    let (below, trees) = base_stack(store, base)?;
    let installed = Installed::read(&base.name, &below)?;
    let choice = Choice::of(request, store, &installed, &shipped);
    let maker = Maker {
        store,
        base,
        request,
        shipped: &shipped,
        below: &below,
        trees: &trees,
    };
    let chosen = choice.young(request.lock_age)?;
    let (layer, chosen) = match maker.layer(&chosen, &choice) {
        // A young lock of packages that an update has replaced since.
        Err(SystemError::Fetch(error)) if is_gone(&error) && !request.lock_age.is_zero() => {
            let chosen = choice.young(Duration::ZERO)?;
            (maker.layer(&chosen, &choice)?, chosen)
        }
        made => (made?, chosen),
    };
    let report = |deb: LockedDeb| SystemPackage {
        requested: chosen.requested.contains(&deb.name),
        name: deb.name,
        version: deb.version,
        size: deb.size,
        sha256: deb.sha256,
    };
    Ok(SystemLayer {
        layer,
        packages: chosen.packages.iter().cloned().map(report).collect(),
    })
}

type Trees = Vec<std::path::PathBuf>;

/// The layers of `base` as one tree, and their directories, top first.
fn base_stack(store: &Store, base: &BaseImage) -> Result<(LayerStack, Trees), SystemError> {
    let diff_ids: Vec<_> = base.layers.iter().map(|layer| layer.diff_id).collect();
    let visible = store.trees().visible(&diff_ids).iter().rev();
    let trees: Trees = visible.map(|diff_id| store.trees().path(diff_id)).collect();
    let stack = LayerStack::open(trees.iter().cloned()).map_err(|source| SystemError::ReadBase {
        base: base.name.clone(),
        path: String::new(),
        source,
    })?;
    Ok((stack, trees))
}

struct Maker<'a> {
    store: &'a Store,
    base: &'a BaseImage,
    request: &'a SystemRequest<'a>,
    shipped: &'a Shipped,
    below: &'a LayerStack,
    trees: &'a Trees,
}

impl Maker<'_> {
    fn layer(&self, chosen: &Chosen, choice: &Choice<'_>) -> Result<Option<BuiltLayer>, SystemError> {
        if chosen.packages.is_empty() {
            return Ok(None);
        }
        self.check_size(&chosen.packages)?;
        let key = self.key(&chosen.packages);
        let wanted = LayerWanted {
            key: &key,
            reason: "system packages",
        };
        if let Some((layer, _)) = find_layer::<SystemNote>(self.store, wanted)? {
            return Ok(Some(layer));
        }
        let progress = self.request.progress;
        let connect = || Ok::<_, SystemError>(Client::new()?);
        let items = fetch_items(&chosen.packages, &choice.mirrors()?);
        let debs = fetch(self.store, connect, &items, progress)?;
        let (layer, _) = ensure_layer(self.store, wanted, progress, |blob, tree| {
            progress.step("Unpacking", &format!("{} system packages", chosen.packages.len()));
            let written = self.write(&chosen.packages, &debs, blob, tree)?;
            Ok::<_, SystemError>((written, SystemNote))
        })?;
        Ok(Some(layer))
    }

    fn write(
        &self,
        packages: &[LockedDeb],
        debs: &[File],
        blob: &mut crate::store::BlobWriter,
        tree: &mut crate::store::LayerStaging,
    ) -> Result<crate::archive::layer::WrittenLayer, SystemError> {
        let mut unpacked = unpacking::unpack(packages, debs, self.shipped, self.store.trees().stage()?)?;
        unpacked.settle(&self.base.name, self.below)?;
        let mut made = match set_up::is_needed(&unpacked) {
            false => Default::default(),
            true => {
                let room = Room {
                    scaffold: self.store.trees().scaffold()?,
                    lowers: self.trees.clone(),
                    python: &self.base.python,
                    allow_degraded: self.request.allow_degraded,
                };
                set_up::set_up(&unpacked, &room)?
            }
        };
        made.extend(loader::cache(&unpacked, &self.base.name, self.below)?);
        unpacked.write(&made, blob, Some(tree))
    }

    /// Whether the packages may be in an image: known before one is downloaded.
    fn check_size(&self, packages: &[LockedDeb]) -> Result<(), SystemError> {
        let size = packages.iter().map(|deb| deb.size).sum();
        if size <= self.request.most {
            return Ok(());
        }
        let mut largest: Vec<&LockedDeb> = packages.iter().collect();
        largest.sort_by_key(|deb| std::cmp::Reverse(deb.size));
        let named = |deb: &&LockedDeb| format!("{} ({})", deb.name, crate::policy::Bytes(deb.size));
        Err(SystemError::TooLarge {
            size,
            most: self.request.most,
            largest: largest.iter().take(3).map(named).collect::<Vec<_>>().join(", "),
        })
    }

    /// What the layer depends on: the packages, what is known of them, and the base, whose files are left out.
    fn key(&self, packages: &[LockedDeb]) -> Key {
        let base = self.base.layers.iter().map(|layer| layer.diff_id.to_string());
        let packages = packages.iter().map(|deb| deb.sha256.to_string());
        Key::of(Step::SystemLayer)
            .with(FORMAT)
            .with(Digest::of(shipped::TEXT.as_bytes()).to_string())
            .with(Digest::of(set_up::SCRIPT.as_bytes()).to_string())
            .with_list(base)
            .with_list(packages)
            .finish()
    }
}

fn fetch_items(packages: &[LockedDeb], mirrors: &Mirrors) -> Vec<FetchItem> {
    let item = |deb: &LockedDeb| FetchItem {
        name: format!("{} {}", deb.name, deb.version),
        url: address_of(deb, mirrors),
        size: deb.size,
        sha256: deb.sha256,
    };
    packages.iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_for_is_the_machines_to_say() {
        let shipped = Shipped::read().unwrap();
        let check = |wish: &str, allowed: &Allowed| {
            check_allowed(&SystemWish::read(wish.as_bytes()).unwrap(), allowed, &shipped)
        };
        let refused = |wish: &str, allowed: &Allowed| match check(wish, allowed) {
            Err(SystemError::NotAllowed { line, package, hint }) => (line, package, hint),
            other => panic!("{other:?}"),
        };
        assert!(check("libgl1\ngraphviz\n", &Allowed::Shipped).is_ok());
        assert_eq!(
            refused("libgl1\nzsh\nnmap\n", &Allowed::Shipped),
            (2, "zsh".to_owned(), String::new())
        );
        let (_, _, hint) = refused("graphvis\n", &Allowed::Shipped);
        assert_eq!(hint, "; did you mean graphviz?");
        let (_, _, hint) = refused("locales\n", &Allowed::Shipped);
        assert!(hint.contains("take locales-all"), "{hint}");
        let these = Allowed::These(vec!["zsh".to_owned()]);
        assert!(check("zsh", &these).is_ok() && check("libgl1", &these).is_err());
        assert!(check("anything", &Allowed::Any).is_ok());
        assert!(check("", &Allowed::These(Vec::new())).is_ok());
    }
}
