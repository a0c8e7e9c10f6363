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
        );
        let text = match answer {
            Err(LockError::Unsatisfiable { explanation }) => {
                return Err(self.explain(store, requirements, explanation))
            }
            other => other?,
        };
        let lock = parse(&text)?;
        check_hashes(&lock, requirements)?;
        Ok(lock)
    }

    /// Tells a missing wheel from a contradiction, and finds the newest version that has one.
    fn explain(&self, store: &Store, requirements: &Requirements, explanation: String) -> LockError {
        // uv wraps its sentences; joined they can be searched.
        let flat = explanation.split_whitespace().collect::<Vec<_>>().join(" ");
        let no_wheel = ["no usable wheels", "no wheels", "no compatible wheels", "has no wheels"]
            .iter()
            .any(|text| flat.contains(text));
        let named = requirements.wanted.iter().find(|wanted| {
            let name: String = wanted
                .chars()
                .take_while(|c| c.is_alphanumeric() || "-_.".contains(*c))
                .collect();
            flat.contains(&format!("{}==", normalise(&name)))
                || flat.contains(&format!("of {} ", normalise(&name)))
                || flat.contains(&format!("{} ", normalise(&name)))
        });
        let (true, Some(package)) = (no_wheel, named) else {
            return LockError::Unsatisfiable { explanation };
        };
        let name: String = package
            .chars()
            .take_while(|c| c.is_alphanumeric() || "-_.".contains(*c))
            .collect();
        let newest = self.run(store, &name, "").ok().and_then(|text| parse(&text).ok());
        let newest = newest.and_then(|lock| lock.wheels.into_iter().find(|wheel| wheel.name == normalise(&name)));
        let newest = newest
            .map(|wheel| format!("; the newest version with a wheel is {}", wheel.version))
            .unwrap_or_default();
        LockError::NoWheel {
            package: package.clone(),
            python: self.python.clone(),
            newest,
        }
    }

    fn run(&self, store: &Store, wanted: &str, constraints: &str) -> Result<String, LockError> {
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

#[derive(Deserialize)]
struct Pylock {
    #[serde(default)]
    packages: Vec<PylockPackage>,
}

#[derive(Deserialize)]
struct PylockPackage {
    name: String,
    version: Option<String>,
    #[serde(default)]
    wheels: Vec<PylockWheel>,
}

#[derive(Deserialize)]
struct PylockWheel {
    url: String,
    size: Option<u64>,
    hashes: BTreeMap<String, String>,
}

/// Reads a `pylock.toml` (PEP 751).
fn parse(text: &str) -> Result<Lock, LockError> {
    let answer = |reason: String| LockError::Answer { reason };
    let pylock: Pylock = toml::from_str(text).map_err(|error| answer(format!("uv's lock: {error}")))?;
    let mut wheels = Vec::new();
    for package in pylock.packages {
        let what = format!("{} {}", package.name, package.version.as_deref().unwrap_or_default());
        let best = package
            .wheels
            .into_iter()
            .filter_map(|wheel| Some((rank(&file_name(&wheel.url)?)?, wheel)))
            .max_by_key(|(rank, _)| *rank);
        let (_, wheel) = best.ok_or_else(|| answer(format!("{what} has no wheel in the lock")))?;
        let file_name = file_name(&wheel.url).unwrap_or_default();
        let size = wheel
            .size
            .ok_or_else(|| answer(format!("the index gives no size for {what}")))?;
        let sha256 = wheel
            .hashes
            .get("sha256")
            .and_then(|hash| format!("sha256:{hash}").parse().ok());
        let sha256 = sha256.ok_or_else(|| answer(format!("the index gives no sha256 for {what}")))?;
        let version = package
            .version
            .ok_or_else(|| answer(format!("{what} has no version in the lock")))?;
        wheels.push(LockedWheel {
            name: normalise(&package.name),
            version,
            file_name,
            url: wheel.url,
            size,
            sha256,
        });
    }
    wheels.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Lock { wheels })
}

/// The file name of a wheel's address, with `%2B` and the like decoded.
fn file_name(url: &str) -> Option<String> {
    let path = url.split(['?', '#']).next()?;
    let name = path
        .rsplit('/')
        .next()?
        .replace("%2B", "+")
        .replace("%2b", "+")
        .replace("%21", "!");
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte));
    (plain && name.ends_with(".whl")).then_some(name)
}

