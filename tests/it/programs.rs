//! The programs a build runs, such as uv, end with gantry, whatever ends gantry.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Child;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{kill_process, pidfd_open, Pid, PidfdFlags, Signal};

use crate::common::{function, program, shared, tool, Gantry};

/// A uv that never answers and has a child of its own process group, one of a session of its own, and a daemon. Each
/// ignores what can be ignored. It tells their numbers through a FIFO beside it once all run.
const UV: &str = r#"#!/bin/sh
if [ "$1" = --version ]; then echo 'uv 0.11.0 (fake)'; exit; fi
trap '' TERM INT HUP PIPE
cd "$(dirname "$0")" || exit
sleep 1000 & one=$!
setsid sleep 1000 & two=$!
daemon=$(sh -c 'setsid sleep 1000 >/dev/null 2>&1 & echo $!')
echo "$$ $one $two $daemon" > numbers
exec sleep 1000
"#;

/// A build that waits for [`UV`], and the pidfds of that and of all it has started.
struct Waiting {
    gantry: Child,
    processes: Vec<OwnedFd>,
    _scratch: tempfile::TempDir,
}

impl Waiting {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (uv, fifo, config) = (
            scratch.path().join("uv"),
            scratch.path().join("numbers"),
            scratch.path().join("config.toml"),
        );
        program(&uv, UV);
        fs::write(&config, "[index]\nurl = \"http://127.0.0.1:1/simple\"\n").unwrap();
        tool(std::process::Command::new("mkfifo").arg(&fifo));
        let directory = function("print(1)\n", Some("never-answered\n"));
        let plain = shared().command();
        // Whoever runs the tests may ignore signals, and an ignored one ends nothing.
        let mut command = std::process::Command::new("env");
        command
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .arg("--default-signal=TERM,INT,HUP")
            .arg(plain.get_program())
            .env("PATH", format!("{}:/usr/bin:/bin", scratch.path().display()))
            .arg("--config")
            .arg(&config)
            .arg("build")
            .arg(directory.path())
            .stderr(std::process::Stdio::null());
        let gantry = command.spawn().unwrap();
        let numbers = fs::read_to_string(&fifo).unwrap();
        let processes = numbers.split_whitespace().map(open).collect::<Vec<_>>();
        assert_eq!(processes.len(), 4, "{numbers}");
        Self {
            gantry,
            processes,
            _scratch: scratch,
        }
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.gantry), signal).unwrap();
    }

    /// How many of the processes live, after waiting `seconds` for the end of all of them.
    fn left(&self, seconds: i64) -> usize {
        let is_alive = |process: &&OwnedFd| {
            let patience = Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            };
            poll(&mut [PollFd::new(*process, PollFlags::IN)], Some(&patience)).unwrap() == 0
        };
        self.processes.iter().filter(is_alive).count()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.gantry.kill();
        let _ = self.gantry.wait();
        for process in &self.processes {
            let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
        }
    }
}

fn open(number: &str) -> OwnedFd {
    assert!(Path::new("/proc").join(number).exists(), "{number} has ended");
    let pid = Pid::from_raw(number.parse().unwrap()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

#[test]
fn nothing_of_a_build_is_left_when_a_signal_ends_it() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut waiting = Waiting::new();
        waiting.send(signal);
        let status = waiting.gantry.wait().unwrap();
        assert_eq!(waiting.left(0), 0, "after {signal:?}");
        assert_eq!(status.code(), Some(code));
    }
}

#[test]
fn nothing_of_a_build_is_left_when_it_is_killed() {
    let mut waiting = Waiting::new();
    waiting.send(Signal::KILL);
    waiting.gantry.wait().unwrap();
    assert_eq!(waiting.left(100), 0);
}

/// A program that makes a directory for itself where temporary files go, as pip does, tells of it, and does not end.
fn temporary(version: &str) -> String {
    format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{version}'; exit; fi\nmktemp -d > \"$(dirname \"$0\")/told\"\nexec sleep 1000\n")
}

#[test]
fn what_a_program_made_for_itself_goes_with_what_a_killed_gantry_leaves() {
    for (name, version) in [("uv", "uv 0.11.0 (fake)"), ("python3", "Python 3.11.2")] {
        let scratch = tempfile::tempdir().unwrap();
        let told = scratch.path().join("told");
        program(&scratch.path().join(name), &temporary(version));
        tool(std::process::Command::new("mkfifo").arg(&told));
        // uv comes before pip, which is asked for uv where there is none.
        let gantry = Gantry::new();
        let config = scratch.path().join("config.toml");
        fs::write(&config, "[index]\nurl = \"http://127.0.0.1:1/simple\"\n").unwrap();
        for tool in ["sh", "mktemp", "dirname", "sleep"] {
            std::os::unix::fs::symlink(Path::new("/bin").join(tool), scratch.path().join(tool)).unwrap();
        }
        let directory = function("print(1)\n", Some("never-answered\n"));
        let mut command = gantry.command();
        command
            .env("PATH", scratch.path())
            .env("TMPDIR", scratch.path())
            .arg("--config")
            .arg(&config)
            .arg("build")
            .arg(directory.path())
            .stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let made = fs::read_to_string(&told).unwrap();
        let made = Path::new(made.trim_end());
        assert!(made.is_dir(), "{name}: {made:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(made.starts_with(gantry.root.join("tmp")), "{name}: {made:?}");
        gantry.ok(["images", "ls"]);
        assert!(!made.exists(), "{name}: {made:?}");
        assert!(crate::common::tree(&gantry.root.join("tmp")).is_empty(), "{name}");
    }
}
