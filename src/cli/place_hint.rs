//! What to do where the directory that gantry was started in is gone: whatever is looked for or written there is not found. Used
//! by `hint`.

use std::error::Error;
use std::io;

use crate::build::function::FunctionError;
use crate::policy::causes;

/// What to do about an error that may come of it.
pub(super) fn of_gone_directory(error: &(dyn Error + 'static)) -> Option<String> {
    // A file without a name cannot be made in such a directory: EPERM.
    let is_of_files = |source: &io::Error| source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(1);
    let may_come_of_it = causes(error).any(|cause| {
        cause.downcast_ref().is_some_and(is_of_files)
            || matches!(cause.downcast_ref(), Some(FunctionError::NoEntryPoint { .. }))
    });
    let is_gone = || std::env::current_dir().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    // What is named from / on is somewhere else, unless it is a place inside a run.
    let is_another = |word: &str| word.starts_with('/') && !["/input", "/output"].contains(&word);
    let names_another = || causes(error).any(|cause| cause.to_string().split([' ', '"', ',']).any(is_another));
    (may_come_of_it && !names_another() && is_gone())
        .then(|| "the directory that gantry was started in is not there any more: `cd` to one that is".to_owned())
}
