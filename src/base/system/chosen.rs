//! The lock of system packages: remembered, and made anew once it is old, from the archive's signed index.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::closure::{close, Closure};
use super::error::SystemError;
use super::installed::Installed;
use super::shipped::{Shipped, TEXT};
use super::wish::SystemWish;
use super::SystemRequest;
use crate::base::debian::{find_mirrors, Configured, LockedDeb, Mirrors, Offer};
use crate::base::definitions::Definitions;
use crate::base::relock::read_index;
use crate::base::BaseSettings;
use crate::net::{Address, Client};
use crate::oci::Digest;
use crate::progress::Progress;
use crate::store::{Flight, Key, Memo, Roots, Step, Store, Task};

/// Exactly which packages, and since when that is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Chosen {
    /// Sorted by name.
    pub packages: Vec<LockedDeb>,
    /// The names of those that were asked for.
    pub requested: Vec<String>,
    /// Seconds since 1970 when the archive's index said so.
    resolved: u64,
}

impl Memo for Chosen {
    const FOLDER: &'static str = "system-lock";

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// Chooses packages for one wish on one base.
pub(super) struct Choice<'a> {
    pub store: &'a Store,
    pub settings: &'a BaseSettings,
    pub progress: &'a dyn Progress,
    pub wish: &'a SystemWish,
    pub installed: &'a Installed,
    pub shipped: &'a Shipped,
}

impl<'a> Choice<'a> {
    /// Of what `request` wishes for.
    pub(super) fn of(
        request: &SystemRequest<'a>,
        store: &'a Store,
        installed: &'a Installed,
        shipped: &'a Shipped,
    ) -> Self {
        Self {
            store,
            settings: request.settings,
            progress: request.progress,
            wish: request.wish,
            installed,
            shipped,
        }
    }

    /// Where the packages are.
    pub(super) fn mirrors(&self) -> Result<Mirrors, SystemError> {
        let configured = Configured {
            main: self.settings.mirror.as_ref(),
            security: self.settings.security_mirror.as_ref(),
            keyring: self.settings.keyring.as_deref(),
        };
        // A damaged definition was refused when the base was chosen.
        let definitions = Definitions::load(self.settings.definitions.as_deref());
        let releases = definitions
            .and_then(|definitions| definitions.suites())
            .unwrap_or_default();
        let apt = Path::new("/etc/apt");
        Ok(find_mirrors(&self.installed.suite, &releases, configured, apt)?)
    }

    /// The packages that are remembered while that is younger than `age`, else those of the index. While the archive is
    /// away old ones are used, with a warning.
    pub(super) fn young(&self, age: Duration) -> Result<Chosen, SystemError> {
        let key = self.key();
        let find = || self.store.memos().find::<Chosen>(&key);
        let serves = |found: &Chosen| found.age() < age.as_secs();
        if let Some(found) = find()?.filter(serves) {
            return Ok(found);
        }
        let begun = now();
        let task = Task {
            does: &format!("resolves {} system packages", self.wish.names.len()),
            progress: self.progress,
        };
        let single = self.store.locks().exclusive(Flight::Resolution(&key), task)?;
        // What another one was told since we began is as new as what we would be told.
        let is_news = |found: &Chosen| single.has_waited() && found.resolved >= begun && found.age() < u64::MAX;
        let remembered = find()?;
        if let Some(found) = remembered.clone().filter(|found| serves(found) || is_news(found)) {
            return Ok(found);
        }
        match (self.resolve(), remembered) {
            (Ok(Closure { packages, requested }), _) => {
                let resolved = now();
                let chosen = Chosen {
                    packages,
                    requested,
                    resolved,
                };
                self.store.memos().put(&key, &chosen)?;
                Ok(chosen)
            }
            // Who allows no age wants to hear of it.
            (Err(error), Some(found)) if error.kind().is_away() && !age.is_zero() => {
                self.progress.warn(&format!(
                    "the Debian archive cannot be asked: the system packages of {} hours ago are used",
                    found.age() / 3600
                ));
                Ok(found)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn resolve(&self) -> Result<Closure, SystemError> {
        let mirrors = self.mirrors()?;
        let suite = &self.installed.suite;
        self.progress
            .step("Resolving", &format!("system packages of Debian {suite}"));
        let mut offer = Offer::default();
        let now = crate::sys::clock::now();
        read_index(
            self.store,
            &Client::new()?,
            suite,
            &mirrors,
            now,
            &mut |list, archive, limit| offer.add(list, archive, limit),
        )?;
        close(self.wish, &offer.complete(), self.installed, self.shipped)
    }

    fn key(&self) -> Key {
        let installed = self.installed.packages().flat_map(|(name, version)| [name, version]);
        let mirrors = [&self.settings.mirror, &self.settings.security_mirror];
        let mirrors = mirrors.map(|mirror| mirror.as_ref().map(Address::shown).unwrap_or_default());
        Key::of(Step::SystemLock)
            .with(Digest::of(TEXT.as_bytes()).to_string())
            .with(&self.installed.suite)
            .with_list(self.wish.packages())
            .with_list(installed)
            .with_list(mirrors)
            .finish()
    }
}

impl Chosen {
    /// Seconds since it was resolved. A time to come is a clock that was wrong.
    fn age(&self) -> u64 {
        now().checked_sub(self.resolved).unwrap_or(u64::MAX)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    crate::sys::clock::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
