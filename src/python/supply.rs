//! Where packages come from: the index, asked at most once a day, and whom to tell.

use std::time::Duration;

use super::pins::{self, PinnedWheel};
use super::requirements::Requirements;
use super::resolve::{young_lock, Lock, LockError, Resolver, Wish};
use super::PythonError;
use crate::progress::Progress;
use crate::store::{Flight, Store};

/// What it takes to get packages.
#[derive(Clone, Copy)]
pub(crate) struct Supply<'a> {
    /// Where everything is kept.
    pub store: &'a Store,
    /// Makes the resolver; called only when the index has to be asked.
    pub resolver: &'a (dyn Fn() -> Result<Resolver, LockError> + Sync),
    /// Is told of steps and warnings.
    pub progress: &'a dyn Progress,
    /// How old a lock may be.
    pub lock_age: Duration,
}

/// Locks `requirements`, with the versions of `pins` if that can be, by wheels of the index alone.
pub(crate) fn lock_wheels(
    supply: &Supply<'_>,
    resolver: &Resolver,
    requirements: &Requirements,
    pins: &[PinnedWheel],
) -> Result<Lock, PythonError> {
    let key = pins::constrained(requirements, pins).key(&[&resolver.settings()]);
    let wish = Wish {
        store: supply.store,
        progress: supply.progress,
        lock_age: supply.lock_age,
        resolver,
        requirements,
        flight: Flight::Resolution(&key),
        keys: &[key],
    };
    let make = || {
        announce(supply, resolver, requirements)?;
        with_or_without(pins, requirements, |requirements| {
            Ok(resolver.resolve(supply.store, requirements)?)
        })
    };
    young_lock(&wish, |_| true, |_| key, make)
}

/// Says that the resolver is about to be asked, and which index it asks; fetches the resolver before, where there is none.
pub(crate) fn announce(supply: &Supply<'_>, resolver: &Resolver, requirements: &Requirements) -> Result<(), LockError> {
    if requirements.wanted.is_empty() {
        // Nobody is asked.
        return Ok(());
    }
    resolver.ensure(supply.store, supply.progress)?;
    let count = requirements.wanted.len();
    let plural = if count == 1 { "" } else { "s" };
    let object = format!("{count} requirement{plural} for Python {}", resolver.target.python);
    let of = resolver
        .index()?
        .map(|index| format!(" at {} ({})", index.url, index.source));
    let further = resolver
        .extra
        .iter()
        .filter(|index| index.packages.iter().any(|name| requirements.mentions(name)));
    let further: String = further
        .map(|index| format!(", {} at {}", index.packages.join(" "), index.url))
        .collect();
    let object = object + &of.unwrap_or_default() + &further;
    supply.progress.step("Resolving", &object);
    Ok(())
}

/// The lock of `requirements` with the versions of `pins`. When there is none, the one without them: the answer, or the
/// explanation, is then that of any other base.
pub(crate) fn with_or_without(
    pins: &[PinnedWheel],
    requirements: &Requirements,
    lock: impl Fn(&Requirements) -> Result<Lock, PythonError>,
) -> Result<Lock, PythonError> {
    match lock(&pins::constrained(requirements, pins)) {
        Err(PythonError::Lock(
            LockError::Unsatisfiable { .. } | LockError::NoWheel { .. } | LockError::Hash { .. },
        )) if !pins.is_empty() => lock(requirements),
        other => other,
    }
}
