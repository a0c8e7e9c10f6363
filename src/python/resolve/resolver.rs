//! Requirements -> exact wheels, by `uv`.
//!
//! uv resolves; it installs nothing and runs nothing (`--only-binary :all:`; for source distributions see
//! [`Resolver::find_sdist`]). What it answers is checked again: every package must have a wheel for this Python and
//! platform with url, size and sha256, and hashes that the user gave must be that wheel's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::ask::{ask, Answer, Asker, Question};
use super::extra::{self, ExtraIndex};
use super::index::{Index, Places};
use super::locked::{Lock, LockError, LockedSdist, LockedWheel};
use super::missing::{missing_wheel, MissingWheel};
use super::programs::Deadlines;
use super::pylock::{self, Pylock};
use super::target::Target;
use super::uv::{find_uv, UvPlaces};
use crate::net::{Address, Client, Credentials};
use crate::oci::Digest;
use crate::progress::{Progress, Silent};
use crate::python::requirements::Requirements;
use crate::store::Store;

/// What resolving came to.
#[derive(Debug)]
pub enum Resolution {
    /// Everything has a wheel.
    Locked(Lock),
    /// This has none.
    NoWheel(MissingWheel),
}

/// How uv is run.
#[derive(Clone, Default)]
pub struct Resolver {
    /// The program of the configuration.
    pub uv: Option<PathBuf>,
    /// What of the base decides which wheels fit, its Python by its full version: markers may depend on all of it.
    pub target: Target,
    /// Index of the configuration; may hold credentials, so it never becomes an argument.
    pub index: Option<Address>,
    /// The indexes beside it.
    pub extra: Vec<ExtraIndex>,
    /// Where uv finds an interpreter: it asks one for its platform, whatever its version; it runs nothing else.
    pub path: Option<OsString>,
    /// Proxies, certificates and indexes, by variable; may hold credentials.
    pub network: Vec<(String, OsString)>,
    /// Configuration files of uv, which may name an index.
    pub files: Vec<PathBuf>,
    /// Configuration files of pip, which may as well.
    pub pip_files: Vec<PathBuf>,
    /// How long its programs may run.
    pub deadlines: Deadlines,
    /// What was found when it was first needed: a build that changes nothing needs none of it.
    pub found: Lookups,
}

