//! How a run can end, in one word: the `status` of its outcome (`docs/formats.md`).

use serde::{Serialize, Serializer};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The function ended with 0.
    Ok,
    /// The function ended with another code or by a signal of its own, or left files that are not taken.
    Failed,
    /// The time limit struck.
    Timeout,
    /// The memory limit struck.
    Oom,
    /// gantry was told to stop, or the sandbox was killed from outside.
    Killed,
    /// A promise could not be kept and was not excepted.
    Refused,
    /// The image could not be had; a later try may work.
    Unavailable,
    /// gantry could not run it.
    Error,
}

impl Status {
    /// The word in an outcome.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Oom => "oom",
            Self::Killed => "killed",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Error => "error",
        }
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
