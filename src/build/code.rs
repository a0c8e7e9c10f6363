//! The layers of a function's code: its files below `/app`, owned by uid 1000, and their bytecode.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::function::{Function, SourceFile, SourceLink};
use super::{syntax, BuildError};
use crate::archive::layer::{order, LayerError, LayerWriter, TreeSink, WrittenLayer};
use crate::progress::Progress;
use crate::python::bytecode::{ensure_bytecode, Sources};
use crate::python::compile::{CompiledTree, Compiler};
use crate::python::Interpreter;
use crate::store::{ensure_layer, BuiltLayer, LayerNote, LayerWanted, Store};

/// Where the code goes, without leading slash.
const APP: &str = "app";
/// Owner of the code: the platform's `mecapy`.
const OWNER: u32 = 1000;

/// Nothing is remembered of a code layer besides its bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct CodeNote;

impl LayerNote for CodeNote {
    const FOLDER: &'static str = "code";
}

enum Entry<'a> {
    Directory,
    File(&'a SourceFile),
    Link(&'a SourceLink),
}

/// The layers of `function`, which was read from `directory`: its files, and their bytecode by `interpreter`.
///
/// # Errors
///
/// [`BuildError::Syntax`] when a source does not compile; then no bytecode is kept.
pub(crate) fn ensure_layers(
    store: &Store,
    compiler: &Compiler,
    interpreter: &Interpreter,
    (function, directory): (&Function, &Path),
    progress: &dyn Progress,
) -> Result<Vec<BuiltLayer>, BuildError> {
    let wanted = LayerWanted {
        key: &function.key(),
        reason: "code",
    };
    let (code, _) = ensure_layer(store, wanted, progress, |blob, tree| {
        progress.step("Packing", &format!("code of {}", directory.display()));
        Ok::<_, BuildError>((write_layer(function, blob, Some(tree))?, CodeNote))
    })?;
    let sources = Sources {
        layer: &code,
        title: &code.reason,
        reason: "bytecode of code",
        root: "/app",
        skip: Vec::new(),
        owner: OWNER,
    };
    let bytecode = ensure_bytecode(store, compiler, interpreter, &sources, progress, check)?;
    Ok(vec![code, bytecode])
}

fn check(compiled: &CompiledTree) -> Result<(), BuildError> {
    match syntax::render(&compiled.failed, "/app") {
        Some(rendered) => Err(BuildError::Syntax { rendered }),
        None => Ok(()),
    }
}

/// Writes the files, links and empty directories of `function`.
fn write_layer(
    function: &Function,
    out: impl Write,
    tree: Option<&mut dyn TreeSink>,
) -> Result<WrittenLayer, LayerError> {
    let mut writer = LayerWriter::new(out, tree, OWNER);
    let files = function.files.iter().map(|file| (&file.path, Entry::File(file)));
    let links = function.links.iter().map(|link| (&link.path, Entry::Link(link)));
    let empty = function.empty.iter().map(|path| (path, Entry::Directory));
    let mut entries: Vec<_> = files.chain(links).chain(empty).collect();
    entries.sort_by(|(one, _), (other, _)| order(one, other));
    for (path, entry) in entries {
        let path = format!("{APP}/{path}");
        match entry {
            Entry::Directory => writer.directory(&path, 0o755)?,
            Entry::File(file) if file.executable => writer.file(&path, 0o755, &file.contents)?,
            Entry::File(file) => writer.file(&path, 0o644, &file.contents)?,
            Entry::Link(link) => writer.symlink(&path, &link.target)?,
        }
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(String, u32)>);

    impl TreeSink for Seen {
        fn directory(&mut self, path: &str, mode: u32) -> std::io::Result<()> {
            self.0.push((format!("{path}/"), mode));
            Ok(())
        }
        fn file(&mut self, path: &str, mode: u32, _contents: &[u8]) -> std::io::Result<()> {
            self.0.push((path.to_owned(), mode));
            Ok(())
        }
        fn symlink(&mut self, path: &str, _target: &str) -> std::io::Result<()> {
            self.0.push((path.to_owned(), 0));
            Ok(())
        }
    }

    #[test]
    fn the_bytes_depend_on_the_files_alone() {
        let file = |path: &str, executable| SourceFile {
            path: path.to_owned(),
            executable,
            contents: path.as_bytes().to_vec(),
        };
        let function = Function {
            files: vec![
                file("a-b.py", false),
                file("a/b.py", true),
                file("user_function.py", false),
            ],
            ..Function::default()
        };
        let mut seen = Seen::default();
        let written = write_layer(&function, std::io::sink(), Some(&mut seen)).unwrap();
        let entries: Vec<(&str, u32)> = seen.0.iter().map(|(path, mode)| (path.as_str(), *mode)).collect();
        assert_eq!(
            entries,
            [
                ("app/", 0o755),
                ("app/a/", 0o755),
                ("app/a/b.py", 0o755),
                ("app/a-b.py", 0o644),
                ("app/user_function.py", 0o644)
            ]
        );
        // A promise: another value gives every function another image.
        assert_eq!(
            written.diff_id.to_string(),
            "sha256:099a6fadda9f6a211f9df82eff043c8e7b38f0cca4ecfc03dcb70c0148218e7f"
        );
    }
}
