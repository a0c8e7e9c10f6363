//! `gantry build`: directory -> function -> base and wheels -> layers -> image. Every step is remembered by its key, so
//! that what did not change is not done again, and may be repeated after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::cache_room::keep_limits;
use crate::base::{warn_of_mistaken, Allowed, BaseSettings, SystemPackage, SystemWish};
use crate::build::function::Function;
use crate::build::function_naming::FunctionNaming;
use crate::build::image::{check_size, ensure_image, large_image, Created, ImageSettings, CREATED_LABEL};
use crate::build::parts::{ensure_parts, ensure_parts_bytecode, interpreter_on, Wanted, WantedBase};
use crate::build::{code, imports, secrets, BuildError};
use crate::oci::{Digest, Reference};
use crate::policy::{causes, Baseline, Promise};
use crate::progress::{timed, Progress, Recorder};
use crate::python::compile::Compiler;
use crate::python::project::Origin;
use crate::python::requirements::Requirements;
use crate::python::resolve::{LockError, Resolver};
use crate::python::supply::Supply;
use crate::sandbox::SandboxError;
use crate::store::{check_name, BuiltLayer, Store, StoreError};
use crate::sys::space;

/// What shall be built.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The function.
    pub directory: PathBuf,
    /// The image's name.
    pub tag: Option<Reference>,
    /// The platform's names for it, besides.
    pub naming: Option<FunctionNaming>,
    /// A variant or a reference; the default variant when there is none.
    pub base: Option<String>,
    /// The Python that the base must have, such as `3.11`; whichever the base has when there is none. A variant that has
    /// another one stands for the one that has it.
    pub python: Option<String>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Files the secret check lets pass.
    pub allow_files: Vec<String>,
    /// Whether packages that have no wheel are built from their source distributions.
    pub allows_sdists: bool,
    /// The processors that they are built for.
    pub baseline: Baseline,
    /// Which file says what the function requires.
    pub origin: Origin,
    /// Promises whose loss does not refuse what a build runs in the sandbox.
    pub allow_degraded: BTreeSet<Promise>,
    /// How old the versions may be that requirements were resolved to; none at all for those of now.
    pub lock_age: Duration,
    /// The image's `created`.
    pub created: Created,
    /// Where packages of the base and system packages come from.
    pub base_settings: BaseSettings,
    /// Which system packages the function may ask for.
    pub allowed_packages: Allowed,
}

/// What was built.
#[derive(Debug, Serialize)]
pub struct BuildReport {
    /// Always 1.
    pub schema: u32,
    /// Always `ok`: a build that fails has another document.
    pub status: &'static str,
    /// The image's name.
    pub reference: Option<String>,
    /// All its names.
    pub references: Vec<String>,
    /// The image.
    pub digest: Digest,
    /// Its layers, base first.
    pub layers: Vec<BuiltLayer>,
    /// Bytes of the layers' blobs.
    pub size: u64,
    /// Bytes of the layers' files.
    pub unpacked_bytes: u64,
    /// The system packages in it, besides those of the base.
    pub system_packages: Vec<SystemPackage>,
    /// Wall-clock seconds per step; steps overlap.
    pub seconds: BTreeMap<&'static str, f64>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What of the directory is no part of the function: the first hundred paths, a directory for all that is in it.
    pub left_out: Vec<String>,
}

/// Builds `request`. `resolver` is asked for only when requirements have to be resolved.
///
/// # Errors
///
/// [`BuildError`]; its [`Kind`](crate::policy::Kind) says whether the function, this machine or an index is at fault. Finished
/// layers stay for the next try, nothing else does, and the tag means what it meant before.
pub fn build(
    store: &Store,
    request: &BuildRequest,
    resolver: &(dyn Fn() -> Result<Resolver, LockError> + Sync),
    progress: &dyn Progress,
) -> Result<BuildReport, BuildError> {
    request.tag.as_ref().map_or(Ok(()), check_name)?;
    request.naming.as_ref().map_or(Ok(()), FunctionNaming::check)?;
    let make = || {
        let _kept = store.locks().building()?;
        make(store, request, resolver, progress)
    };
    let mut made = with_room(store, make).inspect_err(|error| {
        // Others may have left it to whoever comes next to say so.
        let warning = matches!(error, BuildError::Full { .. }).then(|| keep_limits(store, None));
        warning.flatten().iter().for_each(|warning| progress.warn(warning));
    })?;
    if let Some(warning) = keep_limits(store, Some(&made.digest)) {
        progress.warn(&warning);
        made.warnings.push(warning);
    }
    Ok(made)
}

/// How often a build is done again whose layer went with another image.
const AGAIN: usize = 3;

/// Does `work`, and once more when the disk was full and something went to make room: a disk that is full again is full of
/// what stays. Whatever came upon that, the error says it in the same words.
pub(super) fn with_room<T>(store: &Store, work: impl Fn() -> Result<T, BuildError>) -> Result<T, BuildError> {
    // A machine that allows no more namespaces answers with the same number as a full disk.
    let is_of_sandbox = |error: &BuildError| {
        causes(error).any(|cause| matches!(cause.downcast_ref(), Some(SandboxError::UserNamespace { .. })))
    };
    let is_of = |error: &BuildError, is_it: fn(&io::Error) -> bool| {
        !is_of_sandbox(error) && causes(error).any(|cause| cause.downcast_ref::<io::Error>().is_some_and(is_it))
    };
    let done = with_room_made(store, work, &|error| is_of(error, space::has_run_full));
    done.map_err(|error| match is_of(&error, space::is_full) {
        true => BuildError::Full {
            store: store.root().to_owned(),
            source: Box::new(error),
        },
        false => error,
    })
}

