//! Why a sandbox did not run a workload.

use std::collections::BTreeMap;
use std::io;

use crate::policy::{Code, Kind, Level, Promise};

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
    /// gantry could not go on watching a workload that had started, and ended it.
    #[error("watch the function: {action}")]
    Lost {
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
            | Self::Io { .. }
            | Self::Lost { .. } => Kind::Failed,
        }
    }

    /// What a run that ended in it says.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { .. } => Code::PromiseLost,
            Self::UserNamespace { .. } => Code::NoUserNamespace,
            Self::Bundle { .. } => Code::BadImage,
            Self::Setup { .. } | Self::InitDied { .. } | Self::Io { .. } | Self::Lost { .. } => Code::SandboxFailed,
        }
    }

    /// Whether the workload had executed something.
    pub fn has_started(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::Refused { .. }
            | Self::UserNamespace { .. }
            | Self::Setup { .. }
            | Self::InitDied { .. }
            | Self::Bundle { .. }
            | Self::Io { .. } => false,
        }
    }

    /// What it is once the workload has started.
    pub(super) fn after_the_start(self) -> Self {
        match self {
            Self::Io { action, source } => Self::Lost { action, source },
            other => other,
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
            | Self::Io { .. }
            | Self::Lost { .. } => BTreeMap::new(),
        }
    }
}
