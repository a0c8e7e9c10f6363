//! Brings the image of a run from a registry, when that is asked for.

use serde::Deserialize;

use super::copies::{pull, Copied, Transport};
use super::images::ImagesError;
use crate::journal::{find_evicted, EvictedImage};
use crate::oci::{Place, Reference};
use crate::progress::{Progress, Silent};
use crate::store::Store;
use crate::sys::clock;
use crate::transfer::{Asked, Registries};

/// When an image of a registry is pulled before it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// When the store has not got the image.
    Missing,
    /// Whatever the store has.
    Always,
    /// An image that the store has not got is not run.
    Never,
}

/// When an image of a registry is fetched before it is run, and with what.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// When.
    pub when: Pull,
    /// From where.
    pub registries: Registries,
    /// Is told what is done.
    pub tell: fn(&str),
}

impl Default for Fetch {
    /// What the store has not got is not run.
    fn default() -> Self {
        Self {
            when: Pull::Never,
            registries: Registries::default(),
            tell: |_| (),
        }
    }
}

impl Fetch {
    /// Whether the image of `reference` is to be fetched. A name of the store is not anywhere else.
    pub(super) fn is_wanted(&self, store: &Store, reference: &Reference) -> bool {
        let is_of_registry = matches!(reference, Reference::Registry { .. });
        is_of_registry
            && match self.when {
                Pull::Always => true,
                // A damaged name is given anew.
                Pull::Missing => !matches!(store.names().find(reference), Ok(Some(_))),
                Pull::Never => false,
            }
    }

    /// Fetches the image of `reference`, unpacks it and names it so. What the store has of it is not fetched again. Who is
    /// asked for it is noted in `asked`.
    pub(super) fn fetch(&self, store: &Store, reference: &Reference, asked: &Asked) -> Result<Copied, ImagesError> {
        let telling = Telling(self.tell);
        let progress: &dyn Progress = &telling;
        let mut transport = Transport::new(store, &self.registries, progress);
        transport.asked = asked.clone();
        // Nothing names it yet, nor its layers.
        let _kept = store.locks().keep_collector_out()?;
        pull(&transport, &Place::Image(reference.clone()), None)
    }
}

/// Whether an image was evicted that no registry is known to have had, and that is called by a host which is not configured, as
/// what came in an archive often is (`localhost/name:1`), at which nobody answers, as `error` says: it is not to be tried again
/// later, for ever. All of the journal may be read for it.
pub(super) fn is_nowhere(store: &Store, registries: &Registries, reference: &Reference, error: &ImagesError) -> bool {
    let (Reference::Registry { host, .. }, ImagesError::Transfer(error)) = (reference, error) else {
        return false;
    };
    if !error.is_of_nobody() {
        return false;
    }
    let is_configured = registries.entries().iter().any(|entry| entry.host == *host);
    let evicted = || find_evicted(store.root(), &reference.with_tag(), clock::now());
    let is_meant = |digest: &str| reference.digest().is_none_or(|wanted| wanted.to_string() == digest);
    !is_configured && matches!(evicted(), Ok(Some(EvictedImage { origin: None, digest, .. })) if is_meant(&digest))
}

/// Tells a person the steps and the warnings, beside the function's own output.
struct Telling(fn(&str));

impl Progress for Telling {
    fn step(&self, verb: &str, object: &str) {
        self.0(&format!("{verb} {object}"));
    }

    fn bytes(&self, done: u64, total: u64) {
        Silent.bytes(done, total);
    }

    fn warn(&self, text: &str) {
        self.0(&format!("warning: {text}"));
    }

    fn spent(&self, stage: &'static str, time: std::time::Duration) {
        Silent.spent(stage, time);
    }
}