fn with_room_made<T>(
    store: &Store,
    work: impl Fn() -> Result<T, BuildError>,
    is_full: &dyn Fn(&BuildError) -> bool,
) -> Result<T, BuildError> {
    let is_lost = |error: &BuildError| {
        causes(error).any(|cause| cause.downcast_ref::<StoreError>().is_some_and(StoreError::is_lost))
    };
    let mut done = work();
    for _ in 0..AGAIN {
        // A layer of an image that was evicted meanwhile; what was made by now is there.
        if !done.as_ref().is_err_and(is_lost) {
            break;
        }
        done = work();
    }
    match done {
        // What comes is known to those alone that asked for room.
        Err(error) if is_full(&error) && store.make_room(0)? => work(),
        other => other,
    }
}

fn make(
    store: &Store,
    request: &BuildRequest,
    resolver: &(dyn Fn() -> Result<Resolver, LockError> + Sync),
    progress: &dyn Progress,
) -> Result<BuildReport, BuildError> {
    let (progress, resolver) = (&Recorder::new(progress), &Resolver::sharing(resolver));
    let compiler = Compiler::new(store, request.allow_degraded.clone())?;
    let supply = Supply {
        store,
        resolver,
        progress,
        lock_age: request.lock_age,
    };
    let function = timed(progress, "read", || Function::read(&request.directory))?;
    if let Some(summary) = &function.left_out_summary {
        progress.step("Leaving out", summary);
    }
    let (name, python) = (request.base.as_deref(), request.python.as_deref());
    let base = WantedBase::choose(name, python, &request.base_settings)?;
    let requirements = function.requirements(request.origin, base.pythons())?;
    let system_wish = function.system_wish()?;
    if let Some(warning) = warn_of_mistaken(|path| function.find_file(path).is_some()) {
        progress.warn(&warning);
    }
    if request.labels.iter().any(|(key, _)| key == CREATED_LABEL) {
        progress.warn(&format!(
            "--label {CREATED_LABEL} is not taken: the build says there when the image was made, and SOURCE_DATE_EPOCH sets that time"
        ));
    }
    for path in secrets::allowed_in_vain(&function, &request.allow_files) {
        progress.warn(&format!(
            "--allow-file {path}: the function has no such file (a path inside its directory, no pattern)"
        ));
    }
    secrets::refuse(&function, &request.allow_files)?;
    let wanted = request.wanted(&base, &requirements, system_wish.as_ref());
    let parts = ensure_parts(&wanted, &supply, &compiler)?;
    let (stdlib, compiled) = timed(progress, "bytecode", || {
        ensure_parts_bytecode(&parts, &supply, &compiler)
    })?;
    let interpreter = interpreter_on(&parts.base, stdlib.clone());
    let source = (&function, request.directory.as_path());
    let make_code = || code::ensure_layers(store, &compiler, &interpreter, source, progress);
    let code = timed(progress, "code", make_code)?;
    // What is no Python is told by its error alone.
    function.warn_of_idle(progress);
    let names = request.names(&code)?;
    let wheels = parts.wheels.iter().map(|made| made.layer.clone()).chain(parts.loader);
    let (system_packages, system) = parts
        .system
        .map_or_else(Default::default, |made| (made.packages, made.layer));
    let base = parts.base.layers.iter().cloned().chain(stdlib).chain(system);
    let layers: Vec<BuiltLayer> = base.chain(wheels).chain(compiled).chain(code).collect();
    let size = check_size(&layers)?;
    if let (false, Some(warning)) = (parts.is_large, large_image(&layers)) {
        progress.warn(&warning);
    }
    let trees: Vec<_> = layers.iter().map(|layer| store.trees().path(&layer.diff_id)).collect();
    imports::warn_of_missing(&function, &trees, &parts.base.env, progress);
    let settings = ImageSettings {
        env: parts.base.env,
        labels: parts.base.labels.into_iter().chain(request.labels()).collect(),
        created: request.created,
        command: vec!["python".to_owned(), "user_function.py".to_owned()],
    };
    let make_image = || ensure_image(store, &layers, &settings, &names);
    let digest = timed(progress, "image", make_image)?;
    Ok(BuildReport {
        schema: 1,
        status: "ok",
        reference: names.first().map(Reference::to_string),
        references: names.iter().map(Reference::to_string).collect(),
        digest,
        size,
        unpacked_bytes: layers.iter().map(|layer| layer.unpacked_bytes).sum(),
        layers,
        system_packages,
        seconds: progress.seconds(),
        warnings: progress.warnings(),
        left_out: function.left_out,
    })
}

impl BuildRequest {
    /// The names of the image whose code's layers are `code`.
    fn names(&self, code: &[BuiltLayer]) -> Result<Vec<Reference>, BuildError> {
        let mut names: Vec<Reference> = self.tag.iter().cloned().collect();
        if let (Some(naming), Some(code)) = (&self.naming, code.first()) {
            names.extend(naming.names(&code.diff_id)?);
        }
        Ok(names)
    }

    /// The labels of the image; what was asked for counts.
    fn labels(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let of_function = self.naming.iter().flat_map(FunctionNaming::labels);
        of_function.chain(self.labels.iter().cloned())
    }

    fn wanted<'a>(
        &'a self,
        base: &'a WantedBase,
        requirements: &'a Requirements,
        system: Option<&'a SystemWish>,
    ) -> Wanted<'a> {
        Wanted {
            base,
            settings: &self.base_settings,
            requirements,
            system: system.map(|wish| (wish, &self.allowed_packages)),
            allow_degraded: &self.allow_degraded,
            sdists: self.allows_sdists.then_some(&self.allow_degraded),
            baseline: self.baseline,
        }
    }
}
