//! Who was asked for an image, how long that took, and what came of it: failing over is reported, not only logged.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::policy::one_line;
use crate::registry::RegistryError;

/// One registry that was asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    /// Its host.
    pub registry: String,
    /// `ok` when it did what it was asked in the end, else `failed`.
    pub status: &'static str,
    /// Milliseconds from the first request to it to the last answer.
    pub ms: f64,
    /// Why it was given up, in a word; none when it was not.
    pub reason: Option<&'static str>,
    /// Why, in a sentence.
    pub error: Option<String>,
}

/// What is known of the registries that were asked, in the order in which they were.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    asked: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    host: String,
    first: Instant,
    last: Instant,
    successes: u32,
    /// Whether it was given up since its last success.
    has_failed: bool,
    failure: Option<(&'static str, String)>,
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
                has_failed: false,
                failure: None,
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
            entry.successes += 1;
        });
        is_news
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

    /// The attempts so far.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = |entry: &Entry| {
            let ms = entry.last.duration_since(entry.first).as_secs_f64() * 1e3;
            let is_fine = entry.failure.is_none() && entry.successes > 0;
            Attempt {
                registry: entry.host.clone(),
                status: if is_fine { "ok" } else { "failed" },
                ms: (ms * 10.0).round() / 10.0,
                reason: entry.failure.as_ref().map(|(reason, _)| *reason),
                error: entry.failure.as_ref().map(|(_, error)| error.clone()),
            }
        };
        asked.iter().map(attempt).collect()
    }
}
