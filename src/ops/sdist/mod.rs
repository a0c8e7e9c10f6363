//! Wheels for packages that have none: their source distributions are built in the sandbox, by the base's own Python,
//! without network, with a toolchain that lies on the base while they are built and nowhere else.
//!
//! What comes out is a stranger's: one wheel is taken, its name, version, tags and libraries are checked, and from then
//! on it is a wheel like any other. It is kept with the downloads and remembered by everything that was there to build
//! it, so that the next build starts no sandbox. Whether building it again gives the same bytes is up to the package;
//! time, hash seed and paths are the same each time.

mod confined;
mod libraries;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;

use serde::{Deserialize, Serialize};

use super::base::{BaseError, BaseImage, BaseSettings};
use super::build::BuildError;
use super::packages::Packages;
use super::wheels::{with_or_without, WheelMaker, WheelSet};
use crate::build::base::{self, VariantError};
use crate::build::fetch::{fetch, FetchItem};
use crate::build::layers::BuiltLayer;
use crate::build::lock::{check_size, Attempt, Lock, LockError, LockedWheel, Resolver};
use crate::build::pins::{self, PinnedWheel};
use crate::build::pylock::fits_where_built;
use crate::build::requirements::{RequirementError, Requirements};
use crate::build::sdist::{recipe_key, wheel_key, workshop_key, LockedSdist};
use crate::build::wheel::{name_and_version, normalise, same_version, Wheel, WheelError};
use crate::net::Client;
use crate::oci::Digest;
use crate::policy::{Kind, Promise};
use crate::sandbox::{CollectError, SandboxError};
use crate::store::{Flight, Found, Key, LastLink, LayerStack, Memo, Roots, StoreError, Task};
use confined::{Built, TimeLeft};

/// Packages without wheels in one function: each may take minutes; honest functions have one or two.
const MOST_SDISTS: usize = 16;
/// A backend is asked what else it needs until it is content; two rounds are the most that were seen.
const ROUNDS: usize = 4;
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
        /// The base.
        base: String,
        /// The suite.
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
        /// Why.
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
        /// What.
        reason: String,
    },
    /// What its build left is refused.
    #[error("build {package} from its source distribution")]
    Collect {
        /// Name and version.
        package: String,
        /// Why.
        source: CollectError,
    },
    /// The wheel is refused.
    #[error("build {package} from its source distribution")]
    Wheel {
        /// Name and version.
        package: String,
        /// Why.
        source: WheelError,
    },
    /// The sandbox failed or refused.
    #[error("build {package} from its source distribution")]
    Sandbox {
        /// Name and version.
        package: String,
        /// Why.
        source: SandboxError,
    },
    /// The archive cannot be handed to the sandbox, or the wheel be looked at.
    #[error("build {package} from its source distribution: pass archive and wheel through a file")]
    Archive {
        /// Name and version.
        package: String,
        /// Why.
        source: io::Error,
    },
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
            Self::Base { .. }
            | Self::Failed { .. }
            | Self::Result { .. }
            | Self::Collect { .. }
            | Self::Archive { .. }
            | Self::TooMany { .. } => Kind::Failed,
        }
    }
}

impl From<VariantError> for BuildError {
    fn from(error: VariantError) -> Self {
        Self::Base(BaseError::Variant(error))
    }
}

/// What is remembered of a built wheel; its bytes are a download of that hash.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    file_name: String,
    size: u64,
    sha256: Digest,
}

impl Memo for Remembered {
    const FOLDER: &'static str = "sdist";

    fn roots(&self) -> Roots {
        Roots {
            downloads: vec![self.sha256],
            ..Roots::default()
        }
    }
}

/// What a source distribution needs to be built.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Recipe(Vec<String>);

impl Memo for Recipe {
    const FOLDER: &'static str = "recipe";
    const FORMER_FOLDER: Option<&'static str> = Some("sdist");

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// What source distributions are built on.
pub(super) struct Bench<'a> {
    /// The base that the wheels are for.
    pub base: &'a BaseImage,
    /// Where the packages of the toolchain come from.
    pub settings: &'a BaseSettings,
    /// Promises whose loss does not refuse a package's build.
    pub allow_degraded: &'a BTreeSet<Promise>,
}

