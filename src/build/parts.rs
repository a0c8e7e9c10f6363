//! The parts of an image that are not the function's own: base and wheels, made side by side, and their bytecode.
//!
//! Here base and packages meet: the interpreter and the toolchain of the one are handed to the other.

use std::cell::LazyCell;
use std::collections::BTreeSet;

use super::BuildError;
use crate::base::{
    self, check_allowed, ensure_base, ensure_loader_layer, ensure_system, ensure_toolchain, find_toolchain, Allowed,
    BaseError, BaseImage, BaseSettings, Chosen, Definitions, Shipped, SystemLayer, SystemRequest, SystemWish, Variant,
};
use crate::policy::{Baseline, Bytes, Promise};
use crate::progress::{timed, Later};
use crate::python::bytecode::{ensure_bytecode, find_bytecode, Sources};
use crate::python::choose::choose;
use crate::python::compile::Compiler;
use crate::python::full_version::find_version;
use crate::python::layers::{download, ensure_layers, WheelLayer};
use crate::python::pins::{self, check_size, largest, PinnedWheel};
use crate::python::requirements::Requirements;
use crate::python::resolve::{LockError, Resolver, Target, LARGE_IMAGE, MAX_IMAGE};
use crate::python::sdist::{Bench, Toolchain, ToolchainError};
use crate::python::supply::Supply;
use crate::python::{libraries, Interpreter, PythonError};
use crate::store::{BuiltLayer, Store, StoreError};
use crate::sys::pool;

/// Where wheels are, inside an image.
const SITE: &str = "/opt/py/site";
/// Parts of the standard library that functions do not import, and that would double its bytecode.
const UNCOMPILED: [&str; 3] = ["lib2to3", "idlelib", "pydoc_data"];
/// Layers of bytecode that are made at once: while one is written, another is compiled.
const AT_ONCE: usize = 2;

/// Which base and which packages an image is made of.
pub(crate) struct Wanted<'a> {
    /// The base.
    pub base: &'a WantedBase,
    /// Where packages of the base come from.
    pub settings: &'a BaseSettings,
    /// What the function requires.
    pub requirements: &'a Requirements,
    /// The system packages that the function asks for, and which ones it may; none when it asks for none.
    pub system: Option<(&'a SystemWish, &'a Allowed)>,
    /// Promises whose loss does not refuse what is run in the sandbox.
    pub allow_degraded: &'a BTreeSet<Promise>,
    /// Whether packages that have no wheel are built, and without which promises; none when they are refused.
    pub sdists: Option<&'a BTreeSet<Promise>>,
    /// The processors that they are built for.
    pub baseline: Baseline,
}

/// A base, and wheels that lie on it.
pub(crate) struct Parts {
    pub base: BaseImage,
    /// What the function asks for and the base lacks.
    pub system: Option<SystemLayer>,
    /// The wheels of the requirements and of the base.
    pub wheels: Vec<WheelLayer>,
    /// By which libraries of wheels are found by name, when there are any.
    pub loader: Option<BuiltLayer>,
    /// Whether the wheels alone make the image a large one, which the user was told before they were downloaded.
    pub is_large: bool,
}

/// The base that an image shall have, before it is made or imported.
pub(crate) struct WantedBase {
    /// What it was called; none when it is the default.
    called: Option<String>,
    definitions: Definitions,
    chosen: Chosen,
}

impl WantedBase {
    /// The base called `name`, a variant or a reference, with Python `python`; the default when there is none.
    pub(crate) fn choose(
        name: Option<&str>,
        python: Option<&str>,
        settings: &BaseSettings,
    ) -> Result<Self, BuildError> {
        let definitions = Definitions::load(settings.definitions.as_deref()).map_err(BaseError::from)?;
        let chosen = base::choose(&definitions, name, python)?;
        Ok(Self {
            called: name.map(str::to_owned),
            definitions,
            chosen,
        })
    }

