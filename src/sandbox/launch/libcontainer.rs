//! The way into a sandbox that youki's libcontainer builds.
//!
//! libcontainer would make three processes, keep state on disk and move processes between cgroups. None of that happens: the
//! first process is ours, born as [`Native`](super::Native)'s is, and calls libcontainer's init in itself
//! (`inside/youki.rs`).

use std::fs::File;

use super::super::error::SandboxError;
use super::own_binary::OwnBinary;
use super::{Launcher, Start};
use crate::policy::Runtime;
use crate::sys::process::Child;

/// Starts a gantry binary that has libcontainer make the file system of its sandbox.
#[derive(Debug)]
pub struct Libcontainer(OwnBinary);

impl Libcontainer {
    /// With the binary that runs now, whatever has become of its file.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] without `/proc`.
    pub fn new() -> Result<Self, SandboxError> {
        OwnBinary::open().map(Self)
    }

    /// With another gantry binary, which must have libcontainer: for programs that use this library.
    pub fn with(executable: File) -> Self {
        Self(OwnBinary::with(executable))
    }
}

impl Launcher for Libcontainer {
    fn runtime(&self) -> Runtime {
        Runtime::Libcontainer
    }

    fn launch(&self, start: &Start<'_>) -> Result<Child, SandboxError> {
        self.0.start(start)
    }
}
