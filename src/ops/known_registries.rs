//! `gantry registries`: the registries of the configuration, and what the processes of a store know of them.

use serde::Serialize;

use crate::store::Store;
use crate::transfer::{read_circuit, Registries, Role};

/// A registry of the configuration.
#[derive(Debug, Clone, Serialize)]
pub struct KnownRegistry {
    /// Its host.
    pub host: String,
    /// The lower, the earlier it is asked.
    pub priority: u32,
    /// `pull` or `push`.
    pub role: &'static str,
    /// Whether it was away a moment ago, so that it is asked last.
    pub is_away: bool,
    /// Times in a row that it was given up.
    pub failures: u32,
    /// Why it was last given up, in a word.
    pub reason: Option<String>,
    /// When, in seconds since 1970.
    pub last_failure: Option<u64>,
    /// When it last did what it was asked, to the minute.
    pub last_success: Option<u64>,
}

impl KnownRegistry {
    /// How it did lately, in a word or two.
    pub fn state(&self) -> String {
        match (self.is_away, &self.reason) {
            (true, Some(reason)) => format!("away ({reason})"),
            (true, None) => "away".to_owned(),
            (false, _) => "ok".to_owned(),
        }
    }
}

/// The registries of this machine, whoever is asked first first.
pub fn known_registries(store: &Store, registries: &Registries) -> Vec<KnownRegistry> {
    let mut known: Vec<KnownRegistry> = registries
        .entries()
        .iter()
        .map(|entry| {
            let circuit = read_circuit(store, &entry.host);
            KnownRegistry {
                host: entry.host.clone(),
                priority: entry.priority,
                role: match entry.role {
                    Role::Pull => "pull",
                    Role::Push => "push",
                },
                is_away: circuit.is_open(),
                failures: circuit.failures,
                reason: circuit.reason,
                last_failure: circuit.last_failure,
                last_success: circuit.last_success,
            }
        })
        .collect();
    known.sort_by_key(|one| one.is_away);
    known
}
