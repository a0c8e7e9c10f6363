//! `gantry base build`: a variant with the layers of its wheels, before the first function needs them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::build::with_room;
use crate::base::BaseSettings;
use crate::build::parts::{ensure_parts, ensure_parts_bytecode, Wanted, WantedBase};
use crate::build::BuildError;
use crate::oci::Digest;
use crate::policy::{Baseline, Promise};
use crate::progress::{Progress, Recorder};
use crate::python::compile::Compiler;
use crate::python::requirements::Requirements;
use crate::python::resolve::{LockError, Resolver, LOCK_AGE};
use crate::python::supply::Supply;
use crate::store::{BuiltLayer, Store};

/// Which base is wanted.
#[derive(Debug, Clone)]
pub struct BaseRequest {
    /// A variant or a reference.
    pub name: String,
    /// Where its packages come from.
    pub settings: BaseSettings,
    /// Promises whose loss does not refuse to compile in the sandbox.
    pub allow_degraded: BTreeSet<Promise>,
}

/// What `gantry base build` made.
#[derive(Debug, Serialize)]
pub struct BaseReport {
    /// Always 1.
    schema: u32,
    /// Always `ok`.
    status: &'static str,
    /// What it was asked for as.
    pub name: String,
    /// The layer with the interpreter.
    pub digest: Digest,
    /// Its layers, bottom first.
    layers: Vec<BuiltLayer>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Makes the base that `request` names, with the layers of its wheels, unless it is there. `resolver` is asked for only
/// when wheels have to be downloaded.
///
/// # Errors
///
/// [`BuildError`]; layers that are finished stay for the next try, nothing else does.
pub fn build_base(
    store: &Store,
    request: &BaseRequest,
    resolver: &(dyn Fn() -> Result<Resolver, LockError> + Sync),
    progress: &dyn Progress,
) -> Result<BaseReport, BuildError> {
    with_room(store, || {
        let _kept = store.locks().building()?;
        make(store, request, resolver, progress)
    })
}

fn make(
    store: &Store,
    request: &BaseRequest,
    resolver: &(dyn Fn() -> Result<Resolver, LockError> + Sync),
    progress: &dyn Progress,
) -> Result<BaseReport, BuildError> {
    let (progress, resolver) = (&Recorder::new(progress), &Resolver::sharing(resolver));
    let compiler = Compiler::new(store, request.allow_degraded.clone())?;
    let supply = Supply {
        store,
        resolver,
        progress,
        lock_age: LOCK_AGE,
    };
    let base = WantedBase::choose(Some(&request.name), None, &request.settings)?;
    let wanted = Wanted {
        base: &base,
        settings: &request.settings,
        requirements: &Requirements::default(),
        system: None,
        allow_degraded: &request.allow_degraded,
        sdists: None,
        baseline: Baseline::default(),
    };
    let parts = ensure_parts(&wanted, &supply, &compiler)?;
    let (stdlib, compiled) = ensure_parts_bytecode(&parts, &supply, &compiler)?;
    let mut layers = parts.base.layers.clone();
    layers.extend(stdlib);
    layers.extend(parts.wheels.iter().map(|made| made.layer.clone()));
    layers.extend(parts.loader);
    layers.extend(compiled);
    Ok(BaseReport {
        schema: 1,
        status: "ok",
        name: parts.base.name,
        digest: parts.base.interpreter,
        layers,
        warnings: progress.warnings(),
    })
}
