//! Locks are remembered for a while: the index goes on, and with it what `numpy` or `numpy>=2` means.
//!
//! A lock that is old is made anew; when the answer is the same, so is everything made of it. Only one whose every wheel
//! the requirements name by version and hash can never be another. While the index is away the old one is used, with a
//! warning.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::locked::{Lock, LockError};
use super::resolver::Resolver;
use crate::progress::Progress;
use crate::python::requirements::Requirements;
use crate::python::PythonError;
use crate::store::{ExclusiveLock, Flight, Key, Memo, Roots, Store, StoreError, Task};

/// How long a lock is used without asking again: new versions reach every function within a day, and a day's builds of
/// one function agree.
pub const LOCK_AGE: Duration = Duration::from_secs(24 * 3600);

/// A lock, and where it comes from.
#[derive(Debug, Serialize, Deserialize)]
struct LockMemo {
    #[serde(flatten)]
    lock: Lock,
    /// Seconds since 1970 when the index said so; gantry did not always write it.
    #[serde(default)]
    resolved: u64,
    /// Which index, without credentials; none for the resolver's own default.
    #[serde(default)]
    index: Option<String>,
}

impl Memo for LockMemo {
    const FOLDER: &'static str = "lock";

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// A lock that is wanted, young if that can be.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Where locks are remembered.
    pub store: &'a Store,
    /// Is told of waits, and of a lock that is older than it should be.
    pub progress: &'a dyn Progress,
    /// How old it may be.
    pub lock_age: Duration,
    /// Who would be asked.
    pub resolver: &'a Resolver,
    /// What it is a lock of.
    pub requirements: &'a Requirements,
    /// What others that want it at once wait for.
    pub flight: Flight<'a>,
    /// What it may be remembered by.
    pub keys: &'a [Key],
}

/// The lock remembered by one of the keys while it is `usable` and young, else what `make` returns, remembered by the
/// one of them that `key_of` picks; builds that want it at once wait for the first. While the index is away an old lock
/// is used, with a warning.
pub(crate) fn young_lock(
    wish: &Wish<'_>,
    usable: impl Fn(&Lock) -> bool,
    key_of: impl FnOnce(&Lock) -> Key,
    make: impl FnOnce() -> Result<Lock, PythonError>,
) -> Result<Lock, PythonError> {
    let begun = now();
    let serves = |found: &LockMemo| found.age() < wish.lock_age.as_secs() || is_settled(&found.lock, wish.requirements);
    let mut newest = newest_of(wish, &usable)?;
    if let Some(found) = newest.take_if(|found| serves(found)) {
        return Ok(found.lock);
    }
    let task = Task {
        does: &format!("resolves {} requirements", wish.requirements.wanted.len()),
        progress: wish.progress,
    };
    let mut single = Some(wish.store.locks().exclusive(wish.flight, task)?);
    let has_waited = single.as_ref().is_some_and(ExclusiveLock::has_waited);
    // What another one was told since we began is as new as what we would be told, however young we want it.
    let is_news = |found: &LockMemo| has_waited && found.resolved >= begun && found.age() < u64::MAX;
    if let Some(found) = newest_of(wish, &usable)?.filter(|found| is_news(found) || serves(found)) {
        return Ok(found.lock);
    }
    if has_waited {
        // The one we waited for failed. All that waited for it try at once, rather than to fail one after the other.
        single = None;
    }
    let error = match make() {
        Ok(lock) => {
            let index = wish.resolver.index()?.map(|index| index.url.shown());
            let resolved = now();
            let remembered = LockMemo { lock, resolved, index };
            wish.store.memos().put(&key_of(&remembered.lock), &remembered)?;
            return Ok(remembered.lock);
        }
        Err(error) => error,
    };
    drop(single);
    match newest {
        // Who allows no age wants to hear of it.
        Some(found) if is_away(&error) && !wish.lock_age.is_zero() => {
            wish.progress.warn(&format!(
                "the package index cannot be asked: the versions of {} are used",
                match found.age() {
                    _ if found.resolved == 0 => "an earlier build".to_owned(),
                    age => format!("{} hours ago", age / 3600),
                }
            ));
            Ok(found.lock)
        }
        _ => Err(error),
    }
}

/// The lock that is remembered by one of the keys, the newest of those that are `usable`.
fn newest_of(wish: &Wish<'_>, usable: &impl Fn(&Lock) -> bool) -> Result<Option<LockMemo>, StoreError> {
    let remembered = wish.keys.iter().map(|key| wish.store.memos().find::<LockMemo>(key));
    let remembered = remembered.collect::<Result<Vec<_>, StoreError>>()?;
    let usable = remembered.into_iter().flatten().filter(|found| usable(&found.lock));
    Ok(usable.max_by_key(|found| found.resolved))
}

impl LockMemo {
    /// Seconds since it was resolved. A time to come is a clock that was wrong.
    fn age(&self) -> u64 {
        now().checked_sub(self.resolved).unwrap_or(u64::MAX)
    }
}

/// Whether asking again can give no other wheels: each has its version and its hash in `requirements`.
fn is_settled(lock: &Lock, requirements: &Requirements) -> bool {
    let is_exact = |line: &&str| {
        let specifiers = line.split(';').next().unwrap_or_default();
        specifiers.contains("==") && !specifiers.contains('*')
    };
    // What an override makes of a hash or a version is uv's to say.
    requirements.overrides.is_empty()
        && lock.wheels.iter().all(|wheel| {
            let (wanted, constraints) = requirements.about(&wheel.name);
            requirements.hashes.contains_key(&wheel.name) && wanted.iter().chain(&constraints).any(is_exact)
        })
}

/// Whether the index, or the program that asks it, is away for now.
fn is_away(error: &PythonError) -> bool {
    // Without uv nothing can be asked either; that is the machine's lack, so its kind is another.
    error.kind().is_away() || matches!(error, PythonError::Lock(LockError::NoUv { .. }))
}

/// Seconds since 1970.
fn now() -> u64 {
    crate::sys::clock::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::locked::LockedWheel;
    use super::*;
    use crate::oci::Digest;

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
            ..Lock::default()
        };
        let settled = |wanted: &[&str], hashed: &[&str]| {
            let requirements = Requirements {
                wanted: wanted.iter().map(|line| (*line).to_owned()).collect(),
                hashes: hashed
                    .iter()
                    .map(|name| ((*name).to_owned(), vec![Digest::of(name.as_bytes())]))
                    .collect(),
                ..Requirements::default()
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
        let found: LockMemo = serde_json::from_str("{\"wheels\":[]}").unwrap();
        assert_eq!((found.resolved, found.lock), (0, Lock::default()));
    }
}
