//! `gantry build`: directory -> function -> lock -> layers -> image. Every step is remembered by its key, so that what
//! did not change is not done again, and may be repeated after a crash.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::base::{ensure_base, BaseError, BaseImage, BaseSettings};
use super::group::{group, Group};
use super::sdist::SdistError;
use crate::archive::layer::LayerError;
use crate::build::fetch::{fetch, FetchError, FetchItem};
use crate::build::function::{Function, FunctionError};
use crate::build::image::{self, ImageSettings};
use crate::build::layers::{ensure_layer, find_layer, BuiltLayer, LayerWanted};
use crate::build::lock::{self, Lock, LockError, LockedWheel, Resolver};
use crate::build::ports::{CompileRequest, Compiler, PortError, Progress};
use crate::build::requirements::{RequirementError, Requirements};
use crate::build::secrets::{self, Finding};
use crate::build::wheel::{self, Wheel, WheelError};
use crate::build::{bytecode, code, syntax};
use crate::net::{Client, NetError};
use crate::oci::{Digest, ImageConfig, Reference};
use crate::policy::Bytes;
use crate::store::{MemoKind, Store, StoreError};

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
    /// The image's `created`.
    pub created: SystemTime,
    /// Where packages of the base come from.
    pub base_settings: BaseSettings,
}

/// What was built.
#[derive(Debug, Serialize)]
pub struct BuildReport {
    /// Always 1.
    pub schema: u32,
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

/// What is remembered of a wheel layer besides its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct WheelNote {
    has_sources: bool,
}

pub(super) struct Builder<'a> {
    pub(super) store: &'a Store,
    resolver: &'a (dyn Fn() -> Result<Resolver, LockError> + Sync),
    compiler: &'a dyn Compiler,
    pub(super) progress: &'a dyn Progress,
    seconds: Mutex<BTreeMap<&'static str, f64>>,
    warnings: Mutex<Vec<String>>,
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
    let builder = Builder {
        store,
        resolver,
        compiler,
        progress,
        seconds,
        warnings,
    };
    let layers = builder.layers(request)?;
    builder.finish(request, layers)
}

