//! Base images: a variant of ours, made natively of pinned Debian packages on first use, or any image with a Python that
//! is in the store or in a layout.
//!
//! ```text
//! name -> definition -> packages (debian archive -> assemble) -> BaseImage
//!      -> reference  -> image of the store -> foreign (what it lacks) -> BaseImage
//! ```

mod assemble;
mod debian;
mod definition;
mod definitions;
mod foreign;
mod interpreter;
mod loader_cache;
mod loader_layer;
mod packages;
mod relock;
mod synthesise;
mod system;
mod usrmerge;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use assemble::AssembleError;
pub(crate) use debian::{MirrorError, SignatureError};
pub(crate) use definition::{Variant, VariantError};
pub(crate) use definitions::{default_variant, Definitions};
pub(crate) use loader_layer::ensure_loader_layer;
pub(crate) use relock::RelockError;
pub(crate) use system::read_fuzzed_script;
pub(crate) use system::{
    check_allowed, ensure_system, warn_of_mistaken, Shipped, SystemError, SystemLayer, SystemRequest, SystemWish,
    FILE as SYSTEM_FILE,
};
pub use system::{Allowed, SystemPackage};

use crate::archive::layer::LayerError;
use crate::net::{Address, NetError};
use crate::oci::{Digest, ParseReferenceError, Reference};
use crate::policy::Kind;
use crate::progress::Progress;
use crate::store::{ensure_layer, BuiltLayer, Image, LayerStack, LayerWanted, Lease, Store, StoreError};
use crate::transfer::{ensure_copied, FetchError, Layout, Registries, Remote, TransferError};
use definition::BaseNote;
use foreign::Foreign;
use packages::Packages;

/// Where packages come from.
#[derive(Debug, Clone, Default)]
pub struct BaseSettings {
    /// Configured Debian archive.
    pub mirror: Option<Address>,
    /// Configured security archive.
    pub security_mirror: Option<Address>,
    /// Configured keys of both.
    pub keyring: Option<PathBuf>,
    /// Configured mirror of the archives that bring interpreters.
    pub interpreter_mirror: Option<Address>,
    /// Configured directory of more definitions.
    pub definitions: Option<PathBuf>,
    /// Where bases of registries come from.
    pub registries: Registries,
}

/// A base, ready to build on.
#[derive(Debug, Clone)]
pub(crate) struct BaseImage {
    /// What it was asked for as.
    pub name: String,
    /// Its layers, in the store and unpacked, bottom first.
    pub layers: Vec<BuiltLayer>,
    /// Absolute directory inside of the standard library that has no bytecode yet; none of a foreign base, which brings
    /// its own.
    pub standard_library: Option<String>,
    /// Absolute path of the interpreter inside.
    pub python: String,
    /// Its version, such as `3.11`.
    pub version: String,
    /// The minor version of its C library, glibc.
    pub glibc: u32,
    /// The release of Debian, when it is one.
    pub suite: Option<String>,
    /// Whether it has the headers of its Python.
    pub has_headers: bool,
    /// Names the interpreter for bytecode.
    pub interpreter: Digest,
    /// Environment of its configuration.
    pub env: Vec<String>,
    /// Labels of its configuration.
    pub labels: BTreeMap<String, String>,
    /// Keeps somebody's image from evictions while it is built on.
    pub _lease: Option<Arc<Lease>>,
}