    /// The versions of Python of which it has one.
    pub(crate) fn pythons(&self) -> &[String] {
        match &self.chosen {
            Chosen::Variant(variant) => std::slice::from_ref(&variant.definition.python),
            Chosen::Foreign(_, pythons) => pythons,
        }
    }
}

/// Makes base and wheels, unless they are there.
pub(crate) fn ensure_parts(wanted: &Wanted<'_>, supply: &Supply<'_>, compiler: &Compiler) -> Result<Parts, BuildError> {
    let WantedBase {
        called,
        definitions,
        chosen,
    } = wanted.base;
    if let (Chosen::Variant(variant), Some(name)) = (chosen, called) {
        if variant.name != *name {
            let python = &variant.definition.python;
            let other = format!("{}, which is {name} with Python {python}", variant.name);
            supply.progress.step("Using", &other);
        }
    }
    if let Some((wish, allowed)) = wanted.system {
        // Before anything is downloaded.
        check_allowed(wish, allowed, &Shipped::read()?)?;
    }
    // What is to say of the base is said after what is to say of the wheels, whichever is made first.
    let later = Later::new(supply.progress);
    let beside = Supply {
        progress: &later,
        ..*supply
    };
    let full_version = match chosen {
        Chosen::Variant(variant) => variant.full_version(),
        Chosen::Foreign(..) => None,
    };
    let make = || ensure(chosen, wanted, &beside);
    let (base, system, wheels) = match (chosen, wanted.sdists, full_version) {
        (Chosen::Variant(variant), None, Some(full_version)) => {
            // The base and the wheels do not depend on each other: on two cores both are made at once.
            let pins = pins::parse_all(&variant.wheels)?;
            let target = Target {
                python: full_version.to_owned(),
                glibc: variant.glibc().map_err(BaseError::from)?,
            };
            let (base, wheels) = std::thread::scope(|scope| {
                let base = scope.spawn(make);
                let wheels = for_target(supply, &target, |supply| {
                    ensure_wheels(supply, wanted.requirements, &pins, None)
                });
                (
                    base.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    wheels,
                )
            });
            let (base, system) = base?;
            (base, system, wheels?)
        }
        (chosen, sdists, full_version) => {
            // What a foreign base has is known once it is there, and wheels may have to be built on any.
            let (base, system) = make()?;
            let pins = match chosen {
                Chosen::Variant(variant) => pins::parse_all(&variant.wheels)?,
                Chosen::Foreign(..) => Vec::new(),
            };
            let full_version = match full_version {
                Some(full_version) => full_version.to_owned(),
                None if wanted.requirements.wanted.is_empty() => base.version.clone(),
                None => find_version(supply.store, compiler, &interpreter_of(&base))?
                    .unwrap_or_else(|| base.version.clone()),
            };
            let target = Target {
                python: full_version,
                glibc: base.glibc,
            };
            let wheels = for_target(supply, &target, |supply| match sdists {
                Some(allow_degraded) => {
                    let toolchain = find_toolchain(definitions, chosen, &base)?;
                    on_bench(wanted, supply, compiler, &base, &toolchain, &pins, allow_degraded)
                }
                None => ensure_wheels(supply, wanted.requirements, &pins, None),
            })?;
            (base, system, wheels)
        }
    };
    let (wheels, is_large) = wheels;
    later.tell();
    let below = base.layers.iter();
    let below = below.chain(system.iter().filter_map(|system| system.layer.as_ref()));
    let below: Vec<&BuiltLayer> = below.collect();
    // Most wheels lack nothing: what is known of packages is read for those that do.
    let shipped = LazyCell::new(Shipped::read);
    let package_of = |library: &str| shipped.as_ref().ok()?.package_of(library).map(str::to_owned);
    let store = supply.store;
    let by_name = libraries::survey(store, below.iter().copied(), &wheels, &package_of, supply.progress)?;
    let by_name = Some(by_name).filter(|libraries| !libraries.is_empty());
    let list = |libraries| ensure_loader_layer(store, &base.name, &below, libraries, supply.progress);
    let loader = by_name.map(list).transpose()?;
    Ok(Parts {
        base,
        system,
        wheels,
        loader,
        is_large,
    })
}

