//! What a run is made of: plain data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use crate::policy::{Confinement, Runtime, Scope};

/// The kernel's limit on layers of an overlay, 500, but one: that of `/etc/hosts`.
const MAX_LOWERS: usize = 499;

/// What is run: it decides which system calls there are, and whether files that the workload wrote may be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A function: `seccomp/default.json`.
    Function,
    /// Reading untrusted sources with the image's own programs: `seccomp/build.json`.
    Compilation,
    /// Building an untrusted package: `seccomp/build.json`, and programs in `/tmp` may be executed, because builds run
    /// scripts and helpers that they have made there.
    PackageBuild,
}

impl Purpose {
    /// Whether what is written to `/tmp` may be executed.
    pub(super) fn may_execute_tmp(self) -> bool {
        self == Self::PackageBuild
    }
}

/// Everything that a sandbox needs to know: a mount plan and orders, as plain data.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Unpacked layers, top first. The first is the store's scaffold: its directories are the mount points, whatever
    /// the image holds at their names.
    pub lowers: Vec<PathBuf>,
    /// The command; the first is a path, or a name looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment of the workload.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub cwd: String,
    /// Its host name.
    pub hostname: String,
    /// Directory shown read-only as `/input`; absolute.
    pub input: Option<PathBuf>,
    /// Directory of the host that is its `/output`, writable and watched; without it that is memory, limited. Absolute,
    /// and nobody else's.
    pub output: Option<PathBuf>,
    /// Its standard input.
    pub stdin: Stdin,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// What kind of workload it is.
    pub purpose: Purpose,
    /// Limits.
    pub confinement: Confinement,
    /// What is done where no cgroup is delegated to us.
    pub scope: Scope,
}

impl Bundle {
    /// What makes a part of an image: `argv` with `env` in `/tmp`, and nothing that a run has. Its container is our own:
    /// nobody chooses another for it, and a build starts many.
    pub(crate) fn of_build(
        purpose: Purpose,
        lowers: Vec<PathBuf>,
        argv: Vec<String>,
        env: &[(&str, &str)],
        confinement: Confinement,
    ) -> Self {
        Self {
            lowers,
            argv,
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            // Empty: an interpreter starts with its directory among those it imports from.
            cwd: "/tmp".to_owned(),
            hostname: "build".to_owned(),
            input: None,
            output: None,
            stdin: Stdin::Empty,
            secrets: Vec::new(),
            purpose,
            confinement: Confinement {
                runtime: Runtime::Native,
                ..confinement
            },
            // Builds do without.
            scope: Scope::Off,
        }
    }

    /// The layers, each once: what is mounted, top first.
    pub(crate) fn lowers_once(&self) -> Vec<PathBuf> {
        once_each(self.lowers.iter().cloned())
    }

    /// Refuses what no sandbox can run.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Bundle`], with the reason.
    pub(super) fn check(&self) -> Result<(), SandboxError> {
        let bad = |reason| Err(SandboxError::Bundle { reason });
        if self.lowers.len() < 2 {
            return bad("it has no layers");
        }
        if self.lowers.len() > MAX_LOWERS {
            return bad("it has over 499 layers");
        }
        let is_bad = |lower: &PathBuf| lower.to_str().is_none_or(|lower| lower.len() > 255);
        if self.lowers.iter().any(is_bad) {
            return bad("the path of a layer is not UTF-8 or over 255 bytes");
        }
        if self.argv.is_empty() {
            return bad("it has no command");
        }
        Ok(())
    }
}

/// What the workload's standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: it is at its end.
    Empty,
    /// gantry's own, up to the limit of the confinement.
    Ours,
}

/// A value that only the workload gets: its bytes go over the control socket and into no document.
#[derive(Clone)]
pub struct Secret {
    /// Name of the file or of the variable.
    pub name: String,
    /// How it is handed over.
    pub place: Place,
    /// Its bytes.
    pub value: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} in {:?})", self.name, self.place)
    }
}

/// How a secret is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// `/run/secrets/NAME`, mode 0400, in memory.
    File,
    /// A variable of the environment: readable by everything the workload starts.
    Variable,
}

/// An image may name a layer twice, overlayfs may not. The upper one hides all that the lower one brings.
fn once_each<T: Clone + Ord>(lowers: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = std::collections::BTreeSet::new();
    lowers.filter(|lower| seen.insert(lower.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_is_named_twice_is_mounted_once_at_its_upper_place() {
        let lowers = ["c", "b", "c", "a", "b"].map(str::to_owned);
        assert_eq!(once_each(lowers.into_iter()), ["c", "b", "a"]);
    }
}
