//! One question to uv: an empty environment, wheels only, and nothing of the user's but cleaned text.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::extra::{self, ExtraIndex};
use super::index::{is_index_variable, Index};
use super::locked::{LockError, LockedWheel};
use super::programs::MAX_MESSAGE;
use super::target::Target;
use crate::net::Credentials;
use crate::store::{io_error, Store, StoreError};
use crate::sys::program::{Program, ProgramError};

/// Warnings that are passed on; honest answers have one or two.
const MOST_WARNINGS: usize = 20;
/// Characters of one; the reason why a release was yanked is its author's text.
const MAX_WARNING: usize = 500;

/// What uv is asked.
#[derive(Debug, Default)]
pub(super) struct Question<'a> {
    /// Requirements, one a line.
    pub wanted: &'a str,
    /// Constraints, one a line.
    pub constraints: &'a str,
    /// Overrides, one a line.
    pub overrides: &'a str,
    /// Packages of further indexes that other packages need.
    pub named: &'a [String],
    /// Whether versions before the release may be chosen.
    pub prereleases: bool,
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
    /// What wheels are wanted for.
    pub target: &'a Target,
    /// The index to ask; none for uv's own default.
    pub index: Option<&'a Index>,
    /// The indexes beside it.
    pub extra: &'a [ExtraIndex],
    /// Its `PATH`.
    pub path: Option<&'a OsString>,
    /// Variables that it takes to reach the network.
    pub network: &'a [(String, OsString)],
    /// How long it may run.
    pub deadline: Duration,
}

/// What uv says.
#[derive(Debug)]
pub(super) struct Answer {
    /// A `pylock.toml`.
    pub lock: String,
    /// What it warns of, without credentials.
    pub warnings: Vec<String>,
}

/// Runs uv, which answers with a `pylock.toml`. Without a configuration it takes wheels only, and executes nothing.
pub(super) fn ask(store: &Store, asker: &Asker<'_>, question: &Question<'_>) -> Result<Answer, LockError> {
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
        .args(["--python-platform", &asker.target.platform()])
        .args(["--python-version", &asker.target.python])
        .args([
            "--no-header",
            "--no-progress",
            "--system-certs",
            "--no-python-downloads",
        ])
        .args(question.options)
        .envs(others.map(|(name, value)| (name, value)))
        .env("HOME", scratch.path())
        // What it leaves when it is killed goes with the directory.
        .env("TMPDIR", scratch.path())
        .env("UV_CACHE_DIR", store.tool("uv-cache"))
        .env("UV_NO_PROGRESS", "1")
        .current_dir(scratch.path());
    let named = question.named.iter().map(String::as_str);
    if let Some(project) = extra::project(asker.extra, question.wanted.lines().chain(named)) {
        write("pyproject.toml", &project)?;
        program = program.arg("pyproject.toml").envs(extra::variables(asker.extra));
    }
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
    if !question.overrides.is_empty() {
        write("overrides.txt", question.overrides)?;
        program = program.args(["--override", "overrides.txt"]);
    }
    if question.prereleases {
        program = program.args(["--prerelease", "allow"]);
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
            let lock = String::from_utf8(done.stdout).map_err(|_| LockError::Answer {
                reason: "uv answers in no UTF-8".to_owned(),
            })?;
            let said = hide(asker, &String::from_utf8_lossy(&done.stderr));
            let warnings = warnings(&said);
            return Ok(Answer { lock, warnings });
        }
        Ok(done) => (done.stderr, false),
        Err(ProgramError::Deadline { said, .. }) => (said, true),
        Err(other) => return Err(LockError::Run(other)),
    };
    let explanation: String = String::from_utf8_lossy(&said).chars().take(MAX_MESSAGE).collect();
    let explanation = hide(asker, &explanation);
    if let Some(full) = out_of_space(&explanation) {
        return Err(io_error("resolve packages in", &store.tool("uv-cache"))(full).into());
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

/// The error of the kernel, where what uv or pip says comes from a disk that is full or a quota that is used up: they write where
/// the store is.
pub(super) fn out_of_space(said: &str) -> Option<io::Error> {
    [
        ("No space left on device", Errno::NOSPC),
        ("Disk quota exceeded", Errno::DQUOT),
        ("Quota exceeded", Errno::DQUOT),
    ]
    .into_iter()
    .find(|(text, _)| said.contains(text))
    .map(|(_, errno)| errno.into())
}

/// `said` without the address of the index, which may hold credentials, and without those.
fn hide(asker: &Asker<'_>, said: &str) -> String {
    let said = &extra::hide(asker.extra, said);
    let Some(index) = asker.index else {
        return said.clone();
    };
    let credentials = Credentials::of(index.url.as_str());
    let said = credentials.map_or_else(|| said.clone(), |credentials| credentials.hide(said));
    said.replace(index.url.as_str(), "the configured index")
}

/// What uv warns of: releases that were yanked, extras that there are not. Not what is true of every question, that the
/// Python which is asked for is not the one of this machine.
fn warnings(said: &str) -> Vec<String> {
    let warnings = said.lines().filter_map(|line| line.strip_prefix("warning: "));
    let warnings = warnings.filter(|warning| !warning.starts_with("The requested Python version "));
    let bounded = |warning: &str| warning.chars().take(MAX_WARNING).collect();
    warnings.take(MOST_WARNINGS).map(bounded).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_what_cannot_be_resolved() {
        let said = "error: Failed to fetch: `numpy`\n  Caused by: failed to write to file `cache/x`: No space left on device (os error 28)";
        let full = out_of_space(said).unwrap();
        // As the kernel would have said it: something makes room, and the build goes on.
        assert!(crate::sys::space::has_run_full(&full));
        let error = LockError::from(io_error("resolve packages in", Path::new("uv-cache"))(full));
        assert!(matches!(error, LockError::Store(StoreError::NoSpace { .. })));
        assert!(out_of_space("Disk quota exceeded (os error 122)").is_some());
        assert!(out_of_space("no version of numpy==99").is_none());
    }

    #[test]
    fn what_uv_warns_of_is_told_from_what_it_narrates() {
        let said = "Resolved 5 packages in 778ms\nwarning: `requests==2.32.0` is yanked (reason: \"x\")\nwarning: The requested Python version 3.12.0 is not available; 3.11.7 will be used to build dependencies instead.\nerror: no\nwarning: The package `idna==3.20` does not have an extra named `b`\n";
        let expected = [
            "`requests==2.32.0` is yanked (reason: \"x\")",
            "The package `idna==3.20` does not have an extra named `b`",
        ];
        assert_eq!(warnings(said), expected);
        assert_eq!(
            warnings(&format!("warning: {}\n", "x".repeat(9000)))[0].len(),
            MAX_WARNING
        );
        assert_eq!(warnings(&"warning: x\n".repeat(100)).len(), MOST_WARNINGS);
    }
}
