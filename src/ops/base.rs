//! The base image of a build: a variant of ours, made on first use, or any image of the store or a layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::packages::Packages;
use crate::archive::layer::{LayerError, LayerWriter};
use crate::build::base::{self, AssembleError, MirrorError, RelockError, Variant, VariantError};
use crate::build::bytecode;
use crate::build::fetch::FetchError;
use crate::build::layers::{ensure_layer, BuiltLayer, LayerWanted};
use crate::build::ports::{CompileRequest, Compiler, PortError, Progress};
use crate::net::NetError;
use crate::oci::{Digest, ParseReferenceError, Reference};
use crate::store::{Image, LayoutError, MemoKind, Store, StoreError};

/// The standard library of our own bases.
const STDLIB: &str = "/usr/lib/python3.11";
/// Marks a base whose Python knows `/opt/py/site`.
const PTH: &str = "gantry.pth";
const SITE_LINE: &[u8] = b"import site; site.addsitedir('/opt/py/site')\n";

/// Where packages come from.
#[derive(Debug, Clone, Default)]
pub struct BaseSettings {
    /// Configured Debian archive.
    pub mirror: Option<String>,
    /// Configured security archive.
    pub security_mirror: Option<String>,
    /// Configured keys of both.
    pub keyring: Option<PathBuf>,
}

