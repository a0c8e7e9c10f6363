//! What gantry works with on this machine: its version, the kernel, the store and its disk, the configuration, registries,
//! and the programs that builds need.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::config::{Config, Environment};
use crate::ops::known_registries::{known_registries, KnownRegistry};
use crate::ops::settings::registries;
use crate::progress::Silent;
use crate::store::Store;
use crate::sys::program::Program;
use crate::sys::space;

/// A program that says its version takes a second on a busy machine; pip is a whole Python.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of what a program says of itself, its first line is enough.
const LONGEST: usize = 200;

/// What gantry works with.
#[derive(Debug, Clone, Serialize)]
pub struct Surroundings {
    /// The version of gantry.
    pub gantry_version: &'static str,
    /// The name and release of the kernel.
    pub kernel: String,
    /// The store.
    pub store: PathBuf,
    /// Bytes that this user can still write to its disk; none when the kernel does not say.
    pub free_bytes: Option<u64>,
    /// The configuration file that was read; none when there is none.
    pub configuration: Option<PathBuf>,
    /// The registries of the configuration, whoever is asked first first.
    pub registries: Vec<KnownRegistry>,
    /// The programs of this machine that builds use.
    pub programs: Vec<Tool>,
}

/// A program of this machine.
#[derive(Debug, Clone, Serialize)]
pub struct Tool {
    /// What it is called.
    pub name: &'static str,
    /// Where it is; none when it is not there.
    pub path: Option<PathBuf>,
    /// What it says of itself.
    pub version: Option<String>,
    /// What is done with it, or without it.
    pub used: &'static str,
}

/// Looks around; what does not answer counts as not there.
pub(super) fn look(store: &Store, config: &Config, environment: &Environment) -> Surroundings {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let find = |name: &str| find(name, environment.path.as_deref());
    let python = find("python3");
    let uv = config.index.uv.clone().or_else(|| find("uv"));
    let gpgv = find("gpgv");
    let pip = python
        .as_deref()
        .and_then(|python| ask(python, &["-I", "-m", "pip", "--version"]));
    Surroundings {
        gantry_version: env!("CARGO_PKG_VERSION"),
        kernel: format!("{} {}", text(name.sysname()), text(name.release())),
        store: store.root().to_owned(),
        free_bytes: space::free(store.root()),
        configuration: config.file().map(Path::to_owned),
        registries: known_registries(store, &registries(config, environment), &Silent),
        programs: vec![
            Tool {
                name: "uv",
                version: uv.as_deref().and_then(|uv| ask(uv, &["--version"])),
                path: uv,
                used: "resolves requirements; without one of 0.11 or newer, pip fetches a pinned one once",
            },
            Tool {
                name: "pip",
                path: python.filter(|_| pip.is_some()),
                version: pip,
                used: "fetches uv, and knows this machine's package index",
            },
            Tool {
                name: "gpgv",
                version: gpgv.as_deref().and_then(|gpgv| ask(gpgv, &["--version"])),
                path: gpgv,
                used: "checks the signature of the Debian archive when a pinned package is gone from it",
            },
        ],
    }
}

/// The program `name` in the directories of `path`.
fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let mut candidates = std::env::split_paths(path?).map(|directory| directory.join(name));
    candidates.find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok())
}

/// The first line that `program` says.
fn ask(program: &Path, arguments: &[&str]) -> Option<String> {
    let done = Program::new(program, PATIENCE).args(arguments).run().ok()?;
    let said = OsStr::from_bytes(&done.stdout).to_string_lossy();
    let line = said.lines().next()?.chars().take(LONGEST).collect::<String>();
    (done.status.success() && !line.is_empty()).then_some(line)
}