impl WheelMaker<'_> {
    /// Locks `requirements`, with the versions of `pins` if that can be; packages that have no wheel get one that is built
    /// on `bench`. Also returns what the user should know of them.
    pub(super) fn lock_with_sdists(
        &self,
        bench: &Bench<'_>,
        resolver: &Resolver,
        requirements: &Requirements,
        pins: &[PinnedWheel],
    ) -> Result<(Lock, Vec<String>), BuildError> {
        let constrained = pins::constrained(requirements, pins);
        let plain_key = constrained.key(&[&resolver.settings()]);
        let workshop = Workshop {
            maker: self,
            bench,
            resolver,
            // Pinned packages that were locked again are updates of the same release: no other workshop.
            key: workshop_key(&bench.base.interpreter, &base::toolchain()?.key()),
            warnings: RefCell::default(),
            time: TimeLeft::default(),
        };
        let key = constrained.key(&[&resolver.settings(), &workshop.key.to_string()]);
        let there = |wheel: &LockedWheel| {
            wheel.sdist.is_none() || self.store.find_download(&wheel.sha256, wheel.size).is_some()
        };
        let key_of = |lock: &Lock| match lock.wheels.iter().all(|wheel| wheel.sdist.is_none()) {
            true => plain_key,
            false => key,
        };
        let usable = |lock: &Lock| lock.wheels.iter().all(there);
        let make = || with_or_without(pins, requirements, |requirements| workshop.lock(requirements));
        let (lock, mut warnings) = self.young_lock(
            (resolver, requirements),
            Flight::Workshop(&key),
            &[plain_key, key],
            usable,
            key_of,
            make,
        )?;
        warnings.extend(workshop.warnings.into_inner());
        for wheel in lock.wheels.iter().filter(|wheel| wheel.sdist.is_some()) {
            warnings.push(format!(
                "{} {} has no wheel: it was built here from its source distribution, and may have other bytes elsewhere",
                wheel.name, wheel.version
            ));
        }
        Ok((lock, warnings))
    }
}

/// Where wheels are built for one base.
struct Workshop<'a> {
    maker: &'a WheelMaker<'a>,
    bench: &'a Bench<'a>,
    resolver: &'a Resolver,
    key: Key,
    /// What the user should know of the toolchain.
    warnings: RefCell<Vec<String>>,
    time: TimeLeft,
}

