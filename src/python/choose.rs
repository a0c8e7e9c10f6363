//! Requirements, and the wheels that a base pins -> exactly the wheels of an image.

use super::layers::WheelSet;
use super::pins::{self, PinnedWheel};
use super::requirements::Requirements;
use super::resolve::Lock;
use super::sdist::{lock_with_sdists, Bench};
use super::supply::{lock_wheels, Supply};
use super::PythonError;

/// The wheels of an image: those that the requirements ask for, and those of the base, `pins`, unless one of them is
/// contradicted. Packages that have no wheel get one that is built on `bench`, when it is given.
pub(crate) fn choose(
    supply: &Supply<'_>,
    requirements: &Requirements,
    pins: &[PinnedWheel],
    bench: Option<&Bench<'_>>,
) -> Result<WheelSet, PythonError> {
    let lock = lock(supply, requirements, pins, bench)?;
    // Of a lock that is remembered as well.
    lock.warnings.iter().for_each(|warning| supply.progress.warn(warning));
    let contradictions = pins::contradictions(pins, &lock);
    let others: Vec<String> = contradictions
        .iter()
        .map(|wheel| format!("{} {}", wheel.name, wheel.version))
        .collect();
    if !others.is_empty() {
        let own: Vec<String> = pins.iter().map(|pin| format!("{} {}", pin.name, pin.version)).collect();
        supply.progress.warn(&format!(
            "the requirements need {}: the wheels of the base ({}) are left out",
            others.join(", "),
            own.join(", ")
        ));
    }
    let kept = if others.is_empty() { pins.to_vec() } else { Vec::new() };
    Ok(WheelSet::new(&lock, kept))
}

fn lock(
    supply: &Supply<'_>,
    requirements: &Requirements,
    pins: &[PinnedWheel],
    bench: Option<&Bench<'_>>,
) -> Result<Lock, PythonError> {
    if requirements.wanted.is_empty() {
        return Ok(Lock::default());
    }
    let resolver = (supply.resolver)()?;
    match bench {
        Some(bench) => lock_with_sdists(supply, bench, &resolver, requirements, pins),
        None => lock_wheels(supply, &resolver, requirements, pins),
    }
}
