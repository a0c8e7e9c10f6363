//! Which filter of system calls a run gets, in whichever form: compiled for our own sandbox, in words for another runtime.

use super::bundle::Purpose;
use crate::policy::NetworkMode;

/// Which filter a run gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// For a function without network.
    Default,
    /// For a function with loopback: TCP within the sandbox.
    Loopback,
    /// For a function with egress: TCP to the listeners of the sandbox.
    Egress,
    /// For what is made for an image: no sockets but connected pairs.
    Build,
}

impl Filter {
    /// That of what is run for `purpose` with this network.
    pub(super) fn of(purpose: Purpose, network: NetworkMode) -> Self {
        match (purpose, network) {
            (Purpose::Compilation | Purpose::PackageBuild, _) => Self::Build,
            (Purpose::Function, NetworkMode::None) => Self::Default,
            (Purpose::Function, NetworkMode::Loopback) => Self::Loopback,
            (Purpose::Function, NetworkMode::Egress) => Self::Egress,
        }
    }
}
