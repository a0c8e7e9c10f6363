//! `gantry build`: directory -> function -> lock -> layers -> image. Every step is remembered by its key, so that what
//! did not change is not done again, and may be repeated after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::base::{ensure_base, ensure_stdlib, BaseError, BaseImage, BaseSettings};
use super::compile::ensure_bytecode;
use super::locks::LOCK_AGE;
use super::overlap::OverlapError;
use super::sdist::{Bench, SdistError};
use super::wheels::{WheelLayer, WheelMaker};
use super::BASE_PYTHON;
use crate::archive::layer::LayerError;
use crate::build::code::CodeNote;
use crate::build::fetch::FetchError;
use crate::build::function::{Function, FunctionError};
use crate::build::image::{self, Created, ImageSettings};
use crate::build::layers::{ensure_layer, BuiltLayer, LayerWanted};
use crate::build::lock::{self, LockError, Resolver};
use crate::build::pins::PinnedWheel;
use crate::build::ports::{Compiler, PortError};
use crate::build::requirements::{RequirementError, Requirements};
use crate::build::secrets::{self, Finding};
use crate::build::wheel::WheelError;
use crate::build::{base, code, syntax};
use crate::net::NetError;
use crate::oci::{Digest, ImageConfig, Reference};
use crate::policy::{Bytes, Kind, Promise};
use crate::progress::Progress;
use crate::store::{Store, StoreError};

/// What shall be built.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The function.
    pub directory: PathBuf,
    /// The image's name.
    pub tag: Option<Reference>,
    /// A variant or a reference.
    pub base: String,
    /// Python version.
    pub python: String,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Files the secret check lets pass.
    pub allow_files: Vec<String>,
    /// Whether packages that have no wheel are built from their source distributions.
    pub allows_sdists: bool,
    /// Promises whose loss does not refuse what a build runs in the sandbox.
    pub allow_degraded: BTreeSet<Promise>,
    /// How old the versions may be that requirements were resolved to; none at all for those of now.
    pub lock_age: Duration,
    /// The image's `created`.
    pub created: Created,
    /// Where packages of the base come from.
    pub base_settings: BaseSettings,
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
    /// The image.
    pub digest: Digest,
    /// Its layers, base first.
    pub layers: Vec<BuiltLayer>,
    /// Bytes of the layers' blobs.
    pub size: u64,
    /// Bytes of the layers' files.
    pub unpacked_bytes: u64,
    /// Wall-clock seconds per step; steps overlap.
    pub seconds: BTreeMap<&'static str, f64>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The directory.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// A requirement.
    #[error(transparent)]
    Requirement(#[from] RequirementError),
    /// Something that looks like a secret.
    #[error("refuse to build: these files look like secrets: {}", .findings.iter().map(Finding::to_string).collect::<Vec<_>>().join(", "))]
    Secrets {
        /// What and where.
        findings: Vec<Finding>,
    },
    /// The function does not compile.
    #[error("compile the function:\n{rendered}")]
    Syntax {
        /// File, line, text and caret.
        rendered: String,
    },
    /// The resolver.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A package that has no wheel.
    #[error(transparent)]
    Sdist(#[from] SdistError),
    /// The base.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A download.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A wheel.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// Wheels that do not go together.
    #[error(transparent)]
    Overlap(#[from] OverlapError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Bytecode.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The whole is too large.
    #[error("build image: it has {} of at most {}", Bytes(*size), Bytes(lock::MAX_IMAGE))]
    TooLarge {
        /// Bytes of its layers.
        size: u64,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BuildError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Secrets { .. } | Self::TooLarge { .. } => Kind::Refused,
            Self::Syntax { .. } => Kind::Failed,
            Self::Layer(source) => source.kind(),
            Self::Function(source) => source.kind(),
            Self::Requirement(source) => source.kind(),
            Self::Lock(source) => source.kind(),
            Self::Sdist(source) => source.kind(),
            Self::Base(source) => source.kind(),
            Self::Net(source) => source.kind(),
            Self::Fetch(source) => source.kind(),
            Self::Wheel(source) => source.kind(),
            Self::Overlap(source) => source.kind(),
            Self::Port(source) => source.kind(),
            Self::Store(source) => source.kind(),
        }
    }
}

struct Builder<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
    wheels: WheelMaker<'a>,
    seconds: Mutex<BTreeMap<&'static str, f64>>,
    warnings: Mutex<Vec<String>>,
    /// Whether the wheels alone made the image large, which is said before they are downloaded.
    warned_of_size: AtomicBool,
}

