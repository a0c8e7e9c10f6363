//! What the measurements share: contenders that take turns, medians, a table, and JSON that a later run compares with.
//!
//! A bench measures the binary from outside, `GANTRY_BIN` or the one cargo built for it, against the tools people would
//! use instead and, with `GANTRY_OTHER=/path/to/gantry`, against another build of itself. All of them run in turns in one
//! process, because the speed of a machine changes from minute to minute by more than what is looked for. Nothing here
//! judges: a time that fails a test fails on someone's slower machine.

#![allow(dead_code, reason = "each bench uses its own part of this")]

mod measure;
mod registry;
mod report;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use measure::{take_turns, Turn};
#[allow(unused_imports, reason = "most benches need none")]
pub use registry::Registry;
pub use report::{Measure, Options, Report};

/// Promises that a machine without a delegated cgroup cannot keep; they cost nothing when it can.
pub const DEGRADED: [&str; 2] = ["--allow-degraded", "memory,cpu"];

/// One build of gantry, with a store of its own.
pub struct Gantry {
    pub name: String,
    binary: PathBuf,
    pub root: PathBuf,
}

impl Gantry {
    /// The build of this checkout and, when one is named, another; their stores are below `scratch`.
    pub fn all(scratch: &Path) -> Vec<Self> {
        let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let this = named("GANTRY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_gantry").into());
        [("gantry", Some(this)), ("other", named("GANTRY_OTHER"))]
            .into_iter()
            .filter_map(|(name, binary)| {
                Some(Self {
                    name: name.to_owned(),
                    binary: binary?,
                    root: scratch.join(format!("store-{name}")),
                })
            })
            .collect()
    }

    /// A command on this build's store, in an environment of the same size for all.
    pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Command {
        self.command_on(&self.root, arguments)
    }

    /// A command on the store `root`.
    pub fn command_on<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, root: &Path, arguments: I) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("GANTRY_ROOT", root);
        command
    }

    /// Runs a command and returns what it printed.
    pub fn call<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> String {
        call(self.command(arguments))
    }

    /// An empty store at `store` that has every file that was downloaded so far.
    pub fn with_downloads(&self, store: &Path) -> PathBuf {
        self.with_parts(store, &["downloads", "tools"])
    }

    /// An empty store at `store` that has the programs that builds use, and nothing that they cached.
    pub fn with_tools(&self, store: &Path) -> PathBuf {
        let store = self.with_parts(store, &["tools"]);
        let _ = fs::remove_dir_all(store.join("tools/uv-cache"));
        store
    }

    fn with_parts(&self, store: &Path, parts: &[&str]) -> PathBuf {
        let _ = fs::remove_dir_all(store);
        fs::create_dir_all(store).unwrap();
        for part in parts {
            if self.root.join(part).exists() {
                copy_all(&self.root.join(part), &store.join(part));
            }
        }
        store.to_owned()
    }

    /// Takes over what `first` has downloaded, so that only one of them asks the network.
    pub fn share_downloads(&self, first: &Self) {
        if self.root != first.root {
            first.with_downloads(&self.root);
        }
    }
}

/// Copies a file, or a directory with all that is in it and its permissions.
pub fn copy_all(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(to);
    call(copy);
}

/// Runs `command` to its end; its failure ends the bench.
pub fn call(mut command: Command) -> String {
    let done = command.stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {}\n{errors}", done.status);
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// A shell command line, for peers that are several programs.
pub fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    command
}

/// Whether a peer is installed; says so when it is not, so that a table with a gap explains itself.
pub fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("{program} is not installed: its rows are left out");
    }
    found
}

/// Writes a function's directory.
pub fn function(directory: &Path, code: &str, requirements: &str) -> PathBuf {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("user_function.py"), code).unwrap();
    if !requirements.is_empty() {
        fs::write(directory.join("requirements.txt"), requirements).unwrap();
    }
    directory.to_owned()
}

/// Runs `work` in a scratch directory and removes that, read-only directories of images included.
pub fn in_scratch(work: impl FnOnce(&Path)) {
    let scratch = tempfile::Builder::new().prefix("gantry-bench-").tempdir().unwrap();
    work(scratch.path());
    let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(scratch.path()).output();
}
