//! One question to uv: an empty environment, wheels only, and nothing of the user's but cleaned text.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::index::{is_index_variable, Index};
use super::locked::{LockError, LockedWheel};
use super::programs::MAX_MESSAGE;
use crate::net::Credentials;
use crate::store::{Store, StoreError};
use crate::sys::program::{Program, ProgramError};

/// glibc of the base is 2.36; uv's newest platform that is not newer.
pub(super) const PLATFORM: &str = "x86_64-manylinux_2_36";

/// What uv is asked.
#[derive(Debug, Default)]
pub(super) struct Question<'a> {
    /// Requirements, one a line.
    pub wanted: &'a str,
    /// Constraints, one a line.
    pub constraints: &'a str,
    /// More options.
    pub options: &'a [&'a str],
    /// Wheels of the store that it may choose, too.
    pub built: &'a [LockedWheel],
    /// Its configuration; without one it takes wheels only.
    pub config: Option<&'a str>,
}

/// How uv is run. Not `Debug`: variables may hold credentials.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    /// The program.
    pub uv: &'a Path,
    /// Python version that wheels are wanted for.
    pub python: &'a str,
    /// The index to ask; none for uv's own default.
    pub index: Option<&'a Index>,
    /// Its `PATH`.
    pub path: Option<&'a OsString>,
    /// Variables that it takes to reach the network.
    pub network: &'a [(String, OsString)],
    /// How long it may run.
    pub deadline: Duration,
}

/// Runs uv, which answers with a `pylock.toml`. Without a configuration it takes wheels only, and executes nothing.
pub(super) fn ask(store: &Store, asker: &Asker<'_>, question: &Question<'_>) -> Result<String, LockError> {
    let scratch = store.scratch()?;
    let write = |name: &str, contents: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, contents).map_err(|source| LockError::Question { path, source })
    };
    write("requirements.in", question.wanted)?;
    write("constraints.txt", question.constraints)?;
    let others = asker.network.iter().filter(|(name, _)| !is_index_variable(name));
    let mut program = Program::new(asker.uv, asker.deadline)
        .args(["pip", "compile", "requirements.in", "--format", "pylock.toml"])
        .args(["--python-platform", PLATFORM, "--python-version", asker.python])
        .args([
            "--no-header",
            "--no-progress",
            "--system-certs",
            "--no-python-downloads",
        ])
        .args(question.options)
        .envs(others.map(|(name, value)| (name, value)))
        .env("HOME", scratch.path())
        .env("UV_CACHE_DIR", store.tool("uv-cache"))
        .env("UV_NO_PROGRESS", "1")
        .current_dir(scratch.path());
    match question.config {
        Some(config) => {
            write("uv.toml", config)?;
            program = program.args(["--config-file", "uv.toml"]);
        }
        None => {
            program = program.args(["--no-config", "--only-binary", ":all:"]);
        }
    }
    if !question.constraints.is_empty() {
        program = program.args(["--constraint", "constraints.txt"]);
    }
    if !question.built.is_empty() {
        offer(store, question.built, &scratch.path().join("built"))?;
        program = program.args(["--find-links", "built"]);
    }
    if let Some(path) = asker.path {
        program = program.env("PATH", path);
    }
    if let Some(index) = asker.index {
        program = program.env("UV_DEFAULT_INDEX", index.url.as_str());
    }
    let (said, is_late) = match program.run() {
        Ok(done) if done.status.success() => {
            return String::from_utf8(done.stdout).map_err(|_| LockError::Answer {
                reason: "uv answers in no UTF-8".to_owned(),
            })
        }
        Ok(done) => (done.stderr, false),
        Err(ProgramError::Deadline { said, .. }) => (said, true),
        Err(other) => return Err(LockError::Run(other)),
    };
    let mut explanation: String = String::from_utf8_lossy(&said).chars().take(MAX_MESSAGE).collect();
    if let Some(credentials) = asker.index.and_then(|index| Credentials::of(index.url.as_str())) {
        explanation = credentials.hide(&explanation);
    }
    if let Some(index) = asker.index {
        explanation = explanation.replace(index.url.as_str(), "the configured index");
    }
    let network = [
        "error sending request",
        "Failed to fetch",
        "dns error",
        "Could not connect",
        "Connection refused",
        "tcp connect",
        "timed out",
    ];
    if is_late || network.iter().any(|sign| explanation.contains(sign)) {
        return Err(LockError::Unavailable { explanation });
    }
    Err(LockError::Unsatisfiable { explanation })
}

/// Puts wheels of the store where uv finds them by name.
fn offer(store: &Store, built: &[LockedWheel], directory: &Path) -> Result<(), LockError> {
    fs::create_dir(directory).map_err(|source| LockError::Offer { source })?;
    for wheel in built {
        let missing = || StoreError::NoBlob { digest: wheel.sha256 };
        let mut file = store.downloads().find(&wheel.sha256, wheel.size).ok_or_else(missing)?;
        let copied =
            fs::File::create_new(directory.join(&wheel.file_name)).and_then(|mut copy| io::copy(&mut file, &mut copy));
        copied.map_err(|source| LockError::Offer { source })?;
    }
    Ok(())
}
