//! The embedded system call filters; `seccomp/*.json` are their sources and say why each rule is there.

use std::time::{Duration, Instant};

use seccompiler::sock_filter;

use super::super::filter::Filter;

/// `seccomp/default.json`, compiled by build.rs: code, jump if true, jump if false, constant.
const DEFAULT: &[(u16, u8, u8, u32)] = &include!(concat!(env!("OUT_DIR"), "/seccomp_default.in"));

/// `seccomp/default.json` with `seccomp/egress.json` on top.
const EGRESS: &[(u16, u8, u8, u32)] = &include!(concat!(env!("OUT_DIR"), "/seccomp_egress.in"));

/// `seccomp/default.json` with `seccomp/loopback.json` on top.
const LOOPBACK: &[(u16, u8, u8, u32)] = &include!(concat!(env!("OUT_DIR"), "/seccomp_loopback.in"));

/// `seccomp/default.json` with `seccomp/build.json` on top.
const BUILD: &[(u16, u8, u8, u32)] = &include!(concat!(env!("OUT_DIR"), "/seccomp_build.in"));

/// The instructions of a filter.
fn program_of(filter: Filter) -> &'static [(u16, u8, u8, u32)] {
    match filter {
        Filter::Default => DEFAULT,
        Filter::Loopback => LOOPBACK,
        Filter::Egress => EGRESS,
        Filter::Build => BUILD,
    }
}

/// Loads the filter for this process and everything it starts. Sets `no_new_privs`.
pub(super) fn install(filter: Filter) -> Result<(), seccompiler::Error> {
    let program: Vec<sock_filter> = program_of(filter)
        .iter()
        .map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k })
        .collect();
    seccompiler::apply_filter(&program)
}

/// Measures [`install`]: the median of a few threads that are confined and end; none where one fails.
pub fn install_time() -> Option<Duration> {
    let install_one = || {
        let started = Instant::now();
        install(Filter::Default).ok().map(|()| started.elapsed())
    };
    // A filter is its thread's own, and so is no_new_privs.
    let timed = (0..31).map(|_| std::thread::spawn(install_one).join().ok().flatten());
    let mut times = timed.collect::<Option<Vec<_>>>()?;
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
#[allow(dead_code, reason = "build.rs uses the rest")]
#[path = "../../../seccomp/compiler.rs"]
mod compiler;

#[cfg(test)]
#[allow(dead_code, reason = "build.rs uses the rest")]
#[path = "../../../seccomp/oci.rs"]
mod oci;

#[cfg(test)]
mod oci_tests;

#[cfg(test)]
mod tests;
