//! Reads what the resolver answers, a `pylock.toml` (PEP 751), and takes one wheel of each package.
//!
//! The answer is not trusted to fit: a package without a wheel for this Python and platform, without url, size or sha256,
//! or from anything but a web server is an error.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::lock::{Lock, LockError, LockedWheel};
use super::wheel::normalise;
use crate::oci::Digest;

/// Minor version of the base's glibc, 2.36: wheels that want a newer one do not load.
const GLIBC: u32 = 36;

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

impl PylockWheel {
    fn sha256(&self) -> Option<Digest> {
        format!("sha256:{}", self.hashes.get("sha256")?).parse().ok()
    }
}

/// Reads a `pylock.toml` (PEP 751) for a Python version. Where the user gave hashes, wheels that have one come first.
pub fn parse(text: &str, python: &str, hashes: &BTreeMap<String, Vec<Digest>>) -> Result<Lock, LockError> {
    let answer = |reason: String| LockError::Answer { reason };
    let minor = python.split('.').nth(1).and_then(|minor| minor.parse().ok());
    let minor = minor.ok_or_else(|| answer(format!("Python {python} is no version 3.x")))?;
    let pylock: Pylock = toml::from_str(text).map_err(|error| answer(format!("uv's lock: {error}")))?;
    let mut wheels = Vec::new();
    for package in pylock.packages {
        let what = format!("{} {}", package.name, package.version.as_deref().unwrap_or_default());
        let listed = |wheel: &PylockWheel| {
            let sha256 = wheel.sha256();
            let accepted = hashes.get(&normalise(&package.name));
            accepted.is_none_or(|accepted| sha256.is_some_and(|sha256| accepted.contains(&sha256)))
        };
        let best = package
            .wheels
            .into_iter()
            .filter_map(|wheel| Some(((listed(&wheel), rank(&file_name(&wheel.url)?, minor)?), wheel)))
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

/// The address without user and password: locks are remembered on disk. None unless it is one of http or https.
fn public(url: &str) -> Option<String> {
    let (scheme, rest) = url
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "https" | "http"))?;
    let (authority, path) = rest.split_once('/')?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    Some(format!("{scheme}://{host}/{path}"))
}

/// How well a wheel fits CPython 3.`minor` on linux/amd64, the better the larger; none when not at all.
///
/// The order of PEP 425 as pip has it: this very ABI, the stable ABI from the newest on, pure Python; then the newest C
/// library that the base has.
fn rank(file_name: &str, minor: u32) -> Option<(u32, u32, u32)> {
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
        _ => number(tag.strip_suffix("_x86_64")?, "manylinux_2_").filter(|minor| *minor <= GLIBC),
    };
    Some((best.0, best.1, platforms.split('.').filter_map(glibc).max()?))
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
        let lock = parse(&text, "3.11", &BTreeMap::new()).unwrap();
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
                matches!(parse(&text, "3.11", &BTreeMap::new()), Err(LockError::Answer { .. })),
                "{text}"
            );
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
        assert!(ranked.iter().all(|name| rank(name, 11).is_some()));
        assert!(ranked.is_sorted_by_key(|name| std::cmp::Reverse(rank(name, 11))));
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
            assert_eq!(rank(name, 11), None, "{name}");
        }
    }

    #[test]
    fn takes_the_wheel_whose_hash_the_user_gave_and_keeps_no_password() {
        let one = "f".repeat(64);
        let text = pylock(&format!(
            "{}, {{ url = \"https://user:secret@example.org/x/p-1.0-py3-none-any.whl\", size = 6, hashes = {{ sha256 = \"{one}\" }} }}",
            wheel("p-1.0-cp311-cp311-manylinux_2_17_x86_64.whl")
        ));
        let listed: Digest = format!("sha256:{one}").parse().unwrap();
        let lock = parse(&text, "3.11", &[("my-pkg".to_owned(), vec![listed])].into()).unwrap();
        assert_eq!(lock.wheels[0].sha256, listed);
        assert_eq!(lock.wheels[0].url, "https://example.org/x/p-1.0-py3-none-any.whl");
        let lock = parse(&text, "3.11", &[("my-pkg".to_owned(), vec![Digest::of(b"")])].into()).unwrap();
        assert_eq!(
            lock.wheels[0].size, 5,
            "none is listed: the best one, for check_hashes to refuse"
        );
    }
}
