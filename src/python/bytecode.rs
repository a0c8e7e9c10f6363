//! Bytecode layers: `.pyc` files with an unchecked hash, so that neither times nor a second look at the source matter.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::compile::{CompileError, CompileRequest, CompiledTree, Compiler, COMPILE_TREE};
use super::Interpreter;
use crate::archive::layer::{order, LayerError, LayerWriter, TreeSink, WrittenLayer};
use crate::oci::Digest;
use crate::progress::Progress;
use crate::store::{ensure_layer, find_layer, BuiltLayer, Key, LayerNote, LayerWanted, Step, Store, StoreError};

/// What a bytecode layer is keyed by: the layer of its sources, the interpreter's layer and path, and the script.
///
/// The interpreter is named by where it comes from, not by its version: another build of the same version might, one day, give
/// other bytes. One image may have several, so its path counts, too.
fn bytecode_key(sources: &Digest, interpreter: &Interpreter) -> Key {
    Key::of(Step::BytecodeLayer)
        .with(COMPILE_TREE)
        .with(sources.to_string())
        .with(interpreter.digest.to_string())
        .with(&interpreter.path)
        .finish()
}

/// What is remembered of a bytecode layer: which sources do not compile, and why not.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Option<Vec<(String, String)>>", into = "Vec<(String, String)>")]
struct BytecodeNote {
    /// Path and what the compiler says.
    failed: Vec<(String, String)>,
}

impl LayerNote for BytecodeNote {
    const FOLDER: &'static str = "bytecode";
}

/// Earlier versions wrote nothing for the standard library.
impl From<Option<Vec<(String, String)>>> for BytecodeNote {
    fn from(failed: Option<Vec<(String, String)>>) -> Self {
        Self {
            failed: failed.unwrap_or_default(),
        }
    }
}

impl From<BytecodeNote> for Vec<(String, String)> {
    fn from(note: BytecodeNote) -> Self {
        note.failed
    }
}

/// Sources in one layer, whose bytecode is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Sources<'a> {
    pub layer: &'a BuiltLayer,
    /// For people: what is compiled.
    pub title: &'a str,
    /// Why the layer of bytecode is in an image.
    pub reason: &'a str,
    /// The absolute directory inside whose `.py` files are compiled.
    pub root: &'a str,
    /// Absolute directories inside that are left out.
    pub skip: Vec<String>,
    /// Who owns the bytecode.
    pub owner: u32,
}

/// The layer of bytecode of `sources`, a layer on top of those of `interpreter`, made when it is not there. `check` may
/// refuse what came of it; then nothing is remembered.
pub(crate) fn ensure_bytecode<E>(
    store: &Store,
    compiler: &Compiler,
    interpreter: &Interpreter,
    sources: &Sources<'_>,
    progress: &dyn Progress,
    check: impl FnOnce(&CompiledTree) -> Result<(), E>,
) -> Result<BuiltLayer, E>
where
    E: From<StoreError> + From<LayerError> + From<CompileError>,
{
    let key = bytecode_key(&sources.layer.descriptor.digest, interpreter);
    let wanted = LayerWanted {
        key: &key,
        reason: sources.reason,
    };
    let made = ensure_layer(store, wanted, progress, |blob, tree| {
        progress.step("Compiling", sources.title);
        let mut lowers = vec![store.trees().path(&sources.layer.diff_id)];
        let below: Vec<_> = interpreter.layers.iter().map(|layer| layer.diff_id).collect();
        let visible = store.trees().visible(&below).iter().rev();
        lowers.extend(visible.map(|diff_id| store.trees().path(diff_id)));
        let compiled = compiler.compile(&CompileRequest {
            lowers,
            python: interpreter.path.clone(),
            roots: vec![sources.root.to_owned()],
            skip: sources.skip.clone(),
        })?;
        check(&compiled)?;
        let written = write_layer(&compiled, sources.owner, blob, Some(tree))?;
        let failed = compiled.failed;
        Ok::<_, E>((written, BytecodeNote { failed }))
    });
    let (layer, _) = made?;
    Ok(layer)
}

/// The layer of bytecode of `sources`, if it is there.
pub(crate) fn find_bytecode(
    store: &Store,
    interpreter: &Interpreter,
    sources: &Sources<'_>,
) -> Result<Option<BuiltLayer>, StoreError> {
    let wanted = LayerWanted {
        key: &bytecode_key(&sources.layer.descriptor.digest, interpreter),
        reason: sources.reason,
    };
    let found: Option<(_, BytecodeNote)> = find_layer(store, wanted)?;
    Ok(found.map(|(layer, _)| layer))
}

/// Writes the files of `tree`, owned by `owner`.
fn write_layer(
    tree: &CompiledTree,
    owner: u32,
    out: impl Write,
    sink: Option<&mut dyn TreeSink>,
) -> Result<WrittenLayer, LayerError> {
    let mut files: Vec<&(String, Vec<u8>)> = tree.files.iter().collect();
    files.sort_by(|(one, _), (other, _)| order(one, other));
    let mut writer = LayerWriter::new(out, sink, owner);
    for (path, contents) in files {
        writer.file(path, 0o644, contents)?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_interpreters_of_one_image_share_no_bytecode() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let key = |image: &str, path: &str| {
            let interpreter = Interpreter {
                base: image.to_owned(),
                layers: Vec::new(),
                path: path.to_owned(),
                digest: digest(image),
            };
            bytecode_key(&digest("sources"), &interpreter)
        };
        let (one, other) = ("/usr/local/bin/python3.13", "/usr/bin/python3.11");
        assert_eq!(key("image", one), key("image", one));
        assert_ne!(key("image", one), key("image", other));
        assert_ne!(key("image", one), key("another", one));
    }
}
