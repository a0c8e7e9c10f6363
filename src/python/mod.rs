//! Python packages: requirements -> lock -> layers of wheels, and the bytecode of any sources.
//!
//! ```text
//! requirements (project) -> choose (resolve, sdist) -> layers (wheel, overlap) -> libraries, bytecode (compile)
//! ```
//!
//! It knows no base image: the Python that compiles and builds is an [`Interpreter`], a value, and the toolchain that
//! source distributions need is made by whoever gives [`Bench`](sdist::Bench) a way to.

pub(crate) mod bytecode;
pub(crate) mod choose;
pub(crate) mod compile;
mod compiled;
mod effort;
pub(crate) mod full_version;
pub(crate) mod layers;
pub(crate) mod libraries;
mod loading;
mod overlap;
pub(crate) mod pins;
pub(crate) mod project;
pub(crate) mod requirements;
pub(crate) mod resolve;
pub(crate) mod sdist;
pub(crate) mod supply;
pub(crate) mod wheel;

pub(crate) use overlap::OverlapError;

use crate::archive::layer::LayerError;
use crate::net::NetError;
use crate::oci::Digest;
use crate::policy::Kind;
use crate::store::{BuiltLayer, StoreError};
use crate::transfer::FetchError;
use compile::CompileError;
use resolve::LockError;
use sdist::SdistError;
use wheel::WheelError;

/// The Python of a base, and the layers it lies in.
#[derive(Debug, Clone)]
pub(crate) struct Interpreter {
    /// What the base was asked for as; for messages.
    pub base: String,
    /// All layers of the base, bottom first; unpacked in the store.
    pub layers: Vec<BuiltLayer>,
    /// Absolute path of the interpreter inside.
    pub path: String,
    /// Names the interpreter in keys: the digest of the layer or of the image that it comes with.
    pub digest: Digest,
}

/// Why there are no packages.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// The resolver gave no lock.
    #[error("{0}")]
    Lock(#[from] LockError),
    /// A package that has no wheel could not be built.
    #[error("{0}")]
    Sdist(#[from] SdistError),
    /// The network failed.
    #[error("{0}")]
    Net(#[from] NetError),
    /// A download failed.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// A wheel is refused.
    #[error("{0}")]
    Wheel(#[from] WheelError),
    /// Two wheels do not go together.
    #[error("{0}")]
    Overlap(#[from] OverlapError),
    /// A layer cannot be written.
    #[error("{0}")]
    Layer(#[from] LayerError),
    /// Bytecode cannot be made.
    #[error("{0}")]
    Compile(#[from] CompileError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl PythonError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Lock(source) => source.kind(),
            Self::Sdist(source) => source.kind(),
            Self::Net(source) => source.kind(),
            Self::Fetch(source) => source.kind(),
            Self::Wheel(source) => source.kind(),
            Self::Overlap(source) => source.kind(),
            Self::Layer(source) => source.kind(),
            Self::Compile(source) => source.kind(),
            Self::Store(source) => source.kind(),
        }
    }
}
