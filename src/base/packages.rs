//! The layer of a variant's Debian packages, those of a base or of the toolchain: of the pinned ones, else, once those
//! have left the archive, of the ones that its signed index has now.

use std::io::Read;
use std::path::Path;

use super::assemble::{assemble, Parts};
use super::debian::{find_mirrors, Configured, LockedDeb, Mirrors};
use super::definition::{BaseNote, Interpreter, Variant};
use super::definitions::Definitions;
use super::relock::{changes, relock, relock_key, Relocked};
use super::{BaseError, BaseSettings};
use crate::net::{Address, Client};
use crate::oci::Digest;
use crate::progress::Progress;
use crate::store::{ensure_layer, find_layer, BuiltLayer, Flight, LayerWanted, Store, Task};
use crate::transfer::{fetch, FetchError, FetchItem};

/// The largest archives of interpreters, with debug information, have some hundred megabytes.
const MAX_INTERPRETER: u64 = 512 << 20;

/// What layers of packages are made with.
pub(super) struct Packages<'a> {
    pub store: &'a Store,
    pub settings: &'a BaseSettings,
    pub progress: &'a dyn Progress,
}

impl Packages<'_> {
    /// The layer of the packages: the pinned ones, else, once those have left the archive, the ones of its signed index.
    pub(super) fn ensure(&self, pinned: &Variant) -> Result<BuiltLayer, BaseError> {
        if let Some(layer) = self.find_packages(pinned)? {
            return Ok(layer);
        }
        if let Some(found) = self.find_relocked(pinned)? {
            return Ok(found);
        }
        let configured = Configured {
            main: self.settings.mirror.as_ref(),
            security: self.settings.security_mirror.as_ref(),
            keyring: self.settings.keyring.as_deref(),
        };
        let releases = Definitions::load(self.settings.definitions.as_deref())?.suites()?;
        let mirrors = find_mirrors(&pinned.definition.suite, &releases, configured, Path::new("/etc/apt"))?;
        match self.assemble(pinned, &mirrors) {
            Ok(layer) => Ok(layer),
            Err(BaseError::Fetch(error)) if is_gone(&error) => self.relock(pinned, &mirrors, error),
            Err(error) => Err(error),
        }
    }

    fn relock(&self, pinned: &Variant, mirrors: &Mirrors, gone: FetchError) -> Result<BuiltLayer, BaseError> {
        let reason = pinned.title();
        let key = relock_key(pinned);
        let task = Task {
            does: &format!("makes {reason}"),
            progress: self.progress,
        };
        let _single = self.store.locks().exclusive(Flight::Relock(&key), task)?;
        if let Some(found) = self.find_relocked(pinned)? {
            return Ok(found);
        }
        self.progress.step("Resolving", &format!("{reason} again: {gone}"));
        let now = crate::sys::clock::now();
        let lock = relock(self.store, &Client::new()?, pinned, mirrors, now)?;
        if lock == pinned.lock {
            // The index still has what is not there: nothing to be gained.
            return Err(gone.into());
        }
        let relocked = Variant { lock, ..pinned.clone() };
        let layer = self.assemble(&relocked, mirrors)?;
        self.store.memos().put(&key, &Relocked(relocked.lock.clone()))?;
        self.progress.warn(&relocked_warning(pinned, &relocked, &layer));
        Ok(layer)
    }

    /// The layer of an earlier [`Packages::relock`], as long as the store has it.
    fn find_relocked(&self, pinned: &Variant) -> Result<Option<BuiltLayer>, BaseError> {
        let key = relock_key(pinned);
        let Some(Relocked(lock)) = self.store.memos().find(&key)? else {
            return Ok(None);
        };
        let relocked = Variant { lock, ..pinned.clone() };
        let Some(layer) = self.find_packages(&relocked)? else {
            return Ok(None);
        };
        self.progress.warn(&relocked_warning(pinned, &relocked, &layer));
        Ok(Some(layer))
    }

    fn find_packages(&self, variant: &Variant) -> Result<Option<BuiltLayer>, BaseError> {
        let (key, reason) = (variant.key(), variant.title());
        let wanted = LayerWanted {
            key: &key,
            reason: &reason,
        };
        Ok(find_layer::<BaseNote>(self.store, wanted)?.map(|(layer, _)| layer))
    }

    fn assemble(&self, variant: &Variant, mirrors: &Mirrors) -> Result<BuiltLayer, BaseError> {
        let (key, reason) = (variant.key(), variant.title());
        let wanted = LayerWanted {
            key: &key,
            reason: &reason,
        };
        let connect = || Ok::<_, BaseError>(Client::new()?);
        // First, as it may be out of reach.
        let interpreter = match &variant.definition.interpreter {
            Some(pin) => Some(self.interpreter(&variant.packages_of, pin)?),
            None => None,
        };
        let debs = fetch(self.store, connect, &fetch_items(variant, mirrors), self.progress)?;
        let parts = Parts {
            debs: &debs,
            interpreter,
        };
        self.progress.step("Assembling", &reason);
        let (layer, _) = ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            Ok::<_, BaseError>((assemble(variant, &parts, blob, Some(tree))?, BaseNote))
        })?;
        Ok(layer)
    }
}

