//! Wheels for packages that have none: their source distributions are built in the sandbox, by the base's own Python,
//! without network, with a toolchain that lies on the base while they are built and nowhere else.
//!
//! A source distribution says what it needs only by running its code, and its code runs in the sandbox alone: never at
//! resolution, on this machine. So the resolver takes wheels only; when it finds none for a package, the resolver says
//! where the source distribution is, a wheel is built of it in the sandbox, and the resolver is asked again with that
//! wheel among those it may choose. Its metadata then count, like those of any other.
//!
//! What comes out is a stranger's: one wheel is taken, its name, version, tags and libraries are checked, and from then
//! on it is a wheel like any other. It is kept with the downloads and remembered by everything that was there to build
//! it, so that the next build starts no sandbox. Whether building it again gives the same bytes is up to the package;
//! time, hash seed and paths are the same each time.

mod confined;
mod lack;
mod portable;
mod recipe;
mod workshop;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::error::Error;
use std::io;

use super::pins::{self, PinnedWheel};
use super::requirements::{RequirementError, Requirements};
use super::resolve::{young_lock, Lock, LockError, LockedWheel, Resolver, Wish};
use super::supply::{with_or_without, Supply};
use super::wheel::WheelError;
use super::{Interpreter, PythonError};
use crate::policy::{Baseline, Kind, Promise};
use crate::sandbox::{CollectError, SandboxError};
use crate::store::{BuiltLayer, Flight, Key};
use confined::TimeLeft;
use recipe::workshop_key;
use workshop::Workshop;

/// Packages without wheels in one function: each may take minutes; honest functions have one or two.
const MOST_SDISTS: usize = 16;

/// Why a source distribution became no wheel.
#[derive(Debug, thiserror::Error)]
pub enum SdistError {
    /// The base cannot carry the toolchain.
    #[error(
        "build {package} from its source distribution: base {base} is not Debian {suite}, which the toolchain is for"
    )]
    Base {
        /// Name and version.
        package: String,
        base: String,
        suite: String,
    },
    /// One of its build requirements is refused.
    #[error("build {package} from its source distribution")]
    Requirement {
        /// Name and version.
        package: String,
        /// Which and why.
        source: RequirementError,
    },
    /// Its build requirements are not to be had as wheels.
    #[error("build {package} from its source distribution: its build requirements")]
    Requirements {
        /// Name and version.
        package: String,
        source: LockError,
    },
    /// Its build failed.
    #[error("build {package} from its source distribution: {end}; the end of what it said:\n{output}")]
    Failed {
        /// Name and version.
        package: String,
        /// How the build ended.
        end: String,
        /// Its last lines.
        output: String,
    },
    /// Its build brought something else than one fitting wheel.
    #[error("build {package} from its source distribution: {reason}")]
    Result {
        /// Name and version.
        package: String,
        reason: String,
    },
    /// What its build left is refused.
    #[error("build {package} from its source distribution")]
    Collect {
        /// Name and version.
        package: String,
        source: CollectError,
    },
    /// The wheel is refused.
    #[error("build {package} from its source distribution")]
    Wheel {
        /// Name and version.
        package: String,
        source: WheelError,
    },
    /// The sandbox failed or refused.
    #[error("build {package} from its source distribution")]
    Sandbox {
        /// Name and version.
        package: String,
        source: SandboxError,
    },
    /// The archive cannot be handed to the sandbox, or the wheel be looked at.
    #[error("build {package} from its source distribution: pass archive and wheel through a file")]
    Archive {
        /// Name and version.
        package: String,
        source: io::Error,
    },
    /// The compiler cannot be told which processors it compiles for.
    #[error("build {package} from its source distribution: tell the compiler which processors it is for")]
    Specs {
        /// Name and version.
        package: String,
        source: io::Error,
    },
    /// The toolchain cannot be made.
    #[error("{0}")]
    Toolchain(#[from] ToolchainError),
    /// Too many of them.
    #[error("build source distributions: more than {MOST_SDISTS} packages have no wheel, the last is {package}")]
    TooMany {
        /// Name.
        package: String,
    },
}

impl SdistError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Requirement { source, .. } => source.kind(),
            Self::Requirements { source, .. } => source.kind(),
            Self::Wheel { source, .. } => source.kind(),
            Self::Sandbox { source, .. } => source.kind(),
            Self::Toolchain(source) => source.kind,
            Self::Base { .. }
            | Self::Failed { .. }
            | Self::Result { .. }
            | Self::Collect { .. }
            | Self::Archive { .. }
            | Self::Specs { .. }
            | Self::TooMany { .. } => Kind::Failed,
        }
    }
}

/// Why there is no toolchain, as whoever makes it says.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct ToolchainError {
    /// What sort of failure it is.
    pub kind: Kind,
    /// The error itself.
    pub source: Box<dyn Error + Send + Sync>,
}

/// What compiles C for a base while packages are built, and is nowhere else.
pub(crate) struct Toolchain<'a> {
    /// The Debian suite that it is for.
    pub suite: String,
    /// What it depends on.
    pub key: Key,
    /// Makes its layer, or finds it.
    pub layer: &'a dyn Fn() -> Result<BuiltLayer, ToolchainError>,
}

/// What source distributions are built on.
pub(crate) struct Bench<'a> {
    /// The base that the wheels are for.
    pub interpreter: &'a Interpreter,
    /// What lies on the base while they are built.
    pub toolchain: Toolchain<'a>,
    /// The processors that they are built for.
    pub baseline: Baseline,
    /// Promises whose loss does not refuse a package's build.
    pub allow_degraded: &'a BTreeSet<Promise>,
}

/// Locks `requirements`, with the versions of `pins` if that can be; packages that have no wheel get one that is built
/// on `bench`. Warns of each of those.
pub(crate) fn lock_with_sdists(
    supply: &Supply<'_>,
    bench: &Bench<'_>,
    resolver: &Resolver,
    requirements: &Requirements,
    pins: &[PinnedWheel],
) -> Result<Lock, PythonError> {
    let constrained = pins::constrained(requirements, pins);
    let plain_key = constrained.key(&[&resolver.settings()]);
    let workshop = Workshop {
        supply,
        bench,
        resolver,
        // Pinned packages that were locked again are updates of the same release: no other workshop.
        key: workshop_key(
            (&bench.interpreter.digest, &bench.interpreter.path),
            &bench.toolchain.key,
            bench.baseline,
        ),
        toolchain: OnceCell::new(),
        time: TimeLeft::default(),
    };
    let key = constrained.key(&[&resolver.settings(), &workshop.key.to_string()]);
    let there = |wheel: &LockedWheel| {
        wheel.sdist.is_none() || supply.store.downloads().find(&wheel.sha256, wheel.size).is_some()
    };
    let key_of = |lock: &Lock| match lock.wheels.iter().all(|wheel| wheel.sdist.is_none()) {
        true => plain_key,
        false => key,
    };
    let usable = |lock: &Lock| lock.wheels.iter().all(there);
    let make = || with_or_without(pins, requirements, |requirements| workshop.lock(requirements));
    let wish = Wish {
        store: supply.store,
        progress: supply.progress,
        lock_age: supply.lock_age,
        resolver,
        requirements,
        flight: Flight::Workshop(&key),
        keys: &[plain_key, key],
    };
    let lock = young_lock(&wish, usable, key_of, make)?;
    for wheel in lock.wheels.iter().filter(|wheel| wheel.sdist.is_some()) {
        supply.progress.warn(&format!(
            "{} {} has no wheel: it was built here from its source distribution, and may have other bytes elsewhere",
            wheel.name, wheel.version
        ));
    }
    Ok(lock)
}
