//! Reads what the resolver answers, a `pylock.toml` (PEP 751), and takes one wheel of each package.
//!
//! The answer is not trusted to fit: a package without a wheel for this Python and platform, without url, size or sha256,
//! or from anything but a web server is an error.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::locked::{Lock, LockError, LockedSdist, LockedWheel};
use super::target::Target;
use crate::oci::Digest;
use crate::policy::normalise;

/// What the resolver answers, read.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pylock {
    #[serde(default)]
    packages: Vec<PylockPackage>,
}

#[derive(Debug, Clone, Deserialize)]
struct PylockPackage {
    name: String,
    version: Option<String>,
    #[serde(default)]
    wheels: Vec<PylockFile>,
    sdist: Option<PylockFile>,
}

#[derive(Debug, Clone, Deserialize)]
struct PylockFile {
    url: String,
    size: Option<u64>,
    hashes: BTreeMap<String, String>,
}

impl PylockFile {
    fn sha256(&self) -> Option<Digest> {
        format!("sha256:{}", self.hashes.get("sha256")?).parse().ok()
    }
}

impl Pylock {
    /// Reads a `pylock.toml` (PEP 751).
    pub(super) fn read(text: &str) -> Result<Self, LockError> {
        toml::from_str(text).map_err(|error| LockError::Answer {
            reason: format!("uv's lock: {error}"),
        })
    }

    /// Fills in the sizes of the files that fit `target` and that the index gave no size for, as `size_of` finds
    /// them by address.
    pub(super) fn with_sizes(
        mut self,
        target: &Target,
        size_of: &dyn Fn(&str) -> Result<u64, LockError>,
    ) -> Result<Self, LockError> {
        let minor = target.minor();
        let is_wheel = |file: &PylockFile| {
            let name = file_name(&file.url);
            name.zip(minor)
                .is_some_and(|(name, minor)| rank(&name, minor, target.glibc).is_some())
        };
        for package in &mut self.packages {
            let wheels = package.wheels.iter_mut().filter(|file| is_wheel(file));
            for file in wheels.chain(&mut package.sdist).filter(|file| file.size.is_none()) {
                if let Some(url) = public(&file.url) {
                    file.size = Some(size_of(&url)?);
                }
            }
        }
        Ok(self)
    }
}

/// Takes a wheel of each package for `target`. Where the user gave hashes, wheels that have one come first.
/// `built` are the wheels of this machine that the resolver was offered.
pub(super) fn take(
    pylock: Pylock,
    target: &Target,
    hashes: &BTreeMap<String, Vec<Digest>>,
    built: &[LockedWheel],
) -> Result<Lock, LockError> {
    let answer = |reason: String| LockError::Answer { reason };
    let minor = target.minor();
    let minor = minor.ok_or_else(|| answer(format!("Python {} is no version 3.x", target.python)))?;
    let mut wheels = Vec::new();
    for package in pylock.packages {
        let what = format!("{} {}", package.name, package.version.as_deref().unwrap_or_default());
        let ours = |file: &PylockFile| {
            let of_this_machine = file.url.starts_with("file:");
            built
                .iter()
                .find(|wheel| of_this_machine && file.sha256() == Some(wheel.sha256))
        };
        if let Some(wheel) = package.wheels.iter().find_map(ours) {
            wheels.push(wheel.clone());
            continue;
        }
        let listed = |wheel: &PylockFile| {
            let sha256 = wheel.sha256();
            let accepted = hashes.get(&normalise(&package.name));
            accepted.is_none_or(|accepted| sha256.is_some_and(|sha256| accepted.contains(&sha256)))
        };
        let best = package
            .wheels
            .into_iter()
            .filter_map(|wheel| {
                let file_name = file_name(&wheel.url).filter(|name| name.ends_with(".whl"))?;
                Some(((listed(&wheel), rank(&file_name, minor, target.glibc)?), wheel))
            })
            .max_by_key(|(rank, _)| *rank);
        let (_, wheel) = best.ok_or_else(|| answer(format!("{what} has no wheel in the lock")))?;
        let file_name = file_name(&wheel.url).unwrap_or_default();
        let size = wheel
            .size
            .ok_or_else(|| answer(format!("the index gives no size for {what}")))?;
        let sha256 = wheel
            .sha256()
            .ok_or_else(|| answer(format!("the index gives no sha256 for {what}")))?;
        let version = package
            .version
            .ok_or_else(|| answer(format!("{what} has no version in the lock")))?;
        wheels.push(LockedWheel {
            name: normalise(&package.name),
            version,
            file_name,
            url: public(&wheel.url).ok_or_else(|| answer(format!("{what} does not come from a web server")))?,
            size,
            sha256,
            sdist: None,
        });
    }
    wheels.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Lock {
        wheels,
        warnings: Vec::new(),
    })
}

