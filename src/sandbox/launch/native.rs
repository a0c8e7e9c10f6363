//! The shortest way into a sandbox: our own mounts.

use std::fs::File;

use super::super::error::SandboxError;
use super::own_binary::OwnBinary;
use super::{Launcher, Start};
use crate::policy::Runtime;
use crate::sys::process::Child;

/// Starts a gantry binary that makes the file system of its sandbox itself.
#[derive(Debug)]
pub struct Native(OwnBinary);

impl Native {
    /// With the binary that runs now, whatever has become of its file.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] without `/proc`.
    pub fn new() -> Result<Self, SandboxError> {
        OwnBinary::open().map(Self)
    }

    /// With another gantry binary: for programs that use this library.
    pub fn with(executable: File) -> Self {
        Self(OwnBinary::with(executable))
    }
}

impl Launcher for Native {
    fn runtime(&self) -> Runtime {
        Runtime::Native
    }

    fn launch(&self, start: &Start<'_>) -> Result<Child, SandboxError> {
        self.0.start(start)
    }
}
