//! Says for whom calls wait, when that takes long: a server that accepts and says nothing looks like a program that hangs.
//!
//! One thread looks once a second, as long as there are calls; a call itself costs two looks at a table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

/// What takes longer is said: nobody minds a shorter wait, and a longer one makes people press Ctrl-C.
const SOON: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// One server is named so often, however many calls wait for it.
const AGAIN: Duration = Duration::from_secs(30);

/// The calls that wait for their answers. Clones are of the same ones.
#[derive(Clone, Default)]
pub(super) struct Waits {
    tell: Option<fn(&str)>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By number.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    /// When each server was named last.
    told: BTreeMap<String, Instant>,
    /// Whether there is a thread that looks.
    is_watched: bool,
}

struct Waiting {
    /// With its port.
    server: String,
    since: Instant,
    /// When the call is given up.
    longest: Duration,
}

/// A call that waits as long as this is there.
pub(super) struct Wait {
    waits: Waits,
    number: u64,
}

impl Waits {
    /// Tells `tell` of those that wait long.
    pub(super) fn new(tell: fn(&str)) -> Self {
        Self {
            tell: Some(tell),
            ..Self::default()
        }
    }

    /// A call to `url` begins, which is given up after `longest`.
    pub(super) fn begin(&self, url: &Url, longest: Duration) -> Option<Wait> {
        self.tell?;
        let host = url.host_str().unwrap_or_default();
        let waiting = Waiting {
            server: url.port().map_or(host.to_owned(), |port| format!("{host}:{port}")),
            since: Instant::now(),
            longest,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next += 1;
        state.waiting.insert(number, waiting);
        if !state.is_watched {
            let own = self.clone();
            state.is_watched = std::thread::Builder::new().spawn(move || own.watch()).is_ok();
        }
        Some(Wait {
            waits: self.clone(),
            number,
        })
    }

    /// Looks until nobody waits any more.
    fn watch(&self) {
        loop {
            std::thread::sleep(LOOK);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.waiting.is_empty() {
                state.is_watched = false;
                return;
            }
            let late = state.late(Instant::now());
            drop(state);
            for text in late {
                if let Some(tell) = self.tell {
                    tell(&text);
                }
            }
        }
    }
}

impl State {
    /// What is to be said at `now`.
    fn late(&mut self, now: Instant) -> Vec<String> {
        let mut late = Vec::new();
        for one in self.waiting.values() {
            let waited = now.saturating_duration_since(one.since);
            let was_told = self
                .told
                .get(&one.server)
                .is_some_and(|told| now.saturating_duration_since(*told) < AGAIN);
            if waited < SOON || was_told {
                continue;
            }
            self.told.insert(one.server.clone(), now);
            late.push(format!(
                "{}, which has not answered for {} s and is given up after at most {} s",
                one.server,
                waited.as_secs(),
                one.longest.as_secs()
            ));
        }
        late
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = self.waits.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_for_long_is_named_once_in_a_while() {
        let waits = Waits::new(|_| ());
        let longest = Duration::from_secs(30);
        let url = |text: &str| Url::parse(text).unwrap();
        let first = waits.begin(&url("https://a.example:5000/v2/"), longest);
        let second = waits.begin(&url("https://a.example:5000/v2/x"), longest);
        let at = |seconds| {
            let now = Instant::now() + Duration::from_secs(seconds);
            waits.state.lock().unwrap().late(now)
        };
        assert!(at(1).is_empty());
        let said = at(5);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("a.example:5000, which has not answered for")
                && said[0].ends_with("after at most 30 s")
        );
        assert!(at(20).is_empty());
        assert_eq!(at(60).len(), 1);
        drop((first, second));
        assert!(at(120).is_empty());
        assert!(Waits::default().begin(&url("https://a.example/"), longest).is_none());
    }
}
