//! Confined execution: a [`Bundle`] goes in, a [`Finished`] comes out, and nothing is left.
//!
//! ```text
//! gantry --clone3(user mnt pid ipc uts net cgroup)--> init (pid 1, our binary, empty environment)
//!    |  ---- control socket: room, work ---------->      |  mounts, pivot_root, restrictions, read back
//!    |  <--- levels, listeners, end ----------------     |
//!    |  <--- stdout, stderr pipes ------------------.    |--clone-> workload (never pid 1)
//! ```
//!
//! | folder | runs | holds |
//! |---|---|---|
//! | [`outside`] | in gantry | [`Sandbox`]: orders, pipes, clock, limits, cgroup, what is in `/output` |
//! | [`launch`] | in gantry | [`Launcher`]: how the first process of a sandbox is started, and what makes its container |
//! | [`inside`] | behind the wall | that first process: mounts, restrictions, read-back, the workload's start and end |
//!
//! The two sides share the files of this folder: [`bundle`] and [`orders`] (what is said), [`wire`] (how), [`addresses`]
//! (where the listeners of a run with egress are), [`mount_plan`] and [`rlimits`] (what is mounted and limited), [`spec`]
//! (a sandbox as others describe one). Nothing of `outside` trusts what comes from `inside` further than the
//! kernel confirms it, and nothing of the workload ever reaches the control socket.
//!
//! The init dies with gantry three times over: by its parent-death signal, by the end of the control socket, and by its
//! own deadline; with it the kernel kills everything in its pid namespace and frees every mount of its mount namespace.
//! Nothing of a run exists outside those two processes but its cgroup, where one is to be had: no state file, no mount.

mod addresses;
mod bundle;
mod error;
mod filter;
mod inside;
mod launch;
mod mount_plan;
pub(crate) mod orders;
mod outside;
mod resources;
mod rlimits;
mod runtime_spec;
mod spec;
pub(crate) mod wire;

pub use crate::sys::process::Child;
pub use bundle::{Bundle, Place, Purpose, Secret, Stdin};
pub use error::SandboxError;
pub(crate) use inside::hosts_file;
pub use inside::{filter_install_time, init_main, is_init, LANDLOCK_ABI};
#[cfg(feature = "libcontainer")]
pub use launch::Libcontainer;
pub use launch::{Launcher, Native, Start};
pub use orders::Obstacle;
pub use outside::{
    collect, run, run_with_doors, sweep, Beat, Caller, CgroupError, CollectError, CollectLimits, Collected, Deadline,
    Door, End, Excess, Finished, Full, Lack, NoCaller, OpenDoors, Sandbox, ScopeError, Signals, Sink, Stdout, Stop,
    StopSignal, Subtree, Usage,
};
pub use runtime_spec::specification_for_runtime;
pub use spec::{canonical_json, specification, Guest};
