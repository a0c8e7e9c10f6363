//! The registries of this machine: which there are, in which order they are asked, and what may be done with each.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::circuit::read_circuit;
use super::connections::Connections;
use super::login_places::{Credential, LoginPlaces};
use super::no_registry::{find_no_registry, find_suspect, no_registry};
use super::preferred::{prefer, prefer_none, read_preferred, Preferred};
use super::pull_budget::Budget;
use super::TransferError;
use crate::net::{Wire, WirePatience};
use crate::oci::normal_host;
use crate::policy::{nearest, Bytes};
use crate::progress::Progress;
use crate::registry::{
    check_login, find_stranger, manager, of_pair, Management, ManagementApi, Registry, RegistryError, RegistryPlace,
    Repository, SaidBy, Taken,
};
use crate::store::Store;

/// What may be done with a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Images are fetched and nothing else.
    Pull,
    /// Images are pushed as well.
    Push,
}

/// A registry of the configuration.
#[derive(Debug, Clone)]
pub struct RegistryEntry {
    /// Its host, with a port if that is another one than usual.
    pub host: String,
    /// The lower, the earlier it is asked.
    pub priority: u32,
    /// What may be done with it.
    pub role: Role,
    /// Credentials, when the configuration names some.
    pub credentials: Option<Credential>,
    /// Whether it is spoken to without TLS.
    pub is_plain: bool,
    /// Most bytes of one request of an upload, for a registry that takes no more.
    pub chunk: Option<Bytes>,
    /// Repositories in which no tag is moved; `*` stands for anything.
    pub immutable: Vec<String>,
    /// Blobs at once over all processes of the store, where that is another number than for others.
    pub connections: Option<usize>,
    /// Pulls of one image in a minute, for a registry that takes no more.
    pub pulls_per_minute: Option<u32>,
    /// By which API it is listed and deleted from, when not by the protocol.
    pub management: Option<ManagementApi>,
}

/// How images are moved to and from registries.
#[derive(Debug, Clone)]
pub struct TransferRules {
    /// Layers that are fetched at once.
    pub downloads: usize,
    /// Layers that are pushed at once.
    pub uploads: usize,
    /// Blobs that go to and from one registry at once, over all processes of the store.
    pub connections: usize,
    /// How long the first registry may be silent before the next one is asked as well; zero for ever.
    pub hedge: Duration,
    /// How long a registry may send nothing.
    pub stall: Duration,
    /// How long a connection may take.
    pub connect: Duration,
    /// Whether a large layer may come by several connections, in parts.
    pub ranges: bool,
}

impl Default for TransferRules {
    fn default() -> Self {
        Self {
            downloads: 10,
            uploads: 5,
            connections: 64,
            hedge: Duration::from_millis(250),
            stall: Duration::from_secs(30),
            connect: Duration::from_secs(10),
            ranges: true,
        }
    }
}

/// Whether another registry is asked when one is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failover {
    /// It is.
    #[default]
    Allowed,
    /// The one that was named is the only one.
    Forbidden,
}

/// The registries of this machine. Cheap to clone; connections and tokens are shared.
#[derive(Clone, Default)]
pub struct Registries {
    shared: Arc<Shared>,
    failover: Failover,
}

#[derive(Default)]
struct Shared {
    entries: Vec<RegistryEntry>,
    rules: TransferRules,
    places: LoginPlaces,
    is_proxied: Option<fn(&str) -> bool>,
    tell: Option<fn(&str)>,
    wire: OnceLock<Wire>,
    clients: Mutex<HashMap<String, Registry>>,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries")
            .field("entries", &self.shared.entries)
            .field("failover", &self.failover)
            .finish_non_exhaustive()
    }
}

impl Registries {
    /// The registries `entries`, in the order of their priorities.
    pub fn new(
        mut entries: Vec<RegistryEntry>,
        rules: TransferRules,
        places: LoginPlaces,
        is_proxied: fn(&str) -> bool,
    ) -> Self {
        for entry in &mut entries {
            entry.host = normal_host(&entry.host);
        }
        entries.sort_by_key(|entry| entry.priority);
        let shared = Shared {
            entries,
            rules,
            places,
            is_proxied: Some(is_proxied),
            ..Shared::default()
        };
        Self {
            shared: Arc::new(shared),
            failover: Failover::Allowed,
        }
    }

