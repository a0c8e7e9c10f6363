//! Bytecode by the image's own Python, confined like any other run: the sources are a stranger's.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::{Bytes, Confinement, ExtractionLimits, Kind, Promise};
use crate::sandbox::{
    self, collect, Bundle, CollectError, CollectLimits, Collected, End, Purpose, SandboxError, Sink, Stdin,
};
use crate::store::{Store, StoreError};

/// The script that compiles, run with the image's own Python.
pub(super) const COMPILE_TREE: &str = include_str!("compile_tree.py");

/// How the script is run: as isolated as `-I`, which would ignore [`ENVIRONMENT`].
const ARGUMENTS: [&str; 6] = ["-S", "-s", "-B", "-X", "utf8", "-c"];
/// With what variable besides the PATH: sets among constants have an order.
const ENVIRONMENT: (&str, &str) = ("PYTHONHASHSEED", "0");

/// Bytecode of the largest packages (torch: 120 MB) fits; a source that explodes does not.
const OUTPUT: Bytes = Bytes(512 << 20);
/// Far above the slowest package seen (5 s), far below a person's patience.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The output is in memory, and every job may hold a large source's tree.
const MEMORY: Bytes = Bytes(3 << 30);
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

/// The bytecode files of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompiledTree {
    /// Path inside the image without leading slash, and contents; sorted by path.
    pub files: Vec<(String, Vec<u8>)>,
    /// Sources that do not compile, with the compiler's message; they simply get no bytecode.
    pub failed: Vec<(String, String)>,
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
    /// What it left is refused.
    #[error("compile {roots} in the sandbox")]
    Collect {
        /// What was to be compiled.
        roots: String,
        source: CollectError,
    },
}

impl CompileError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sandbox { source, .. } => source.kind(),
            Self::Collect { source, .. } => source.kind(),
            Self::Ended { .. } => Kind::Failed,
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
        let finished = sandbox::run(&self.bundle(request), Sink::Capture).map_err(sandbox)?;
        if finished.end != End::Exited(0) {
            let stderr = String::from_utf8_lossy(&finished.stderr).chars().take(2000).collect();
            let end = finished.end;
            return Err(CompileError::Ended {
                roots: roots(),
                end,
                stderr,
            });
        }
        let mut tree = CompiledTree::default();
        let Some(output) = &finished.output else {
            return Ok(tree);
        };
        let limits = CollectLimits {
            entries: 200_000,
            bytes: OUTPUT.0,
            // Wheels are held to the same, and bytecode lies one directory deeper.
            depth: ExtractionLimits::default().depth + 2,
        };
        collect(output.as_fd(), limits, &mut |path, collected| {
            if let Collected::File { file, size } = collected {
                let mut contents = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                file.take(size).read_to_end(&mut contents)?;
                match path {
                    FAILED => tree.failed = failures(&contents),
                    MAGIC => {}
                    _ => tree.files.push((path.to_owned(), contents)),
                }
            }
            Ok(())
        })
        .map_err(|source| CompileError::Collect { roots: roots(), source })?;
        tree.files.sort();
        Ok(tree)
    }

    fn bundle(&self, request: &CompileRequest) -> Bundle {
        let mut lowers = vec![self.scaffold.clone()];
        lowers.extend(request.lowers.iter().cloned());
        let mut argv = vec![request.python.clone()];
        argv.extend(ARGUMENTS.map(str::to_owned));
        argv.extend([COMPILE_TREE, "--output", "/output"].map(str::to_owned));
        argv.extend(["--jobs".to_owned(), self.jobs.to_string()]);
        for skip in &request.skip {
            argv.extend(["--skip".to_owned(), skip.clone()]);
        }
        argv.push("--".to_owned());
        argv.extend(request.roots.iter().cloned());
        Bundle {
            lowers,
            argv,
            env: [("PATH", "/usr/local/bin:/usr/bin:/bin"), ENVIRONMENT]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            // Empty: the interpreter starts with its directory among those it imports from.
            cwd: "/tmp".to_owned(),
            hostname: "build".to_owned(),
            input: None,
            output: None,
            stdin: Stdin::Empty,
            secrets: Vec::new(),
            purpose: Purpose::Compilation,
            confinement: Confinement {
                output_size: OUTPUT,
                timeout: TIMEOUT,
                memory: MEMORY,
                #[allow(clippy::cast_precision_loss, reason = "a handful of jobs")]
                cpus: self.jobs as f64,
                // Compiling executes nothing of the sources; the interpreter alone decides what it uses.
                allow_degraded: &self.allow_degraded | &[Promise::Memory, Promise::Cpu, Promise::Processes].into(),
                ..Confinement::default()
            },
        }
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
            let cache = format!("{}{}/__pycache__", out.display(), source.display());
            let mut files: Vec<_> = std::fs::read_dir(cache)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            files.sort();
            let names: Vec<String> = files
                .iter()
                .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            (
                names,
                files
                    .iter()
                    .map(|path| std::fs::read(path).unwrap())
                    .collect::<Vec<_>>(),
                std::fs::read_to_string(out.join(".failed")).unwrap(),
            )
        };
        let (names, first, failed) = compile("one");
        assert_eq!(names.len(), 3, "{names:?}: a, boom and json, none executed");
        assert_eq!(first, compile("two").1);
        assert_eq!(&first[0][4..8], [1, 0, 0, 0], "an unchecked hash (PEP 552)");
        let error: serde_json::Value = serde_json::from_str(failed.trim()).unwrap();
        assert_eq!(
            (error["line"].as_u64(), error["text"].as_str()),
            (Some(2), Some("def f(:"))
        );
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
