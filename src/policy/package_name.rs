//! When two names of a Python package are one.

/// PEP 503: lower case, runs of `-_.` are one `-`.
pub(crate) fn normalise(name: &str) -> String {
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_lowercase()
}
