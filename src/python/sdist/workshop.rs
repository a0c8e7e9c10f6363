//! Where the wheels of one build are made: the resolver is asked again and again, each time with one more wheel.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io;

use super::confined::{self, Answer, TimeLeft};
use super::lack;
use super::portable::write_specs;
use super::recipe::{recipe_key, wheel_key, BuiltWheel, Recipe};
use super::{Bench, SdistError, MOST_SDISTS};
use crate::net::{Address, Client};
use crate::oci::Digest;
use crate::policy::normalise;
use crate::progress::Later;
use crate::python::layers::{download, ensure_layers, WheelSet};
use crate::python::pins::check_size;
use crate::python::requirements::Requirements;
use crate::python::resolve::{fits_where_built, Lock, LockError, LockedSdist, LockedWheel, Resolution, Resolver};
use crate::python::supply::{announce, lock_wheels, Supply};
use crate::python::wheel::{name_and_version, same_version, Wheel};
use crate::python::PythonError;
use crate::store::{BuiltLayer, Flight, Found, Key, LastLink, LayerStack, StoreError, Task};
use crate::transfer::{fetch, FetchItem};

/// A backend is asked what else it needs until it is content; two rounds are the most that were seen.
const ROUNDS: usize = 4;

/// Where wheels are built for one base.
pub(super) struct Workshop<'a> {
    pub supply: &'a Supply<'a>,
    pub bench: &'a Bench<'a>,
    pub resolver: &'a Resolver,
    /// Names it in keys.
    pub key: Key,
    /// The layer of the toolchain, once it was needed.
    pub toolchain: OnceCell<BuiltLayer>,
    pub time: TimeLeft,
}