    /// These registries, where `tell` hears which of them has not answered for some seconds. Only of registries that nobody has a
    /// clone of.
    #[must_use]
    pub fn telling(mut self, tell: fn(&str)) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.tell = Some(tell);
        }
        self
    }

    /// These registries, with or without failing over.
    pub fn with_failover(self, failover: Failover) -> Self {
        Self { failover, ..self }
    }

    /// How images are moved.
    pub(super) fn rules(&self) -> &TransferRules {
        &self.shared.rules
    }

    /// The registries of the configuration, in the order of their priorities.
    pub fn entries(&self) -> &[RegistryEntry] {
        &self.shared.entries
    }

    /// What is said of `host`; of one that is not configured what holds for any.
    pub(super) fn entry(&self, host: &str) -> RegistryEntry {
        let known = self.shared.entries.iter().find(|entry| entry.host == host);
        known.cloned().unwrap_or_else(|| RegistryEntry {
            host: host.to_owned(),
            priority: 0,
            role: Role::Push,
            credentials: None,
            is_plain: false,
            chunk: None,
            immutable: Vec::new(),
            connections: None,
            pulls_per_minute: None,
            management: None,
        })
    }

    /// Whether the configuration has it.
    pub(super) fn is_known(&self, host: &str) -> bool {
        self.shared.entries.iter().any(|entry| entry.host == host)
    }

    /// Whom to ask for an image of `host`, the first first: all that are configured when it is one of them, the one that is
    /// preferred first, those that were away a moment ago last.
    pub(super) fn candidates(&self, store: &Store, host: &str, progress: &dyn Progress) -> Vec<String> {
        if !self.is_known(host) || self.failover == Failover::Forbidden {
            return vec![host.to_owned()];
        }
        let mut hosts: Vec<String> = self.shared.entries.iter().map(|entry| entry.host.clone()).collect();
        if hosts.len() > 1 {
            let preferred = self.preferred(store, progress).map(|preferred| preferred.host);
            hosts.sort_by_key(|host| (preferred.as_ref() != Some(host), read_circuit(store, host).is_open()));
        }
        hosts
    }

    /// The registry that is preferred now, if one is.
    pub fn preferred(&self, store: &Store, progress: &dyn Progress) -> Option<Preferred> {
        let read = read_preferred(store, |host| self.is_known(host));
        read.unwrap_or_else(|warning| {
            progress.warn(&warning);
            None
        })
    }

    /// The registry that is preferred now, when what is for `host` is pushed there instead.
    pub fn preferred_over(&self, store: &Store, host: &str, progress: &dyn Progress) -> Option<Preferred> {
        let is_meant = self.is_known(host) && self.failover == Failover::Allowed;
        let preferred = is_meant.then(|| self.preferred(store, progress)).flatten();
        preferred.filter(|preferred| preferred.host != host)
    }

    /// Prefers the registry `host` for `time`.
    ///
    /// # Errors
    ///
    /// [`TransferError::Unlisted`] for one that the configuration does not know.
    pub fn prefer(&self, store: &Store, host: &str, time: Duration) -> Result<Preferred, TransferError> {
        let host = &normal_host(host);
        if !self.is_known(host) {
            let listed = self.shared.entries.iter().map(|entry| entry.host.clone()).collect();
            return Err(TransferError::Unlisted {
                host: host.to_owned(),
                listed,
            });
        }
        prefer(store, host, time)
    }

    /// Prefers no registry any more.
    ///
    /// # Errors
    ///
    /// When the note of it cannot be removed.
    pub fn prefer_none(&self, store: &Store) -> Result<(), TransferError> {
        prefer_none(store)
    }

    /// The connections to `host` that blobs may use.
    pub(super) fn connections(&self, store: &Store, host: &str) -> Connections {
        Connections::new(store, host, self.most_connections(host))
    }

    /// How many there may be at once.
    pub(super) fn most_connections(&self, host: &str) -> usize {
        self.entry(host).connections.unwrap_or(self.rules().connections)
    }

    /// The pulls of `repository` from `host`.
    pub(super) fn budget(&self, store: &Store, host: &str, repository: &str) -> Budget {
        Budget::new(store, host, repository, self.entry(host).pulls_per_minute)
    }

    /// The client of a registry.
    pub(super) fn client(&self, host: &str) -> Result<Registry, RegistryError> {
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(host) {
            return Ok(client.clone());
        }
        let entry = self.entry(host);
        let place = RegistryPlace {
            host: entry.host,
            is_plain: entry.is_plain,
            similar: self.similar(host),
        };
        let (places, named) = (self.shared.places.clone(), entry.credentials);
        let find_login = Arc::new(move |host: &str, repository: &str| places.find(host, repository, named.as_ref()));
        let client = Registry::new(self.wire(), &place, find_login)?;
        clients.insert(host.to_owned(), client.clone());
        Ok(client)
    }

    /// `error`, or what is behind it: a host that is no registry.
    pub(crate) fn explained(&self, error: TransferError) -> TransferError {
        let found = find_suspect(&error).and_then(|suspect| {
            let client = self.client(&suspect.host).ok()?;
            find_no_registry(&client, suspect.reference, suspect.answer)
        });
        found.unwrap_or(error)
    }

    /// The registry of the configuration that is spelled almost as `host`, which is none of them.
    fn similar(&self, host: &str) -> Option<String> {
        let others = self.shared.entries.iter().map(|entry| entry.host.as_str());
        match self.is_known(host) {
            true => None,
            false => nearest(host, others).map(str::to_owned),
        }
    }

    fn wire(&self) -> Wire {
        let patience = WirePatience {
            connect: self.shared.rules.connect,
            stall: self.shared.rules.stall,
        };
        let new = || {
            let wire = Wire::new(patience, self.shared.is_proxied.unwrap_or(|_| false));
            match self.shared.tell {
                Some(tell) => wire.telling(tell),
                None => wire,
            }
        };
        self.shared.wire.get_or_init(new).clone()
    }

    /// How a repository is listed and deleted from.
    pub(super) fn management<'r>(&self, repository: &'r Repository) -> Result<Box<dyn Management + 'r>, RegistryError> {
        manager(repository, self.entry(repository.host()).management.as_ref())
    }

    /// Whether images may be pushed to `host`.
    ///
    /// # Errors
    ///
    /// [`TransferError::PullOnly`] when they may not.
    pub fn may_push(&self, host: &str) -> Result<(), TransferError> {
        match self.entry(host).role {
            Role::Push => Ok(()),
            Role::Pull => Err(pull_only("push to", host)),
        }
    }

    /// Whether images may be pushed to `host`, which is preferred over the registry that was named.
    ///
    /// # Errors
    ///
    /// [`TransferError::PullOnly`] when they may not.
    pub fn may_push_instead(&self, host: &str) -> Result<(), TransferError> {
        self.may_push(host).map_err(|error| match error {
            TransferError::PullOnly { verb, host, .. } => TransferError::PullOnly {
                verb,
                host,
                is_preferred: true,
            },
            other => other,
        })
    }

    /// Whether something may be deleted from `host`.
    ///
    /// # Errors
    ///
    /// [`TransferError::PullOnly`] when it may not.
    pub(super) fn may_delete(&self, host: &str) -> Result<(), TransferError> {
        match self.entry(host).role {
            Role::Push => Ok(()),
            Role::Pull => Err(pull_only("delete from", host)),
        }
    }

    /// Whether the configuration names credentials for `host`, which then count alone.
    pub fn names_credentials(&self, host: &str) -> bool {
        self.entry(&normal_host(host)).credentials.is_some()
    }

    /// Tries a user and a password at the registry `host`, and keeps them as docker does; returns where, and whether the registry
    /// asks for a password at all.
    ///
    /// # Errors
    ///
    /// [`TransferError`]; nothing is kept then.
    pub fn log_in(&self, host: &str, user: &str, password: &str) -> Result<(String, Taken), TransferError> {
        let host = &normal_host(host);
        let failed = |error| TransferError::Registry {
            reference: host.to_owned(),
            failures: vec![error],
        };
        let entry = self.entry(host);
        let place = RegistryPlace {
            host: entry.host,
            is_plain: entry.is_plain,
            similar: self.similar(host),
        };
        let login = of_pair(user, password);
        let find_login = Arc::new(move |_: &str, _: &str| Ok(Some((login.clone(), SaidBy::Caller))));
        let client = Registry::new(self.wire(), &place, find_login).map_err(failed)?;
        // Whether it is a registry is asked with what was typed: no other credentials are looked up, and none are sent.
        let taken = check_login(&client)
            .map_err(|error| find_no_registry(&client, host, &error).unwrap_or_else(|| failed(error)))?;
        if let (Taken::Unasked, Some(stranger)) = (taken, find_stranger(&client)) {
            return Err(no_registry(&client, host, stranger));
        }
        let kept = self.shared.places.keep(host, user, password);
        kept.map(|place| (place, taken)).map_err(|reason| TransferError::Login {
            host: host.to_owned(),
            reason,
        })
    }
}

