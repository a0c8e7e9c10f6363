//! Why another registry than the one that was typed is asked first: whoever types a name believes that its registry answers.

use super::circuit::read_circuit;
use super::registries::Registries;
use crate::oci::Reference;
use crate::progress::Progress;
use crate::store::Store;

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WhyFirst {
    /// Somebody, or the configuration, wants it so.
    Wanted(String),
    /// The one that was typed was away a moment ago.
    Away(String),
}

/// Why `first` is asked before `named`.
pub(super) fn why_first(
    store: &Store,
    registries: &Registries,
    named: &str,
    first: &str,
    progress: &dyn Progress,
) -> WhyFirst {
    let preferred = registries.preferred(store, progress);
    if let Some(preferred) = preferred.filter(|preferred| preferred.host == first) {
        return WhyFirst::Wanted(format!("it is preferred over {named} until {}", preferred.end()));
    }
    let circuit = read_circuit(store, named);
    match circuit.is_open() {
        true => {
            let reason = circuit.reason.unwrap_or_default();
            WhyFirst::Away(format!("{named} was away a moment ago ({reason}), and is asked last"))
        }
        false => WhyFirst::Wanted(format!("the configuration asks it before {named}")),
    }
}

impl WhyFirst {
    /// Tells a person that `host` said what `reference` means.
    pub(super) fn tell(&self, reference: &Reference, host: &str, progress: &dyn Progress) {
        match self {
            Self::Wanted(why) => progress.step("Asking", &format!("{host} for {reference}: {why}")),
            Self::Away(why) => progress.warn(&format!("{host} says what {reference} means: {why}")),
        }
    }
}