impl Workshop<'_> {
    /// Asks the resolver again and again, each time with one more wheel to choose from.
    pub(super) fn lock(&self, requirements: &Requirements) -> Result<Lock, PythonError> {
        let store = self.supply.store;
        let mut built: Vec<LockedWheel> = Vec::new();
        loop {
            announce(self.supply, self.resolver, requirements)?;
            let missing = match self.resolver.attempt(store, requirements, &built)? {
                Resolution::Locked(lock) => return Ok(lock),
                Resolution::NoWheel(missing) => missing,
            };
            if built.len() == MOST_SDISTS {
                return Err(SdistError::TooMany { package: missing.name }.into());
            }
            if !requirements.lets_build(&missing.name) {
                return Err(self.resolver.no_wheel(store, missing).into());
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
                return Err(PythonError::Lock(LockError::Hash {
                    package: sdist.title(),
                    got: sdist.sha256.hex(),
                    expected: hashes.iter().map(Digest::hex).collect::<Vec<_>>().join(" or "),
                }));
            }
            built.push(self.wheel(&sdist)?);
        }
    }

    /// The wheel of `sdist`: the one of an earlier build, if nothing that it depends on has changed.
    fn wheel(&self, sdist: &LockedSdist) -> Result<LockedWheel, PythonError> {
        let store = self.supply.store;
        let recipe_key = recipe_key(&self.key, &sdist.sha256);
        let mut requires = match store.memos().find(&recipe_key)? {
            Some(Recipe(requires)) => requires,
            None => match self.run(sdist, &[], None)? {
                Answer::Needs(requires) => requires,
                Answer::Wheel(..) => return Err(result(sdist, "it brought a wheel before it was built")),
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
                progress: self.supply.progress,
            };
            let _single = store.locks().exclusive(Flight::Sdist(&key), task)?;
            if let Some(wheel) = self.find(sdist, &key)? {
                return Ok(wheel);
            }
            match self.run(sdist, &self.install(&tools)?, Some(&requires))? {
                Answer::Needs(more) => requires = more,
                Answer::Wheel(file_name, bytes) => {
                    let wheel = self.keep(sdist, file_name, &bytes)?;
                    let remembered = BuiltWheel {
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
        let store = self.supply.store;
        let remembered = store.memos().find::<BuiltWheel>(key)?;
        let there = remembered.filter(|wheel| store.downloads().find(&wheel.sha256, wheel.size).is_some());
        Ok(there.map(|wheel| locked(sdist, wheel)))
    }

    /// The build requirements as wheels.
    fn tools(&self, sdist: &LockedSdist, requires: &[String]) -> Result<WheelSet, PythonError> {
        let package = sdist.title();
        let requirements = Requirements::of_build(&package, requires).map_err(|source| SdistError::Requirement {
            package: package.clone(),
            source,
        })?;
        let lock = match requirements.wanted.is_empty() {
            true => Ok(Lock::default()),
            false => lock_wheels(self.supply, self.resolver, &requirements, &[]),
        };
        let set = lock.map(|lock| WheelSet::new(&lock, Vec::new()));
        let checked = set.and_then(|set| Ok(check_size(&set.wheels).map(|_| set)?));
        checked.map_err(|error| match error {
            PythonError::Lock(source) => SdistError::Requirements { package, source }.into(),
            other => other,
        })
    }

    /// The layers of `tools`, made when they are not there.
    fn install(&self, tools: &WheelSet) -> Result<Vec<BuiltLayer>, PythonError> {
        download(self.supply, tools)?;
        // They are there for the build alone: what two of them bring is no matter of the image's.
        let quiet = Later::new(self.supply.progress);
        let made = ensure_layers(self.supply.store, tools, &quiet)?;
        Ok(made.into_iter().map(|made| made.layer).collect())
    }

    /// The layer of the toolchain, made when it is not there.
    fn toolchain(&self) -> Result<&BuiltLayer, PythonError> {
        match self.toolchain.get() {
            Some(layer) => Ok(layer),
            None => {
                let layer = (self.bench.toolchain.layer)().map_err(SdistError::from)?;
                Ok(self.toolchain.get_or_init(|| layer))
            }
        }
    }

    /// Runs the script with `tools` installed; without `requires` it only says what the package itself asks for.
    fn run(
        &self,
        sdist: &LockedSdist,
        tools: &[BuiltLayer],
        requires: Option<&[String]>,
    ) -> Result<Answer, PythonError> {
        let (store, progress) = (self.supply.store, self.supply.progress);
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
        let portable = store.scratch()?;
        let mut lowers = vec![store.trees().scaffold()?];
        if let Some(toolchain) = toolchain {
            let tree = store.trees().path(&toolchain.diff_id);
            let written = write_specs(&tree, portable.path(), self.bench.baseline);
            written.map_err(|source| SdistError::Specs {
                package: sdist.title(),
                source,
            })?;
            lowers.push(portable.path().to_owned());
        }
        let layers = tools
            .iter()
            .rev()
            .chain(toolchain)
            .chain(self.bench.interpreter.layers.iter().rev());
        lowers.extend(layers.map(|layer| store.trees().path(&layer.diff_id)));
        Ok(confined::build(
            sdist,
            &self.bench.interpreter.path,
            lowers,
            input.path(),
            requires,
            self.bench.allow_degraded,
            &self.time,
        )?)
    }

    /// The toolchain and its headers are of one Debian release; another C library below them does not fit.
    fn check_base(&self, sdist: &LockedSdist) -> Result<(), PythonError> {
        let suite = &self.bench.toolchain.suite;
        let trees = self.bench.interpreter.layers.iter().rev();
        let trees = trees.map(|layer| self.supply.store.trees().path(&layer.diff_id));
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
            base: self.bench.interpreter.base.clone(),
            suite: suite.clone(),
        }
        .into())
    }

    fn archive(&self, sdist: &LockedSdist) -> Result<File, PythonError> {
        let (store, progress) = (self.supply.store, self.supply.progress);
        if let Some(file) = store.downloads().find(&sdist.sha256, sdist.size) {
            return Ok(file);
        }
        let item = FetchItem {
            name: format!("{} (source distribution)", sdist.title()),
            url: Address::new(&sdist.url),
            size: sdist.size,
            sha256: sdist.sha256,
        };
        let resolver = self.supply.resolver;
        let connect = || {
            let credentials = resolver()?.credentials()?;
            Ok::<_, PythonError>(Client::new()?.with_credentials(&credentials))
        };
        fetch(store, connect, &[item], progress)?
            .pop()
            .ok_or_else(|| StoreError::NoBlob { digest: sdist.sha256 }.into())
    }

    /// Checks the wheel and keeps its bytes.
    fn keep(&self, sdist: &LockedSdist, file_name: String, bytes: &[u8]) -> Result<LockedWheel, PythonError> {
        let store = self.supply.store;
        let fits = name_and_version(&file_name)
            .is_some_and(|(name, version)| normalise(name) == sdist.name && same_version(version, &sdist.version));
        if !fits {
            return Err(result(sdist, &format!("the wheel is called {file_name}")));
        }
        let target = &self.resolver.target;
        if !fits_where_built(&file_name, target) {
            let reason = format!("{file_name} is not for Python {} on linux/amd64", target.python);
            return Err(result(sdist, &reason));
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
        let layers = self.bench.interpreter.layers.iter();
        let trees = layers
            .map(|layer| store.trees().path(&layer.diff_id))
            .collect::<Vec<_>>();
        let lacks = lack::find_lack(&wheel, &trees, target.glibc).map_err(wheel_error)?;
        if let Some(lack) = lacks {
            return Err(result(sdist, &lack));
        }
        let (sha256, size) = (store.downloads().put(bytes)?, bytes.len() as u64);
        Ok(locked(
            sdist,
            BuiltWheel {
                file_name,
                size,
                sha256,
            },
        ))
    }
}

fn locked(sdist: &LockedSdist, wheel: BuiltWheel) -> LockedWheel {
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

fn result(sdist: &LockedSdist, reason: &str) -> PythonError {
    let (package, reason) = (sdist.title(), reason.to_owned());
    SdistError::Result { package, reason }.into()
}