/// Takes the source distribution of the one package `name`.
pub(super) fn take_sdist(mut pylock: Pylock, name: &str) -> Result<LockedSdist, LockError> {
    let answer = |reason: String| LockError::Answer { reason };
    let package = pylock.packages.pop().filter(|package| normalise(&package.name) == name);
    let package = package.filter(|_| pylock.packages.is_empty());
    let package = package.ok_or_else(|| answer(format!("asked for {name} alone, uv's lock has something else")))?;
    let (Some(version), Some(file)) = (package.version, package.sdist) else {
        return Err(answer(format!("{name} has no source distribution in the lock")));
    };
    let missing = |what: &str| {
        answer(format!(
            "the index gives no {what} for the source distribution of {name}"
        ))
    };
    Ok(LockedSdist {
        name: name.to_owned(),
        version,
        file_name: file_name(&file.url).ok_or_else(|| missing("plain file name"))?,
        size: file.size.ok_or_else(|| missing("size"))?,
        sha256: file.sha256().ok_or_else(|| missing("sha256"))?,
        url: public(&file.url).ok_or_else(|| missing("address of a web server"))?,
    })
}

/// Whether a wheel that was built in the sandbox fits `target`, where it was built, by its tags: `linux_x86_64` is what
/// builders call the platform that they are on.
pub(crate) fn fits_where_built(file_name: &str, target: &Target) -> bool {
    let platform = format!("-manylinux_2_{}_x86_64.whl", target.glibc);
    let there = file_name.replace("-linux_x86_64.whl", &platform);
    target
        .minor()
        .is_some_and(|minor| rank(&there, minor, target.glibc).is_some())
}

/// The file name of an address, with `%2B` and the like decoded.
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
    (plain && !name.starts_with('.') && !name.is_empty()).then_some(name)
}

/// The address without user and password: locks are remembered on disk. None unless it is one of http or https.
fn public(url: &str) -> Option<String> {
    let (scheme, rest) = url
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "https" | "http"))?;
    let (authority, path) = rest.split_once('/')?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    Some(format!("{scheme}://{host}/{path}"))
}

