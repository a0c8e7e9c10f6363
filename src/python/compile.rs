//! Bytecode by the image's own Python, confined like any other run: the sources are a stranger's.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use super::compiled::CompiledTree;
use super::effort::{Amount, Effort};
use crate::policy::{Bytes, Confinement, Kind, Promise};
use crate::sandbox::{
    self, collect, Bundle, CollectError, CollectLimits, Collected, End, Finished, Purpose, SandboxError, Sink,
};
use crate::store::{Store, StoreError};

/// The script that compiles, run with the image's own Python.
pub(super) const COMPILE_TREE: &str = include_str!("compile_tree.py");

/// How the script is run: as isolated as `-I`, which would ignore [`ENVIRONMENT`].
const ARGUMENTS: [&str; 6] = ["-S", "-s", "-B", "-X", "utf8", "-c"];
/// With what variable besides the PATH: sets among constants have an order.
const ENVIRONMENT: (&str, &str) = ("PYTHONHASHSEED", "0");

/// What the script ends with when there is no room for the bytecode: its `FULL`.
const FULL: i32 = 3;
/// Far above what one writes of a source that does not compile, for a thousand of them.
const MAX_FAILURES: u64 = 16 << 20;
/// Where the script leaves the sources that do not compile.
const FAILED: &str = ".failed";
/// Where the script leaves the interpreter's magic number.
const MAGIC: &str = ".magic";

/// Compiles Python sources to bytecode with the image's own interpreter, in the sandbox.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// Goes on top of every root file system.
    scaffold: PathBuf,
    /// Worker processes inside.
    jobs: usize,
    /// Promises whose loss is accepted, besides memory and cpu.
    allow_degraded: BTreeSet<Promise>,
}

/// What to compile.
#[derive(Debug, Clone)]
pub(crate) struct CompileRequest {
    /// Unpacked layers, top first, that hold the interpreter and the sources.
    pub lowers: Vec<PathBuf>,
    /// Absolute path of the interpreter inside.
    pub python: String,
    /// Absolute directories inside whose `.py` files are compiled.
    pub roots: Vec<String>,
    /// Absolute directories inside that are left out.
    pub skip: Vec<String>,
}

/// Why nothing was compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The sandbox failed or refused.
    #[error("compile {roots} in the sandbox")]
    Sandbox {
        /// What was to be compiled.
        roots: String,
        source: SandboxError,
    },
    /// The interpreter failed.
    #[error("compile {roots} in the sandbox: the interpreter ended with {end:?}: {stderr}")]
    Ended {
        /// What was to be compiled.
        roots: String,
        /// How it ended.
        end: End,
        /// What it said, bounded.
        stderr: String,
    },
    /// It would take more than is good for what it is.
    #[error("compile {roots} in the sandbox: {what}, the limit for {amount}")]
    TooMuch {
        /// What was to be compiled.
        roots: String,
        /// Which limit struck.
        what: Excess,
        /// The sources.
        amount: Amount,
    },
    /// What it left is refused.
    #[error("compile {roots} in the sandbox")]
    Collect {
        /// What was to be compiled.
        roots: String,
        source: CollectError,
    },
    /// It left bytecode of one source twice.
    #[error("compile {roots} in the sandbox: read the bytecode")]
    Records {
        /// What was to be compiled.
        roots: String,
        source: io::Error,
    },
}

/// Which limit of compiling struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    Bytecode(Bytes),
    Memory(Bytes),
    Time(Duration),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytecode(limit) => write!(f, "the bytecode has more than {limit}"),
            Self::Memory(limit) => write!(f, "it takes more than {limit} of memory"),
            Self::Time(limit) => write!(f, "it takes longer than {} seconds", limit.as_secs()),
        }
    }
}

impl CompileError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sandbox { source, .. } => source.kind(),
            Self::Collect { source, .. } => source.kind(),
            Self::TooMuch {
                what: Excess::Bytecode(_) | Excess::Memory(_),
                ..
            } => Kind::Refused,
            // A machine that has less to do may be fast enough.
            Self::TooMuch {
                what: Excess::Time(_), ..
            }
            | Self::Ended { .. }
            | Self::Records { .. } => Kind::Failed,
        }
    }
}

