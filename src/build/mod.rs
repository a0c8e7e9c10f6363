//! A function's directory -> an image: what the function is, its code's layers, and what joins a base with packages.
//!
//! ```text
//! directory -> function (links, secrets) -> parts (base, wheels) -> code (syntax) -> image
//! ```
//!
//! Runs no code of the user's or of a package's. `base` and `python` do not know each other: what one needs of the other
//! is passed on here, as a value.

pub(crate) mod code;
mod entry;
pub(crate) mod function;
pub(crate) mod function_naming;
pub(crate) mod image;
pub(crate) mod imports;
mod left_out;
mod links;
pub(crate) mod parts;
pub(crate) mod secrets;
mod syntax;

use std::path::PathBuf;

use crate::archive::layer::LayerError;
use crate::base::{BaseError, SystemError, VariantError};
use crate::oci::NamingError;
use crate::policy::{Bytes, Kind};
use crate::python::compile::CompileError;
use crate::python::project::ProjectError;
use crate::python::resolve::{LockError, MAX_IMAGE};
use crate::python::sdist::SdistError;
use crate::python::PythonError;
use crate::store::StoreError;
use function::FunctionError;
use secrets::Finding;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The directory is no function.
    #[error("{0}")]
    Function(#[from] FunctionError),
    /// What is required is refused, or not said where it should be.
    #[error("{0}")]
    Requirements(#[from] ProjectError),
    /// Files look like secrets.
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
    /// There are no packages.
    #[error("{0}")]
    Python(#[source] PythonError),
    /// There is no base.
    #[error("{0}")]
    Base(#[from] BaseError),
    /// There are no system packages.
    #[error("{0}")]
    System(#[from] SystemError),
    /// A layer cannot be written.
    #[error("{0}")]
    Layer(#[from] LayerError),
    /// The image is too large.
    #[error("build image: it has {} of at most {}", Bytes(*size), Bytes(MAX_IMAGE))]
    TooLarge {
        /// Bytes of its layers.
        size: u64,
    },
    /// The function cannot be named so.
    #[error("{0}")]
    Naming(#[from] NamingError),
    /// The disk of the store is full, whoever came upon it.
    #[error("build: there is no space left for the store {}", store.display())]
    Full {
        /// Its root.
        store: PathBuf,
        /// Who did.
        source: Box<BuildError>,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl BuildError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Secrets { .. } | Self::TooLarge { .. } => Kind::Refused,
            Self::Syntax { .. } => Kind::Failed,
            Self::Naming(_) => Kind::Usage,
            Self::Function(source) => source.kind(),
            Self::Requirements(source) => source.kind(),
            Self::Python(source) => source.kind(),
            Self::Base(source) => source.kind(),
            Self::System(source) => source.kind(),
            Self::Layer(source) => source.kind(),
            Self::Full { .. } => Kind::Failed,
            Self::Store(source) => source.kind(),
        }
    }
}

impl From<PythonError> for BuildError {
    /// The error of a toolchain that could not be made is the base's own.
    fn from(error: PythonError) -> Self {
        let PythonError::Sdist(SdistError::Toolchain(toolchain)) = error else {
            return Self::Python(error);
        };
        match toolchain.source.downcast::<BaseError>() {
            Ok(source) => Self::Base(*source),
            Err(source) => {
                let kind = toolchain.kind;
                Self::Python(SdistError::from(crate::python::sdist::ToolchainError { kind, source }).into())
            }
        }
    }
}

impl From<CompileError> for BuildError {
    fn from(error: CompileError) -> Self {
        Self::Python(error.into())
    }
}

impl From<LockError> for BuildError {
    fn from(error: LockError) -> Self {
        Self::Python(error.into())
    }
}

impl From<VariantError> for BuildError {
    fn from(error: VariantError) -> Self {
        Self::Base(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::sdist::ToolchainError;

    #[test]
    fn an_error_keeps_its_kind_however_deep_it_lies() {
        let too_large = || LockError::TooLarge {
            size: 3_000_000_000,
            largest: "torch".to_owned(),
        };
        let requirements = SdistError::Requirements {
            package: "six 1".to_owned(),
            source: too_large(),
        };
        let busy = || StoreError::Busy { path: "store".into() };
        for (error, kind) in [
            (BuildError::from(too_large()), Kind::Refused),
            (BuildError::from(PythonError::from(requirements)), Kind::Refused),
            (BuildError::from(PythonError::from(LockError::from(busy()))), Kind::Busy),
            (BuildError::from(BaseError::from(busy())), Kind::Busy),
            (
                BuildError::from(LockError::Unavailable {
                    explanation: String::new(),
                }),
                Kind::Unavailable,
            ),
        ] {
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[test]
    fn the_error_of_a_toolchain_that_cannot_be_made_is_the_bases_own() {
        let error = BaseError::from(StoreError::Busy { path: "store".into() });
        let toolchain = ToolchainError {
            kind: error.kind(),
            source: error.into(),
        };
        let error = BuildError::from(PythonError::from(SdistError::from(toolchain)));
        assert!(
            matches!(error, BuildError::Base(BaseError::Store(StoreError::Busy { .. }))),
            "{error:?}"
        );
    }
}
