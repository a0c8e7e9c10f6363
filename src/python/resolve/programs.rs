//! What running uv and pip has in common: how long they may take, how much of their words is shown, what their failure
//! means.

use std::time::Duration;

use crate::policy::Kind;
use crate::sys::program::ProgramError;

/// Explanations of uv are long; the first part says it.
pub(super) const MAX_MESSAGE: usize = 4000;

/// How long each program may run.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// `uv --version` and `pip config list`, which use no network.
    pub words: Duration,
    /// uv's answer to a question, and pip's download of uv.
    pub answer: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            // A tenth of a second, or some when all of it is read from a slow disk.
            words: Duration::from_secs(20),
            // Resolving takes under a second; two minutes are a network that is not there.
            answer: Duration::from_secs(120),
        }
    }
}

/// What sort of failure that of a program is: one that does not end may end another time.
pub(super) fn kind_of(error: &ProgramError) -> Kind {
    match error {
        ProgramError::Deadline { .. } => Kind::Unavailable,
        ProgramError::Start { .. }
        | ProgramError::Output { .. }
        | ProgramError::Ending { .. }
        | ProgramError::Wait { .. } => Kind::Failed,
    }
}