impl Compiler {
    /// A compiler with a job for each processor. Losing a promise of `allow_degraded` does not refuse to compile.
    pub(crate) fn new(store: &Store, allow_degraded: BTreeSet<Promise>) -> Result<Self, StoreError> {
        // Each job may hold a large source's tree in memory.
        let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        Ok(Self {
            scaffold: store.trees().scaffold()?,
            jobs,
            allow_degraded,
        })
    }

    /// Compiles every `.py` below the roots of `request`. Nothing of the image is imported or executed.
    pub(crate) fn compile(&self, request: &CompileRequest) -> Result<CompiledTree, CompileError> {
        let roots = || request.roots.join(" ");
        let sandbox = |source| CompileError::Sandbox { roots: roots(), source };
        // The sources are in the topmost layer.
        let amount = request
            .lowers
            .first()
            .map_or(Amount::default(), |tree| Amount::of(tree, &request.roots));
        let effort = amount.effort();
        let finished = sandbox::run(
            &self.bundle(request.lowers.clone(), self.argv(request), effort),
            Sink::Capture,
        );
        let finished = finished.map_err(sandbox)?;
        let excess = match finished.end {
            End::Exited(FULL) => Some(Excess::Bytecode(effort.output)),
            End::TimedOut => Some(Excess::Time(effort.time)),
            End::Oom => Some(Excess::Memory(effort.memory)),
            _ => None,
        };
        if let Some(what) = excess {
            let roots = roots();
            return Err(CompileError::TooMuch { roots, what, amount });
        }
        if finished.end != End::Exited(0) {
            return Err(ended(roots(), &finished));
        }
        let mut tree = CompiledTree::default();
        let Some(output) = &finished.output else {
            return Ok(tree);
        };
        let limits = CollectLimits {
            entries: self.jobs as u64 + 2,
            bytes: effort.output.0,
            depth: 1,
        };
        let mut take = |path: &str, collected| {
            if let Collected::File { file, size } = collected {
                match path {
                    FAILED => {
                        let mut contents = Vec::new();
                        file.take(MAX_FAILURES).read_to_end(&mut contents)?;
                        tree.failed = failures(&contents);
                    }
                    MAGIC => {}
                    _ => tree.take_records(file, size, &request.roots)?,
                }
            }
            Ok(())
        };
        let collected = collect(output.as_fd(), limits, &mut take);
        collected.map_err(|source| CompileError::Collect { roots: roots(), source })?;
        tree.finish()
            .map_err(|source| CompileError::Records { roots: roots(), source })?;
        Ok(tree)
    }

    /// What the interpreter `python` of the tree `lowers`, top first, prints when it runs `script`.
    pub(super) fn ask(&self, lowers: Vec<PathBuf>, python: &str, script: &str) -> Result<String, CompileError> {
        let mut argv = vec![python.to_owned()];
        argv.extend(ARGUMENTS.map(str::to_owned));
        argv.push(script.to_owned());
        let roots = || python.to_owned();
        let bundle = self.bundle(lowers, argv, Amount::default().effort());
        let finished = sandbox::run(&bundle, Sink::Capture);
        let finished = finished.map_err(|source| CompileError::Sandbox { roots: roots(), source })?;
        if finished.end != End::Exited(0) {
            return Err(ended(roots(), &finished));
        }
        Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
    }

    fn argv(&self, request: &CompileRequest) -> Vec<String> {
        let mut argv = vec![request.python.clone()];
        argv.extend(ARGUMENTS.map(str::to_owned));
        argv.extend([COMPILE_TREE, "--output", "/output"].map(str::to_owned));
        argv.extend(["--jobs".to_owned(), self.jobs.to_string()]);
        for skip in &request.skip {
            argv.extend(["--skip".to_owned(), skip.clone()]);
        }
        argv.push("--".to_owned());
        argv.extend(request.roots.iter().cloned());
        argv
    }

    /// Runs `argv` on the tree `layers`, top first.
    fn bundle(&self, layers: Vec<PathBuf>, argv: Vec<String>, effort: Effort) -> Bundle {
        let mut lowers = vec![self.scaffold.clone()];
        lowers.extend(layers);
        let confinement = Confinement {
            output_size: effort.output,
            timeout: effort.time,
            memory: effort.memory,
            #[allow(clippy::cast_precision_loss, reason = "a handful of jobs")]
            cpus: self.jobs as f64,
            // Compiling executes nothing of the sources; the interpreter alone decides what it uses.
            allow_degraded: &self.allow_degraded | &[Promise::Memory, Promise::Cpu, Promise::Processes].into(),
            ..Confinement::default()
        };
        let env = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ENVIRONMENT];
        Bundle::of_build(Purpose::Compilation, lowers, argv, &env, confinement)
    }
}

