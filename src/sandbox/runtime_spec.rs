//! What a runtime that is not ours is told besides: limits, and the filter of system calls in the words of libseccomp.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxSeccomp, Spec};
use oci_spec::OciSpecError;

use super::bundle::Bundle;
use super::filter::Filter;
use super::resources::{Resources, ALWAYS, SWAP};
use super::spec::{specification, Guest};

/// `seccomp/default.json`, written by build.rs as `linux.seccomp`.
const FUNCTION: &str = include_str!(concat!(env!("OUT_DIR"), "/seccomp_default.json"));
/// Likewise with `seccomp/loopback.json` on top.
const LOOPBACK: &str = include_str!(concat!(env!("OUT_DIR"), "/seccomp_loopback.json"));
/// Likewise with `seccomp/build.json` on top.
const BUILD: &str = include_str!(concat!(env!("OUT_DIR"), "/seccomp_build.json"));

/// What runc's own template covers, for a kernel whose `/proc` has no `subset=pid`.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
/// What it makes read-only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The specification of `bundle` with its root at `root`, for a runtime that the user and group `owner` calls: inside they
/// are `id`.
///
/// # Errors
///
/// That of oci-spec, which has none for what is built here.
pub fn specification_for_runtime(
    bundle: &Bundle,
    root: &Path,
    id: u32,
    owner: (u32, u32),
) -> Result<Spec, OciSpecError> {
    let mut spec = specification(bundle, root, Guest::Runtime { id, owner })?;
    if let Some(linux) = spec.linux_mut() {
        linux.set_resources(Some(resources(&Resources::of(&bundle.confinement))?));
        linux.set_seccomp(Some(filter(bundle)?));
        linux.set_masked_paths(Some(MASKED.map(str::to_owned).to_vec()));
        linux.set_readonly_paths(Some(READ_ONLY.map(str::to_owned).to_vec()));
    }
    Ok(spec)
}

fn resources(limits: &Resources) -> Result<LinuxResources, OciSpecError> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    // As much with swap as without it: runtimes write that as no swap, where the kernel has a file for it.
    let memory = LinuxMemoryBuilder::default()
        .limit(signed(limits.memory))
        .swap(signed(limits.memory));
    let memory = memory.build()?;
    resources.set_memory(Some(memory));
    let pids = LinuxPidsBuilder::default().limit(i64::from(limits.pids)).build()?;
    resources.set_pids(Some(pids));
    let cpu = LinuxCpuBuilder::default()
        .quota(signed(limits.quota))
        .period(limits.period);
    resources.set_cpu(Some(cpu.build()?));
    let always = ALWAYS.into_iter().filter(|(file, _)| *file != SWAP);
    let always = always.map(|(file, value)| (file.to_owned(), value.to_owned()));
    resources.set_unified(Some(always.collect::<HashMap<_, _>>()));
    Ok(resources)
}

fn filter(bundle: &Bundle) -> Result<LinuxSeccomp, OciSpecError> {
    let document = match Filter::of(bundle.purpose, bundle.confinement.network.mode()) {
        // Another runtime has no listeners that a function with egress could reach.
        Filter::Default | Filter::Egress => FUNCTION,
        Filter::Loopback => LOOPBACK,
        Filter::Build => BUILD,
    };
    Ok(serde_json::from_str(document)?)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSeccompAction;

    use super::super::bundle::Purpose;
    use super::*;
    use crate::policy::{Bytes, Confinement, Network};

    fn spec(confinement: Confinement) -> Spec {
        let bundle = Bundle::of_build(
            Purpose::Function,
            Vec::new(),
            vec!["python".to_owned()],
            &[],
            confinement,
        );
        specification_for_runtime(&bundle, Path::new("rootfs"), 1000, (501, 20)).unwrap()
    }

    #[test]
    fn the_limits_are_those_of_a_run() {
        let spec = spec(Confinement {
            memory: Bytes(64 << 20),
            cpus: 0.5,
            pids: 7,
            ..Confinement::default()
        });
        let resources = spec.linux().as_ref().unwrap().resources();
        let expected = serde_json::json!({
            "memory": {"limit": 64 << 20, "swap": 64 << 20},
            "cpu": {"quota": 50_000, "period": 100_000},
            "pids": {"limit": 7},
            "unified": {"memory.oom.group": "1", "cgroup.max.descendants": "0"},
        });
        assert_eq!(serde_json::to_value(resources).unwrap(), expected);
    }

    #[test]
    fn the_filter_is_there_and_names_each_call_under_an_action_of_its_own() {
        for network in [Network::None, Network::Loopback] {
            let spec = spec(Confinement {
                network,
                ..Confinement::default()
            });
            let filter = spec.linux().as_ref().unwrap().seccomp().clone().unwrap();
            assert_eq!(filter.default_action(), LinuxSeccompAction::ScmpActErrno);
            let rules = filter.syscalls().clone().unwrap();
            let of = |name: &str| {
                rules
                    .iter()
                    .filter(|rule| rule.names().iter().any(|known| known == name))
                    .count()
            };
            assert!(of("read") == 1 && of("fcntl") > 1 && of("mount") == 0, "{rules:?}");
        }
    }
}