/// The base that was `chosen`, and the system packages that lie on it.
fn ensure(
    chosen: &Chosen,
    wanted: &Wanted<'_>,
    supply: &Supply<'_>,
) -> Result<(BaseImage, Option<SystemLayer>), BuildError> {
    let (store, progress) = (supply.store, supply.progress);
    let make = || ensure_base(store, chosen, wanted.settings, progress);
    let base = timed(progress, "base", make)?;
    let Some((wish, allowed)) = wanted.system else {
        return Ok((base, None));
    };
    let request = SystemRequest {
        wish,
        allowed,
        settings: wanted.settings,
        lock_age: supply.lock_age,
        most: MAX_IMAGE,
        allow_degraded: wanted.allow_degraded,
        progress,
    };
    let system = timed(progress, "system", || ensure_system(store, &base, &request))?;
    Ok((base, Some(system)))
}

/// Does something with a supply whose resolver is asked for wheels that fit `target`.
fn for_target<T>(supply: &Supply<'_>, target: &Target, make: impl FnOnce(&Supply<'_>) -> T) -> T {
    let resolver = || -> Result<Resolver, LockError> {
        Ok(Resolver {
            target: target.clone(),
            ..(supply.resolver)()?
        })
    };
    make(&Supply {
        resolver: &resolver,
        ..*supply
    })
}

/// Wheels of the requirements; those of packages that have none are built on `base` with `toolchain`.
fn on_bench(
    wanted: &Wanted<'_>,
    supply: &Supply<'_>,
    compiler: &Compiler,
    base: &BaseImage,
    toolchain: &Variant,
    pins: &[PinnedWheel],
    allow_degraded: &BTreeSet<Promise>,
) -> Result<(Vec<WheelLayer>, bool), BuildError> {
    // Build backends import much of the standard library.
    let interpreter = interpreter_on(base, ensure_stdlib(base, supply, compiler)?);
    let layer = || {
        ensure_toolchain(supply.store, toolchain, wanted.settings, supply.progress).map_err(|error| ToolchainError {
            kind: error.kind(),
            source: error.into(),
        })
    };
    let bench = Bench {
        interpreter: &interpreter,
        toolchain: Toolchain {
            // Pinned packages that were locked again are updates of the same release: no other toolchain.
            key: toolchain.key(),
            suite: toolchain.definition.suite.clone(),
            layer: &layer,
        },
        baseline: wanted.baseline,
        allow_degraded,
    };
    ensure_wheels(supply, wanted.requirements, pins, Some(&bench))
}

/// The layers of all wheels: those of the requirements and those of the base; and whether they are large.
fn ensure_wheels(
    supply: &Supply<'_>,
    requirements: &Requirements,
    pins: &[PinnedWheel],
    bench: Option<&Bench<'_>>,
) -> Result<(Vec<WheelLayer>, bool), BuildError> {
    let progress = supply.progress;
    // The size is the first thing to know.
    let later = Later::new(progress);
    let choosing = Supply {
        progress: &later,
        ..*supply
    };
    let set = timed(progress, "lock", || choose(&choosing, requirements, pins, bench))?;
    let size = check_size(&set.wheels)?;
    let is_large = size > LARGE_IMAGE;
    if is_large {
        let largest = largest(&set.wheels);
        progress.warn(&format!("the wheels have {}; the largest are {largest}", Bytes(size)));
    }
    later.tell();
    timed(progress, "download", || download(supply, &set))?;
    let layers = timed(progress, "wheels", || ensure_layers(supply.store, &set, progress))?;
    Ok((layers, is_large))
}