impl fmt::Debug for Resolver {
    /// Of the network it names the variables alone: their values may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<&String> = self.network.iter().map(|(name, _)| name).collect();
        f.debug_struct("Resolver")
            .field("uv", &self.uv)
            .field("target", &self.target)
            .field("index", &self.index)
            .field("extra", &self.extra)
            .field("network", &variables)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

/// Program and index of a [`Resolver`], which all its clones share: pip takes a fifth of a second to say which index it uses.
#[derive(Debug, Clone, Default)]
pub struct Lookups {
    uv: Arc<OnceLock<PathBuf>>,
    index: Arc<OnceLock<Option<Index>>>,
}

impl Resolver {
    /// Makes resolvers as `make` does; what one of them finds out the others know.
    pub(crate) fn sharing<'a>(
        make: &'a (dyn Fn() -> Result<Self, LockError> + Sync),
    ) -> impl Fn() -> Result<Self, LockError> + Sync + 'a {
        let found = Lookups::default();
        move || {
            let found = found.clone();
            Ok(Self { found, ..make()? })
        }
    }

    /// Everything besides the requirements that the answer depends on; no credentials.
    pub fn settings(&self) -> String {
        let newer = self
            .network
            .iter()
            .find(|(name, _)| name == "UV_EXCLUDE_NEWER")
            .map(|(_, value)| value.to_string_lossy());
        let index = self.places().key();
        let extra = extra::key(&self.extra);
        // uv is asked by its own platforms; among the wheels that fit it, the very C library decides.
        let (python, platform, glibc) = (&self.target.python, self.target.platform(), self.target.glibc);
        format!(
            "{python} {platform} 2.{glibc} {index} {}{extra}",
            newer.unwrap_or_default()
        )
    }

    /// What the indexes want to see, from our own downloads as well.
    pub fn credentials(&self) -> Result<Vec<Credentials>, LockError> {
        let main = self.index()?.and_then(|index| Credentials::of(index.url.as_str()));
        let extra = self.extra.iter().filter_map(ExtraIndex::credentials);
        Ok(main.into_iter().chain(extra).collect())
    }

    /// The one that asks the main index alone: for files whose hashes are known.
    pub fn of_main_index(self) -> Self {
        Self {
            extra: Vec::new(),
            ..self
        }
    }

    /// The index that is asked; none for the resolver's own default.
    pub fn index(&self) -> Result<Option<&Index>, LockError> {
        if self.found.index.get().is_none() {
            let _ = self.found.index.set(self.places().find()?);
        }
        Ok(self.found.index.get().and_then(Option::as_ref))
    }

    fn places(&self) -> Places<'_> {
        Places {
            configured: self.index.as_ref(),
            network: &self.network,
            files: &self.files,
            pip_files: &self.pip_files,
            path: self.path.as_ref(),
            deadline: self.deadlines.words,
        }
    }

    /// Makes sure that there are an index and a uv to ask; tells when uv has to be fetched.
    pub fn ensure(&self, store: &Store, progress: &dyn Progress) -> Result<(), LockError> {
        self.index()?;
        self.uv(store, progress).map(drop)
    }

    fn uv(&self, store: &Store, progress: &dyn Progress) -> Result<&Path, LockError> {
        let find = || {
            let places = UvPlaces {
                configured: self.uv.as_deref(),
                path: self.path.as_ref(),
                network: &self.network,
                deadlines: self.deadlines,
            };
            find_uv(store, &places, progress)
        };
        match self.found.uv.get() {
            Some(uv) => Ok(uv),
            None => find().map(|uv| self.found.uv.get_or_init(|| uv).as_path()),
        }
    }

    fn ask(&self, store: &Store, question: &Question<'_>) -> Result<Answer, LockError> {
        let asker = Asker {
            uv: self.uv(store, &Silent)?,
            target: &self.target,
            index: self.index()?,
            extra: &self.extra,
            path: self.path.as_ref(),
            network: &self.network,
            deadline: self.deadlines.answer,
        };
        ask(store, &asker, question)
    }

    /// Resolves `requirements`.
    pub fn resolve(&self, store: &Store, requirements: &Requirements) -> Result<Lock, LockError> {
        if requirements.wanted.is_empty() {
            return Ok(Lock::default());
        }
        match self.attempt(store, requirements, &[])? {
            Resolution::Locked(lock) => Ok(lock),
            Resolution::NoWheel(missing) => Err(self.no_wheel(store, missing)),
        }
    }

    /// Resolves `requirements` with the wheels of the index and of `built`, which are downloads of the store. Packages of
    /// further indexes come from there, also when only others need them.
    pub fn attempt(
        &self,
        store: &Store,
        requirements: &Requirements,
        built: &[LockedWheel],
    ) -> Result<Resolution, LockError> {
        // uv looks for a package that nobody has named at the main index; it is named once it turns up.
        let mut named = Vec::new();
        let mut resolution = loop {
            let resolution = self.attempt_with(store, requirements, built, &named);
            let strays = self.strays(&resolution, &named)?;
            if strays.is_empty() {
                break resolution?;
            }
            named.extend(strays);
        };
        // One that turned up only in an answer that was not the last is nobody's need.
        for name in named.clone() {
            let others: Vec<String> = named.iter().filter(|other| **other != name).cloned().collect();
            let without = self.attempt_with(store, requirements, built, &others);
            let is_idle =
                matches!(&without, Ok(Resolution::Locked(lock)) if lock.wheels.iter().all(|wheel| wheel.name != name));
            if is_idle && self.strays(&without, &others)?.is_empty() {
                (resolution, named) = (without?, others);
            }
        }
        Ok(resolution)
    }

    /// The packages of further indexes that are not from there in `resolution`, or that it fails for; an error for those
    /// that were `named` and still are not.
    fn strays(&self, resolution: &Result<Resolution, LockError>, named: &[String]) -> Result<Vec<String>, LockError> {
        let assigned = self.extra.iter().flat_map(|index| &index.packages);
        let unnamed = assigned.filter(|name| !named.contains(name)).cloned();
        let lock = match resolution {
            Ok(Resolution::Locked(lock)) => lock,
            Ok(Resolution::NoWheel(missing)) => return Ok(unnamed.filter(|name| *name == missing.name).collect()),
            Err(LockError::Unsatisfiable { explanation }) => {
                return Ok(unnamed.filter(|name| extra::speaks_of(explanation, name)).collect())
            }
            Err(_) => return Ok(Vec::new()),
        };
        let main = self.index()?.map(|index| index.url.as_str());
        let strays = extra::strays(&self.extra, main, &lock.wheels)?;
        for wheel in lock.wheels.iter().filter(|wheel| named.contains(&wheel.name)) {
            if let Some(index) = extra::find(&self.extra, &wheel.name).filter(|_| strays.contains(&wheel.name.as_str()))
            {
                return Err(extra::stray(&wheel.name, &wheel.version, index, "does not come from"));
            }
        }
        Ok(strays.into_iter().map(str::to_owned).collect())
    }

    fn attempt_with(
        &self,
        store: &Store,
        requirements: &Requirements,
        built: &[LockedWheel],
        named: &[String],
    ) -> Result<Resolution, LockError> {
        let question = Question {
            wanted: &requirements.wanted.join("\n"),
            constraints: &requirements.constraints.join("\n"),
            overrides: &requirements.overrides.join("\n"),
            named,
            prereleases: requirements.prereleases,
            built,
            ..Question::default()
        };
        let answer = match self.ask(store, &question) {
            // A missing wheel is told from a contradiction.
            Err(LockError::Unsatisfiable { explanation }) => {
                let missing = missing_wheel(&explanation);
                let missing = missing.ok_or(LockError::Unsatisfiable { explanation })?;
                return Ok(Resolution::NoWheel(missing));
            }
            other => other?,
        };
        let pylock = Pylock::read(&answer.lock)?.with_sizes(&self.target, &|url| self.size_of(url))?;
        let mut lock = pylock::take(pylock, &self.target, &requirements.hashes, built)?;
        lock.warnings = answer.warnings;
        check_hashes(&lock, requirements)?;
        Ok(Resolution::Locked(lock))
    }

    /// What the server of a file says of its size, where the index says nothing.
    fn size_of(&self, url: &str) -> Result<u64, LockError> {
        let credentials = self.credentials()?;
        let body = Client::new().and_then(|client| client.with_credentials(&credentials).stream(url, 0));
        let size = body.map_err(|error| extra::unreadable(&error))?.size();
        size.ok_or_else(|| LockError::Answer {
            reason: format!(
                "neither the index nor the server gives a size for {}",
                Address::new(url)
            ),
        })
    }

    /// The error of a missing wheel, with the newest version that has one.
    pub fn no_wheel(&self, store: &Store, missing: MissingWheel) -> LockError {
        // Of the package alone: what it needs may have no wheels either, and is none of this question.
        let question = Question {
            wanted: &missing.name,
            options: &["--no-deps"],
            ..Question::default()
        };
        let answer = self.ask(store, &question);
        let lock =
            answer.and_then(|answer| pylock::take(Pylock::read(&answer.lock)?, &self.target, &BTreeMap::new(), &[]));
        let newest = match lock {
            Ok(lock) => lock
                .wheels
                .first()
                .map(|wheel| format!("; the newest version with a wheel is {}", wheel.version)),
            Err(LockError::Unsatisfiable { .. }) => Some("; no version of it has one".to_owned()),
            Err(_) => None,
        };
        let needed = missing.needed_by.map(|other| format!("; {other} depends on it"));
        LockError::NoWheel {
            package: [missing.name, missing.version.unwrap_or_default()]
                .join(" ")
                .trim_end()
                .to_owned(),
            python: self.target.python.clone(),
            newest: newest.unwrap_or_default() + &needed.unwrap_or_default(),
        }
    }

    /// The newest source distribution of `missing` that the requirements and the packages that want it accept; none when
    /// there is none. Executes nothing of it.
    pub fn find_sdist(
        &self,
        store: &Store,
        missing: &MissingWheel,
        requirements: &Requirements,
    ) -> Result<Option<LockedSdist>, LockError> {
        let name = missing.name.as_str();
        // The name comes from uv's text; from here on it is part of a document.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Ok(None);
        }
        let (mut wanted, constraints) = requirements.about(name);
        let others: Vec<String> = missing
            .specifiers
            .iter()
            .map(|specifier| format!("{name}{specifier}"))
            .collect();
        wanted.push(name);
        wanted.extend(others.iter().map(String::as_str));
        // uv builds a source distribution to learn what it depends on, unless it is told: so it is told, for this
        // package in whatever version, that this is nothing. No other package is looked at.
        let config = format!("dependency-metadata = [{{ name = \"{name}\", requires-dist = [] }}]\n");
        let question = Question {
            wanted: &wanted.join("\n"),
            constraints: &constraints.join("\n"),
            overrides: &requirements.overrides.join("\n"),
            prereleases: requirements.prereleases,
            options: &["--no-deps", "--no-binary", name],
            config: Some(&config),
            ..Question::default()
        };
        let answer = match self.ask(store, &question) {
            Err(LockError::Unsatisfiable { .. }) => return Ok(None),
            other => other?,
        };
        let pylock = Pylock::read(&answer.lock)?.with_sizes(&self.target, &|url| self.size_of(url))?;
        let sdist = pylock::take_sdist(pylock, name)?;
        match extra::find(&self.extra, name) {
            Some(index) if !index.lists(name, &sdist.sha256)? => {
                Err(extra::stray(name, &sdist.version, index, "does not come from"))
            }
            _ => Ok(Some(sdist)),
        }
    }
}

fn check_hashes(lock: &Lock, requirements: &Requirements) -> Result<(), LockError> {
    for (name, hashes) in &requirements.hashes {
        let Some(wheel) = lock.wheels.iter().find(|wheel| wheel.name == *name) else {
            continue;
        };
        // Of a package that was built here, its source distribution is what the user vouches for.
        if !hashes.contains(&wheel.sdist.unwrap_or(wheel.sha256)) {
            return Err(LockError::Hash {
                package: format!("{name} {}", wheel.version),
                got: wheel.sdist.unwrap_or(wheel.sha256).hex(),
                expected: hashes.iter().map(Digest::hex).collect::<Vec<_>>().join(" or "),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
