//! Requirements -> exact wheels, by `uv`: an empty environment, wheels only, and nothing of the user's but cleaned text.
//!
//! uv resolves; it installs nothing and runs nothing (`--only-binary :all:`, but see `sdist`). What it answers is checked again: every
//! package must have a wheel for this Python and platform with url, size and sha256, and hashes that the user gave must
//! be that wheel's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::index::{self, Index, IndexError, Places};
use super::pins::PinnedWheel;
use super::pylock;
use super::requirements::Requirements;
use super::uv::{find_uv, UvPlaces};
use super::wheel::normalise;
use crate::net::{Address, Credentials};
use crate::oci::Digest;
use crate::policy::{Bytes, Kind};
use crate::store::{Store, StoreError};
use crate::sys::program::{Program, ProgramError};

/// glibc of the base is 2.36; uv's newest platform that is not newer.
const PLATFORM: &str = "x86_64-manylinux_2_36";
/// Explanations of uv are long; the first part says it.
pub(super) const MAX_MESSAGE: usize = 4000;
/// Images above this are refused before anything is downloaded.
pub const MAX_IMAGE: u64 = 2_000_000_000;
/// Images above this get a warning.
pub const LARGE_IMAGE: u64 = 300_000_000;

/// Exactly what is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Wheels, sorted by name.
    pub wheels: Vec<LockedWheel>,
}

/// One wheel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedWheel {
    /// Normalised project name.
    pub name: String,
    /// Version.
    pub version: String,
    /// File name.
    pub file_name: String,
    /// Where it is.
    pub url: String,
    /// Bytes.
    pub size: u64,
    /// Hash.
    pub sha256: Digest,
    /// Hash of the source distribution that it was built from here; it has no address then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdist: Option<Digest>,
}

/// What resolving came to.
#[derive(Debug)]
pub enum Attempt {
    /// Everything has a wheel.
    Locked(Lock),
    /// This has none.
    NoWheel(MissingWheel),
}

/// What uv is asked.
#[derive(Debug, Default)]
pub(super) struct Question<'a> {
    /// Requirements, one a line.
    pub wanted: &'a str,
    /// Constraints, one a line.
    pub constraints: &'a str,
    /// More options.
    pub options: &'a [&'a str],
    /// Wheels of the store that it may choose, too.
    pub built: &'a [LockedWheel],
    /// Its configuration; without one it takes wheels only.
    pub config: Option<&'a str>,
}

/// How uv is run.
#[derive(Clone, Default)]
pub struct Resolver {
    /// The program of the configuration.
    pub uv: Option<PathBuf>,
    /// Python version of the base.
    pub python: String,
    /// Index of the configuration; may hold credentials, so it never becomes an argument.
    pub index: Option<Address>,
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
    pub found: Found,
}

impl fmt::Debug for Resolver {
    /// Of the network it names the variables alone: their values may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<&String> = self.network.iter().map(|(name, _)| name).collect();
        f.debug_struct("Resolver")
            .field("uv", &self.uv)
            .field("python", &self.python)
            .field("index", &self.index)
            .field("network", &variables)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

/// How long each program may run.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// `uv --version` and `pip config list`, which use no network.
    pub words: Duration,
    /// uv's answer to a question, and pip's download of uv.
    pub answer: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            // A tenth of a second, or some when all of it is read from a slow disk.
            words: Duration::from_secs(20),
            // Resolving takes under a second; two minutes are a network that is not there.
            answer: Duration::from_secs(120),
        }
    }
}

/// What sort of failure that of a program is: one that does not end may end another time.
pub(super) fn kind_of(error: &ProgramError) -> Kind {
    match error {
        ProgramError::Deadline { .. } => Kind::Unavailable,
        ProgramError::Start { .. }
        | ProgramError::Output { .. }
        | ProgramError::Ending { .. }
        | ProgramError::Wait { .. } => Kind::Failed,
    }
}

