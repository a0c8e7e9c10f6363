//! Bytecode layers: `.pyc` files with an unchecked hash, so that neither times nor a second look at the source matter.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::layers::LayerNote;
use super::ports::CompiledTree;
use crate::archive::layer::{order, LayerError, LayerWriter, TreeSink, WrittenLayer};
use crate::oci::Digest;
use crate::store::{Key, Step};

/// The script that the compiler port runs with the image's own Python.
pub const COMPILE_TREE: &str = include_str!("compile_tree.py");

/// How the script is run: as isolated as `-I`, which would ignore [`ENVIRONMENT`].
pub const ARGUMENTS: [&str; 6] = ["-S", "-s", "-B", "-X", "utf8", "-c"];
/// With what variable besides the PATH: sets among constants have an order.
pub const ENVIRONMENT: (&str, &str) = ("PYTHONHASHSEED", "0");

/// What a bytecode layer is keyed by: the layer of its sources, the interpreter's layer, and the script.
///
/// The interpreter is named by its layer, not by its version: another build of the same version might, one day, give
/// other bytes.
pub fn bytecode_key(sources: &Digest, interpreter: &Digest) -> Key {
    Key::of(Step::BytecodeLayer)
        .with(COMPILE_TREE)
        .with(sources.to_string())
        .with(interpreter.to_string())
        .finish()
}

/// What is remembered of a bytecode layer: which sources do not compile, and why not.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Option<Vec<(String, String)>>", into = "Vec<(String, String)>")]
pub struct BytecodeNote {
    /// Path and what the compiler says.
    pub failed: Vec<(String, String)>,
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

/// Writes the files of `tree`, owned by `owner`.
pub fn write_layer(
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