fn ended(roots: String, finished: &Finished) -> CompileError {
    CompileError::Ended {
        roots,
        end: finished.end,
        stderr: String::from_utf8_lossy(&finished.stderr).chars().take(2000).collect(),
    }
}

fn failures(contents: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(contents)
        .lines()
        .filter_map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            Some((value.get("path")?.as_str()?.to_owned(), line.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_compiles_the_same_twice_and_reports_what_does_not() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("src");
        std::fs::create_dir_all(source.join("tests")).unwrap();
        std::fs::write(source.join("a.py"), "x = {'b', 'a', 'c'}\n").unwrap();
        std::fs::write(source.join("bad.py"), "x = 1\ndef f(:\n").unwrap();
        std::fs::write(source.join("boom.py"), "raise SystemExit(1)\n").unwrap();
        std::fs::write(source.join("tests/t.py"), "").unwrap();
        // A name that only its bytecode's is too long for; and one that the script itself would import.
        let long = format!("{}.py", "m".repeat(246));
        std::fs::write(source.join(long), "").unwrap();
        std::fs::write(source.join("json.py"), "raise SystemExit(3)\n").unwrap();
        let compile = |name: &str| {
            let out = scratch.path().join(name);
            std::fs::create_dir(&out).unwrap();
            let mut python = std::process::Command::new("python3");
            python
                .args(ARGUMENTS)
                .args([COMPILE_TREE, "--jobs", "2", "--output"])
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .env(ENVIRONMENT.0, ENVIRONMENT.1)
                .current_dir(&source)
                .arg(&out)
                .arg("--")
                .arg(&source);
            let done = python.output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let mut tree = CompiledTree::default();
            for job in ["0", "1"] {
                let records = std::fs::read(out.join(job)).unwrap();
                let roots = [source.display().to_string()];
                tree.take_records(&*records, records.len() as u64, &roots).unwrap();
            }
            tree.finish().unwrap();
            let failed = std::fs::read_to_string(out.join(".failed")).unwrap();
            let (names, contents): (Vec<String>, Vec<Vec<u8>>) = tree.files.into_iter().unzip();
            (names, contents, failed)
        };
        let (names, first, failed) = compile("one");
        let expected = ["a", "boom", "json"].map(|name| format!("__pycache__/{name}.cpython-"));
        assert!(
            names.len() == 3 && names.iter().zip(&expected).all(|(name, part)| name.contains(part)),
            "{names:?}, none executed"
        );
        assert_eq!(first, compile("two").1);
        assert_eq!(&first[0][4..8], [1, 0, 0, 0], "an unchecked hash (PEP 552)");
        let error: serde_json::Value = serde_json::from_str(failed.trim()).unwrap();
        assert_eq!(
            (error["line"].as_u64(), error["text"].as_str()),
            (Some(2), Some("def f(:"))
        );
    }

    #[test]
    fn a_disk_that_is_full_has_an_exit_code_of_its_own() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("src");
        std::fs::create_dir(&source).unwrap();
        for name in ["a.py", "b.py"] {
            std::fs::write(source.join(name), "x = 1\n").unwrap();
        }
        for (job, code) in [("0", FULL), ("1", FULL), ("2", 0)] {
            let out = scratch.path().join(job);
            std::fs::create_dir(&out).unwrap();
            // There is never room behind this link.
            std::os::unix::fs::symlink("/dev/full", out.join(job)).unwrap();
            let mut python = std::process::Command::new("python3");
            python
                .args(ARGUMENTS)
                .args([COMPILE_TREE, "--jobs", "2", "--output"])
                .arg(&out)
                .arg("--")
                .arg(&source);
            let done = python.output().unwrap();
            assert_eq!(
                done.status.code(),
                Some(code),
                "job {job}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
    }

    #[test]
    fn the_interpreter_hashes_the_same_each_time() {
        let hash = || {
            let mut python = std::process::Command::new("python3");
            python.args(ARGUMENTS).arg("print(hash('text'))").env_clear();
            python.env("PATH", "/usr/local/bin:/usr/bin:/bin");
            let done = python.env(ENVIRONMENT.0, ENVIRONMENT.1).output().unwrap();
            assert!(done.status.success());
            done.stdout
        };
        assert_eq!(hash(), hash());
    }
}