/// Program and index of a [`Resolver`].
#[derive(Debug, Clone, Default)]
pub struct Found {
    uv: OnceLock<PathBuf>,
    index: OnceLock<Option<Index>>,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// uv says no.
    #[error("resolve requirements:\n{explanation}")]
    Unsatisfiable {
        /// In uv's words, bounded.
        explanation: String,
    },
    /// Only source distributions.
    #[error("resolve requirements: {package} has no wheel for Python {python} on linux/amd64{newest}")]
    NoWheel {
        /// Name and version.
        package: String,
        /// The Python.
        python: String,
        /// `; the newest version with a wheel is ...`, when there is one.
        newest: String,
    },
    /// The index does not answer.
    #[error("resolve requirements: the package index cannot be reached\n{explanation}")]
    Unavailable {
        /// In uv's words, bounded.
        explanation: String,
    },
    /// A hash of the user is not the wheel's.
    #[error("resolve requirements: {package} has sha256 {got}, the requirements say {expected}")]
    Hash {
        /// Name and version.
        package: String,
        /// Of the index.
        got: String,
        /// Of the user.
        expected: String,
    },
    /// uv said something unexpected.
    #[error("resolve requirements: {reason}")]
    Answer {
        /// What.
        reason: String,
    },
    /// uv cannot be run, or does not end.
    #[error(transparent)]
    Run(#[from] ProgramError),
    /// What uv is asked cannot be written down.
    #[error("write {} for uv", path.display())]
    Question {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Wheels that were built here cannot be shown to uv.
    #[error("offer wheels that were built here to the resolver")]
    Offer {
        /// Why.
        source: io::Error,
    },
    /// The index is not clear.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The configured uv is too old.
    #[error("run {}: it is uv {version}, gantry needs {oldest} or newer", program.display())]
    OldUv {
        /// Which program.
        program: PathBuf,
        /// What it is.
        version: String,
        /// What it should be.
        oldest: String,
    },
    /// There is no uv and it could not be fetched.
    #[error("find uv: it is not on the PATH, and fetching it with pip failed: {reason}")]
    NoUv {
        /// What pip says.
        reason: String,
    },
    /// There is no uv, and the index that has one does not answer.
    #[error(
        "find uv: it is not on the PATH, and the package index cannot be reached to fetch it with pip\n{explanation}"
    )]
    UvUnavailable {
        /// In pip's words, bounded.
        explanation: String,
    },
    /// The configuration names a variable that is not there.
    #[error("read the password of the package index: {variable} of the environment, which `password_env` under [index] names, {problem}")]
    Password {
        /// The variable.
        variable: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Too large.
    #[error("build image: its wheels alone have {} of at most {}; the largest are {largest}", Bytes(*size), Bytes(MAX_IMAGE))]
    TooLarge {
        /// All wheels together.
        size: u64,
        /// The three largest.
        largest: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LockError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unavailable { .. } | Self::UvUnavailable { .. } => Kind::Unavailable,
            Self::TooLarge { .. } => Kind::Refused,
            Self::Run(source) => kind_of(source),
            Self::Index(source) => source.kind(),
            Self::Store(source) => source.kind(),
            Self::Unsatisfiable { .. }
            | Self::NoWheel { .. }
            | Self::Hash { .. }
            | Self::Answer { .. }
            | Self::Question { .. }
            | Self::Offer { .. }
            | Self::OldUv { .. }
            | Self::NoUv { .. }
            | Self::Password { .. } => Kind::Failed,
        }
    }
}

impl Resolver {
    /// Everything besides the requirements that the answer depends on; no credentials.
    pub fn settings(&self) -> String {
        let newer = self
            .network
            .iter()
            .find(|(name, _)| name == "UV_EXCLUDE_NEWER")
            .map(|(_, value)| value.to_string_lossy());
        let index = self.places().key();
        format!("{} {PLATFORM} {index} {}", self.python, newer.unwrap_or_default())
    }

