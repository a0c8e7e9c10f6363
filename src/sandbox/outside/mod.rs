//! gantry's side of a sandbox: [`supervise`] has the [`Sandbox`], the rest is what it uses and what comes of it.

mod caller;
mod cgroup;
mod doors;
mod feed;
mod finished;
mod levels;
mod machine;
mod output;
mod output_watch;
mod rooms;
mod signals;
mod stop;
mod stream;
mod supervise;
mod transient_scope;
mod watch;

use std::io;

use super::bundle::Bundle;
use super::error::SandboxError;
use super::launch;

pub use caller::{Caller, NoCaller};
pub use cgroup::{sweep, CgroupError, Subtree};
pub use doors::{Door, OpenDoors};
pub use finished::{End, Finished, Usage};
pub use output::{collect, CollectError, CollectLimits, Collected};
pub use output_watch::Excess;
pub use rooms::{Full, Lack};
pub use signals::{Beat, Deadline, Signals};
pub use stop::{Stop, StopSignal};
pub use supervise::{Sandbox, Sink, Stdout};
pub use transient_scope::ScopeError;

/// Runs `bundle` to its end. When it returns, no process, mount or file of the run exists.
///
/// With [`Sink::Inherit`], its signals end the run.
///
/// # Errors
///
/// [`SandboxError::Refused`] when a promise would not be kept; everything else is a failure before the workload began.
pub fn run(bundle: &Bundle, sink: Sink<'_>) -> Result<Finished, SandboxError> {
    run_with_doors(bundle, sink, &mut |_| Err(io::ErrorKind::Unsupported.into()))
}

/// Runs `bundle`, which has egress, as [`run`] does; `open` is called once with its doors. What it makes of them is the
/// caller's to end after the run.
///
/// # Errors
///
/// Those of [`run`], and that of `open`.
pub fn run_with_doors(bundle: &Bundle, sink: Sink<'_>, open: OpenDoors<'_>) -> Result<Finished, SandboxError> {
    let launcher = launch::of(bundle.confinement.runtime)?;
    let mut sandbox = Sandbox::launch(&*launcher, bundle, sink)?;
    sandbox.begin(bundle)?;
    sandbox.finish(sink, open)
}
