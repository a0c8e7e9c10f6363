//! What a build needs from higher ranks, as traits that `ops` wires in: running the base's Python in the
//! sandbox.

use std::path::PathBuf;

use crate::policy::Kind;

/// Compiles Python sources to bytecode with the image's own interpreter, confined.
pub trait Compiler: Sync {
    /// Compiles every `.py` below `request.roots`; nothing of the image is imported or executed.
    fn compile(&self, request: &CompileRequest) -> Result<CompiledTree, PortError>;
}

/// What to compile.
#[derive(Debug, Clone)]
pub struct CompileRequest {
    /// Unpacked layers, top first, that hold the interpreter and the sources.
    pub lowers: Vec<PathBuf>,
    /// Absolute path of the interpreter inside.
    pub python: String,
    /// Absolute directories inside whose `.py` files are compiled.
    pub roots: Vec<String>,
    /// Absolute directories inside that are left out.
    pub skip: Vec<String>,
}

/// The bytecode files of one request.
#[derive(Debug, Clone, Default)]
pub struct CompiledTree {
    /// Path inside the image without leading slash, and contents; sorted by path.
    pub files: Vec<(String, Vec<u8>)>,
    /// Sources that do not compile, with the compiler's message; they simply get no bytecode.
    pub failed: Vec<(String, String)>,
}

/// A higher rank could not do its part.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct PortError {
    /// What was attempted.
    pub action: String,
    /// What sort of failure that is.
    pub kind: Kind,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl PortError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}
