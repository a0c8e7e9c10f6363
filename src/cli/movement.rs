//! What the journal says of an image that moved, or was to: who gave or took it, how many bytes of it, what it is for, and that a
//! registry did in place of another one.

use std::time::Instant;

use super::session::Session;
use crate::build::image::is_of_function;
use crate::journal::{Event, EventKind, ImageType, Purpose};
use crate::oci::Digest;
use crate::ops::Attempt;
use crate::policy::Kind;

/// An image that moved, or was to.
pub(super) struct Movement<'a> {
    /// How.
    pub kind: EventKind,
    /// What it is called there.
    pub reference: &'a str,
    /// Which one it is, or why it did not move.
    pub result: Result<Digest, Kind>,
    /// The registries that were asked.
    pub attempts: &'a [Attempt],
    /// What it was for, when not for somebody who waits.
    pub purpose: Option<Purpose>,
    /// When it began.
    pub started: Instant,
}

impl Movement<'_> {
    /// Writes it down.
    pub(super) fn note(&self, session: &Session) {
        let status = if self.result.is_ok() { "ok" } else { "failed" };
        let bytes: u64 = self.attempts.iter().fold(0, |all, one| all.saturating_add(one.bytes));
        let is_pull = self.kind == EventKind::Pull && self.result.is_ok();
        let digest = self.result.ok();
        session.record(&Event {
            digest: digest.map(|digest| digest.to_string()),
            registry: registry_of(self.attempts),
            image_type: image_type(session, digest.as_ref(), self.reference),
            cache: is_pull.then_some(if bytes == 0 { "hit" } else { "miss" }),
            purpose: self.purpose,
            bytes: (bytes > 0).then_some(bytes),
            error_type: self.result.err().map(|kind| error_type(self.attempts, kind)),
            ..Session::event(self.kind, self.reference, status, self.started)
        });
        note_failover(session, self.reference, self.attempts, self.started);
    }
}

/// The registry that did what was asked, else the one that was asked last.
pub(super) fn registry_of(attempts: &[Attempt]) -> Option<&str> {
    let served = attempts.iter().rfind(|one| one.reason.is_none());
    served.or(attempts.last()).map(|one| one.registry.as_str())
}

/// Notes that one registry did in place of others, if one did.
pub(super) fn note_failover(session: &Session, reference: &str, attempts: &[Attempt], started: Instant) {
    let Some((given_up, registry)) = attempts.first().zip(registry_of(attempts)) else {
        return;
    };
    // The last one that was asked failed as well, and did nothing in place of another.
    let has_served = attempts.iter().any(|one| one.reason.is_none());
    if given_up.registry == registry || given_up.reason.is_none() || !has_served {
        return;
    }
    session.record(&Event {
        registry: Some(registry),
        from: Some(&given_up.registry),
        error_type: given_up.reason,
        ..Session::event(EventKind::Failover, reference, "ok", started)
    });
}

/// Why something failed: what the registry that failed last is said to have done, else what sort of failure it is.
fn error_type(attempts: &[Attempt], kind: Kind) -> &'static str {
    let reason = attempts.iter().rev().find_map(|one| one.reason);
    reason.unwrap_or_else(|| kind.name())
}

/// What an image is for, as its labels say, else as its name does.
pub(super) fn image_type(session: &Session, digest: Option<&Digest>, reference: &str) -> Option<ImageType> {
    let snapshot = digest.and_then(|digest| session.store.images().read_snapshot(digest).ok().flatten());
    match snapshot.is_some_and(|snapshot| is_of_function(&snapshot.config)) {
        true => Some(ImageType::Function),
        false => type_by_name(reference),
    }
}

/// What a name says that an image is for, where names are made as the platform makes them.
pub(super) fn type_by_name(reference: &str) -> Option<ImageType> {
    let mut segments = reference.split('/').map(|segment| segment.split([':', '@']).next());
    segments.find_map(|segment| match segment {
        Some("functions") => Some(ImageType::Function),
        Some("base") => Some(ImageType::Base),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_the_one_that_did_it_and_the_error_that_of_the_one_that_failed_last() {
        let (one, two) = (
            Attempt::example("a.example", Some("timeout")),
            Attempt::example("b.example", None),
        );
        let failed = Attempt::example("c.example", Some("auth"));
        assert_eq!(registry_of(&[one.clone(), two.clone()]), Some("b.example"));
        assert_eq!(registry_of(&[two, one.clone()]), Some("b.example"));
        assert_eq!(registry_of(&[one.clone(), failed.clone()]), Some("c.example"));
        assert_eq!(registry_of(&[]), None);
        assert_eq!(error_type(&[one, failed], Kind::Failed), "auth");
        assert_eq!(error_type(&[], Kind::Busy), "busy");
    }

    #[test]
    fn a_name_as_the_platform_makes_it_says_what_it_is_for() {
        for (name, meant) in [
            (
                "rg.example.org/mecapy/functions/user-a-func-1:v1",
                Some(ImageType::Function),
            ),
            (
                "rg.example.org/mecapy/functions:user-a-func-1-v1",
                Some(ImageType::Function),
            ),
            ("rg.example.org/mecapy/base/python:3.11-slim", Some(ImageType::Base)),
            ("rg.example.org/mecapy/system/x:1", None),
            ("series:1", None),
            ("", None),
        ] {
            assert_eq!(type_by_name(name), meant, "{name}");
        }
    }
}