/// Builds `request`. `resolver` is asked for only when requirements have to be resolved.
pub fn build(
    store: &Store,
    request: &BuildRequest,
    resolver: &(dyn Fn() -> Result<Resolver, LockError> + Sync),
    compiler: &dyn Compiler,
    progress: &dyn Progress,
) -> Result<BuildReport, BuildError> {
    let (seconds, warnings) = (Mutex::default(), Mutex::default());
    let wheels = WheelMaker {
        store,
        resolver,
        compiler,
        progress,
        lock_age: request.lock_age,
    };
    let builder = Builder {
        store,
        progress,
        wheels,
        seconds,
        warnings,
        warned_of_size: AtomicBool::new(false),
    };
    let layers = builder.layers(request)?;
    builder.finish(request, layers)
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

/// Makes the variant `name`, with the layers of its wheels, unless it is there.
pub fn build_base(
    store: &Store,
    name: &str,
    settings: &BaseSettings,
    resolver: &(dyn Fn() -> Result<Resolver, LockError> + Sync),
    compiler: &dyn Compiler,
    progress: &dyn Progress,
) -> Result<BaseReport, BuildError> {
    let base = ensure_base(store, name, BASE_PYTHON, settings, progress)?;
    let variant = base::find_variant(name).map_err(BaseError::from)?;
    let pins = variant.map(|variant| variant.wheels).unwrap_or_default();
    let maker = WheelMaker {
        store,
        resolver,
        compiler,
        progress,
        lock_age: LOCK_AGE,
    };
    let set = maker.choose(&Requirements::default(), &pins, None)?;
    maker.download(&set)?;
    let (wheels, _) = maker.layers(&set)?;
    let (stdlib, compiled) = maker.bytecode(&base, &wheels)?;
    let mut layers = base.layers.clone();
    layers.extend(stdlib);
    layers.extend(wheels.iter().map(|made| made.layer.clone()));
    layers.extend(compiled);
    Ok(BaseReport {
        schema: 1,
        status: "ok",
        name: base.name,
        digest: base.interpreter,
        layers,
        warnings: base.warnings,
    })
}

impl Builder<'_> {
    fn layers(&self, request: &BuildRequest) -> Result<(BaseImage, Vec<BuiltLayer>), BuildError> {
        let function = self.timed("read", || Function::read(&request.directory))?;
        let requirements = Requirements::read(&function)?;
        let findings = secrets::find(&function, &request.allow_files);
        if !findings.is_empty() {
            return Err(BuildError::Secrets { findings });
        }
        let variant = base::find_variant(&request.base).map_err(BaseError::from)?;
        let pins = variant.map(|variant| variant.wheels).unwrap_or_default();
        let (base, wheels) = if request.allows_sdists {
            // Wheels may have to be built on the base.
            let mut base = self.base(request)?;
            // Build backends import much of it.
            base.layers
                .extend(ensure_stdlib(self.store, &base, self.wheels.compiler, self.progress)?);
            let bench = Bench {
                base: &base,
                settings: &request.base_settings,
                allow_degraded: &request.allow_degraded,
            };
            let wheels = self.wheels(&requirements, &pins, Some(&bench))?;
            (base, wheels)
        } else {
            // The base and the wheels do not depend on each other: on two cores both are made at once.
            let (base, wheels) = std::thread::scope(|scope| {
                let base = scope.spawn(|| self.base(request));
                let wheels = self.wheels(&requirements, &pins, None);
                (
                    base.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    wheels,
                )
            });
            (base?, wheels?)
        };
        base.warnings.iter().for_each(|warning| self.warn(warning.clone()));
        let missing = self.wheels.missing_libraries(&base, &wheels)?;
        missing.into_iter().for_each(|warning| self.warn(warning));
        let (stdlib, compiled) = self.timed("bytecode", || self.wheels.bytecode(&base, &wheels))?;
        let mut layers = base.layers.clone();
        layers.extend(stdlib.filter(|stdlib| layers.iter().all(|layer| layer.diff_id != stdlib.diff_id)));
        layers.extend(wheels.iter().map(|made| made.layer.clone()));
        layers.extend(compiled);
        layers.extend(self.timed("code", || self.code(request, &base, &function))?);
        Ok((base, layers))
    }

    fn base(&self, request: &BuildRequest) -> Result<BaseImage, BuildError> {
        let (name, settings) = (&request.base, &request.base_settings);
        let make = || ensure_base(self.store, name, &request.python, settings, self.progress);
        Ok(self.timed("base", make)?)
    }

    /// The layers of all wheels: those of the requirements and those of the base.
    fn wheels(
        &self,
        requirements: &Requirements,
        pins: &[PinnedWheel],
        bench: Option<&Bench<'_>>,
    ) -> Result<Vec<WheelLayer>, BuildError> {
        let maker = &self.wheels;
        let set = self.timed("lock", || maker.choose(requirements, pins, bench))?;
        let size = lock::check_size(&set.wheels)?;
        if size > lock::LARGE_IMAGE {
            self.warn(format!(
                "the wheels have {}; the largest are {}",
                Bytes(size),
                lock::largest(&set.wheels)
            ));
            self.warned_of_size.store(true, Ordering::Relaxed);
        }
        set.warnings.iter().for_each(|warning| self.warn(warning.clone()));
        self.timed("download", || maker.download(&set))?;
        let (layers, warnings) = self.timed("wheels", || maker.layers(&set))?;
        warnings.into_iter().for_each(|warning| self.warn(warning));
        Ok(layers)
    }

    fn code(
        &self,
        request: &BuildRequest,
        base: &BaseImage,
        function: &Function,
    ) -> Result<Vec<BuiltLayer>, BuildError> {
        let key = function.key();
        let wanted = LayerWanted {
            key: &key,
            reason: "code",
        };
        let (layer, _) = ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            self.progress
                .step("Building", &format!("code of {}", request.directory.display()));
            Ok::<_, BuildError>((code::write_layer(function, blob, Some(tree))?, CodeNote))
        })?;
        let wanted = (&layer, "bytecode of code");
        let compile = |request: &_| {
            let compiled = self.wheels.compiler.compile(request)?;
            check_syntax(&compiled.failed)?;
            Ok::<_, BuildError>(compiled)
        };
        let progress = self.progress;
        let compiled = ensure_bytecode(self.store, base, wanted, "/app", code::OWNER, progress, compile)?;
        Ok(vec![layer, compiled])
    }

    fn finish(
        self,
        request: &BuildRequest,
        (base, layers): (BaseImage, Vec<BuiltLayer>),
    ) -> Result<BuildReport, BuildError> {
        let size = layers.iter().map(|layer| layer.descriptor.size).sum();
        if size > lock::MAX_IMAGE {
            return Err(BuildError::TooLarge { size });
        }
        if let (false, Some(warning)) = (self.warned_of_size.load(Ordering::Relaxed), large_image(&layers)) {
            self.warn(warning);
        }
        let started = Instant::now();
        let mut labels = base.labels.clone();
        labels.extend(request.labels.iter().cloned());
        let settings = ImageSettings {
            env: base.env.clone(),
            labels,
            created: request.created,
            command: vec!["python".to_owned(), "user_function.py".to_owned()],
        };
        let config = image::config(&layers, &settings);
        let digest = match self.same_image(request, &config, &layers)? {
            Some(same) => same,
            None => {
                let (config, config_size) = self.store.put_config(&config)?;
                self.store
                    .put_manifest(&image::manifest(&layers, &config, config_size))?
            }
        };
        // From here on the image is used by its name; until then the lease keeps it from being collected.
        let _lease = self.store.lease(&digest)?;
        self.store.ensure_snapshot(&self.store.open_image(&digest)?)?;
        if let Some(tag) = &request.tag {
            self.store.ensure_ref(tag, &digest)?;
        }
        let mut seconds = self.seconds.into_inner().unwrap_or_default();
        seconds.insert("image", rounded(started.elapsed().as_secs_f64()));
        Ok(BuildReport {
            schema: 1,
            status: "ok",
            reference: request.tag.as_ref().map(Reference::to_string),
            digest,
            size,
            unpacked_bytes: layers.iter().map(|layer| layer.unpacked_bytes).sum(),
            layers,
            seconds,
            warnings: self.warnings.into_inner().unwrap_or_default(),
        })
    }

    /// The image that has the name already, when only the time would differ: building again is no change.
    fn same_image(
        &self,
        request: &BuildRequest,
        config: &ImageConfig,
        layers: &[BuiltLayer],
    ) -> Result<Option<Digest>, BuildError> {
        let Some(tag) = &request.tag else { return Ok(None) };
        let Ok(Some(digest)) = self.store.find_ref(tag) else {
            return Ok(None);
        };
        let Ok(image) = self.store.open_image(&digest) else {
            return Ok(None);
        };
        let there = image.manifest.layers.iter();
        let same_layers = there.eq(layers.iter().map(|layer| &layer.descriptor));
        let same = same_layers && image::is_no_change(&image.config, config, request.created);
        Ok(same.then_some(digest))
    }

    fn timed<T>(&self, step: &'static str, act: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = act();
        if let Ok(mut seconds) = self.seconds.lock() {
            seconds.insert(step, rounded(started.elapsed().as_secs_f64()));
        }
        result
    }

    fn warn(&self, text: String) {
        self.progress.warn(&text);
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.push(text);
        }
    }
}

