//! Which version of Python a base has, to the last digit: requirements may depend on it.
//!
//! Asked of the interpreter itself, in the sandbox, and remembered: no file of an image says it everywhere.

use serde::{Deserialize, Serialize};

use super::compile::Compiler;
use super::{Interpreter, PythonError};
use crate::store::{Key, Memo, Roots, Step, Store};

/// What the interpreter is given to run.
const QUESTION: &str = "import platform; print(platform.python_version())";

/// A version such as `3.11.2`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct FullVersion(String);

impl Memo for FullVersion {
    const FOLDER: &'static str = "python";

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// The version of `interpreter`, such as `3.11.2`; none when it says nothing that is a version.
pub(crate) fn find_version(
    store: &Store,
    compiler: &Compiler,
    interpreter: &Interpreter,
) -> Result<Option<String>, PythonError> {
    let key = Key::of(Step::PythonVersion)
        .with(interpreter.digest.to_string())
        .with(&interpreter.path)
        .finish();
    if let Some(FullVersion(found)) = store.memos().find(&key)? {
        return Ok(Some(found));
    }
    let below: Vec<_> = interpreter.layers.iter().map(|layer| layer.diff_id).collect();
    let lowers = store
        .trees()
        .visible(&below)
        .iter()
        .rev()
        .map(|diff_id| store.trees().path(diff_id));
    let said = compiler.ask(lowers.collect(), &interpreter.path, QUESTION)?;
    let said = said.trim().to_owned();
    if !is_version(&said) {
        return Ok(None);
    }
    store.memos().put(&key, &FullVersion(said.clone()))?;
    Ok(Some(said))
}

/// Whether `text` is a version as an interpreter has one: a resolver gets it as an argument.
fn is_version(text: &str) -> bool {
    text.len() < 20 && text.starts_with("3.") && text.parse::<pep440_rs::Version>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interpreter_says_is_a_version_or_nothing() {
        assert!(is_version("3.11.2") && is_version("3.14.0rc1"));
        for text in [
            "",
            "3.11.2 --help",
            "--help",
            "2.7.18",
            "3.11.2\n3",
            "3.1111111111111111111111111",
        ] {
            assert!(!is_version(text), "{text}");
        }
    }
}
