//! Says what a run may use and touch, and how surely each promise about that is kept.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::limits::with_limits;
use super::{Egress, GivenLimits, HostPort, Runtime};

macro_rules! confinement {
    ($($(#[$doc:meta])* $name:ident: $given:ty => $value:ty = $default:expr, $word:literal;)*) => {
        /// What a run may use and touch. Every field has a default; all of them are validated where they enter.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Confinement {
            $($(#[$doc])* pub $name: $value,)*
            /// What can be reached.
            pub network: Network,
            /// Promises whose loss does not refuse the run.
            pub allow_degraded: BTreeSet<Promise>,
            /// What makes its container.
            pub runtime: Runtime,
        }

        impl Default for Confinement {
            fn default() -> Self {
                Self {
                    $($name: $default,)*
                    network: Network::None,
                    allow_degraded: BTreeSet::new(),
                    runtime: Runtime::default(),
                }
            }
        }

        impl Confinement {
            /// Processors that its share amounts to, a part of one counted whole: how many threads it serves.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "cpus is from 0.01 to 1024: checked where it enters"
            )]
            pub fn processors(&self) -> u32 {
                self.cpus.ceil() as u32
            }

            /// This confinement with the limits that are given in place of its own.
            pub fn limited(self, limits: &GivenLimits) -> Self {
                Self {
                    $($name: limits.$name.map_or(self.$name, Into::into),)*
                    ..self
                }
            }
        }
    };
}
with_limits!(confinement);

/// The network of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// An empty network namespace.
    None,
    /// An empty network namespace whose loopback interface is up: TCP within the run.
    Loopback,
    /// An empty network namespace with a listener for each of these, behind which gantry stands.
    Egress(Egress),
}

impl Network {
    /// What can be reached.
    pub fn egress(&self) -> &[HostPort] {
        match self {
            Self::None | Self::Loopback => &[],
            Self::Egress(egress) => egress.entries(),
        }
    }

    /// Its name.
    pub fn mode(&self) -> NetworkMode {
        match self {
            Self::None => NetworkMode::None,
            Self::Loopback => NetworkMode::Loopback,
            Self::Egress(_) => NetworkMode::Egress,
        }
    }
}

/// The name of a [`Network`] in options and documents; what can be reached is said beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// [`Network::None`].
    None,
    /// [`Network::Loopback`].
    Loopback,
    /// [`Network::Egress`].
    Egress,
}

/// A promise about a run; the names are those of the outcome's `enforced` field and of `--allow-degraded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// uid and gid 1000 inside, no other id mapped.
    User,
    /// All five capability sets are empty and cannot grow.
    Capabilities,
    /// `no_new_privs` is set.
    NoNewPrivs,
    /// The seccomp program is loaded.
    Seccomp,
    /// Landlock confines files, TCP, signals and abstract sockets.
    Landlock,
    /// The root file system cannot be written.
    ReadOnlyRoot,
    /// `/tmp` is private, limited in bytes and inodes.
    Tmp,
    /// `/output` is private, limited in bytes and inodes.
    Output,
    /// Nothing but the loopback interface exists, and it is down unless the run has loopback or egress; with egress, it has exactly the listeners of the allowed hosts.
    Network,
    /// Memory of all processes together is limited.
    Memory,
    /// The CPU share is limited.
    Cpu,
    /// The number of processes is limited.
    Processes,
    /// The wall-clock limit holds.
    Time,
    /// What is passed on of standard output and error is limited.
    OutputSize,
    /// No descriptor or environment variable of ours reaches the workload.
    Leaks,
    /// Nothing of the run survives it, nor the death of gantry.
    Death,
}

impl Promise {
    /// Every promise, in the order of the enum.
    pub const ALL: [Promise; 16] = [
        Self::User,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::Seccomp,
        Self::Landlock,
        Self::ReadOnlyRoot,
        Self::Tmp,
        Self::Output,
        Self::Network,
        Self::Memory,
        Self::Cpu,
        Self::Processes,
        Self::Time,
        Self::OutputSize,
        Self::Leaks,
        Self::Death,
    ];

    /// The name in documents and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no_new_privs",
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::ReadOnlyRoot => "read_only_root",
            Self::Tmp => "tmp",
            Self::Output => "output",
            Self::Network => "network",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Processes => "processes",
            Self::Time => "time",
            Self::OutputSize => "output_size",
            Self::Leaks => "leaks",
            Self::Death => "death",
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Promise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|promise| promise.name() == text)
            .ok_or_else(|| {
                format!(
                    "no promise is called {text:?}; there are {}",
                    Self::ALL.map(Self::name).join(", ")
                )
            })
    }
}

/// How surely a promise is kept in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nobody looks.
    Absent,
    /// We look from time to time and act.
    Watched,
    /// The kernel refuses, and shows it where it can: that was read back. Time, output and our own death are held by us.
    Enforced,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_has_a_name_that_parses_and_serialises() {
        for promise in Promise::ALL {
            assert_eq!(promise.name().parse(), Ok(promise));
            assert_eq!(serde_json::to_value(promise).unwrap(), promise.name());
        }
    }
}
