//! Requirements -> exact wheels, by `uv`: an empty environment, wheels only, and nothing of the user's but cleaned text.
//!
//! uv resolves; it installs nothing and runs nothing (`--only-binary :all:`). What it answers is checked again: every
//! package must have a wheel for this Python and platform with url, size and sha256, and hashes that the user gave must
//! be that wheel's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::pins::PinnedWheel;
use super::pylock;
use super::requirements::Requirements;
use super::wheel::normalise;
use crate::oci::Digest;
use crate::policy::Bytes;
use crate::store::{Store, StoreError};

/// glibc of the base is 2.36; uv's newest platform that is not newer.
const PLATFORM: &str = "x86_64-manylinux_2_36";
/// Resolving takes under a second; a minute is a network that is not there.
const TIMEOUT: Duration = Duration::from_secs(120);
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
}

/// How uv is run.
#[derive(Debug, Clone)]
pub struct Resolver {
    /// The program.
    pub uv: PathBuf,
    /// Python version of the base.
    pub python: String,
    /// Index of the configuration; may hold credentials, so it never becomes an argument.
    pub index: Option<String>,
    /// Where uv finds an interpreter: it asks one for its platform, whatever its version; it runs nothing else.
    pub path: Option<OsString>,
    /// Proxies and certificates.
    pub network: Vec<(String, OsString)>,
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
    /// uv cannot be run.
    #[error("run {program}")]
    Run {
        /// Which program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// There is no uv and it could not be fetched.
    #[error("find uv: it is not on the PATH, and fetching it with pip failed: {reason}")]
    NoUv {
        /// What pip says.
        reason: String,
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

impl Resolver {
    /// Everything besides the requirements that the answer depends on; no credentials.
    pub fn settings(&self) -> String {
        let index = self
            .index
            .as_deref()
            .map(|index| index.rsplit_once('@').map_or(index, |(_, host)| host))
            .unwrap_or_default();
        let newer = self
            .network
            .iter()
            .find(|(name, _)| name == "UV_EXCLUDE_NEWER")
            .map(|(_, value)| value.to_string_lossy());
        format!("{} {PLATFORM} {index} {}", self.python, newer.unwrap_or_default())
    }

    /// Resolves `requirements`.
    pub fn resolve(&self, store: &Store, requirements: &Requirements) -> Result<Lock, LockError> {
        if requirements.wanted.is_empty() {
            return Ok(Lock::default());
        }
        let answer = self.run(
            store,
            &requirements.wanted.join("\n"),
            &requirements.constraints.join("\n"),
            &[],
        );
        let text = match answer {
            Err(LockError::Unsatisfiable { explanation }) => return Err(self.explain(store, explanation)),
            other => other?,
        };
        let lock = pylock::parse(&text, &self.python, &requirements.hashes)?;
        check_hashes(&lock, requirements)?;
        Ok(lock)
    }

    /// Tells a missing wheel from a contradiction, and finds the newest version that has one.
    fn explain(&self, store: &Store, explanation: String) -> LockError {
        let Some(missing) = missing_wheel(&explanation) else {
            return LockError::Unsatisfiable { explanation };
        };
        // Of the package alone: what it needs may have no wheels either, and is none of this question.
        let text = self.run(store, &missing.name, "", &["--no-deps"]);
        let newest = match text.and_then(|text| pylock::parse(&text, &self.python, &BTreeMap::new())) {
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

    fn run(&self, store: &Store, wanted: &str, constraints: &str, options: &[&str]) -> Result<String, LockError> {
        let scratch = store.scratch()?;
        let failed = |source| LockError::Run {
            program: self.uv.display().to_string(),
            source,
        };
        fs::write(scratch.path().join("requirements.in"), wanted).map_err(failed)?;
        fs::write(scratch.path().join("constraints.txt"), constraints).map_err(failed)?;
        let file = |name: &str| fs::File::create(scratch.path().join(name)).map_err(failed);
        let mut command = Command::new(&self.uv);
        command
            .args(["pip", "compile", "requirements.in", "--format", "pylock.toml"])
            .args([
                "--only-binary",
                ":all:",
                "--python-platform",
                PLATFORM,
                "--python-version",
                &self.python,
            ])
            .args([
                "--no-config",
                "--no-header",
                "--no-progress",
                "--system-certs",
                "--no-python-downloads",
            ])
            .args(options)
            .env_clear()
            .envs(self.network.iter().map(|(name, value)| (name, value)))
            .env("HOME", scratch.path())
            .env("UV_CACHE_DIR", store.root().join("tools/uv-cache"))
            .env("UV_NO_PROGRESS", "1")
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(file("out")?)
            .stderr(file("err")?);
        if !constraints.is_empty() {
            command.args(["--constraint", "constraints.txt"]);
        }
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        if let Some(index) = &self.index {
            command.env("UV_DEFAULT_INDEX", index);
        }
        let status = wait(command.spawn().map_err(failed)?).map_err(failed)?;
        let read = |name: &str| fs::read_to_string(scratch.path().join(name)).map_err(failed);
        if status.is_some_and(|status| status.success()) {
            return read("out");
        }
        let mut explanation: String = read("err")?.chars().take(MAX_MESSAGE).collect();
        if let Some(index) = &self.index {
            explanation = explanation.replace(index, "the configured index");
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
        if status.is_none() || network.iter().any(|sign| explanation.contains(sign)) {
            return Err(LockError::Unavailable { explanation });
        }
        Err(LockError::Unsatisfiable { explanation })
    }
}

/// Waits with a limit; none when the limit struck.
fn wait(mut child: std::process::Child) -> io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + TIMEOUT;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A package without wheels, as uv speaks of it.
#[derive(Debug, PartialEq, Eq)]
struct MissingWheel {
    name: String,
    version: Option<String>,
    /// The requirement or package that wants it, when it is not the user.
    needed_by: Option<String>,
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
    Some(MissingWheel {
        name,
        version,
        needed_by,
    })
}

fn check_hashes(lock: &Lock, requirements: &Requirements) -> Result<(), LockError> {
    for (name, hashes) in &requirements.hashes {
        let Some(wheel) = lock.wheels.iter().find(|wheel| wheel.name == *name) else {
            continue;
        };
        if !hashes.contains(&wheel.sha256) {
            return Err(LockError::Hash {
                package: format!("{name} {}", wheel.version),
                got: wheel.sha256.hex(),
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
mod tests {
    use super::*;

    #[test]
    fn sizes_and_hashes_are_checked_before_anything_is_fetched() {
        let wheel = LockedWheel {
            name: "my-pkg".to_owned(),
            version: "1.0".to_owned(),
            file_name: "my_pkg-1.0-py3-none-any.whl".to_owned(),
            url: String::new(),
            size: 5,
            sha256: Digest::of(b"wheel"),
        };
        let lock = Lock { wheels: vec![wheel] };
        let mut huge = vec![PinnedWheel::from(&lock.wheels[0])];
        assert_eq!(check_size(&huge).unwrap(), 5);
        huge[0].size = 3_000_000_000;
        assert!(check_size(&huge).unwrap_err().to_string().contains("my-pkg"));
        let hashes = |hash: Digest| Requirements {
            hashes: [("my-pkg".to_owned(), vec![hash])].into(),
            ..Default::default()
        };
        assert!(check_hashes(&lock, &hashes(lock.wheels[0].sha256)).is_ok());
        assert!(matches!(
            check_hashes(&lock, &hashes(Digest::of(b""))),
            Err(LockError::Hash { .. })
        ));
    }

    #[test]
    fn names_the_package_without_a_wheel_and_not_the_one_that_needs_it() {
        let hint = |name: &str| {
            format!("\n\nhint: Wheels are required for `{name}` because building from source is disabled for all packages (i.e., with `--no-build`)\n")
        };
        let found = |name: &str, version: Option<&str>, needed_by: Option<&str>| {
            Some(MissingWheel {
                name: name.to_owned(),
                version: version.map(str::to_owned),
                needed_by: needed_by.map(str::to_owned),
            })
        };
        let transitive = "  cause: Because docopt==0.6.2 has no usable wheels and only docopt<=0.6.2 is available, we can conclude that docopt>=0.6.2\n cannot be used. And because num2words>=0.5.14 depends on docopt>=0.6.2 and you require num2words==0.5.14, we can conclude";
        assert_eq!(
            missing_wheel(&(transitive.to_owned() + &hint("docopt"))),
            found("docopt", Some("0.6.2"), Some("num2words>=0.5.14"))
        );
        let pinned = "Because scipy==1.0.0 has no\nusable wheels and you require scipy==1.0, we can conclude";
        assert_eq!(
            missing_wheel(&(pinned.to_owned() + &hint("scipy"))),
            found("scipy", Some("1.0.0"), None)
        );
        let all = "Because all versions of docopt have no usable wheels and you require docopt, we can conclude";
        assert_eq!(
            missing_wheel(&(all.to_owned() + &hint("docopt"))),
            found("docopt", None, None)
        );
        assert_eq!(
            missing_wheel("Because you require numpy<2 and numpy>2, we can conclude"),
            None
        );
        assert_eq!(missing_wheel(&hint("\u{1b}[31m; rm")), None);
    }
}