/// What the user should know of an image that is larger than most, by the bytes that are pushed and pulled.
fn large_image(layers: &[BuiltLayer]) -> Option<String> {
    let size: u64 = layers.iter().map(|layer| layer.descriptor.size).sum();
    let mut largest: Vec<&BuiltLayer> = layers.iter().collect();
    largest.sort_by_key(|layer| std::cmp::Reverse(layer.descriptor.size));
    let named = |layer: &&BuiltLayer| format!("{} ({})", layer.reason, Bytes(layer.descriptor.size));
    let largest: Vec<String> = largest.iter().take(3).map(named).collect();
    (size > lock::LARGE_IMAGE).then(|| {
        format!(
            "the image has {}; the largest layers are {}",
            Bytes(size),
            largest.join(", ")
        )
    })
}

fn check_syntax(failed: &[(String, String)]) -> Result<(), BuildError> {
    match syntax::render(failed, "/app") {
        Some(rendered) => Err(BuildError::Syntax { rendered }),
        None => Ok(()),
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{media_type, Descriptor, Hasher};

    #[test]
    fn an_image_is_large_by_all_of_its_layers() {
        let layer = |reason: &str, size| BuiltLayer {
            descriptor: Descriptor::new(media_type::LAYER_GZIP, Digest::of(reason.as_bytes()), size),
            diff_id: Hasher::new().diff_id(),
            reason: reason.to_owned(),
            unpacked_bytes: 0,
            reused: false,
        };
        let mut layers = vec![
            layer("base", 200_000_000),
            layer("code", 50_000_000),
            layer("wheel a", 49_000_000),
        ];
        assert_eq!(large_image(&layers), None);
        layers.push(layer("bytecode", 2_000_000));
        let warning = large_image(&layers).unwrap();
        for part in ["301.0 MB", "base (200.0 MB), code (50.0 MB), wheel a (49.0 MB)"] {
            assert!(warning.contains(part), "{warning}");
        }
    }
}