fn pull_only(verb: &'static str, host: &str) -> TransferError {
    TransferError::PullOnly {
        verb,
        host: host.to_owned(),
        is_preferred: false,
    }
}

/// Whether a pattern, in which `*` stands for any text, means `name`.
pub(super) fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut left) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = left.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::super::circuit::note_failure;
    use super::*;
    use crate::policy::Kind;
    use crate::progress::Silent;
    use crate::store::tests::store;

    fn registries() -> Registries {
        let entry = |host: &str, priority, role| RegistryEntry {
            host: host.to_owned(),
            priority,
            role,
            ..Registries::default().entry(host)
        };
        let entries = vec![
            entry("backup.example", 2, Role::Pull),
            entry("first.example", 1, Role::Push),
        ];
        Registries::new(entries, TransferRules::default(), LoginPlaces::default(), |_| false)
    }

    #[test]
    fn a_registry_that_is_listed_stands_for_all_in_their_order() {
        let (_scratch, store) = store();
        let all = registries();
        let hosts = |host: &str| all.candidates(&store, host, &Silent);
        assert_eq!(hosts("backup.example"), ["first.example", "backup.example"]);
        assert_eq!(hosts("first.example"), ["first.example", "backup.example"]);
        assert_eq!(hosts("other.example"), ["other.example"]);
        note_failure(&store, "first.example", "timeout");
        assert_eq!(hosts("first.example"), ["backup.example", "first.example"]);
        let alone = all.clone().with_failover(Failover::Forbidden);
        assert_eq!(alone.candidates(&store, "first.example", &Silent), ["first.example"]);
    }

    #[test]
    fn one_that_is_preferred_is_asked_first_and_gets_what_is_pushed() {
        let (_scratch, store) = store();
        let all = registries();
        let day = Duration::from_secs(86_400);
        let over = |all: &Registries, host: &str| all.preferred_over(&store, host, &Silent).map(|found| found.host);
        all.prefer(&store, "Backup.example", day).unwrap();
        note_failure(&store, "backup.example", "timeout");
        let hosts = all.candidates(&store, "first.example", &Silent);
        assert_eq!(hosts, ["backup.example", "first.example"]);
        assert_eq!(over(&all, "first.example").as_deref(), Some("backup.example"));
        assert_eq!(
            (over(&all, "backup.example"), over(&all, "other.example")),
            (None, None)
        );
        let alone = all.clone().with_failover(Failover::Forbidden);
        assert_eq!(over(&alone, "first.example"), None);
        let unknown = all.prefer(&store, "other.example", day).unwrap_err();
        assert!(matches!(&unknown, TransferError::Unlisted { listed, .. } if listed.len() == 2));
        all.prefer_none(&store).unwrap();
        assert_eq!(over(&all, "first.example"), None);
    }

    #[test]
    fn nothing_is_pushed_where_the_configuration_only_pulls() {
        let all = registries();
        assert!(all.may_push("first.example").is_ok() && all.may_push("other.example").is_ok());
        let refused = all.may_push("backup.example").unwrap_err();
        assert!(matches!(&refused, TransferError::PullOnly { host, .. } if host == "backup.example"));
        assert_eq!(refused.kind(), Kind::Refused);
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, fits) in [
            ("base/*", "base/python", true),
            ("base/*", "base/python/x", true),
            ("base/*", "mecapy/base/python", false),
            ("*/base/*", "mecapy/base/python", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("*", "x", true),
            ("base", "base", true),
            ("base", "base/x", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), fits, "{pattern} {name}");
        }
    }
}