impl BaseImage {
    /// The absolute directory that its Python is installed in.
    fn prefix(&self) -> &str {
        self.python.split("/bin/").next().unwrap_or_default()
    }
}

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The name is neither a variant nor a reference.
    #[error("use base {name:?}: it is neither a variant ({variants}) nor a reference")]
    Name {
        name: String,
        /// What there is.
        variants: String,
        /// Why it is no reference.
        source: ParseReferenceError,
    },
    /// Not in the store.
    #[error("use base {reference}: it is neither a variant ({variants}) nor an image of the store")]
    Unknown {
        reference: String,
        /// What there is.
        variants: String,
    },
    /// It has another Python or none.
    #[error("use base {name}: it has no Python {python} in /usr/local/bin or /usr/bin")]
    NoPython {
        name: String,
        /// What was wanted.
        python: String,
    },
    /// Wheels are made for glibc.
    #[error("use base {name}: it has no glibc, which wheels for Linux need (looked for {loaders})")]
    NoGlibc {
        name: String,
        /// What was looked for.
        loaders: String,
    },
    /// A file of it is not what a base has there.
    #[error("use base {name}: /{path}: {reason}")]
    Refused {
        name: String,
        path: String,
        /// What it is.
        reason: &'static str,
    },
    /// Its layers cannot be looked at.
    #[error("use base {name}: read /{path}")]
    Read {
        name: String,
        path: String,
        source: io::Error,
    },
    /// No definition has compilers and headers for it.
    #[error("use base {name}: there is no toolchain for its Python {python}, so packages that have no wheel cannot be built")]
    NoToolchain {
        name: String,
        /// Its Python.
        python: String,
    },
    /// No variant has that Python.
    #[error(
        "use Python {wanted}: bases have Python {pythons}, by these two numbers; name an image that has it with --base"
    )]
    UnknownPython {
        wanted: String,
        /// What there is.
        pythons: String,
    },
    /// Others have it, but with other things in them.
    #[error("use Python {wanted}: no variant is like {name} with it; those that have it are {variants}: name one with --base")]
    NoneLikeIt {
        name: String,
        wanted: String,
        /// Those that have that Python.
        variants: String,
    },
    /// The definition is damaged.
    #[error("{0}")]
    Variant(#[from] VariantError),
    /// This machine knows no archive.
    #[error("{0}")]
    Mirror(#[from] MirrorError),
    /// The network failed.
    #[error("{0}")]
    Net(#[from] NetError),
    /// A package cannot be downloaded.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The archive's index gives no lock.
    #[error("{0}")]
    Relock(#[from] RelockError),
    /// The archive of an interpreter cannot be downloaded.
    #[error("download {file}, the interpreter of base {name}")]
    Interpreter {
        name: String,
        file: String,
        source: NetError,
    },
    /// It is another file than the one that is pinned.
    #[error("download {file}, the interpreter of base {name}: it has {got}, the definition pins {expected}")]
    OtherInterpreter {
        name: String,
        file: String,
        got: Digest,
        expected: Digest,
    },
    /// The packages do not make a base.
    #[error("{0}")]
    Assemble(#[from] AssembleError),
    /// A layer cannot be written.
    #[error("{0}")]
    Layer(#[from] LayerError),
    /// The image layout cannot be read.
    #[error("{0}")]
    Layout(#[from] TransferError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl BaseError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name { .. }
            | Self::Unknown { .. }
            | Self::NoPython { .. }
            | Self::NoGlibc { .. }
            | Self::Refused { .. }
            | Self::Read { .. }
            | Self::OtherInterpreter { .. }
            | Self::NoToolchain { .. }
            | Self::NoneLikeIt { .. }
            | Self::UnknownPython { .. } => Kind::Failed,
            Self::Layer(source) => source.kind(),
            Self::Variant(source) => source.kind(),
            Self::Mirror(source) => source.kind(),
            Self::Net(source) | Self::Interpreter { source, .. } => source.kind(),
            Self::Fetch(source) => source.kind(),
            Self::Relock(source) => source.kind(),
            Self::Assemble(source) => source.kind(),
            Self::Layout(source) => source.kind(),
            Self::Store(source) => source.kind(),
        }
    }
}

/// Everything a base is made with.
struct Maker<'a> {
    store: &'a Store,
    settings: &'a BaseSettings,
    progress: &'a dyn Progress,
}

/// What a base was asked for as, understood.
#[derive(Debug, Clone)]
pub(crate) enum Chosen {
    /// One of ours.
    Variant(Box<Variant>),
    /// Somebody's image; the versions of Python of which it must have one.
    Foreign(Reference, Vec<String>),
}

/// The base called `name` (a variant or a reference; none for the default) with Python `python`: a variant that has
/// another one stands for the one that has it.
pub(crate) fn choose(definitions: &Definitions, name: Option<&str>, python: Option<&str>) -> Result<Chosen, BaseError> {
    let default = default_variant();
    let name = name.unwrap_or(default);
    if let Some(variant) = definitions.find(name)? {
        let Some(wanted) = python else {
            return Ok(Chosen::Variant(variant.into()));
        };
        if let Some(other) = definitions.find_other(&variant, wanted)? {
            return Ok(Chosen::Variant(other.into()));
        }
        let mut variants = definitions.variants()?;
        variants.retain(|variant| variant.definition.python == wanted);
        let wanted = wanted.to_owned();
        return Err(match variants.as_slice() {
            [] => BaseError::UnknownPython {
                wanted,
                pythons: definitions.pythons()?.join(", "),
            },
            some => BaseError::NoneLikeIt {
                name: variant.name,
                wanted,
                variants: listed(some),
            },
        });
    }
    let reference: Reference = name.parse().map_err(|source| BaseError::Name {
        name: name.to_owned(),
        variants: names(definitions),
        source,
    })?;
    let pythons = match python {
        Some(python) => vec![python.to_owned()],
        None => definitions.pythons()?,
    };
    Ok(Chosen::Foreign(reference, pythons))
}

/// The names of all variants, for people.
fn names(definitions: &Definitions) -> String {
    listed(&definitions.variants().unwrap_or_default())
}

fn listed(variants: &[Variant]) -> String {
    let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
    names.join(", ")
}

fn names_in(settings: &BaseSettings) -> String {
    let definitions = Definitions::load(settings.definitions.as_deref()).unwrap_or_default();
    names(&definitions)
}

/// The base that was `chosen`, made or imported when it is not there. The wheels of a variant are not among its layers:
/// they belong with those of the function.
pub(crate) fn ensure_base(
    store: &Store,
    chosen: &Chosen,
    settings: &BaseSettings,
    progress: &dyn Progress,
) -> Result<BaseImage, BaseError> {
    let maker = Maker {
        store,
        settings,
        progress,
    };
    match chosen {
        Chosen::Variant(variant) => maker.variant(variant),
        Chosen::Foreign(reference, pythons) => maker.foreign(reference, pythons),
    }
}

/// What source distributions are built with on `base`, which was `chosen`.
pub(crate) fn find_toolchain(
    definitions: &Definitions,
    chosen: &Chosen,
    base: &BaseImage,
) -> Result<Variant, BaseError> {
    let python = base.version.as_str();
    let found = match chosen {
        Chosen::Variant(variant) => definitions.toolchain(python, variant.definition.interpreter.as_ref())?,
        Chosen::Foreign(..) => {
            let suite = base.suite.as_deref().unwrap_or_default();
            match definitions.toolchain_of_image(python, base.prefix(), suite, base.has_headers)? {
                Some(found) => Some(found),
                // It is for another release, which is said once a package has to be built.
                None => definitions.toolchain(python, None)?,
            }
        }
    };
    found.ok_or_else(|| BaseError::NoToolchain {
        name: base.name.clone(),
        python: python.to_owned(),
    })
}

/// The layer of `toolchain`, which source distributions are built with, made when it is not there.
pub(crate) fn ensure_toolchain(
    store: &Store,
    toolchain: &Variant,
    settings: &BaseSettings,
    progress: &dyn Progress,
) -> Result<BuiltLayer, BaseError> {
    let packages = Packages {
        store,
        settings,
        progress,
    };
    packages.ensure(toolchain)
}

impl Maker<'_> {
    fn variant(&self, variant: &Variant) -> Result<BaseImage, BaseError> {
        let packages = Packages {
            store: self.store,
            settings: self.settings,
            progress: self.progress,
        };
        let layer = packages.ensure(variant)?;
        let (version, prefix) = (&variant.definition.python, variant.definition.prefix());
        Ok(BaseImage {
            name: variant.name.clone(),
            interpreter: layer.descriptor.digest,
            layers: vec![layer],
            standard_library: Some(format!("{prefix}/lib/python{version}")),
            python: format!("{prefix}/bin/python{version}"),
            version: version.clone(),
            glibc: variant.glibc()?,
            suite: Some(variant.definition.suite.clone()),
            has_headers: false,
            env: vec![
                "PATH=/opt/py/bin:/usr/local/bin:/usr/bin:/bin".to_owned(),
                "LANG=C.UTF-8".to_owned(),
            ],
            labels: BTreeMap::new(),
            _lease: None,
        })
    }

    fn foreign(&self, reference: &Reference, pythons: &[String]) -> Result<BaseImage, BaseError> {
        let name = &reference.to_string();
        let image = match reference {
            // Every build on it asks: what was imported once is not read again.
            Reference::Layout { dir, tag } => {
                let layout = Layout::new(self.store, dir);
                ensure_copied(self.store, &layout, &layout.find(tag.as_deref())?, self.progress)?.image
            }
            Reference::Registry { .. } => match self.store.names().find(reference)? {
                Some(digest) => self.store.images().open(&digest)?,
                None => self.pull(reference)?,
            },
            _ => {
                let digest = self.store.names().find(reference)?;
                self.store.images().open(&digest.ok_or_else(|| BaseError::Unknown {
                    reference: reference.to_string(),
                    variants: names_in(self.settings),
                })?)?
            }
        };
        let lease = self.store.locks().lease(&image.digest)?;
        self.store.images().settle(&image)?;
        let mut layers = base_layers(self.store, &image);
        let visible = self.store.trees().visible(&image.config.rootfs.diff_ids).iter().rev();
        let stack = LayerStack::open(visible.map(|diff_id| self.store.trees().path(diff_id))).map_err(|source| {
            BaseError::Read {
                name: name.to_owned(),
                path: String::new(),
                source,
            }
        })?;
        let mut env = image.config.config.env.clone().unwrap_or_default();
        // A later entry wins, as in the sandbox.
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let foreign = Foreign::survey(name, &stack, pythons, path)?;
        env.retain(|entry| !entry.starts_with("PATH="));
        env.insert(0, format!("PATH={}", foreign.path));
        if !foreign.is_complete() {
            layers.push(self.glue(&image, &foreign)?);
        }
        Ok(BaseImage {
            name: name.to_owned(),
            layers,
            python: foreign.python,
            version: foreign.version,
            glibc: foreign.glibc,
            suite: foreign.suite,
            has_headers: foreign.has_headers,
            standard_library: None,
            interpreter: image.digest,
            env,
            labels: image.config.config.labels.clone().unwrap_or_default(),
            _lease: Some(Arc::new(lease)),
        })
    }

    /// Brings a base from its registry, and keeps it under its name.
    fn pull(&self, reference: &Reference) -> Result<Image, BaseError> {
        self.progress.step("Pulling", &reference.to_string());
        let remote = Remote::new(self.store, &self.settings.registries, reference, self.progress)?;
        let brought = ensure_copied(self.store, &remote, &remote.find()?, self.progress)?;
        let image = brought.image;
        let _lease = self.store.locks().lease(&image.digest)?;
        self.store.images().settle(&image)?;
        if let Reference::Registry { host, repository, .. } = reference {
            // Without it the base is only the last to be evicted.
            let _ = self
                .store
                .images()
                .note_origin(&image.digest, &format!("{host}/{repository}"));
        }
        match reference.digest() {
            Some(_) => self.store.names().keep_unnamed(&image.digest)?,
            None => self.store.names().ensure(reference, &image.digest)?,
        }
        Ok(image)
    }

    fn glue(&self, image: &Image, foreign: &Foreign) -> Result<BuiltLayer, BaseError> {
        let wanted = LayerWanted {
            key: &foreign.key(&image.digest),
            reason: "base glue",
        };
        let (layer, _) = ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            Ok::<_, BaseError>((foreign.write_layer(blob, tree)?, BaseNote))
        })?;
        Ok(layer)
    }
}

fn base_layers(store: &Store, image: &Image) -> Vec<BuiltLayer> {
    let both = image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids);
    let layer = |(descriptor, diff_id): (&crate::oci::Descriptor, &crate::oci::DiffId)| BuiltLayer {
        descriptor: descriptor.clone(),
        diff_id: *diff_id,
        reason: "base".to_owned(),
        unpacked_bytes: store.trees().bytes(diff_id).unwrap_or_default(),
        reused: true,
    };
    both.map(layer).collect()
}
