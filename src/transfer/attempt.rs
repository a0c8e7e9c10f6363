//! Who was asked for an image, how long that took, and what came of it: failing over is reported, not only logged.
//!
//! What is known can be read while the requests are under way: a signal or a deadline may end the command at any time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::policy::one_line;
use crate::registry::RegistryError;

/// The reason of a registry that is still to answer.
const UNANSWERED: &str = "unanswered";

/// One registry that was asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    /// Its host.
    pub registry: String,
    /// `ok` when it did what it was asked so far, else `failed`.
    pub status: &'static str,
    /// Milliseconds from the first request to it to the last answer, or until now when there is none.
    pub ms: f64,
    /// Bytes of layers that it gave or took.
    pub bytes: u64,
    /// Why it was given up, in a word; none when it was not.
    pub reason: Option<&'static str>,
    /// Why, in a sentence.
    pub error: Option<String>,
}

#[cfg(test)]
impl Attempt {
    /// One that did what it was asked, or failed for `reason`.
    pub(crate) fn example(registry: &str, reason: Option<&'static str>) -> Self {
        Self {
            registry: registry.to_owned(),
            status: if reason.is_some() { "failed" } else { "ok" },
            ms: 1.0,
            bytes: 0,
            reason,
            error: None,
        }
    }
}

/// The registries that a command asks, and how that goes so far. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    ledgers: Arc<Mutex<Vec<Ledger>>>,
}

impl Asked {
    /// Those that were asked so far, the first first.
    pub fn attempts(&self) -> Vec<Attempt> {
        let ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        ledgers.iter().flat_map(Ledger::attempts).collect()
    }

    /// Those that `ledger` will have belong to it.
    pub(super) fn add(&self, ledger: &Ledger) {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        ledgers.push(ledger.clone());
    }
}

/// What is known of the registries that were asked, in the order in which they were. Clones are of the same ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    asked: Arc<Mutex<Vec<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    host: String,
    first: Instant,
    last: Instant,
    successes: u32,
    bytes: u64,
    /// Whether it was given up since its last success.
    has_failed: bool,
    failure: Option<(&'static str, String)>,
    /// How the last try failed that is made again, or instead of which another registry is asked.
    stumble: Option<(&'static str, String)>,
}

impl Ledger {
    fn entry(&self, host: &str, change: impl FnOnce(&mut Entry)) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let at = asked.iter().position(|entry| entry.host == host);
        let at = at.unwrap_or_else(|| {
            let now = Instant::now();
            asked.push(Entry {
                host: host.to_owned(),
                first: now,
                last: now,
                successes: 0,
                bytes: 0,
                has_failed: false,
                failure: None,
                stumble: None,
            });
            asked.len() - 1
        });
        if let Some(entry) = asked.get_mut(at) {
            change(entry);
        }
    }

    /// A request is about to be made.
    pub(super) fn begins(&self, host: &str) {
        self.entry(host, |_| ());
    }

    /// It was answered; whether that is news: its first good answer, or the first after it was given up.
    pub(super) fn succeeds(&self, host: &str) -> bool {
        let mut is_news = false;
        self.entry(host, |entry| {
            entry.last = Instant::now();
            is_news = entry.successes == 0 || entry.has_failed;
            entry.has_failed = false;
            entry.stumble = None;
            entry.successes += 1;
        });
        is_news
    }

    /// It gave or took so many bytes of a layer.
    pub(super) fn moves(&self, host: &str, bytes: u64) {
        self.entry(host, |entry| entry.bytes = entry.bytes.saturating_add(bytes));
    }

    /// A try failed, and what comes of the request is still open.
    pub(super) fn stumbles(&self, host: &str, error: &RegistryError) {
        self.entry(host, |entry| entry.stumble = Some((error.word(), one_line(error))));
    }

    /// The registry was given up for this request.
    pub(super) fn fails(&self, host: &str, error: &RegistryError) {
        self.gives_up(host, error.word(), one_line(error));
    }

    /// The registry was given up because of `reason`.
    pub(super) fn gives_up(&self, host: &str, reason: &'static str, error: String) {
        self.entry(host, |entry| {
            entry.last = Instant::now();
            entry.has_failed = true;
            // The first one is where it began.
            entry.failure.get_or_insert((reason, error));
        });
    }

    /// That it failed so counts no more: what was asked for is done in another way.
    pub(super) fn withdraws(&self, host: &str, error: &RegistryError) {
        let withdrawn = (error.word(), one_line(error));
        self.entry(host, |entry| {
            if entry.failure.as_ref() == Some(&withdrawn) {
                entry.failure = None;
            }
        });
    }

    /// The attempts so far.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = |entry: &Entry| {
            let is_open = entry.failure.is_none() && entry.successes == 0;
            let unanswered = || (UNANSWERED, "it has not answered yet".to_owned());
            let (last, failure) = match is_open {
                true => (Instant::now(), entry.stumble.clone().or_else(|| Some(unanswered()))),
                false => (entry.last, entry.failure.clone()),
            };
            let ms = last.duration_since(entry.first).as_secs_f64() * 1e3;
            let (reason, error) = failure.unzip();
            Attempt {
                registry: entry.host.clone(),
                status: if reason.is_none() { "ok" } else { "failed" },
                ms: (ms * 10.0).round() / 10.0,
                bytes: entry.bytes,
                reason,
                error,
            }
        };
        asked.iter().map(attempt).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_asked_is_known_before_the_answer() {
        let (asked, ledger) = (Asked::default(), Ledger::default());
        asked.add(&ledger);
        assert!(asked.attempts().is_empty());
        ledger.gives_up("a.example", "timeout", "it is silent".to_owned());
        ledger.begins("b.example");
        ledger.begins("c.example");
        let busy = RegistryError::busy("https://c.example/", None);
        ledger.stumbles("d.example", &busy);
        ledger.stumbles("c.example", &busy);
        assert!(ledger.succeeds("c.example"));
        let attempts = asked.clone().attempts();
        let words: Vec<_> = attempts
            .iter()
            .map(|one| (one.registry.as_str(), one.status, one.reason))
            .collect();
        assert_eq!(
            words,
            [
                ("a.example", "failed", Some("timeout")),
                ("b.example", "failed", Some(UNANSWERED)),
                ("c.example", "ok", None),
                ("d.example", "failed", Some("rate_limited")),
            ]
        );
    }

    #[test]
    fn the_failure_that_is_withdrawn_counts_no_more_and_another_one_does() {
        let ledger = Ledger::default();
        let status = || {
            let attempts = ledger.attempts();
            (attempts[0].status, attempts[0].reason)
        };
        let busy = |place| RegistryError::busy(place, None);
        let (one, other) = (busy("https://a.example/1"), busy("https://a.example/2"));
        ledger.succeeds("a.example");
        ledger.fails("a.example", &one);
        ledger.withdraws("a.example", &other);
        assert_eq!(status(), ("failed", Some("rate_limited")));
        ledger.withdraws("a.example", &one);
        assert_eq!(status(), ("ok", None));
        ledger.fails("a.example", &one);
        assert_eq!(status(), ("failed", Some("rate_limited")));
    }
}