impl Workshop<'_> {
    /// Asks the resolver again and again, each time with one more wheel to choose from.
    fn lock(&self, requirements: &Requirements) -> Result<Lock, BuildError> {
        let store = self.maker.store;
        let mut built: Vec<LockedWheel> = Vec::new();
        loop {
            self.maker.announce_resolving(self.resolver, requirements);
            let missing = match self.resolver.attempt(store, requirements, &built)? {
                Attempt::Locked(lock) => return Ok(lock),
                Attempt::NoWheel(missing) => missing,
            };
            if built.len() == MOST_SDISTS {
                return Err(SdistError::TooMany { package: missing.name }.into());
            }
            let Some(sdist) = self.resolver.find_sdist(store, &missing, requirements)? else {
                return Err(self.resolver.no_wheel(store, missing).into());
            };
            let again = |wheel: &LockedWheel| wheel.name == sdist.name && wheel.version == sdist.version;
            if built.iter().any(again) {
                // uv has seen the wheel and wants another version, which there is not.
                return Err(self.resolver.no_wheel(store, missing).into());
            }
            if let Some(hashes) = requirements
                .hashes
                .get(&sdist.name)
                .filter(|hashes| !hashes.contains(&sdist.sha256))
            {
                return Err(BuildError::Lock(LockError::Hash {
                    package: sdist.title(),
                    got: sdist.sha256.hex(),
                    expected: hashes.iter().map(Digest::hex).collect::<Vec<_>>().join(" or "),
                }));
            }
            built.push(self.wheel(&sdist)?);
        }
    }

    /// The wheel of `sdist`: the one of an earlier build, if nothing that it depends on has changed.
    fn wheel(&self, sdist: &LockedSdist) -> Result<LockedWheel, BuildError> {
        let store = self.maker.store;
        let recipe_key = recipe_key(&self.key, &sdist.sha256);
        let mut requires = match store.memos().find(&recipe_key)? {
            Some(Recipe(requires)) => requires,
            None => match self.run(sdist, &[], None)? {
                Built::Needs(requires) => requires,
                Built::Wheel(..) => return Err(result(sdist, "it brought a wheel before it was built")),
            },
        };
        for _ in 0..ROUNDS {
            let tools = self.tools(sdist, &requires)?;
            let hashes: Vec<Digest> = tools.wheels.iter().map(|wheel| wheel.sha256).collect();
            let key = wheel_key(&self.key, &sdist.sha256, &hashes);
            if let Some(wheel) = self.find(sdist, &key)? {
                return Ok(wheel);
            }
            let task = Task {
                does: &format!("builds {}", sdist.title()),
                progress: self.maker.progress,
            };
            let _single = store.exclusive(Flight::Sdist(&key), task)?;
            if let Some(wheel) = self.find(sdist, &key)? {
                return Ok(wheel);
            }
            match self.run(sdist, &self.install(&tools)?, Some(&requires))? {
                Built::Needs(more) => requires = more,
                Built::Wheel(file_name, bytes) => {
                    let wheel = self.keep(sdist, file_name, &bytes)?;
                    let remembered = Remembered {
                        file_name: wheel.file_name.clone(),
                        size: wheel.size,
                        sha256: wheel.sha256,
                    };
                    store.memos().put(&key, &remembered)?;
                    store.memos().put(&recipe_key, &Recipe(requires))?;
                    return Ok(wheel);
                }
            }
        }
        Err(result(sdist, "its backend asks for more and more requirements"))
    }

    /// The wheel that is remembered by `key` and still there.
    fn find(&self, sdist: &LockedSdist, key: &Key) -> Result<Option<LockedWheel>, StoreError> {
        let store = self.maker.store;
        let remembered = store.memos().find::<Remembered>(key)?;
        let there = remembered.filter(|wheel| store.find_download(&wheel.sha256, wheel.size).is_some());
        Ok(there.map(|wheel| locked(sdist, wheel)))
    }

    /// The build requirements as wheels.
    fn tools(&self, sdist: &LockedSdist, requires: &[String]) -> Result<WheelSet, BuildError> {
        let package = sdist.title();
        let requirements = Requirements::of_build(&package, requires).map_err(|source| SdistError::Requirement {
            package: package.clone(),
            source,
        })?;
        let lock = match requirements.wanted.is_empty() {
            true => Ok(Default::default()),
            false => self.maker.lock_wheels(self.resolver, &requirements, &[]),
        };
        let set = lock.map(|(lock, warnings)| {
            self.warnings.borrow_mut().extend(warnings);
            WheelSet::new(&lock, Vec::new(), Vec::new())
        });
        let checked = set.and_then(|set| Ok(check_size(&set.wheels).map(|_| set)?));
        checked.map_err(|error| match error {
            BuildError::Lock(source) => SdistError::Requirements { package, source }.into(),
            other => other,
        })
    }

    /// The layers of `tools`, made when they are not there.
    fn install(&self, tools: &WheelSet) -> Result<Vec<BuiltLayer>, BuildError> {
        self.maker.download(tools)?;
        let (made, _) = self.maker.layers(tools)?;
        Ok(made.into_iter().map(|made| made.layer).collect())
    }

    /// The layer of the toolchain, made when it is not there.
    fn toolchain(&self) -> Result<BuiltLayer, BuildError> {
        let packages = Packages {
            store: self.maker.store,
            settings: self.bench.settings,
            progress: self.maker.progress,
        };
        let (layer, warnings) = packages.ensure(&base::toolchain()?)?;
        let mut known = self.warnings.borrow_mut();
        known.extend(warnings);
        known.dedup();
        Ok(layer)
    }

    /// Runs the script with `tools` installed; without `requires` it only says what the package itself asks for.
    fn run(&self, sdist: &LockedSdist, tools: &[BuiltLayer], requires: Option<&[String]>) -> Result<Built, BuildError> {
        let (store, progress) = (self.maker.store, self.maker.progress);
        self.check_base(sdist)?;
        let mut archive = self.archive(sdist)?;
        let toolchain = match requires {
            Some(_) => Some(self.toolchain()?),
            None => None,
        };
        let input = store.scratch()?;
        let copied = File::create_new(input.path().join(&sdist.file_name))
            .and_then(|mut copy| io::copy(&mut archive, &mut copy));
        copied.map_err(|source| SdistError::Archive {
            package: sdist.title(),
            source,
        })?;
        let verb = if requires.is_some() { "Building" } else { "Reading" };
        progress.step(verb, &format!("{} from its source distribution", sdist.title()));
        let layers = tools
            .iter()
            .rev()
            .chain(&toolchain)
            .chain(self.bench.base.layers.iter().rev());
        let mut lowers = vec![store.scaffold_tree()?];
        lowers.extend(layers.map(|layer| store.layer_path(&layer.diff_id)));
        Ok(confined::build(
            sdist,
            &self.bench.base.python,
            lowers,
            input.path(),
            requires,
            self.bench.allow_degraded,
            &self.time,
        )?)
    }

    /// The toolchain and its headers are of one Debian release; another C library below them does not fit.
    fn check_base(&self, sdist: &LockedSdist) -> Result<(), BuildError> {
        let suite = base::toolchain()?.definition.suite;
        let trees = self.bench.base.layers.iter().rev();
        let trees = trees.map(|layer| self.maker.store.layer_path(&layer.diff_id));
        let read = |stack: LayerStack| match stack.find("usr/lib/os-release", LastLink::Follow)? {
            Found::File(path) => stack.read(&path, 64 << 10),
            _ => Ok(Vec::new()),
        };
        let release = LayerStack::open(trees).and_then(read).unwrap_or_default();
        let line = format!("VERSION_CODENAME={suite}");
        if String::from_utf8_lossy(&release).lines().any(|found| found == line) {
            return Ok(());
        }
        Err(SdistError::Base {
            package: sdist.title(),
            base: self.bench.base.name.clone(),
            suite,
        }
        .into())
    }

    fn archive(&self, sdist: &LockedSdist) -> Result<File, BuildError> {
        let (store, progress) = (self.maker.store, self.maker.progress);
        if let Some(file) = store.find_download(&sdist.sha256, sdist.size) {
            return Ok(file);
        }
        let item = FetchItem {
            name: format!("{} (source distribution)", sdist.title()),
            url: sdist.url.clone(),
            size: sdist.size,
            sha256: sdist.sha256,
        };
        let credentials = (self.maker.resolver)()?.credentials()?;
        let client = Client::new()?.with_credentials(credentials.as_ref());
        fetch(store, &client, &[item], progress)?
            .pop()
            .ok_or_else(|| StoreError::NoBlob { digest: sdist.sha256 }.into())
    }

    /// Checks the wheel and keeps its bytes.
    fn keep(&self, sdist: &LockedSdist, file_name: String, bytes: &[u8]) -> Result<LockedWheel, BuildError> {
        let store = self.maker.store;
        let fits = name_and_version(&file_name)
            .is_some_and(|(name, version)| normalise(name) == sdist.name && same_version(version, &sdist.version));
        if !fits {
            return Err(result(sdist, &format!("the wheel is called {file_name}")));
        }
        if !fits_where_built(&file_name, &self.resolver.python) {
            return Err(result(
                sdist,
                &format!("{file_name} is not for Python {} on linux/amd64", self.resolver.python),
            ));
        }
        // Looked at before it is anywhere that it could be found.
        let scratch = store.scratch()?;
        let path = scratch.path().join("wheel");
        let file = fs::write(&path, bytes).and_then(|()| File::open(&path));
        let file = file.map_err(|source| SdistError::Archive {
            package: sdist.title(),
            source,
        })?;
        let wheel_error = |source| SdistError::Wheel {
            package: sdist.title(),
            source,
        };
        let wheel = Wheel::open(file, &file_name).map_err(wheel_error)?;
        let layers = self.bench.base.layers.iter();
        let trees = layers.map(|layer| store.layer_path(&layer.diff_id)).collect::<Vec<_>>();
        let lacks = libraries::find_lack(&wheel, &trees).map_err(wheel_error)?;
        if let Some(lack) = lacks {
            return Err(result(sdist, &lack));
        }
        let (sha256, size) = (store.put_download(bytes)?, bytes.len() as u64);
        Ok(locked(
            sdist,
            Remembered {
                file_name,
                size,
                sha256,
            },
        ))
    }
}

fn locked(sdist: &LockedSdist, wheel: Remembered) -> LockedWheel {
    LockedWheel {
        name: sdist.name.clone(),
        version: sdist.version.clone(),
        file_name: wheel.file_name,
        url: String::new(),
        size: wheel.size,
        sha256: wheel.sha256,
        sdist: Some(sdist.sha256),
    }
}

fn result(sdist: &LockedSdist, reason: &str) -> BuildError {
    let (package, reason) = (sdist.title(), reason.to_owned());
    SdistError::Result { package, reason }.into()
}
