//! Whether a run may be given a cgroup by the user's own systemd.

use serde::{Deserialize, Serialize};

/// What a run does that has no cgroup delegated to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// It asks the user's own systemd, where there is one, for a transient scope.
    #[default]
    Auto,
    /// It asks nobody.
    Off,
}
