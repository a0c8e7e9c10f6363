//! Confined execution: a [`Bundle`] goes in, a [`Finished`] comes out, and nothing is left.
//!
//! ```text
//! gantry --clone3(user mnt pid ipc uts net cgroup)--> init (pid 1, our binary, empty environment)
//!    |  <--- control socket: bundle, levels, end --->   |  mounts, pivot_root, restrictions, read back
//!    |  <--- stdout, stderr pipes ------------------.   |--fork--> workload (never pid 1)
//! ```
//!
//! `init` dies with us three times over: by its parent-death signal, by the end of the control socket, and by its own
//! deadline; with it the kernel kills everything in its pid namespace and frees every mount of its mount namespace.
//! A run with egress has, in `init`'s network namespace, one listener per allowed host and port; `init` passes them to us,
//! and what stands behind them is the caller's ([`run_with_doors`]).
//!
//! Nothing of a run exists outside those two processes but its cgroup, where one is to be had: no state file, no mount.
//!
//! libcontainer is not used: `docs/decisions.md` has the measurement.

mod bundle;
mod cgroup;
mod collect;
mod egress;
mod init;
mod mounts;
mod restrict;
mod seccomp;
mod signals;
mod stream;
mod supervise;
mod verify;
mod watch;
mod wire;
mod workload;

pub use bundle::{Bundle, End, Finished, Place, Purpose, SandboxError, Secret, Sink, Times, Usage};
pub use cgroup::{sweep, CgroupError, Subtree};
pub use collect::{collect, CollectError, CollectLimits, Collected};
pub use egress::{Door, OpenDoors};
pub use init::{is_init, main as init_main};
pub use seccomp::install_time as filter_install_time;
pub use signals::{Signals, StopSignal};
pub use supervise::{run, run_with_doors};
