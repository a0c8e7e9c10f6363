//! What gantry tells an init, in two parts, and what the init reports.
//!
//! [`RoomOrders`] is everything that can be known before there is a job: with it the init makes the file system and its
//! limits. Then it waits for [`WorkOrders`], which come with the job. While it waits it dies with gantry, as always.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bundle::{Bundle, Place, Purpose};
use crate::policy::{HostPort, Level, NetworkMode, Promise, Runtime};

/// `argv[0]` of the init. Anyone may start gantry under this name; only a pid 1 takes it.
pub(crate) const INIT_NAME: &CStr = c"gantry-init";
/// The byte that asks the init to send everything SIGTERM; the one thing it hears after its orders.
pub(crate) const TERMINATE: u8 = b'T';

/// How surely a promise is kept from outside the sandbox, and why not better.
pub(crate) type Given = BTreeMap<Promise, (Level, String)>;

/// To the init, first: what can be known before there is a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RoomOrders {
    /// What makes the container.
    pub runtime: Runtime,
    /// Lower directories, top first.
    pub lowers: Vec<String>,
    /// Host name.
    pub hostname: String,
    /// What kind of workload it is.
    pub purpose: Purpose,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Bytes of `/dev/shm`, where multiprocessing has its semaphores and arrays.
    pub shm_bytes: u64,
    /// Bytes of `/output`.
    pub output_bytes: u64,
    /// Directory of the host that is `/output`; without it that is memory.
    pub output_directory: Option<String>,
    /// Processes and threads.
    pub pids: u32,
    /// Wall clock of the workload.
    pub timeout_ms: u64,
    /// From SIGTERM to SIGKILL.
    pub grace_ms: u64,
    /// The promises that are kept, or not, from outside.
    pub given: Given,
    /// Promises that may be lost.
    pub allow_degraded: Vec<Promise>,
    /// What can be reached.
    pub network: NetworkMode,
    /// Hosts and ports to make listeners for; none without egress.
    pub egress: Vec<HostPort>,
    /// What the run is told of its machine.
    pub machine: Vec<MachineFile>,
}

/// A file that says what machine a run has.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MachineFile {
    /// Where it is, from the root on: below `proc`, directly, or below `sys`.
    pub path: String,
    /// What it says.
    pub text: String,
}

impl RoomOrders {
    /// The part of `bundle` that belongs to the room.
    pub(crate) fn of(bundle: &Bundle, runtime: Runtime, given: Given, machine: Vec<MachineFile>) -> Self {
        let confinement = &bundle.confinement;
        Self {
            runtime,
            lowers: bundle
                .lowers_once()
                .iter()
                .map(|lower| lower.to_string_lossy().into_owned())
                .collect(),
            hostname: bundle.hostname.clone(),
            purpose: bundle.purpose,
            tmp_bytes: confinement.tmp_size.0,
            shm_bytes: confinement.shm_size.0,
            output_bytes: confinement.output_size.0,
            output_directory: bundle.output.as_deref().map(|path| path.to_string_lossy().into_owned()),
            pids: confinement.pids,
            timeout_ms: milliseconds(confinement.timeout),
            grace_ms: milliseconds(confinement.grace),
            given,
            allow_degraded: confinement.allow_degraded.iter().copied().collect(),
            network: confinement.network.mode(),
            egress: confinement.network.egress().to_vec(),
            machine,
        }
    }
}

/// To the init, second: what comes with the job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkOrders {
    /// The command.
    pub argv: Vec<String>,
    /// The workload's environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: String,
    /// Directory of the host that is shown as `/input`.
    pub input: Option<String>,
    /// Names of the secrets and where they go; their values follow as raw frames.
    pub secrets: Vec<(String, Place)>,
}

impl WorkOrders {
    /// The part of `bundle` that belongs to the job.
    pub(crate) fn of(bundle: &Bundle) -> Self {
        let secrets = bundle.secrets.iter();
        Self {
            argv: bundle.argv.clone(),
            env: bundle.env.clone(),
            cwd: bundle.cwd.clone(),
            input: bundle.input.as_deref().map(|path| path.to_string_lossy().into_owned()),
            secrets: secrets.map(|secret| (secret.name.clone(), secret.place)).collect(),
        }
    }
}

/// From the init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Mounts are made; carries the descriptor of `/output`, then those of the listeners, in the order of the egress.
    Mounted,
    /// Restrictions are on and read back; the workload comes next.
    Restricted(BTreeMap<Promise, Level>),
    /// A promise is lost: the init ends.
    Refused(BTreeMap<Promise, Level>, Vec<(Promise, String)>),
    /// The workload's exec succeeded.
    Started,
    /// The workload's command was not executed, because of this and with this errno; see [`exit_code_of`].
    NotExecuted(Obstacle, i32),
    /// The workload ended with a code.
    Exited(i32),
    /// The workload ended by a signal.
    Signaled(i32),
    /// The init's own deadline passed.
    TimedOut,
    /// Something failed; the init ends.
    Failed(String),
}

/// What kept a workload's command from being executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Obstacle {
    /// Its working directory or its limits could not be set.
    Preparation,
    /// There is no such program.
    Missing,
    /// The program is there; what it names to be run with is not.
    Interpreter,
    /// The program is there, and the kernel does not execute it.
    Refused,
}

/// Whether the errno of an exec says that there is no such program.
pub(crate) fn is_not_found(errno: i32) -> bool {
    [rustix::io::Errno::NOENT, rustix::io::Errno::NOTDIR]
        .iter()
        .any(|known| known.raw_os_error() == errno)
}

/// The exit code of a workload whose exec failed with `errno`: 127 when there is no such program, else 126 (POSIX, "Shell
/// Command Language", 2.8.2).
pub(crate) fn exit_code_of(errno: i32) -> i32 {
    if is_not_found(errno) {
        127
    } else {
        126
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
