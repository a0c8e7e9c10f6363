//! Why a sandbox did not run a workload.

use std::collections::BTreeMap;
use std::io;

use crate::policy::{Kind, Level, Promise};

/// Why nothing ran.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel or its configuration does not let us make a user namespace.
    #[error("make user namespace: {step}")]
    UserNamespace {
        /// What was attempted.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A promise would not be kept and is not excepted.
    #[error("refuse to run: {}", lost.iter().map(|(promise, reason)| format!("{promise} cannot be enforced ({reason})")).collect::<Vec<_>>().join(", "))]
    Refused {
        /// Every promise and its level.
        levels: BTreeMap<Promise, Level>,
        /// Those that are lost, and why.
        lost: Vec<(Promise, String)>,
    },
    /// The init failed before it started the workload.
    #[error("set up sandbox: {reason}")]
    Setup {
        /// What it says, with the kernel's answer.
        reason: String,
    },
    /// The init ended without a word.
    #[error("set up sandbox: its init ended with {code:?} before it started the workload")]
    InitDied {
        /// Its exit code; none when it was killed.
        code: Option<i32>,
    },
    /// A bundle that no sandbox can run.
    #[error("run bundle: {reason}")]
    Bundle {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A system call of ours failed.
    #[error("{action}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl SandboxError {
    /// What sort of failure it is: a lost promise is a refusal, everything else a failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } => Kind::Refused,
            Self::UserNamespace { .. }
            | Self::Setup { .. }
            | Self::InitDied { .. }
            | Self::Bundle { .. }
            | Self::Io { .. } => Kind::Failed,
        }
    }

    /// The levels that are known.
    pub fn levels(&self) -> BTreeMap<Promise, Level> {
        match self {
            Self::Refused { levels, .. } => levels.clone(),
            Self::UserNamespace { .. }
            | Self::Setup { .. }
            | Self::InitDied { .. }
            | Self::Bundle { .. }
            | Self::Io { .. } => BTreeMap::new(),
        }
    }
}
