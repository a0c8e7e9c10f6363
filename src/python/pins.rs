//! Wheels that a base pins: which files they are, without an address. The address comes from this machine's index when
//! one has to be fetched, as that of every other wheel.
//!
//! A function that is built on such a base keeps its wheels as long as its own requirements allow them. When they do
//! not, it gets exactly what it requires, and none of the base's wheels: layers of wheels do not depend on the base, so
//! leaving some out needs no whiteouts, and no two versions are ever mixed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::requirements::Requirements;
use super::resolve::{Lock, LockError, LockedWheel, MAX_IMAGE};
use crate::oci::Digest;
use crate::policy::Bytes;

/// One wheel, by what it is and not by where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PinnedWheel {
    /// Normalised project name.
    pub name: String,
    pub version: String,
    pub file_name: String,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

impl From<&LockedWheel> for PinnedWheel {
    fn from(wheel: &LockedWheel) -> Self {
        Self {
            name: wheel.name.clone(),
            version: wheel.version.clone(),
            file_name: wheel.file_name.clone(),
            size: wheel.size,
            sha256: wheel.sha256,
        }
    }
}

/// A line of a lock file: `name version file size sha256`.
pub(crate) fn parse(line: &str) -> Option<PinnedWheel> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [name, version, file_name, size, hash] = fields.as_slice() else {
        return None;
    };
    Some(PinnedWheel {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        file_name: (*file_name).to_owned(),
        size: size.parse().ok()?,
        sha256: format!("sha256:{hash}").parse().ok()?,
    })
}

/// The wheels that `lines` of a lock file name.
pub(crate) fn parse_all<'a>(lines: impl IntoIterator<Item = &'a String>) -> Result<Vec<PinnedWheel>, LockError> {
    let bad = |line: &str| LockError::Answer {
        reason: format!("the base pins a wheel by {line:?}"),
    };
    let lines = lines.into_iter();
    lines.map(|line| parse(line).ok_or_else(|| bad(line))).collect()
}

/// What is asked of the index to learn where `pins` are: exactly these versions, with exactly these hashes.
pub(crate) fn requirements(pins: &[PinnedWheel]) -> Requirements {
    Requirements {
        wanted: pins.iter().map(exactly).collect(),
        hashes: pins.iter().map(|pin| (pin.name.clone(), vec![pin.sha256])).collect(),
        ..Requirements::default()
    }
}

/// `requirements`, with the versions of `pins` wherever they come up.
pub(crate) fn constrained(requirements: &Requirements, pins: &[PinnedWheel]) -> Requirements {
    let mut constrained = requirements.clone();
    constrained.constraints.extend(pins.iter().map(exactly));
    constrained
}

/// Addresses of `pins` by hash, from the index's answer to [`requirements`], which has to be these files and no others.
pub(crate) fn addresses(pins: &[PinnedWheel], answer: &Lock) -> Result<BTreeMap<Digest, String>, LockError> {
    if let Some(other) = answer.wheels.iter().find(|wheel| !pins.contains(&(*wheel).into())) {
        let reason = format!(
            "the index answers with {} ({} bytes, {}), which the base does not pin",
            other.file_name, other.size, other.sha256
        );
        return Err(LockError::Answer { reason });
    }
    Ok(answer
        .wheels
        .iter()
        .map(|wheel| (wheel.sha256, wheel.url.clone()))
        .collect())
}

/// The wheels of `lock` that are another file than the one `pins` have of the same project.
pub(crate) fn contradictions<'a>(pins: &[PinnedWheel], lock: &'a Lock) -> Vec<&'a LockedWheel> {
    let contradicts = |wheel: &&LockedWheel| {
        let pin = pins.iter().find(|pin| pin.name == wheel.name);
        pin.is_some_and(|pin| pin.sha256 != wheel.sha256)
    };
    lock.wheels.iter().filter(contradicts).collect()
}