/// Bytecode of the parts: of the standard library of a base that has none, and of each wheel layer with sources, by the
/// base's own Python. They do not depend on each other.
pub(crate) fn ensure_parts_bytecode(
    parts: &Parts,
    supply: &Supply<'_>,
    compiler: &Compiler,
) -> Result<(Option<BuiltLayer>, Vec<BuiltLayer>), BuildError> {
    let interpreter = interpreter_on(&parts.base, find_stdlib(&parts.base, supply.store)?);
    let sources = parts.wheels.iter().filter(|made| made.has_sources()).map(Some);
    let all: Vec<Option<&WheelLayer>> = std::iter::once(None).chain(sources).collect();
    let mut made = pool::each(AT_ONCE, &all, |sources, _| match sources {
        None => ensure_stdlib(&parts.base, supply, compiler),
        Some(made) => Ok(Some(of_wheels(&made.layer, &interpreter, supply, compiler)?)),
    })?
    .into_iter();
    Ok((made.next().flatten(), made.flatten().collect()))
}

fn of_wheels(
    layer: &BuiltLayer,
    interpreter: &Interpreter,
    supply: &Supply<'_>,
    compiler: &Compiler,
) -> Result<BuiltLayer, PythonError> {
    let sources = Sources {
        layer,
        title: &layer.reason,
        reason: &format!("bytecode of {}", layer.reason),
        root: SITE,
        skip: Vec::new(),
        owner: 0,
    };
    ensure_bytecode(supply.store, compiler, interpreter, &sources, supply.progress, |_| {
        Ok(())
    })
}

/// Bytecode of the standard library of `base`, its topmost layer; none of a base that brings its own.
///
/// Nothing but time depends on it, so that wheels need not wait for it.
fn ensure_stdlib(base: &BaseImage, supply: &Supply<'_>, compiler: &Compiler) -> Result<Option<BuiltLayer>, BuildError> {
    let Some((interpreter, sources)) = stdlib_of(base) else {
        return Ok(None);
    };
    let made = ensure_bytecode::<PythonError>(supply.store, compiler, &interpreter, &sources, supply.progress, |_| {
        Ok(())
    });
    Ok(Some(made?))
}

/// The layer that [`ensure_stdlib`] would give, if it is there.
fn find_stdlib(base: &BaseImage, store: &Store) -> Result<Option<BuiltLayer>, StoreError> {
    let found = stdlib_of(base).map(|(interpreter, sources)| find_bytecode(store, &interpreter, &sources));
    found.transpose().map(Option::flatten)
}

/// The standard library of `base`, and who compiles it; none of a base that brings its bytecode.
fn stdlib_of(base: &BaseImage) -> Option<(Interpreter, Sources<'_>)> {
    let (packages, root) = (base.layers.first()?, base.standard_library.as_ref()?);
    let interpreter = Interpreter {
        layers: Vec::new(),
        ..interpreter_of(base)
    };
    let sources = Sources {
        layer: packages,
        title: "the standard library",
        reason: "base bytecode of the standard library",
        root,
        skip: UNCOMPILED.map(|name| format!("{root}/{name}")).to_vec(),
        owner: 0,
    };
    Some((interpreter, sources))
}

/// The Python of `base` with the bytecode of its standard library, where there is some: without it every start compiles
/// what it imports. What comes of compiling does not depend on it.
pub(crate) fn interpreter_on(base: &BaseImage, stdlib: Option<BuiltLayer>) -> Interpreter {
    let mut interpreter = interpreter_of(base);
    interpreter.layers.extend(stdlib);
    interpreter
}

/// The Python of `base`.
fn interpreter_of(base: &BaseImage) -> Interpreter {
    Interpreter {
        base: base.name.clone(),
        layers: base.layers.clone(),
        path: base.python.clone(),
        digest: base.interpreter,
    }
}