    /// What the index wants to see, from our own downloads as well.
    pub fn credentials(&self) -> Result<Option<Credentials>, LockError> {
        Ok(self.index()?.and_then(|index| Credentials::of(index.url.as_str())))
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

    fn uv(&self, store: &Store) -> Result<&Path, LockError> {
        let find = || {
            let places = UvPlaces {
                configured: self.uv.as_deref(),
                path: self.path.as_ref(),
                network: &self.network,
                deadlines: self.deadlines,
            };
            find_uv(store, &places)
        };
        match self.found.uv.get() {
            Some(uv) => Ok(uv),
            None => find().map(|uv| self.found.uv.get_or_init(|| uv).as_path()),
        }
    }

    /// Resolves `requirements`.
    pub fn resolve(&self, store: &Store, requirements: &Requirements) -> Result<Lock, LockError> {
        if requirements.wanted.is_empty() {
            return Ok(Lock::default());
        }
        match self.attempt(store, requirements, &[])? {
            Attempt::Locked(lock) => Ok(lock),
            Attempt::NoWheel(missing) => Err(self.no_wheel(store, missing)),
        }
    }

    /// Resolves `requirements` with the wheels of the index and of `built`, which are downloads of the store.
    pub fn attempt(
        &self,
        store: &Store,
        requirements: &Requirements,
        built: &[LockedWheel],
    ) -> Result<Attempt, LockError> {
        let question = Question {
            wanted: &requirements.wanted.join("\n"),
            constraints: &requirements.constraints.join("\n"),
            built,
            ..Question::default()
        };
        let text = match self.ask(store, &question) {
            // A missing wheel is told from a contradiction.
            Err(LockError::Unsatisfiable { explanation }) => {
                let missing = missing_wheel(&explanation);
                let missing = missing.ok_or(LockError::Unsatisfiable { explanation })?;
                return Ok(Attempt::NoWheel(missing));
            }
            other => other?,
        };
        let lock = pylock::parse(&text, &self.python, &requirements.hashes, built)?;
        check_hashes(&lock, requirements)?;
        Ok(Attempt::Locked(lock))
    }

    /// The error of a missing wheel, with the newest version that has one.
    pub fn no_wheel(&self, store: &Store, missing: MissingWheel) -> LockError {
        // Of the package alone: what it needs may have no wheels either, and is none of this question.
        let question = Question {
            wanted: &missing.name,
            options: &["--no-deps"],
            ..Question::default()
        };
        let text = self.ask(store, &question);
        let newest = match text.and_then(|text| pylock::parse(&text, &self.python, &BTreeMap::new(), &[])) {
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
            python: self.python.clone(),
            newest: newest.unwrap_or_default() + &needed.unwrap_or_default(),
        }
    }

    /// Runs uv, which answers with a `pylock.toml`. Without a configuration it takes wheels only, and executes nothing.
    pub(super) fn ask(&self, store: &Store, question: &Question<'_>) -> Result<String, LockError> {
        let (uv, index) = (self.uv(store)?, self.index()?);
        let scratch = store.scratch()?;
        let write = |name: &str, contents: &str| {
            let path = scratch.path().join(name);
            fs::write(&path, contents).map_err(|source| LockError::Question { path, source })
        };
        write("requirements.in", question.wanted)?;
        write("constraints.txt", question.constraints)?;
        let others = self.network.iter().filter(|(name, _)| !index::is_index_variable(name));
        let mut program = Program::new(uv, self.deadlines.answer)
            .args(["pip", "compile", "requirements.in", "--format", "pylock.toml"])
            .args(["--python-platform", PLATFORM, "--python-version", &self.python])
            .args([
                "--no-header",
                "--no-progress",
                "--system-certs",
                "--no-python-downloads",
            ])
            .args(question.options)
            .envs(others.map(|(name, value)| (name, value)))
            .env("HOME", scratch.path())
            .env("UV_CACHE_DIR", store.root().join("tools/uv-cache"))
            .env("UV_NO_PROGRESS", "1")
            .current_dir(scratch.path());
        match question.config {
            Some(config) => {
                write("uv.toml", config)?;
                program = program.args(["--config-file", "uv.toml"]);
            }
            None => {
                program = program.args(["--no-config", "--only-binary", ":all:"]);
            }
        }
        if !question.constraints.is_empty() {
            program = program.args(["--constraint", "constraints.txt"]);
        }
        if !question.built.is_empty() {
            offer(store, question.built, &scratch.path().join("built"))?;
            program = program.args(["--find-links", "built"]);
        }
        if let Some(path) = &self.path {
            program = program.env("PATH", path);
        }
        if let Some(index) = index {
            program = program.env("UV_DEFAULT_INDEX", index.url.as_str());
        }
        let (said, is_late) = match program.run() {
            Ok(done) if done.status.success() => {
                return String::from_utf8(done.stdout).map_err(|_| LockError::Answer {
                    reason: "uv answers in no UTF-8".to_owned(),
                })
            }
            Ok(done) => (done.stderr, false),
            Err(ProgramError::Deadline { said, .. }) => (said, true),
            Err(other) => return Err(LockError::Run(other)),
        };
        let mut explanation: String = String::from_utf8_lossy(&said).chars().take(MAX_MESSAGE).collect();
        if let Some(credentials) = self.credentials()? {
            explanation = credentials.hide(&explanation);
        }
        if let Some(index) = index {
            explanation = explanation.replace(index.url.as_str(), "the configured index");
        }
        let network = [
            "error sending request",
            "Failed to fetch",
            "dns error",
            "Could not connect",
            "Connection refused",
            "tcp connect",
            "timed out",
        ];
        if is_late || network.iter().any(|sign| explanation.contains(sign)) {
            return Err(LockError::Unavailable { explanation });
        }
        Err(LockError::Unsatisfiable { explanation })
    }
}

/// Puts wheels of the store where uv finds them by name.
fn offer(store: &Store, built: &[LockedWheel], directory: &Path) -> Result<(), LockError> {
    fs::create_dir(directory).map_err(|source| LockError::Offer { source })?;
    for wheel in built {
        let missing = || StoreError::NoBlob { digest: wheel.sha256 };
        let mut file = store.find_download(&wheel.sha256, wheel.size).ok_or_else(missing)?;
        let copied =
            fs::File::create_new(directory.join(&wheel.file_name)).and_then(|mut copy| io::copy(&mut file, &mut copy));
        copied.map_err(|source| LockError::Offer { source })?;
    }
    Ok(())
}

/// A package without wheels, as uv speaks of it.
#[derive(Debug, PartialEq, Eq)]
pub struct MissingWheel {
    /// Normalised project name.
    pub name: String,
    /// The version, when there is but one.
    pub version: Option<String>,
    /// The requirement or package that wants it, when it is not the user.
    pub needed_by: Option<String>,
    /// Version specifiers of those that want it.
    pub specifiers: Vec<String>,
}

/// Finds the package that has no wheel in uv's explanation; none when the explanation is about something else.
///
/// The name comes from uv's hint: its sentences name other packages too.
fn missing_wheel(explanation: &str) -> Option<MissingWheel> {
    // Sentences are broken over lines; joined they can be searched.
    let flat = explanation.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, hint) = flat.split_once("Wheels are required for `")?;
    let name = normalise(hint.split('`').next()?);
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-+!=<>~,*[]".contains(&byte))
    };
    if name.is_empty() || !plain(&name) {
        return None;
    }
    let exact = format!("{name}==");
    let versions = flat.match_indices(&exact).filter_map(|(at, found)| {
        let (version, rest) = flat.get(at + found.len()..)?.split_once(' ')?;
        (rest.starts_with("has no ") && plain(version)).then(|| version.to_owned())
    });
    let depends = format!(" depends on {name}");
    let other = flat
        .split_once(&depends)
        .and_then(|(before, _)| before.rsplit(' ').next());
    let (version, needed_by) = (versions.last(), other.filter(|other| plain(other)).map(str::to_owned));
    let specifiers = flat.match_indices(&depends).filter_map(|(at, found)| {
        let text = flat.get(at + found.len()..)?.split(' ').next()?.trim_end_matches(',');
        let parses = text.parse::<pep440_rs::VersionSpecifiers>().is_ok();
        (!text.is_empty() && parses).then(|| text.to_owned())
    });
    let mut specifiers: Vec<String> = specifiers.collect();
    specifiers.sort();
    specifiers.dedup();
    Some(MissingWheel {
        name,
        version,
        needed_by,
        specifiers,
    })
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

/// Bytes of `wheels`, refused when an image of them would be over the limit.
pub fn check_size(wheels: &[PinnedWheel]) -> Result<u64, LockError> {
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
pub fn largest(wheels: &[PinnedWheel]) -> String {
    let mut wheels: Vec<&PinnedWheel> = wheels.iter().collect();
    wheels.sort_by_key(|wheel| std::cmp::Reverse(wheel.size));
    let names = wheels
        .iter()
        .take(3)
        .map(|wheel| format!("{} {} ({})", wheel.name, wheel.version, Bytes(wheel.size)));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