/// Bytes of `wheels`, refused when an image of them would be over the limit.
pub(crate) fn check_size(wheels: &[PinnedWheel]) -> Result<u64, LockError> {
    let size = wheels.iter().fold(0u64, |sum, wheel| sum.saturating_add(wheel.size));
    if size <= MAX_IMAGE {
        return Ok(size);
    }
    Err(LockError::TooLarge {
        size,
        largest: largest(wheels),
    })
}

/// The three largest wheels, for messages.
pub(crate) fn largest(wheels: &[PinnedWheel]) -> String {
    let mut wheels: Vec<&PinnedWheel> = wheels.iter().collect();
    wheels.sort_by_key(|wheel| std::cmp::Reverse(wheel.size));
    let names = wheels
        .iter()
        .take(3)
        .map(|wheel| format!("{} {} ({})", wheel.name, wheel.version, Bytes(wheel.size)));
    names.collect::<Vec<_>>().join(", ")
}

fn exactly(pin: &PinnedWheel) -> String {
    format!("{}=={}", pin.name, pin.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(name: &str, version: &str) -> LockedWheel {
        LockedWheel {
            name: name.to_owned(),
            version: version.to_owned(),
            file_name: format!("{name}-{version}-py3-none-any.whl"),
            url: format!("https://index.example.org/{name}"),
            size: 7,
            sha256: Digest::of(format!("{name} {version}").as_bytes()),
            sdist: None,
        }
    }

    fn lock(wheels: &[(&str, &str)]) -> Lock {
        Lock {
            wheels: wheels.iter().map(|(name, version)| locked(name, version)).collect(),
            ..Lock::default()
        }
    }

    fn pins(wheels: &[(&str, &str)]) -> Vec<PinnedWheel> {
        lock(wheels).wheels.iter().map(PinnedWheel::from).collect()
    }

    #[test]
    fn sizes_are_checked_before_anything_is_fetched() {
        let mut huge = pins(&[("my-pkg", "1")]);
        assert_eq!(check_size(&huge).unwrap(), 7);
        huge[0].size = 3_000_000_000;
        assert!(check_size(&huge).unwrap_err().to_string().contains("my-pkg"));
    }

    #[test]
    fn a_line_is_complete() {
        let hash = "0".repeat(64);
        let pin = parse(&format!("numpy 1.26.4 numpy-1.26.4-x.whl 18252005 {hash}")).unwrap();
        assert_eq!((pin.name.as_str(), pin.size), ("numpy", 18_252_005));
        for line in [
            "",
            "numpy 1 numpy.whl 5 0",
            &format!("numpy 1 numpy.whl x {hash}"),
            &format!("numpy 1 numpy.whl 5 {hash} more"),
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn only_the_pinned_files_are_accepted_from_an_index() {
        let pinned = pins(&[("numpy", "1"), ("scipy", "2")]);
        let urls = addresses(&pinned, &lock(&[("numpy", "1"), ("scipy", "2")])).unwrap();
        assert_eq!(urls[&pinned[0].sha256], "https://index.example.org/numpy");
        for answer in [
            lock(&[("numpy", "1"), ("scipy", "3")]),
            lock(&[("numpy", "1"), ("six", "1")]),
        ] {
            assert!(matches!(addresses(&pinned, &answer), Err(LockError::Answer { .. })));
        }
        let mut longer = lock(&[("numpy", "1")]);
        longer.wheels[0].size += 1;
        assert!(addresses(&pinned, &longer).is_err());
    }

    #[test]
    fn a_wheel_contradicts_a_pin_of_its_own_project_only() {
        let pinned = pins(&[("numpy", "1"), ("scipy", "2")]);
        assert!(contradictions(&pinned, &lock(&[("numpy", "1"), ("six", "3")])).is_empty());
        let other = lock(&[("numpy", "2"), ("six", "3")]);
        let found = contradictions(&pinned, &other);
        assert_eq!((found.len(), found[0].version.as_str()), (1, "2"));
    }
}
