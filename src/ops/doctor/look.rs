//! What one look from inside the sandbox decides: for each promise, whether the probe's answers agree with it.

use rustix::io::Errno;

use super::probe::{Answer, Found};
use crate::policy::{Bytes, Promise};
use crate::sandbox;

/// The size of the probe's `/tmp` and `/output`.
pub(super) const PLACE: Bytes = Bytes(1 << 20);
/// The probe's limit on processes.
pub(super) const PIDS: u32 = 16;

/// Whether the attack was held off, and what came of it.
type Check = fn(&Found) -> (bool, String);

/// How each promise is judged that can be attacked from inside; the others take a run of their own.
pub(super) const CHECKS: [(Promise, Check); 11] = [
    (Promise::User, |found| {
        let evidence = format!("uid, euid, gid, egid are {:?}", found.ids);
        (found.ids == [1000; 4], evidence)
    }),
    (Promise::Capabilities, |found| {
        let is_empty = |set: &String| !set.is_empty() && set.bytes().all(|digit| digit == b'0');
        let holds = found.capabilities.len() == 5 && found.capabilities.iter().all(is_empty);
        (holds, format!("the five sets are {}", found.capabilities.join(" ")))
    }),
    (Promise::NoNewPrivs, |found| {
        (
            found.no_new_privs == "1",
            format!("NoNewPrivs is {}", found.no_new_privs),
        )
    }),
    (Promise::Seccomp, seccomp),
    (Promise::Landlock, |found| {
        let evidence = format!("a file of /proc opened for writing: {}", found.proc);
        (found.proc.is(Errno::ACCESS), evidence)
    }),
    (Promise::ReadOnlyRoot, |found| {
        let evidence = format!("a file created in the root: {}", found.root);
        (found.root.is(Errno::ROFS), evidence)
    }),
    (Promise::Tmp, |found| {
        let (is_limited, filled) = filled(&found.tmp);
        let evidence = format!("{filled}; a script there executed: {}", found.execute);
        (is_limited && found.execute.is(Errno::ACCESS), evidence)
    }),
    (Promise::Output, |found| filled(&found.output)),
    (Promise::Network, |found| {
        let evidence = format!("interfaces are {}", found.interfaces.join(" "));
        (found.interfaces == ["lo"], evidence)
    }),
    (Promise::Processes, |found| {
        let (started, refusal) = &found.children;
        let evidence = format!("{started} children started under a limit of {PIDS} processes, then: {refusal}");
        (*started < PIDS && refusal.is(Errno::AGAIN), evidence)
    }),
    (Promise::Leaks, |found| {
        let variables = found.variables.join(" ");
        let evidence = format!("{} descriptors, variables {variables}", found.descriptors);
        (found.descriptors == 3 && variables == "PATH", evidence)
    }),
];

fn seccomp(found: &Found) -> (bool, String) {
    let [internet, machine] = &found.sockets;
    let holds = found.seccomp == "2" && internet.is(Errno::AFNOSUPPORT) && machine.is(Errno::AFNOSUPPORT);
    let time = sandbox::filter_install_time();
    let time = time.map_or("in a time nobody knows".to_owned(), |time| {
        format!("in {} µs", time.as_micros())
    });
    let evidence = format!("an internet socket: {internet}; a vsock socket: {machine}; the filter is installed {time}");
    (holds, evidence)
}

/// Whether a place could be filled up to its size and no further.
fn filled((bytes, answer): &(usize, Answer)) -> (bool, String) {
    let bytes = *bytes as u64;
    let evidence = format!("{} of {PLACE} could be written, then: {answer}", Bytes(bytes));
    (bytes <= PLACE.0 && answer.is(Errno::NOSPC), evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_holds_more_than_its_size_or_fails_otherwise_is_not_limited() {
        let no_space = || Answer::Refused(Errno::NOSPC.raw_os_error());
        assert!(filled(&(1 << 20, no_space())).0);
        assert!(!filled(&(1 << 21, no_space())).0);
        assert!(!filled(&(1 << 20, Answer::WentThrough)).0);
        assert!(!filled(&(1 << 20, Answer::Failed("cut short".to_owned()))).0);
    }
}
