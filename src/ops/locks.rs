//! Locks are remembered for a while: the index goes on, and with it what `numpy` or `numpy>=2` means.
//!
//! A lock that is old is made anew; when the answer is the same, so is everything made of it. Only one whose every wheel
//! the requirements name by version and hash can never be another. While the index is away the old one is used, with a
//! warning.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::build::BuildError;
use super::wheels::WheelMaker;
use crate::build::index::shown;
use crate::build::lock::{Lock, LockError, Resolver};
use crate::build::requirements::Requirements;
use crate::oci::Digest;
use crate::store::{MemoKind, StoreError};

/// How long a lock is used without asking again: new versions reach every function within a day, and a day's builds of
/// one function agree.
pub const LOCK_AGE: Duration = Duration::from_secs(24 * 3600);

/// A lock, and where it comes from.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    lock: Lock,
    /// Seconds since 1970 when the index said so; gantry did not always write it.
    #[serde(default)]
    resolved: u64,
    /// Which index, without credentials; none for the resolver's own default.
    #[serde(default)]
    index: Option<String>,
}

impl WheelMaker<'_> {
    /// The lock remembered by one of `keys` while it is `usable` and young, else what `make` returns, remembered by the
    /// one of them that `key_of` picks. Also returns what the user should know.
    pub(super) fn young_lock(
        &self,
        (resolver, requirements): (&Resolver, &Requirements),
        keys: &[Digest],
        usable: impl Fn(&Lock) -> bool,
        key_of: impl FnOnce(&Lock) -> Digest,
        make: impl FnOnce() -> Result<Lock, BuildError>,
    ) -> Result<(Lock, Vec<String>), BuildError> {
        let remembered = keys
            .iter()
            .map(|key| self.store.memo::<Remembered>(MemoKind::Lock, key));
        let remembered = remembered
            .collect::<Result<Vec<_>, StoreError>>()?
            .into_iter()
            .flatten();
        let newest = remembered
            .filter(|found| usable(&found.lock))
            .max_by_key(|found| found.resolved);
        let now = seconds(crate::sys::clock::now());
        // A time to come is a clock that was wrong.
        let age = |found: &Remembered| now.checked_sub(found.resolved).unwrap_or(u64::MAX);
        let is_young = |found: &Remembered| age(found) < self.lock_age.as_secs();
        let newest = match newest {
            Some(found) if is_young(&found) || is_settled(&found.lock, requirements) => {
                return Ok((found.lock, Vec::new()))
            }
            other => other,
        };
        let error = match make() {
            Ok(lock) => {
                let index = resolver.index()?.map(|index| shown(&index.url));
                let resolved = now;
                let remembered = Remembered { lock, resolved, index };
                self.store
                    .put_memo(MemoKind::Lock, &key_of(&remembered.lock), &remembered)?;
                return Ok((remembered.lock, Vec::new()));
            }
            Err(error) => error,
        };
        match newest {
            // Who allows no age wants to hear of it.
            Some(found) if is_away(&error) && !self.lock_age.is_zero() => {
                let warning = format!(
                    "the package index cannot be asked: the versions of {} are used",
                    match age(&found) {
                        _ if found.resolved == 0 => "an earlier build".to_owned(),
                        age => format!("{} hours ago", age / 3600),
                    }
                );
                Ok((found.lock, vec![warning]))
            }
            _ => Err(error),
        }
    }
}

/// Whether asking again can give no other wheels: each has its version and its hash in `requirements`.
fn is_settled(lock: &Lock, requirements: &Requirements) -> bool {
    let is_exact = |line: &&str| {
        let specifiers = line.split(';').next().unwrap_or_default();
        specifiers.contains("==") && !specifiers.contains('*')
    };
    lock.wheels.iter().all(|wheel| {
        let (wanted, constraints) = requirements.about(&wheel.name);
        requirements.hashes.contains_key(&wheel.name) && wanted.iter().chain(&constraints).any(is_exact)
    })
}

/// Whether the index, or the program that asks it, is away for now.
fn is_away(error: &BuildError) -> bool {
    // Without uv nothing can be asked either; that is the machine's lack, so its kind is another.
    error.kind().is_away() || matches!(error, BuildError::Lock(LockError::NoUv { .. }))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::lock::LockedWheel;

    #[test]
    fn only_what_is_named_by_version_and_hash_stays_what_it_is() {
        let wheel = |name: &str| LockedWheel {
            name: name.to_owned(),
            version: "1".to_owned(),
            file_name: String::new(),
            url: String::new(),
            size: 1,
            sha256: Digest::of(name.as_bytes()),
            sdist: None,
        };
        let lock = Lock {
            wheels: vec![wheel("a"), wheel("b")],
        };
        let settled = |wanted: &[&str], hashed: &[&str]| {
            let requirements = Requirements {
                wanted: wanted.iter().map(|line| (*line).to_owned()).collect(),
                constraints: Vec::new(),
                hashes: hashed
                    .iter()
                    .map(|name| ((*name).to_owned(), vec![Digest::of(name.as_bytes())]))
                    .collect(),
            };
            is_settled(&lock, &requirements)
        };
        assert!(settled(&["a==1", "B==1 ; python_version > '3'"], &["a", "b"]));
        assert!(!settled(&["a==1", "b==1"], &["a"]), "a hash is missing");
        assert!(!settled(&["a==1"], &["a", "b"]), "a version is missing");
        assert!(!settled(&["a==1", "b==1.*"], &["a", "b"]));
        assert!(!settled(&["a==1", "b>1 ; python_version == '3.11'"], &["a", "b"]));
    }

    #[test]
    fn a_lock_of_an_earlier_version_has_no_time() {
        let found: Remembered = serde_json::from_str("{\"wheels\":[]}").unwrap();
        assert_eq!((found.resolved, found.lock), (0, Lock::default()));
    }
}