impl Packages<'_> {
    /// The archive that `pin` names for base `name`, from the store or from the network, and no other bytes.
    fn interpreter(&self, name: &str, pin: &Interpreter) -> Result<Vec<u8>, BaseError> {
        let (downloads, file) = (self.store.downloads(), pin.file_name());
        if let Some(mut there) = downloads.find_whole(&pin.sha256) {
            let mut bytes = Vec::new();
            if there.read_to_end(&mut bytes).is_ok() && Digest::of(&bytes) == pin.sha256 {
                return Ok(bytes);
            }
        }
        let url = pin.address(self.settings.interpreter_mirror.as_ref());
        self.progress.step("Downloading", &file);
        let bytes = Client::new()?.get(url.as_str(), MAX_INTERPRETER);
        let bytes = bytes.map_err(|source| BaseError::Interpreter {
            name: name.to_owned(),
            file: file.clone(),
            source,
        })?;
        let got = Digest::of(&bytes);
        if got != pin.sha256 {
            return Err(BaseError::OtherInterpreter {
                name: name.to_owned(),
                file,
                got,
                expected: pin.sha256,
            });
        }
        downloads.put(&bytes)?;
        Ok(bytes)
    }
}

/// The packages of `variant` as downloads from `mirrors`.
fn fetch_items(variant: &Variant, mirrors: &Mirrors) -> Vec<FetchItem> {
    let item = |deb: &LockedDeb| FetchItem {
        name: format!("{} {}", deb.name, deb.version),
        url: address_of(deb, mirrors),
        size: deb.size,
        sha256: deb.sha256,
    };
    variant.lock.iter().map(item).collect()
}

/// Where `deb` is, on `mirrors`.
pub(super) fn address_of(deb: &LockedDeb, mirrors: &Mirrors) -> Address {
    let mirror = mirrors.of(deb.archive).uri.as_str().trim_end_matches('/');
    Address::new(format!("{mirror}/{}", deb.path))
}

/// Whether a file is no longer where it was; every other failure stays what it is.
pub(super) fn is_gone(error: &FetchError) -> bool {
    matches!(error, FetchError::Net { source, .. } if source.is_not_found())
}

fn relocked_warning(pinned: &Variant, relocked: &Variant, layer: &BuiltLayer) -> String {
    let title = pinned.title();
    let thing = title.split(' ').next().unwrap_or(&title);
    format!(
        "{title}: pinned packages have left the archive, so it is made of those that the archive's signed index has; \
         the digest of the {thing} changed, to {}: {}",
        layer.descriptor.digest,
        changes(&pinned.lock, &relocked.lock).join(", ")
    )
}