/// A base, ready to build on.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// What it was asked for as.
    pub name: String,
    /// Its layers, in the store and unpacked, bottom first.
    pub layers: Vec<BuiltLayer>,
    /// Absolute path of the interpreter inside.
    pub python: String,
    /// Names the interpreter for bytecode.
    pub interpreter: Digest,
    /// Environment of its configuration.
    pub env: Vec<String>,
    /// Labels of its configuration.
    pub labels: BTreeMap<String, String>,
    /// What the user should know of it.
    pub warnings: Vec<String>,
}

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The name is neither a variant nor a reference.
    #[error("use base {name:?}: it is neither a variant ({variants}) nor a reference")]
    Name {
        /// The name.
        name: String,
        /// What there is.
        variants: String,
        /// Why it is no reference.
        source: ParseReferenceError,
    },
    /// Not in the store.
    #[error("use base {reference}: no such image in the store")]
    Unknown {
        /// The reference.
        reference: String,
    },
    /// It has another Python or none.
    #[error("use base {name}: it has no Python {python} in /usr/local/bin or /usr/bin")]
    NoPython {
        /// The base.
        name: String,
        /// What was wanted.
        python: String,
    },
    /// Only 3.11 is in our own bases.
    #[error("use base {name}: it has Python {has}, not {wanted}; name another image with --base")]
    OtherPython {
        /// The variant.
        name: String,
        /// Its Python.
        has: String,
        /// The wanted one.
        wanted: String,
    },
    /// The definition.
    #[error(transparent)]
    Variant(#[from] VariantError),
    /// No mirror.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A package.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A new lock.
    #[error(transparent)]
    Relock(#[from] RelockError),
    /// Assembly.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Bytecode.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Everything a base is made with.
struct Maker<'a> {
    store: &'a Store,
    settings: &'a BaseSettings,
    compiler: &'a dyn Compiler,
    progress: &'a dyn Progress,
}

/// The base called `name` (a variant or a reference) with Python `python`, made or imported when it is not there. The
/// wheels of a variant are not among its layers: they belong with those of the function.
pub fn ensure_base(
    store: &Store,
    name: &str,
    python: &str,
    settings: &BaseSettings,
    compiler: &dyn Compiler,
    progress: &dyn Progress,
) -> Result<BaseImage, BaseError> {
    let maker = Maker {
        store,
        settings,
        compiler,
        progress,
    };
    if let Some(variant) = base::find_variant(name)? {
        if variant.definition.python != python {
            let has = variant.definition.python.clone();
            return Err(BaseError::OtherPython {
                name: name.to_owned(),
                has,
                wanted: python.to_owned(),
            });
        }
        return maker.variant(&variant);
    }
    let reference: Reference = name.parse().map_err(|source| {
        let variants = base::variant_names().join(", ");
        BaseError::Name {
            name: name.to_owned(),
            variants,
            source,
        }
    })?;
    maker.foreign(name, &reference, python)
}

impl Maker<'_> {
    fn variant(&self, variant: &Variant) -> Result<BaseImage, BaseError> {
        let packages = Packages {
            store: self.store,
            settings: self.settings,
            progress: self.progress,
        };
        let (layer, warnings) = packages.ensure(variant)?;
        let python = "/usr/bin/python3.11".to_owned();
        let stdlib = self.stdlib(&layer, &python)?;
        Ok(BaseImage {
            name: variant.name.clone(),
            interpreter: layer.descriptor.digest,
            layers: vec![layer, stdlib],
            python,
            env: vec![
                "PATH=/opt/py/bin:/usr/local/bin:/usr/bin:/bin".to_owned(),
                "LANG=C.UTF-8".to_owned(),
            ],
            labels: BTreeMap::new(),
            warnings,
        })
    }

    fn stdlib(&self, base: &BuiltLayer, python: &str) -> Result<BuiltLayer, BaseError> {
        let key = bytecode::bytecode_key(&base.descriptor.digest, &base.descriptor.digest);
        let wanted = LayerWanted {
            kind: MemoKind::Bytecode,
            key: &key,
            reason: "base bytecode of the standard library",
        };
        let (layer, ()) = ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            self.progress.step("Compiling", "the standard library");
            let compiled = self.compiler.compile(&CompileRequest {
                lowers: vec![self.store.layer_path(&base.diff_id)],
                python: python.to_owned(),
                roots: vec![STDLIB.to_owned()],
                skip: vec![
                    format!("{STDLIB}/lib2to3"),
                    format!("{STDLIB}/idlelib"),
                    format!("{STDLIB}/pydoc_data"),
                ],
            })?;
            Ok::<_, BaseError>((bytecode::write_layer(&compiled, 0, blob, Some(tree))?, ()))
        })?;
        Ok(layer)
    }

    fn foreign(&self, name: &str, reference: &Reference, python: &str) -> Result<BaseImage, BaseError> {
        let image = match reference {
            Reference::Layout { dir, tag } => self.store.import_layout(dir, tag.as_deref())?,
            _ => {
                let digest = self.store.find_ref(reference)?;
                self.store.open_image(&digest.ok_or_else(|| BaseError::Unknown {
                    reference: reference.to_string(),
                })?)?
            }
        };
        self.store.ensure_snapshot(&image)?;
        let mut layers = base_layers(self.store, &image);
        let visible = self.store.visible_layers(&image.config.rootfs.diff_ids).iter().rev();
        let trees: Vec<PathBuf> = visible.map(|diff_id| self.store.layer_path(diff_id)).collect();
        let has = |path: &str| trees.iter().any(|tree| fs::symlink_metadata(tree.join(path)).is_ok());
        let directory = ["usr/local/bin", "usr/bin"]
            .into_iter()
            .find(|directory| has(&format!("{directory}/python{python}")));
        let directory = directory.ok_or_else(|| BaseError::NoPython {
            name: name.to_owned(),
            python: python.to_owned(),
        })?;
        let site = match directory {
            "usr/local/bin" => format!("usr/local/lib/python{python}/site-packages"),
            _ => "usr/lib/python3/dist-packages".to_owned(),
        };
        if !has(&format!("{site}/{PTH}")) {
            layers.push(self.glue(&image, directory, &site, python, has("usr/bin/python3"), &trees)?);
        }
        Ok(BaseImage {
            name: name.to_owned(),
            layers,
            python: format!("/{directory}/python{python}"),
            interpreter: image.digest,
            env: image.config.config.env.clone().unwrap_or_default(),
            labels: image.config.config.labels.clone().unwrap_or_default(),
            warnings: Vec::new(),
        })
    }

    /// What a foreign base lacks: our site directory, `/usr/bin/python3` for scripts, uid 1000.
    fn glue(
        &self,
        image: &Image,
        directory: &str,
        site: &str,
        python: &str,
        has_python3: bool,
        trees: &[PathBuf],
    ) -> Result<BuiltLayer, BaseError> {
        let passwd = trees
            .iter()
            .find_map(|tree| fs::read_to_string(tree.join("etc/passwd")).ok())
            .unwrap_or_default();
        let has_user = passwd.lines().any(|line| line.split(':').nth(2) == Some("1000"));
        let key = Digest::of(format!("gantry glue\x001\0{}\0{directory}", image.digest).as_bytes());
        let wanted = LayerWanted {
            kind: MemoKind::Base,
            key: &key,
            reason: "base glue",
        };
        let (layer, ()) = ensure_layer(self.store, wanted, self.progress, |blob, tree| {
            let mut writer = LayerWriter::new(blob, Some(tree), 0);
            if !has_user {
                let line = "mecapy:x:1000:1000:mecapy:/app:/usr/sbin/nologin\n";
                writer.file("etc/passwd", 0o644, format!("{passwd}{line}").as_bytes())?;
            }
            let links = (!has_python3).then(|| ("usr/bin/python3".to_owned(), format!("/{directory}/python{python}")));
            let mut files = vec![(format!("{site}/{PTH}"), None)];
            files.extend(links.map(|(path, target)| (path, Some(target))));
            files.sort_by(|(one, _), (other, _)| crate::archive::layer::order(one, other));
            for (path, target) in files {
                match target {
                    Some(target) => writer.symlink(&path, &target)?,
                    None => writer.file(&path, 0o644, SITE_LINE)?,
                }
            }
            Ok::<_, BaseError>((writer.finish()?, ()))
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
        unpacked_bytes: store.layer_bytes(diff_id).unwrap_or_default(),
        reused: true,
    };
    both.map(layer).collect()
}