impl Builder<'_> {
    fn layers(&self, request: &BuildRequest) -> Result<(BaseImage, Vec<BuiltLayer>), BuildError> {
        let function = self.timed("read", || Function::read(&request.directory))?;
        let requirements = Requirements::read(&function)?;
        let findings = secrets::find(&function, &request.allow_files);
        if !findings.is_empty() {
            return Err(BuildError::Secrets { findings });
        }
        let (base, wheels) = if request.allows_sdists {
            // Wheels may have to be built on the base.
            let base = self.base(request)?;
            let wheels = self.wheels(request, &requirements, Some(&base))?;
            (base, wheels)
        } else {
            // The base and the wheels do not depend on each other: on two cores both are made at once.
            let (base, wheels) = std::thread::scope(|scope| {
                let base = scope.spawn(|| self.base(request));
                let wheels = self.wheels(request, &requirements, None);
                (
                    base.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    wheels,
                )
            });
            let wheels = wheels?;
            (base?, wheels)
        };
        let mut layers = base.layers.clone();
        layers.extend(wheels.iter().map(|(layer, _)| layer.clone()));
        let compiled = self.timed("bytecode", || self.wheel_bytecode(&base, &wheels))?;
        layers.extend(compiled);
        layers.extend(self.timed("code", || self.code(request, &base, &function))?);
        Ok((base, layers))
    }

    fn base(&self, request: &BuildRequest) -> Result<BaseImage, BuildError> {
        let (name, settings) = (&request.base, &request.base_settings);
        let make = || {
            ensure_base(
                self.store,
                name,
                &request.python,
                settings,
                self.compiler,
                self.progress,
            )
        };
        Ok(self.timed("base", make)?)
    }

    /// Locks `requirements`, with wheels built for `base` when it is given.
    fn lock(
        &self,
        request: &BuildRequest,
        requirements: &Requirements,
        base: Option<&BaseImage>,
    ) -> Result<Lock, BuildError> {
        if requirements.wanted.is_empty() {
            return Ok(Lock::default());
        }
        let resolver = (self.resolver)()?;
        match base {
            Some(base) => self.lock_with_sdists(request, &resolver, requirements, base),
            None => self.lock_wheels(&resolver, requirements),
        }
    }

    pub(super) fn lock_wheels(&self, resolver: &Resolver, requirements: &Requirements) -> Result<Lock, BuildError> {
        let key = requirements.key(&resolver.settings());
        if let Some(lock) = self.store.memo::<Lock>(MemoKind::Lock, &key)? {
            return Ok(lock);
        }
        self.announce_resolving(resolver, requirements);
        let lock = resolver.resolve(self.store, requirements)?;
        self.store.put_memo(MemoKind::Lock, &key, &lock)?;
        Ok(lock)
    }

    pub(super) fn announce_resolving(&self, resolver: &Resolver, requirements: &Requirements) {
        let count = requirements.wanted.len();
        let object = format!("{count} requirements for Python {}", resolver.python);
        self.progress.step("Resolving", &object);
    }

    fn wheels(
        &self,
        request: &BuildRequest,
        requirements: &Requirements,
        base: Option<&BaseImage>,
    ) -> Result<Vec<(BuiltLayer, WheelNote)>, BuildError> {
        let lock = self.timed("lock", || self.lock(request, requirements, base))?;
        let size = lock::check_size(&lock)?;
        if size > lock::LARGE_IMAGE {
            self.warn(format!(
                "the wheels have {}; the largest are {}",
                Bytes(size),
                lock::largest(&lock)
            ));
        }
        self.noted_wheel_layers(&lock)
    }

    /// The layers of `lock`, made when they are not there.
    pub(super) fn wheel_layers(&self, lock: &Lock) -> Result<Vec<BuiltLayer>, BuildError> {
        let noted = self.noted_wheel_layers(lock)?;
        Ok(noted.into_iter().map(|(layer, _)| layer).collect())
    }

    fn noted_wheel_layers(&self, lock: &Lock) -> Result<Vec<(BuiltLayer, WheelNote)>, BuildError> {
        let groups = group(lock);
        let missing: Vec<&LockedWheel> = {
            let mut missing = Vec::new();
            for group in &groups {
                let (key, reason) = (group.key(), group.reason());
                if find_layer::<WheelNote>(
                    self.store,
                    LayerWanted {
                        kind: MemoKind::Wheel,
                        key: &key,
                        reason: &reason,
                    },
                )?
                .is_none()
                {
                    missing.extend(group.0.iter());
                }
            }
            missing
        };
        self.timed("download", || self.download(&missing))?;
        self.timed("wheels", || self.each(&groups, |group| self.wheel_layer(group)))
    }

    fn download(&self, wheels: &[&LockedWheel]) -> Result<(), BuildError> {
        let item = |wheel: &&LockedWheel| FetchItem {
            name: format!("{} {}", wheel.name, wheel.version),
            url: wheel.url.clone(),
            size: wheel.size,
            sha256: wheel.sha256,
        };
        let missing = wheels
            .iter()
            .filter(|wheel| self.store.find_download(&wheel.sha256, wheel.size).is_none());
        let items: Vec<FetchItem> = missing.map(item).collect();
        if !items.is_empty() {
            fetch(self.store, &Client::new()?, &items, self.progress)?;
        }
        Ok(())
    }

    fn wheel_layer(&self, group: &Group) -> Result<(BuiltLayer, WheelNote), BuildError> {
        let (key, reason) = (group.key(), group.reason());
        let wanted = LayerWanted {
            kind: MemoKind::Wheel,
            key: &key,
            reason: &reason,
        };
        ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            self.progress.step("Building", &reason);
            let open = |locked: &LockedWheel| {
                let missing = || StoreError::NoBlob { digest: locked.sha256 };
                let file = self
                    .store
                    .find_download(&locked.sha256, locked.size)
                    .ok_or_else(missing)?;
                Ok::<_, BuildError>(Wheel::open(file, &locked.file_name)?)
            };
            let wheels = group.0.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            let note = WheelNote {
                has_sources: wheels.iter().any(Wheel::has_sources),
            };
            Ok((wheel::write_layer(&wheels, blob, Some(tree))?, note))
        })
    }

    fn wheel_bytecode(
        &self,
        base: &BaseImage,
        wheels: &[(BuiltLayer, WheelNote)],
    ) -> Result<Vec<BuiltLayer>, BuildError> {
        let mut layers = Vec::new();
        for (layer, _) in wheels.iter().filter(|(_, note)| note.has_sources) {
            let reason = format!("bytecode of {}", layer.reason);
            let (compiled, _) = self.bytecode(base, layer, &reason, "/opt/py/site", 0)?;
            layers.push(compiled);
        }
        Ok(layers)
    }

    fn bytecode(
        &self,
        base: &BaseImage,
        sources: &BuiltLayer,
        reason: &str,
        root: &str,
        owner: u32,
    ) -> Result<(BuiltLayer, Vec<(String, String)>), BuildError> {
        let key = bytecode::bytecode_key(&sources.descriptor.digest, &base.interpreter);
        let wanted = LayerWanted {
            kind: MemoKind::Bytecode,
            key: &key,
            reason,
        };
        ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            self.progress.step("Compiling", &sources.reason);
            let mut lowers = vec![self.store.layer_path(&sources.diff_id)];
            lowers.extend(
                base.layers
                    .iter()
                    .rev()
                    .map(|layer| self.store.layer_path(&layer.diff_id)),
            );
            let request = CompileRequest {
                lowers,
                python: base.python.clone(),
                roots: vec![root.to_owned()],
                skip: Vec::new(),
            };
            let compiled = self.compiler.compile(&request)?;
            if owner == code::OWNER {
                check_syntax(&compiled.failed)?;
            }
            Ok::<_, BuildError>((
                bytecode::write_layer(&compiled, owner, blob, Some(tree))?,
                compiled.failed,
            ))
        })
    }

    fn code(
        &self,
        request: &BuildRequest,
        base: &BaseImage,
        function: &Function,
    ) -> Result<Vec<BuiltLayer>, BuildError> {
        let key = function.key();
        let wanted = LayerWanted {
            kind: MemoKind::Code,
            key: &key,
            reason: "code",
        };
        let (layer, ()) = ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            self.progress
                .step("Building", &format!("code of {}", request.directory.display()));
            Ok::<_, BuildError>((code::write_layer(function, blob, Some(tree))?, ()))
        })?;
        let (compiled, _) = self.bytecode(base, &layer, "bytecode of code", "/app", code::OWNER)?;
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
            if self.store.find_ref(tag)? != Some(digest) {
                self.store.set_ref(tag, &digest)?;
            }
        }
        let mut seconds = self.seconds.into_inner().unwrap_or_default();
        seconds.insert("image", rounded(started.elapsed().as_secs_f64()));
        Ok(BuildReport {
            schema: 1,
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
        let Some(digest) = self.store.find_ref(tag)? else {
            return Ok(None);
        };
        let Ok(image) = self.store.open_image(&digest) else {
            return Ok(None);
        };
        let same_layers = image
            .manifest
            .layers
            .iter()
            .eq(layers.iter().map(|layer| &layer.descriptor));
        let same_time = image.config.created == config.created;
        let same = same_layers && image::same_but_for_time(&image.config, config);
        Ok((same && (same_time || !is_fixed(request.created))).then_some(digest))
    }

    /// Calls `make` for each group, two at a time, and returns the results in order.
    fn each<T: Sync, R: Send>(
        &self,
        items: &[T],
        make: impl Fn(&T) -> Result<R, BuildError> + Sync,
    ) -> Result<Vec<R>, BuildError> {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let made: Mutex<Vec<Option<Result<R, BuildError>>>> = Mutex::new(items.iter().map(|_| None).collect());
        let work = || loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(item) = items.get(number) else { return };
            let result = make(item);
            if let Some(slot) = made.lock().ok().as_mut().and_then(|made| made.get_mut(number)) {
                *slot = Some(result);
            }
        };
        std::thread::scope(|scope| {
            if items.len() > 1 {
                scope.spawn(work);
            }
            work();
        });
        made.into_inner().unwrap_or_default().into_iter().flatten().collect()
    }

    fn timed<T>(&self, step: &'static str, act: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = act();
        if let Ok(mut seconds) = self.seconds.lock() {
            seconds.insert(step, rounded(started.elapsed().as_secs_f64()));
        }
        result
    }

    pub(super) fn warn(&self, text: String) {
        self.progress.warn(&text);
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.push(text);
        }
    }
}

/// `SOURCE_DATE_EPOCH` gives whole seconds; so does [`crate::sys::clock::now`] only by chance.
fn is_fixed(created: SystemTime) -> bool {
    created
        .duration_since(SystemTime::UNIX_EPOCH)
        .is_ok_and(|since| since.subsec_nanos() == 0)
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
