//! Limits of memory, processes and cpu as the kernel's cgroup v2 takes them: for the cgroup of a run, and for a bundle.

use crate::policy::Confinement;

/// `cpu.max` period in microseconds: the kernel's default; a shorter one costs more switches.
const PERIOD: u64 = 100_000;
/// The smallest `cpu.max` quota in microseconds; the kernel refuses less.
const LEAST_QUOTA: u64 = 1_000;
/// What of memory may be swapped out; a kernel without swap has no such file.
pub(super) const SWAP: &str = "memory.swap.max";
/// What holds for every run. What is swapped out is not counted: without the first the limit of memory is on what stays in
/// it. All or nothing: a function whose helper process was killed would go on and compute nonsense.
pub(super) const ALWAYS: [(&str, &str); 3] = [(SWAP, "0"), ("memory.oom.group", "1"), ("cgroup.max.descendants", "0")];

/// What a run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resources {
    /// Bytes.
    pub memory: u64,
    /// Processes and threads of the workload.
    pub pids: u32,
    /// Microseconds of processor time in a period.
    pub quota: u64,
    /// The period, in microseconds.
    pub period: u64,
}

impl Resources {
    /// Those of `confinement`.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cpus is from 0.01 to 1024: checked where it enters"
    )]
    pub(super) fn of(confinement: &Confinement) -> Self {
        Self {
            memory: confinement.memory.0,
            pids: confinement.pids,
            quota: ((confinement.cpus * PERIOD as f64) as u64).max(LEAST_QUOTA),
            period: PERIOD,
        }
    }

    /// The share of processors as `cpu.max` has it.
    pub(super) fn cpu_max(&self) -> String {
        format!("{} {}", self.quota, self.period)
    }
}
