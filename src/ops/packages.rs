//! The layer of a variant's Debian packages, those of a base or of the toolchain: of the pinned ones, else, once those
//! have left the archive, of the ones that its signed index has now.

use std::path::Path;

use super::base::{BaseError, BaseSettings};
use crate::build::base::{self, BaseNote, Mirrors, Relocked, Variant};
use crate::build::fetch::{fetch, FetchError};
use crate::build::layers::{ensure_layer, find_layer, BuiltLayer, LayerWanted};
use crate::net::Client;
use crate::progress::Progress;
use crate::store::{Flight, Store, Task};

/// What layers of packages are made with.
pub(super) struct Packages<'a> {
    pub store: &'a Store,
    pub settings: &'a BaseSettings,
    pub progress: &'a dyn Progress,
}

impl Packages<'_> {
    /// The layer of the packages: the pinned ones, else, once those have left the archive, the ones of its signed index.
    pub(super) fn ensure(&self, pinned: &Variant) -> Result<(BuiltLayer, Vec<String>), BaseError> {
        if let Some(layer) = self.find_packages(pinned)? {
            return Ok((layer, Vec::new()));
        }
        if let Some(found) = self.find_relocked(pinned)? {
            return Ok(found);
        }
        let configured = base::Configured {
            main: self.settings.mirror.as_ref(),
            security: self.settings.security_mirror.as_ref(),
            keyring: self.settings.keyring.as_deref(),
        };
        let mirrors = base::find_mirrors(&pinned.definition.suite, configured, Path::new("/etc/apt"))?;
        match self.assemble(pinned, &mirrors) {
            Ok(layer) => Ok((layer, Vec::new())),
            Err(BaseError::Fetch(error)) if is_gone(&error) => self.relock(pinned, &mirrors, error),
            Err(error) => Err(error),
        }
    }

    fn relock(
        &self,
        pinned: &Variant,
        mirrors: &Mirrors,
        gone: FetchError,
    ) -> Result<(BuiltLayer, Vec<String>), BaseError> {
        let reason = pinned.title();
        let key = base::relock_key(pinned);
        let task = Task {
            does: &format!("makes {reason}"),
            progress: self.progress,
        };
        let _single = self.store.exclusive(Flight::Relock(&key), task)?;
        if let Some(found) = self.find_relocked(pinned)? {
            return Ok(found);
        }
        self.progress.step("Resolving", &format!("{reason} again: {gone}"));
        let now = crate::sys::clock::now();
        let lock = base::relock(self.store, &Client::new()?, pinned, mirrors, now)?;
        if lock == pinned.lock {
            // The index still has what is not there: nothing to be gained.
            return Err(gone.into());
        }
        let relocked = Variant { lock, ..pinned.clone() };
        let layer = self.assemble(&relocked, mirrors)?;
        self.store.memos().put(&key, &Relocked(relocked.lock.clone()))?;
        let warning = relocked_warning(pinned, &relocked, &layer);
        Ok((layer, vec![warning]))
    }

    /// The layer of an earlier [`Packages::relock`], as long as the store has it.
    fn find_relocked(&self, pinned: &Variant) -> Result<Option<(BuiltLayer, Vec<String>)>, BaseError> {
        let key = base::relock_key(pinned);
        let Some(Relocked(lock)) = self.store.memos().find(&key)? else {
            return Ok(None);
        };
        let relocked = Variant { lock, ..pinned.clone() };
        let Some(layer) = self.find_packages(&relocked)? else {
            return Ok(None);
        };
        let warning = relocked_warning(pinned, &relocked, &layer);
        Ok(Some((layer, vec![warning])))
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
        let debs = fetch(
            self.store,
            &Client::new()?,
            &variant.fetch_items(mirrors),
            self.progress,
        )?;
        self.progress.step("Assembling", &reason);
        let (layer, _) = ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            Ok::<_, BaseError>((base::assemble(variant, &debs, blob, Some(tree))?, BaseNote))
        })?;
        Ok(layer)
    }
}

/// Whether a file is no longer where it was; every other failure stays what it is.
fn is_gone(error: &FetchError) -> bool {
    matches!(error, FetchError::Net { source, .. } if source.is_not_found())
}

fn relocked_warning(pinned: &Variant, relocked: &Variant, layer: &BuiltLayer) -> String {
    let title = pinned.title();
    let thing = title.split(' ').next().unwrap_or(&title);
    format!(
        "{title}: pinned packages have left the archive, so it is made of those that the archive's signed index has; \
         the digest of the {thing} changed, to {}: {}",
        layer.descriptor.digest,
        base::changes(&pinned.lock, &relocked.lock).join(", ")
    )
}
