//! Registries that are away while a list of images is worked through: one that was for several in a row is not asked for the
//! others, as each would cost all the patience that one image is worth.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::oci::{Place, Reference};
use crate::transfer::Attempt;

/// Images in a row for which a registry was away.
const AWAY_AFTER: u32 = 8;

/// Why an image of the registry `host` is not tried.
pub(super) fn untried(host: &str) -> String {
    format!("not tried: {host} was away for {AWAY_AFTER} images of the list in a row")
}

/// How many images in a row each registry was away for.
#[derive(Default)]
pub(super) struct Outages(Mutex<BTreeMap<String, u32>>);

impl Outages {
    /// A registry that an image of these places needs and that is away.
    pub(super) fn find<const N: usize>(&self, places: [&Place; N]) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = places.map(|place| match place {
            Place::Image(Reference::Registry { host, .. }) => Some(host),
            Place::Image(_) | Place::Archive { .. } => None,
        });
        let is_away = |host: &&String| all.get(*host).is_some_and(|count| *count >= AWAY_AFTER);
        hosts.into_iter().flatten().find(is_away).cloned()
    }

    /// Notes how the registries of an image did. One that answers is there, whatever it answers.
    pub(super) fn note(&self, attempts: &[Attempt]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for attempt in attempts {
            let count = all.entry(attempt.registry.clone()).or_default();
            match attempt.reason {
                Some("connection" | "timeout") => *count = count.saturating_add(1),
                _ => *count = 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_is_away_is_not_asked_for_each_of_many() {
        let other: Place = "b.example/y:1".parse().unwrap();
        let outages = Outages::default();
        let note = |reason| {
            outages.note(&[
                Attempt::example("a.example", reason),
                Attempt::example("c.example", None),
            ])
        };
        // In a row: one that answers in between is there, whatever it answers.
        for reason in ["connection", "timeout", "server_error"].repeat(5) {
            note(Some(reason));
            assert_eq!(outages.find([&"a.example/x:1".parse().unwrap(), &other]), None);
        }
        for reason in ["connection", "timeout"].repeat(AWAY_AFTER as usize / 2) {
            assert_eq!(outages.find([&"a.example/x:1".parse().unwrap(), &other]), None);
            note(Some(reason));
        }
        let image = "a.example/x:1".parse().unwrap();
        assert_eq!(outages.find([&image, &other]).as_deref(), Some("a.example"));
        assert_eq!(outages.find([&other, &image]).as_deref(), Some("a.example"));
        assert_eq!(outages.find([&"local:1".parse().unwrap(), &other]), None);
        note(None);
        assert_eq!(outages.find([&image, &other]), None);
    }
}
