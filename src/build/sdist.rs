//! Source distributions: which one is wanted, and what the wheel made of it depends on.
//!
//! A source distribution says what it needs only by running its code, and its code runs in the sandbox alone: never at
//! resolution, on this machine. So the resolver takes wheels only; when it finds none for a package, [`Resolver::find_sdist`]
//! learns where the source distribution is, a wheel is built of it in the sandbox, and the resolver is asked again with
//! that wheel among those it may choose. Its metadata then count, like those of any other.

use super::lock::{LockError, MissingWheel, Question, Resolver};
use super::pylock;
use super::requirements::Requirements;
use crate::oci::Digest;
use crate::store::{Key, Step, Store};

/// The script that builds a wheel with the base's own Python, in the sandbox.
pub const BUILD_WHEEL: &str = include_str!("build_wheel.py");

/// A source distribution of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedSdist {
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

impl LockedSdist {
    /// For people: name and version.
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

impl Resolver {
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
            options: &["--no-deps", "--no-binary", name],
            config: Some(&config),
            ..Question::default()
        };
        match self.ask(store, &question) {
            Err(LockError::Unsatisfiable { .. }) => Ok(None),
            answer => pylock::parse_sdist(&answer?, name).map(Some),
        }
    }
}

/// Names a set-up that wheels are built in: the base's interpreter and the toolchain.
pub fn workshop_key(interpreter: &Digest, toolchain: &Key) -> Key {
    Key::of(Step::Workshop)
        .with(BUILD_WHEEL)
        .with(interpreter.to_string())
        .with(toolchain.to_string())
        .finish()
}

/// What the build requirements of a source distribution are remembered by.
pub fn recipe_key(workshop: &Key, sdist: &Digest) -> Key {
    Key::of(Step::SdistRecipe)
        .with(workshop.to_string())
        .with(sdist.to_string())
        .finish()
}

/// What the wheel of a source distribution is remembered by: `tools` are the wheels that were there to build it.
pub fn wheel_key(workshop: &Key, sdist: &Digest, tools: &[Digest]) -> Key {
    let tools: String = tools.iter().map(Digest::to_string).collect();
    Key::of(Step::SdistWheel)
        .with(workshop.to_string())
        .with(sdist.to_string())
        .with(tools)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_depends_on_everything_that_was_there_to_build_it() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let toolchain = |text: &str| Key::of(Step::BaseLayer).with(text).finish();
        let workshop = workshop_key(&digest("base"), &toolchain("toolchain"));
        let key = wheel_key(&workshop, &digest("sdist"), &[digest("setuptools")]);
        let others = [
            wheel_key(
                &workshop_key(&digest("other"), &toolchain("toolchain")),
                &digest("sdist"),
                &[digest("setuptools")],
            ),
            wheel_key(
                &workshop_key(&digest("base"), &toolchain("other")),
                &digest("sdist"),
                &[digest("setuptools")],
            ),
            wheel_key(&workshop, &digest("other"), &[digest("setuptools")]),
            wheel_key(&workshop, &digest("sdist"), &[digest("other")]),
            wheel_key(&workshop, &digest("sdist"), &[]),
            recipe_key(&workshop, &digest("sdist")),
        ];
        assert!(others.iter().all(|other| *other != key));
        assert_eq!(key, wheel_key(&workshop, &digest("sdist"), &[digest("setuptools")]));
    }
}
