//! The code layer: the function's files below `/app`, owned by uid 1000.

use std::io::Write;

use super::function::Function;
use crate::archive::layer::{order, LayerError, LayerWriter, TreeSink, WrittenLayer};

/// Where the code goes, without leading slash.
pub const APP: &str = "app";
/// Owner of the code: the platform's `mecapy`.
pub const OWNER: u32 = 1000;

/// Writes the files of `function`.
pub fn write_layer(
    function: &Function,
    out: impl Write,
    tree: Option<&mut dyn TreeSink>,
) -> Result<WrittenLayer, LayerError> {
    let mut writer = LayerWriter::new(out, tree, OWNER);
    let mut files: Vec<_> = function.files.iter().collect();
    files.sort_by(|one, other| order(&one.path, &other.path));
    for file in files {
        let mode = if file.executable { 0o755 } else { 0o644 };
        writer.file(&format!("{APP}/{}", file.path), mode, &file.contents)?;
    }
    writer.finish()
}
