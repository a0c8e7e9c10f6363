//! The sandbox as a type: what its drop leaves, and what comes of a first process that fails at each of its steps.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry::policy::{Bytes, Confinement, Promise, Scope};
use gantry::sandbox::Child;
use gantry::sandbox::{Bundle, End, Finished, Launcher, Native, Purpose, Sandbox, SandboxError, Sink, Start, Stdin};

use crate::common::tree;
use crate::common::wait::{eventually, is_so};

/// gantry's own binary as the only file of an image: it needs no other, and `wait` waits.
fn bundle(scratch: &Path, words: &[&str]) -> Bundle {
    let (scaffold, layer) = (scratch.join("scaffold"), scratch.join("layer"));
    for place in ["dev", "proc", "sys", "tmp", "output", "input", "run/secrets"] {
        fs::create_dir_all(scaffold.join(place)).unwrap();
    }
    fs::create_dir_all(&layer).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_gantry"), layer.join("gantry-probe")).unwrap();
    Bundle {
        lowers: vec![scaffold, layer],
        argv: [&["/gantry-probe"], words]
            .concat()
            .iter()
            .map(|word| (*word).to_owned())
            .collect(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        hostname: "test".to_owned(),
        input: None,
        output: None,
        stdin: Stdin::Empty,
        secrets: Vec::new(),
        purpose: Purpose::Function,
        confinement: Confinement {
            allow_degraded: Promise::ALL.into(),
            ..Confinement::default()
        },
        scope: Scope::Off,
    }
}

fn native() -> Native {
    Native::with(fs::File::open(env!("CARGO_BIN_EXE_gantry")).unwrap())
}

/// Processes that this thread has started and that have not been waited for.
fn children() -> Vec<String> {
    let found = fs::read_to_string("/proc/thread-self/children").unwrap();
    found.split_whitespace().map(str::to_owned).collect()
}

/// Cgroups of sandboxes that this process has made, where it may make any.
fn cgroups() -> Vec<PathBuf> {
    let own = format!("/gantry-run-{}-", std::process::id());
    let mut found = tree(Path::new("/sys/fs/cgroup"));
    found.retain(|path| path.is_dir() && path.to_string_lossy().contains(&own));
    found
}

fn has_process(marker: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut commands = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    commands.any(|command| command.split(|byte| *byte == 0).any(|word| word == marker.as_bytes()))
}

#[test]
fn a_sandbox_that_is_dropped_leaves_no_process_and_no_cgroup() {
    let scratch = tempfile::tempdir().unwrap();
    let marker = format!("gantry-dropped-{}", std::process::id());
    let bundle = bundle(scratch.path(), &["wait", "600000", &marker]);

    let waiting = Sandbox::launch(&native(), &bundle, Sink::Capture).unwrap();
    assert_eq!(children().len(), 1, "it waits for its work");
    drop(waiting);
    assert_eq!((children(), cgroups()), (vec![], vec![]));

    let mut working = Sandbox::launch(&native(), &bundle, Sink::Capture).unwrap();
    working.begin(&bundle).unwrap();
    eventually("the workload does not start", || {
        is_so(has_process(&marker), "no process")
    });
    drop(working);
    assert!(!has_process(&marker), "its workload is dead when the drop returns");
    assert_eq!((children(), cgroups()), (vec![], vec![]));
}

#[test]
fn a_sandbox_that_waits_for_its_work_ends_with_the_thread_that_made_it() {
    let scratch = tempfile::tempdir().unwrap();
    let bundle = bundle(scratch.path(), &["wait", "600000"]);
    let maker = std::thread::spawn(move || {
        let waiting = Sandbox::launch(&native(), &bundle, Sink::Capture).unwrap();
        let init = children().remove(0);
        // From its exec on it has a death signal; before it, the end of the control socket ends it.
        eventually("the init does not start", || {
            let command = fs::read(format!("/proc/{init}/cmdline")).unwrap();
            is_so(command == b"gantry-init\0", command)
        });
        // As if gantry were killed: nobody takes it down.
        std::mem::forget(waiting);
        init
    });
    let init = maker.join().unwrap();
    eventually("the init outlives its maker", || {
        let stat = fs::read_to_string(format!("/proc/{init}/stat")).unwrap_or_default();
        is_so(stat.is_empty() || stat.contains(") Z "), stat)
    });
}

#[test]
fn a_sandbox_runs_what_it_is_given_after_a_wait() {
    let scratch = tempfile::tempdir().unwrap();
    let bundle = bundle(scratch.path(), &["flood", "8192"]);
    let mut sandbox = Sandbox::launch(&native(), &bundle, Sink::Capture).unwrap();
    sandbox.begin(&bundle).unwrap();
    let finished = sandbox.finish(Sink::Capture, &mut |_| Ok(())).unwrap();
    assert_eq!((finished.end, finished.stdout.len()), (End::Exited(0), 8192));
    assert!(finished.output.is_some());
}

/// A first process without any wall, which says what a test wants on the control socket and then ends.
struct StandIn(&'static str);

impl Launcher for StandIn {
    fn runtime(&self) -> gantry::policy::Runtime {
        gantry::policy::Runtime::Native
    }

    #[allow(clippy::zombie_processes, reason = "the Sandbox waits for it, by its pidfd")]
    fn launch(&self, start: &Start<'_>) -> Result<Child, SandboxError> {
        const SAY: &str = "import json, os, socket, struct, sys, time\n\
            gantry = socket.socket(fileno=0)\n\
            def hear():\n\
            \x20   while gantry.recv(1) == b'N': pass\n\
            \x20   length, = struct.unpack('=I', gantry.recv(4, socket.MSG_WAITALL))\n\
            \x20   return json.loads(gantry.recv(length, socket.MSG_WAITALL))\n\
            def say(report):\n\
            \x20   text = json.dumps(report).encode()\n\
            \x20   gantry.sendall(b'J' + struct.pack('=I', len(text)) + text)\n";
        let [_, stdout, stderr] = start.stdio;
        let own = |end: std::os::fd::BorrowedFd<'_>| Stdio::from(end.as_fd().try_clone_to_owned().unwrap());
        let child = Command::new("/usr/bin/python3")
            .args(["-c", &format!("{SAY}{}", self.0)])
            .env_clear()
            .stdin(own(start.control))
            .stdout(own(stdout))
            .stderr(own(stderr))
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        Ok(Child {
            pid: pid.as_raw_nonzero().get(),
            pidfd,
        })
    }

    /// Ours, in which it is.
    fn network(&self, _: &Child) -> Result<Option<OwnedFd>, SandboxError> {
        Ok(Some(std::fs::File::open("/proc/self/ns/net").unwrap().into()))
    }
}

/// Runs the first process `says`.
fn supervised(says: &'static str, timeout: std::time::Duration) -> Result<Finished, SandboxError> {
    let scratch = tempfile::tempdir().unwrap();
    let mut bundle = bundle(scratch.path(), &["wait", "1"]);
    bundle.confinement.timeout = timeout;
    // It stands in the host's file system, whose /tmp counts as its own.
    bundle.confinement.memory = Bytes(1 << 60);
    let mut sandbox = Sandbox::launch(&StandIn(says), &bundle, Sink::Capture)?;
    sandbox.begin(&bundle)?;
    let finished = sandbox.finish(Sink::Capture, &mut |_| Ok(()));
    assert_eq!(children(), Vec::<String>::new(), "{says}");
    finished
}

const LONG: std::time::Duration = std::time::Duration::from_secs(600);

#[test]
fn a_first_process_that_ends_before_the_workload_starts_is_an_error_that_says_how_it_ended() {
    for says in [
        "sys.exit(7)",
        "hear(); sys.exit(7)",
        "hear(); hear(); say('Mounted'); sys.exit(7)",
        "hear(); hear(); say('Mounted'); say({'Restricted': {'user': 'enforced'}}); sys.exit(7)",
    ] {
        let error = supervised(says, LONG).unwrap_err();
        assert!(
            matches!(error, SandboxError::InitDied { code: Some(7) | None }),
            "{says}: {error:?}"
        );
    }
}

#[test]
fn what_a_first_process_says_of_its_failure_is_the_error() {
    let error = supervised("hear(); say({'Failed': 'mount /proc: no'}); time.sleep(600)", LONG).unwrap_err();
    assert!(
        matches!(&error, SandboxError::Setup { reason } if reason == "mount /proc: no"),
        "{error:?}"
    );

    let error = supervised("gantry.sendall(b'E' + struct.pack('=Bi', 0, 1)); time.sleep(600)", LONG).unwrap_err();
    assert!(
        matches!(&error, SandboxError::UserNamespace { step: "write its uid and gid maps", source } if source.raw_os_error() == Some(1)),
        "{error:?}"
    );

    let says = "hear(); hear(); say('Mounted'); say({'Refused': [{'user': 'absent'}, [['user', 'ids are 0']]]})";
    let error = supervised(says, LONG).unwrap_err();
    assert!(
        matches!(&error, SandboxError::Refused { lost, .. } if lost == &[(Promise::User, "ids are 0".to_owned())]),
        "{error:?}"
    );
}

#[test]
fn a_first_process_that_says_nonsense_is_killed() {
    for says in [
        "gantry.sendall(b'?' * 600); time.sleep(600)",
        "gantry.sendall(b'J' + struct.pack('=I', 1 << 31)); time.sleep(600)",
        "say('Nonsense'); time.sleep(600)",
        "gantry.sendall(b'S' + struct.pack('=I', 1) + b'x'); time.sleep(600)",
    ] {
        let error = supervised(says, LONG).unwrap_err();
        assert!(matches!(error, SandboxError::Io { .. }), "{says}: {error:?}");
    }
}

#[test]
fn a_first_process_that_ends_after_the_workload_started_was_killed_from_outside() {
    let says = "hear(); hear(); say('Mounted'); say('Started'); print('said'); sys.exit(0)";
    let finished = supervised(says, LONG).unwrap();
    assert_eq!(
        (finished.end, finished.stdout.as_slice()),
        (End::KilledFromOutside, &b"said\n"[..])
    );
}

#[test]
fn a_first_process_that_never_says_its_last_word_is_ended_at_the_limit() {
    let says = "hear(); hear(); say('Mounted'); say('Started'); time.sleep(600)";
    let finished = supervised(says, std::time::Duration::from_millis(300)).unwrap();
    assert_eq!(finished.end, End::TimedOut);
}
