//! Bytecode by the image's own Python, confined like any other run: the sources are a stranger's.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::base::BaseImage;
use crate::archive::layer::LayerError;
use crate::build::bytecode::{self, BytecodeNote, ARGUMENTS, COMPILE_TREE, ENVIRONMENT};
use crate::build::layers::{ensure_layer, BuiltLayer, LayerWanted};
use crate::build::ports::{CompileRequest, CompiledTree, Compiler, PortError};
use crate::policy::{Bytes, Confinement, ExtractionLimits, Kind, Promise};
use crate::progress::Progress;
use crate::sandbox::{self, collect, Bundle, CollectLimits, Collected, End, Purpose, Sink};
use crate::store::{Store, StoreError};

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

/// Compiles in the sandbox.
pub struct SandboxCompiler {
    /// Goes on top of every root file system.
    pub scaffold: PathBuf,
    /// Worker processes inside.
    pub jobs: usize,
    /// Promises whose loss is accepted, besides memory and cpu.
    pub allow_degraded: BTreeSet<Promise>,
}

/// Why nothing was compiled.
#[derive(Debug, thiserror::Error)]
enum CompileError {
    #[error("the interpreter ended with {end:?}: {stderr}")]
    Ended { end: End, stderr: String },
}

/// The bytecode layer of `sources`, a layer on top of `base` and why its bytecode is wanted: of everything below `root`,
/// compiled by `compile`, owned by `owner`.
pub(super) fn ensure_bytecode<E>(
    store: &Store,
    base: &BaseImage,
    (sources, reason): (&BuiltLayer, &str),
    root: &str,
    owner: u32,
    progress: &dyn Progress,
    compile: impl FnOnce(&CompileRequest) -> Result<CompiledTree, E>,
) -> Result<BuiltLayer, E>
where
    E: From<StoreError> + From<LayerError>,
{
    let key = bytecode::bytecode_key(&sources.descriptor.digest, &base.interpreter);
    let wanted = LayerWanted { key: &key, reason };
    let made = ensure_layer(store, wanted, progress, |blob, tree| {
        progress.step("Compiling", &sources.reason);
        let mut lowers = vec![store.layer_path(&sources.diff_id)];
        let below: Vec<_> = base.layers.iter().map(|layer| layer.diff_id).collect();
        let visible = store.visible_layers(&below).iter().rev();
        lowers.extend(visible.map(|diff_id| store.layer_path(diff_id)));
        let compiled = compile(&CompileRequest {
            lowers,
            python: base.python.clone(),
            roots: vec![root.to_owned()],
            skip: Vec::new(),
        })?;
        let written = bytecode::write_layer(&compiled, owner, blob, Some(tree))?;
        let failed = compiled.failed;
        Ok::<_, E>((written, BytecodeNote { failed }))
    });
    made.map(|(layer, _)| layer)
}

impl Compiler for SandboxCompiler {
    fn compile(&self, request: &CompileRequest) -> Result<CompiledTree, PortError> {
        let fail = |kind, source: Box<dyn std::error::Error + Send + Sync>| PortError {
            action: format!("compile {} in the sandbox", request.roots.join(" ")),
            kind,
            source,
        };
        let finished =
            sandbox::run(&self.bundle(request), Sink::Capture).map_err(|error| fail(error.kind(), error.into()))?;
        if finished.end != End::Exited(0) {
            let stderr = String::from_utf8_lossy(&finished.stderr).chars().take(2000).collect();
            return Err(fail(
                Kind::Failed,
                CompileError::Ended {
                    end: finished.end,
                    stderr,
                }
                .into(),
            ));
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
        .map_err(|error| fail(Kind::Failed, error.into()))?;
        tree.files.sort();
        Ok(tree)
    }
}

impl SandboxCompiler {
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
