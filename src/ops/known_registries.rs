//! `gantry registries`: the registries of the configuration, what the processes of a store know of them, and which one is
//! preferred.

use std::time::Duration;

use serde::Serialize;

use super::images::ImagesError;
use crate::progress::Progress;
use crate::store::Store;
use crate::sys::clock::rfc3339;
use crate::transfer::{read_circuit, Preferred, Registries, Role};

/// A registry of the configuration.
#[derive(Debug, Clone, Serialize)]
pub struct KnownRegistry {
    /// Its host.
    pub host: String,
    /// The lower, the earlier it is asked.
    pub priority: u32,
    /// `pull` or `push`.
    pub role: &'static str,
    /// Whether it is preferred now: it is asked first, and what is pushed goes there alone.
    pub is_preferred: bool,
    /// Until when, in seconds since 1970.
    pub preferred_until: Option<u64>,
    /// Whether it was away a moment ago, so that it is asked last.
    pub is_away: bool,
    /// Until when it is asked last, in seconds since 1970.
    pub away_until: Option<u64>,
    /// Times in a row that it was given up.
    pub failures: u32,
    /// Why it was last given up, in a word.
    pub reason: Option<String>,
    /// When, in seconds since 1970.
    pub last_failure: Option<u64>,
    /// When it last did what it was asked, to the minute.
    pub last_success: Option<u64>,
    /// Since when it does as it does now: fails, or does what it is asked. In seconds since 1970; none when nobody knows.
    pub since: Option<u64>,
}

impl KnownRegistry {
    /// Whether nothing is wrong with it, as far as anybody knows.
    pub fn is_well(&self) -> bool {
        !self.is_away && self.failures == 0
    }

    /// How it did lately and whether it is preferred, in some words.
    pub fn state(&self) -> String {
        let why = self
            .reason
            .as_ref()
            .map_or(String::new(), |reason| format!(" ({reason})"));
        let since = |fallback: Option<u64>| {
            let since = self.since.or(fallback);
            since.map_or(String::new(), |since| format!(" since {}", rfc3339(since, "")))
        };
        let health = match (self.is_away, self.failures, self.last_success) {
            (true, ..) => format!("away{why}"),
            (false, 1.., _) => format!("failing{}{why}", since(self.last_failure)),
            (false, 0, Some(_)) => format!("ok{}", since(self.last_success)),
            (false, 0, None) => "no pull or push yet".to_owned(),
        };
        match self.preferred_until {
            Some(until) => format!("{health}, preferred until {}", rfc3339(until, "")),
            None => health,
        }
    }
}

/// The registries of this machine, whoever is asked first first. `progress` hears of a note that counts for nothing.
pub fn known_registries(store: &Store, registries: &Registries, progress: &dyn Progress) -> Vec<KnownRegistry> {
    let preferred = registries.preferred(store, progress);
    let mut known: Vec<KnownRegistry> = registries
        .entries()
        .iter()
        .map(|entry| {
            let circuit = read_circuit(store, &entry.host);
            let is_away = circuit.is_open();
            let preferred = preferred.as_ref().filter(|preferred| preferred.host == entry.host);
            KnownRegistry {
                host: entry.host.clone(),
                priority: entry.priority,
                role: match entry.role {
                    Role::Pull => "pull",
                    Role::Push => "push",
                },
                is_preferred: preferred.is_some(),
                preferred_until: preferred.map(|preferred| preferred.until),
                is_away,
                away_until: is_away.then_some(circuit.open_until),
                failures: circuit.failures,
                reason: circuit.reason,
                last_failure: circuit.last_failure,
                last_success: circuit.last_success,
                since: circuit.since,
            }
        })
        .collect();
    known.sort_by_key(|one| (!one.is_preferred, one.is_away));
    known
}

/// Prefers the registry `host` for `time`: the mode for an outage of the others.
///
/// # Errors
///
/// For a registry that the configuration does not know, and when the store cannot be written.
pub fn prefer(store: &Store, registries: &Registries, host: &str, time: Duration) -> Result<Preferred, ImagesError> {
    Ok(registries.prefer(store, host, time)?)
}

/// Prefers no registry any more.
///
/// # Errors
///
/// When the store cannot be written.
pub fn prefer_none(store: &Store, registries: &Registries) -> Result<(), ImagesError> {
    Ok(registries.prefer_none(store)?)
}
