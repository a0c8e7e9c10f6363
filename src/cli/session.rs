//! Opens what every command that uses the store needs: environment, configuration, store.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Instant;

use super::args::Globals;
use super::error::CommandError;
use super::{gone_images, progress};
use crate::config::{Config, ConfigError, Environment};
use crate::journal::{self, Event, EventKind};
use crate::ops::{self, Registries};
use crate::policy::{Promise, Verbosity};
use crate::store::Store;
use crate::sys;

/// The environment, the configuration and the store of one command.
pub(super) struct Session {
    /// What gantry looks at of the environment.
    pub environment: Environment,
    /// The configuration file's values.
    pub config: Config,
    /// The store of this user.
    pub store: Store,
    /// How much is said on standard error.
    pub verbosity: Verbosity,
}

impl Session {
    /// Reads the environment and the configuration, the file of the options if they name one, and opens the store. `say` prints
    /// what is evicted meanwhile, a line each.
    pub(super) fn open(globals: &Globals, say: fn(&str)) -> Result<Self, CommandError> {
        let environment = Environment::read();
        let verbosity = globals.verbosity().map_or_else(|| environment.verbosity(), Ok)?;
        let config = Config::load(globals.config.as_deref(), &environment)?;
        let root = environment.store_root().ok_or(ConfigError::NoHome)?;
        let root = std::path::absolute(&root).unwrap_or(root);
        if verbosity == Verbosity::Verbose {
            for path in environment.configurations(globals.config.as_deref()) {
                let _ = writeln!(io::stderr(), "Configuration {}", path.display());
            }
            let _ = writeln!(io::stderr(), "Store {}", root.display());
        }
        let maker = ops::room_maker(ops::cache_limits(&config), move |went| {
            gone_images::told(went, verbosity).iter().for_each(|line| say(line));
        });
        let store = Store::open(&root)?.telling(progress::tell_wait).making_room_by(maker);
        let store = match config.store.patience {
            Some(patience) => store.giving_up_after(patience.into()),
            None => store,
        };
        Ok(Self {
            environment,
            config,
            store,
            verbosity,
        })
    }

    /// The registries of the configuration, of which it is said when one is waited for.
    pub(super) fn registries(&self) -> Registries {
        ops::registries(&self.config, &self.environment).telling(progress::tell_wait)
    }

    /// The promises whose loss `given` and the configuration accept.
    pub(super) fn allow_degraded(&self, given: &[Promise]) -> BTreeSet<Promise> {
        let mut allowed = self.config.run.confinement().allow_degraded;
        allowed.extend(given);
        allowed
    }

    /// Writes a line into the journal. Losing it never fails a command.
    pub(super) fn note(
        &self,
        kind: EventKind,
        reference: &str,
        digest: Option<String>,
        status: &str,
        started: Instant,
    ) {
        let event = Self::event(kind, reference, status, started);
        self.record(&Event { digest, ..event });
    }

    /// An event that began at `started` and is over now, of which no more is known.
    pub(super) fn event<'a>(kind: EventKind, reference: &'a str, status: &'a str, started: Instant) -> Event<'a> {
        let at = journal::seconds(sys::clock::now());
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Event {
            ms,
            ..Event::of(kind, at, reference, status)
        }
    }

    /// Writes an event into the journal. Losing it never fails a command.
    pub(super) fn record(&self, event: &Event<'_>) {
        if is_worth_writing(event, || self.store.check_not_ending().is_err()) {
            let _ = journal::append(self.store.root(), event);
        }
    }
}

/// Whether an event says something: what failed while a signal ends the command says nothing of the image. A run knows by itself
/// how it ended.
fn is_worth_writing(event: &Event<'_>, is_ending: impl FnOnce() -> bool) -> bool {
    event.status != "failed" || event.kind == EventKind::Run || !is_ending()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_while_a_signal_ends_the_command_is_not_written_but_of_a_run() {
        for (kind, status, is_ending, expected) in [
            (EventKind::Pull, "failed", true, false),
            (EventKind::Pull, "failed", false, true),
            (EventKind::Pull, "ok", true, true),
            (EventKind::Run, "failed", true, true),
        ] {
            let event = Event::of(kind, 0, "a:1", status);
            let is_written = is_worth_writing(&event, || is_ending);
            assert_eq!(is_written, expected, "{status} {is_ending}");
        }
    }
}