/// How well a wheel fits CPython 3.11 on linux/amd64; none when not at all. uv has filtered already, this decides.
fn rank(file_name: &str) -> Option<(u32, u32)> {
    let mut tags = file_name.strip_suffix(".whl")?.rsplitn(4, '-');
    let (platform, abi, python) = (tags.next()?, tags.next()?, tags.next()?);
    let interpreter = match abi {
        _ if abi.split('.').any(|abi| abi == "cp311") => 3,
        _ if abi.split('.').any(|abi| abi == "abi3") => 2,
        _ if python.split('.').any(|python| python == "py3" || python == "cp311") => 1,
        _ => return None,
    };
    let glibc = |tag: &str| {
        let version = tag
            .strip_prefix("manylinux_2_")
            .and_then(|rest| rest.strip_suffix("_x86_64"))
            .and_then(|minor| minor.parse().ok());
        match tag {
            "any" => Some(0),
            "manylinux1_x86_64" => Some(5),
            "manylinux2010_x86_64" => Some(12),
            "manylinux2014_x86_64" => Some(17),
            _ => version.filter(|minor| *minor <= 36),
        }
    };
    Some((interpreter, platform.split('.').filter_map(glibc).max()?))
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

/// Bytes of all wheels, refused when an image of them would be over the limit.
pub fn check_size(lock: &Lock) -> Result<u64, LockError> {
    let size = lock
        .wheels
        .iter()
        .fold(0u64, |sum, wheel| sum.saturating_add(wheel.size));
    if size <= MAX_IMAGE {
        return Ok(size);
    }
    Err(LockError::TooLarge {
        size,
        largest: largest(lock),
    })
}

/// The three largest wheels, for messages.
pub fn largest(lock: &Lock) -> String {
    let mut wheels: Vec<&LockedWheel> = lock.wheels.iter().collect();
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

    const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn pylock(wheels: &str) -> String {
        format!("lock-version = \"1.0\"\n[[packages]]\nname = \"My.Pkg\"\nversion = \"1.0\"\nwheels = [{wheels}]\n")
    }

    fn wheel(name: &str) -> String {
        format!("{{ url = \"https://example.org/x/{name}\", size = 5, hashes = {{ sha256 = \"{ZERO}\" }} }}")
    }

    #[test]
    fn takes_the_wheel_that_fits_best() {
        let all = [
            "p-1.0-py3-none-any.whl",
            "p-1.0-cp38-abi3-manylinux_2_17_x86_64.whl",
            "p-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "p-1.0-cp311-cp311-manylinux_2_39_x86_64.whl",
            "p-1.0-cp311-cp311-macosx_11_0_arm64.whl",
            "p-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
        ];
        let text = pylock(&all.map(wheel).join(","));
        let lock = parse(&text).unwrap();
        assert_eq!(
            (lock.wheels[0].name.as_str(), lock.wheels[0].file_name.as_str()),
            ("my-pkg", all[2])
        );
    }

    #[test]
    fn refuses_locks_without_what_is_needed() {
        for text in [
            pylock(""),
            pylock(&wheel("p-1.0-cp312-cp312-win_amd64.whl")),
            pylock(&wheel("p.tar.gz")),
            pylock("{ url = \"https://example.org/p-1.0-py3-none-any.whl\", size = 5, hashes = { md5 = \"00\" } }"),
            pylock(&format!(
                "{{ url = \"https://example.org/p-1.0-py3-none-any.whl\", hashes = {{ sha256 = \"{ZERO}\" }} }}"
            )),
            "rubbish".to_owned(),
        ] {
            assert!(matches!(parse(&text), Err(LockError::Answer { .. })), "{text}");
        }
    }

    #[test]
    fn sizes_and_hashes_are_checked_before_anything_is_fetched() {
        let lock = parse(&pylock(&wheel("p-1.0-py3-none-any.whl"))).unwrap();
        assert_eq!(check_size(&lock).unwrap(), 5);
        let mut huge = lock.clone();
        huge.wheels[0].size = 3_000_000_000;
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
}