/// How well a wheel fits CPython 3.`minor` on linux/amd64 with glibc 2.`newest`, the better the larger; none when not at all.
///
/// The order of PEP 425 as pip has it: this very ABI, the stable ABI from the newest on, pure Python; then the newest C
/// library that the base has.
fn rank(file_name: &str, minor: u32, newest: u32) -> Option<(u32, u32, u32)> {
    let mut tags = file_name.strip_suffix(".whl")?.rsplitn(4, '-');
    let (platforms, abis, pythons) = (tags.next()?, tags.next()?, tags.next()?);
    let number = |tag: &str, prefix: &str| tag.strip_prefix(prefix)?.parse::<u32>().ok();
    let interpreter = |abi: &str, python: &str| match (abi, python) {
        (abi, python) if number(abi, "cp3") == Some(minor) && number(python, "cp3") == Some(minor) => Some((4, minor)),
        ("abi3", python) => number(python, "cp3")
            .filter(|from| *from <= minor)
            .map(|from| (3, from)),
        ("none", python) if number(python, "cp3") == Some(minor) => Some((2, minor)),
        ("none", "py3") => Some((1, 0)),
        ("none", python) => number(python, "py3")
            .filter(|from| *from <= minor)
            .map(|from| (1, from)),
        _ => None,
    };
    let best = abis
        .split('.')
        .flat_map(|abi| pythons.split('.').filter_map(move |python| interpreter(abi, python)))
        .max()?;
    let glibc = |tag: &str| match tag {
        "any" => Some(0),
        "manylinux1_x86_64" => Some(5),
        "manylinux2010_x86_64" => Some(12),
        "manylinux2014_x86_64" => Some(17),
        _ => number(tag.strip_suffix("_x86_64")?, "manylinux_2_").filter(|minor| *minor <= newest),
    };
    Some((best.0, best.1, platforms.split('.').filter_map(glibc).max()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        text: &str,
        target: &Target,
        hashes: &BTreeMap<String, Vec<Digest>>,
        built: &[LockedWheel],
    ) -> Result<Lock, LockError> {
        take(Pylock::read(text)?, target, hashes, built)
    }

    const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn of_debian_12() -> Target {
        Target {
            python: "3.11".to_owned(),
            glibc: 36,
        }
    }

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
        let lock = parse(&text, &of_debian_12(), &BTreeMap::new(), &[]).unwrap();
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
            pylock(&format!(
                "{{ url = \"file:///p-1.0-py3-none-any.whl\", size = 5, hashes = {{ sha256 = \"{ZERO}\" }} }}"
            )),
            "rubbish".to_owned(),
        ] {
            assert!(
                matches!(
                    parse(&text, &of_debian_12(), &BTreeMap::new(), &[]),
                    Err(LockError::Answer { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_that_the_index_does_not_give_are_asked_for_where_they_count() {
        let file =
            |name: &str| format!("{{ url = \"https://example.org/x/{name}\", hashes = {{ sha256 = \"{ZERO}\" }} }}");
        let (ours, theirs) = (
            "p-1.0%2Bcpu-cp311-cp311-manylinux_2_17_x86_64.whl",
            "p-1.0-cp312-cp312-win_amd64.whl",
        );
        let text = pylock(&[file(ours), file(theirs), wheel("p-1.0-py3-none-any.whl")].join(","));
        let asked = std::cell::RefCell::new(Vec::new());
        let size_of = |url: &str| {
            asked.borrow_mut().push(url.to_owned());
            Ok(7)
        };
        let read = || Pylock::read(&text).unwrap();
        let complete = read().with_sizes(&of_debian_12(), &size_of).unwrap();
        assert_eq!(asked.take(), [format!("https://example.org/x/{ours}")]);
        let lock = take(complete, &of_debian_12(), &BTreeMap::new(), &[]).unwrap();
        assert_eq!(
            (lock.wheels[0].size, lock.wheels[0].file_name.contains("+cpu")),
            (7, true)
        );
        let away = |_: &str| Err(LockError::Answer { reason: String::new() });
        assert!(read().with_sizes(&of_debian_12(), &away).is_err());
        assert!(read()
            .with_sizes(
                &Target {
                    python: "3.12".to_owned(),
                    glibc: 36
                },
                &|_| Ok(7)
            )
            .is_ok());
    }

    #[test]
    fn takes_a_wheel_of_this_machine_only_when_it_was_built_here() {
        let local =
            format!("{{ url = \"file:///x/p-1.0-cp311-cp311-linux_x86_64.whl\", hashes = {{ sha256 = \"{ZERO}\" }} }}");
        let built = LockedWheel {
            name: "my-pkg".into(),
            version: "1.0".into(),
            file_name: "p-1.0-cp311-cp311-linux_x86_64.whl".into(),
            url: String::new(),
            size: 7,
            sha256: format!("sha256:{ZERO}").parse().unwrap(),
            sdist: Some(Digest::of(b"sdist")),
        };
        let lock = parse(
            &pylock(&local),
            &of_debian_12(),
            &BTreeMap::new(),
            std::slice::from_ref(&built),
        )
        .unwrap();
        assert_eq!(lock.wheels, std::slice::from_ref(&built));
        let other = LockedWheel {
            sha256: Digest::of(b"other"),
            ..built.clone()
        };
        assert!(parse(&pylock(&local), &of_debian_12(), &BTreeMap::new(), &[other]).is_err());
        // The same bytes from the index are the index's.
        let lock = parse(
            &pylock(&wheel("p-1.0-py3-none-any.whl")),
            &of_debian_12(),
            &BTreeMap::new(),
            &[built],
        )
        .unwrap();
        assert_eq!(lock.wheels[0].sdist, None);
    }

    #[test]
    fn reads_the_source_distribution_of_one_package() {
        let text = format!("lock-version = \"1.0\"\n[[packages]]\nname = \"My.Pkg\"\nversion = \"1.0\"\nsdist = {{ url = \"https://user:secret@example.org/x/my_pkg-1.0.tar.gz\", size = 5, hashes = {{ sha256 = \"{ZERO}\" }} }}\n");
        let take = |text: &str, name: &str| take_sdist(Pylock::read(text)?, name);
        let sdist = take(&text, "my-pkg").unwrap();
        assert_eq!(
            (sdist.version.as_str(), sdist.file_name.as_str(), sdist.size),
            ("1.0", "my_pkg-1.0.tar.gz", 5)
        );
        assert_eq!(sdist.url, "https://example.org/x/my_pkg-1.0.tar.gz");
        let two = format!("{text}[[packages]]\nname = \"other\"\nversion = \"1.0\"\n");
        let no_hash = text.replace("sha256", "md5");
        let hidden = text.replace("my_pkg-1.0", ".pth");
        let local = text.replace("https://user:secret@example.org", "file://");
        for (text, name) in [
            (&text, "other"),
            (&two, "my-pkg"),
            (&two, "other"),
            (&no_hash, "my-pkg"),
            (&hidden, "my-pkg"),
            (&local, "my-pkg"),
        ] {
            assert!(take(text, name).is_err(), "{name}: {text}");
        }
    }

    #[test]
    fn wheels_built_for_this_python_and_platform_fit() {
        for name in [
            "p-1-cp311-cp311-linux_x86_64.whl",
            "p-1-py3-none-any.whl",
            "p-1-cp38-abi3-linux_x86_64.whl",
        ] {
            assert!(fits_where_built(name, &of_debian_12()), "{name}");
        }
        for name in [
            "p-1-cp312-cp312-linux_x86_64.whl",
            "p-1-cp311-cp311-linux_aarch64.whl",
            "p-1-py2-none-any.whl",
            "p.whl",
        ] {
            assert!(!fits_where_built(name, &of_debian_12()), "{name}");
        }
    }

    #[test]
    fn ranks_wheels_as_pip_does() {
        let ranked = [
            "p-1-cp311-cp311-manylinux_2_28_x86_64.whl",
            "p-1-1abc-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "p-1-cp311-abi3-manylinux2010_x86_64.whl",
            "p-1-cp38-abi3-manylinux_2_36_x86_64.whl",
            "p-1-cp311-none-any.whl",
            "p-1-py310-none-any.whl",
            "p-1-py3-none-manylinux_2_5_x86_64.whl",
            "p-1-py2.py3-none-any.whl",
        ];
        assert!(ranked.iter().all(|name| rank(name, 11, 36).is_some()));
        assert!(ranked.is_sorted_by_key(|name| std::cmp::Reverse(rank(name, 11, 36))));
        for name in [
            "p-1-cp312-abi3-manylinux_2_17_x86_64.whl",
            "p-1-cp312-cp312-manylinux_2_17_x86_64.whl",
            "p-1-cp311-cp311t-manylinux_2_17_x86_64.whl",
            "p-1-cp311-cp311-manylinux_2_37_x86_64.whl",
            "p-1-cp311-cp311-musllinux_1_2_x86_64.whl",
            "p-1-cp311-cp311-manylinux_2_17_aarch64.whl",
            "p-1-cp311-cp311-linux_x86_64.whl",
            "p-1-cp310-none-any.whl",
            "p-1-py312-none-any.whl",
            "p-1-py2-none-any.whl",
            "p-1-pp311-pypy311_pp73-manylinux_2_17_x86_64.whl",
            "p.whl",
        ] {
            assert_eq!(rank(name, 11, 36), None, "{name}");
        }
    }

    #[test]
    fn the_python_and_the_c_library_of_the_base_decide() {
        let newer = Target {
            python: "3.13".to_owned(),
            glibc: 41,
        };
        for name in [
            "p-1-cp313-cp313-linux_x86_64.whl",
            "p-1-cp313-cp313-manylinux_2_41_x86_64.whl",
            "p-1-cp38-abi3-linux_x86_64.whl",
        ] {
            assert!(fits_where_built(name, &newer), "{name}");
        }
        for name in [
            "p-1-cp311-cp311-linux_x86_64.whl",
            "p-1-cp313-cp313t-linux_x86_64.whl",
            "p-1-cp313-cp313-manylinux_2_42_x86_64.whl",
            "p-1-cp313-cp313-musllinux_1_2_x86_64.whl",
        ] {
            assert!(!fits_where_built(name, &newer), "{name}");
        }
        assert!(!fits_where_built("p-1-py3-none-any.whl", &Target::default()));
    }

    #[test]
    fn takes_the_wheel_whose_hash_the_user_gave_and_keeps_no_password() {
        let one = "f".repeat(64);
        let text = pylock(&format!(
            "{}, {{ url = \"https://user:secret@example.org/x/p-1.0-py3-none-any.whl\", size = 6, hashes = {{ sha256 = \"{one}\" }} }}",
            wheel("p-1.0-cp311-cp311-manylinux_2_17_x86_64.whl")
        ));
        let listed: Digest = format!("sha256:{one}").parse().unwrap();
        let lock = parse(
            &text,
            &of_debian_12(),
            &[("my-pkg".to_owned(), vec![listed])].into(),
            &[],
        )
        .unwrap();
        assert_eq!(lock.wheels[0].sha256, listed);
        assert_eq!(lock.wheels[0].url, "https://example.org/x/p-1.0-py3-none-any.whl");
        let lock = parse(
            &text,
            &of_debian_12(),
            &[("my-pkg".to_owned(), vec![Digest::of(b"")])].into(),
            &[],
        )
        .unwrap();
        assert_eq!(
            lock.wheels[0].size, 5,
            "none is listed: the best one, for check_hashes to refuse"
        );
    }
}
