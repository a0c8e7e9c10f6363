//! What programs of the field expect of a machine, and the sandbox gives them or says why not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use super::{assert_prints, case_with, prints, prints_with};
use crate::common::{function, shared, tool, PYTHONS};

#[test]
fn a_thread_may_be_given_the_policy_that_it_has() {
    prints("zmq-context", "b'hello'\n");
}

#[test]
fn without_files_in_memory_wasmtime_copies() {
    prints("wasmtime-memfd", "5\n");
}

#[test]
fn chromium_draws_a_picture_on_the_base_with_a_shell() {
    let output = tempfile::tempdir().unwrap();
    let taken = output.path().to_str().unwrap();
    let args = ["--output", taken, "--memory", "2G", "--tmp-size", "256M"];
    prints_with("kaleido-image", &["--base", "python-3.11-slim"], &args, "True\n");
}

#[test]
fn what_was_printed_before_the_time_limit_is_there() {
    for python in PYTHONS {
        let run = |limit| case_with("output-before-the-limit", &["--python", python], &["--timeout", limit]).0;
        // A busy machine takes longer to the first line; the function goes on for longer than both.
        let mut done = run("3s");
        if done.stdout.is_empty() {
            done = run("25s");
        }
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (124, "step 1 done\n"),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn directories_that_a_group_shares_can_be_copied() {
    let input = tempfile::tempdir().unwrap();
    fs::create_dir(input.path().join("sub")).unwrap();
    for shared in [input.path().to_owned(), input.path().join("sub")] {
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o2775)).unwrap();
        let mode = fs::metadata(&shared).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o2775, "this file system keeps the bit");
    }
    let shown = input.path().to_str().unwrap();
    prints_with("setgid-input", &[], &["--input", shown], "['sub']\n");
    let code = r#"
import os, shutil, tarfile
with tarfile.open("/tmp/all.tar", "w") as archive:
    archive.add("/input", "all")
with tarfile.open("/tmp/all.tar") as archive:
    archive.extractall("/tmp/unpacked", **({"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}))
print(sorted(os.listdir("/tmp/unpacked/all")))
shutil.copytree("/input", "/output/copy")
"#;
    let output = tempfile::tempdir().unwrap();
    let args = ["--input", shown, "--output", output.path().to_str().unwrap()];
    let (done, _) = shared().try_python("cases:setgid", code, &args);
    assert_prints(&done, "['sub']\n");
    let mode = fs::metadata(output.path().join("copy/sub"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o6000, 0, "what leaves the run has no such bit: {mode:o}");
}

#[test]
fn what_changes_nothing_is_no_error() {
    let code = r#"
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
print(os.sched_getscheduler(0) == os.SCHED_BATCH)
os.sched_setscheduler(os.getpid(), os.SCHED_OTHER, os.sched_param(0))
os.sched_setparam(0, os.sched_param(0))
os.sched_setscheduler(0, os.SCHED_IDLE | os.SCHED_RESET_ON_FORK, os.sched_param(0))
print(os.nice(3) >= 3)
# ionice -c 3, and what it is now.
print(libc.syscall(251, 1, 0, 3 << 13 | 7), libc.syscall(252, 1, 0) >> 13)
os.setuid(os.getuid()), os.setgid(os.getgid()), os.setresuid(-1, 1000, -1), os.setregid(1000, -1)
print(resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)[1] <= 1024)
for policy in (os.SCHED_FIFO, os.SCHED_RR):
    try:
        os.sched_setscheduler(0, policy, os.sched_param(1))
        print("real-time")
    except PermissionError:
        pass
"#;
    let (done, _) = shared().try_python("cases:nothing", code, &[]);
    assert_prints(&done, "True\nTrue\n0 3\nTrue\n");
}

#[test]
fn shared_memory_has_room_for_what_it_is_used_for_and_a_size_of_its_own() {
    let code = r#"
import sys, time
from multiprocessing import Pool, shared_memory
import numpy as np
def square(number):
    return number * number
if __name__ == "__main__":
    size = int(sys.argv[1]) << 20
    block = shared_memory.SharedMemory(create=True, size=size)
    array = np.ndarray(size, dtype="u1", buffer=block.buf)
    array[:] = 1
    print(int(array.sum()))
    time.sleep(int(sys.argv[2]))
    del array
    block.close()
    block.unlink()
    with Pool(2) as pool:
        print(pool.map(square, range(4)))
"#;
    prints("shared-memory-64m", "67108864\n");
    shared().build(function(code, Some("numpy\n")).path(), "cases:shm");
    let more = ["--shm-size", "200M", "--memory", "1G", "cases:shm", "150", "0"];
    assert_prints(&shared().run_with_outcome(&more).0, "157286400\n[0, 1, 4, 9]\n");
    // The file is sparse until it is filled: what is full is seen at the first page that has no room.
    let (done, outcome) = shared().run_with_outcome(&["--shm-size", "16M", "cases:shm", "64", "0"]);
    assert_eq!(
        (done.code, &outcome["code"]),
        (135, &json!("bus_error")),
        "{}",
        done.stderr
    );
    assert_eq!(outcome["limits"]["shm_size"], 16 << 20);
    for says in ["/dev/shm has 16M (--shm-size)", "bus error"] {
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
    // It counts as memory.
    let (_, outcome) = shared().run_with_outcome(&["--shm-size", "1G", "--memory", "128M", "cases:shm", "600", "60"]);
    assert_eq!(outcome["status"], "oom", "{outcome}");
}

#[test]
fn a_job_and_a_machine_say_how_much_shared_memory_there_is() {
    let gantry = shared();
    let code = "import os\nplace = os.statvfs('/dev/shm')\nprint(place.f_blocks * place.f_frsize)\n";
    gantry.build(function(code, None).path(), "cases:shm-job");
    let scratch = tempfile::tempdir().unwrap();
    let (job, config) = (scratch.path().join("job.json"), scratch.path().join("config.toml"));
    let run = |size: Option<&str>, section: &str| {
        let mut document = json!({"image": "cases:shm-job", "allow_degraded": ["memory", "cpu"]});
        if let Some(size) = size {
            document["shm_size"] = json!(size);
        }
        fs::write(&job, document.to_string()).unwrap();
        fs::write(&config, section).unwrap();
        let config = config.to_str().unwrap();
        gantry.gantry(["--config", config, "run", "--job", job.to_str().unwrap()])
    };
    assert_eq!(run(Some("3M"), "").stdout, "3145728\n");
    assert_eq!(run(None, "[run]\nshm_size = \"2M\"\n").stdout, "2097152\n");
    assert_eq!(run(None, "[limits]\nshm_size = \"1M\"\n").stdout, "1048576\n");
    let refused = run(Some("3M"), "[limits]\nshm_size = \"1M\"\n");
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("shm_size"), "{}", refused.stderr);
}

#[test]
fn the_own_host_name_resolves_in_every_network() {
    for network in [
        &[][..],
        &["--network", "loopback"],
        &["--network", "egress", "--egress", "service.example.org:80"],
    ] {
        prints_with("own-hostname", &[], network, "127.0.0.1\n");
    }
}

#[test]
fn a_death_by_a_signal_says_what_it_mostly_comes_from() {
    let code = r#"
import ctypes, mmap, os, signal, sys
if sys.argv[1] == "segv":
    ctypes.string_at(8)
page = mmap.mmap(-1, 4096, prot=7)
page.write({"ill": b"\x0f\x0b", "sys": bytes.fromhex("b814000000cd80c3")}[sys.argv[1]])  # ud2; getpid of i386
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"#;
    shared().build(function(code, None).path(), "cases:signals");
    for (how, exit_code, says) in [
        ("segv", 139, "native code read or wrote where it has no memory"),
        ("ill", 132, "built for a newer or another processor"),
        ("sys", 159, "the sandbox's filter (seccomp) ends a process"),
    ] {
        let (done, outcome) = shared().run_with_outcome(&["cases:signals", how]);
        assert_eq!(done.code, exit_code, "{how}: {}", done.stderr);
        let error = outcome["error"].as_str().unwrap();
        assert!(error.contains(says) && done.stderr.contains(says), "{how}: {error}");
    }
}

#[test]
fn what_is_not_offered_is_refused_with_the_message_of_the_page() {
    for (name, says) in [
        ("pty-spawn", "out of pty devices"),
        ("fmu-in-tmp", "failed to map segment from shared object"),
    ] {
        for python in PYTHONS {
            let (done, _) = case_with(name, &["--python", python], &[]);
            assert_eq!(done.code, 1, "{name}: {}", done.stderr);
            assert!(done.stderr.contains(says), "{name}: {}", done.stderr);
        }
    }
}

/// What does not work, as a function and `docs/functions.md` say it.
#[test]
fn the_page_on_the_sandbox_has_the_messages_that_functions_show() {
    let code = r##"
import ctypes, locale, os, pty, shutil, socket, subprocess, sys, traceback
libc = ctypes.CDLL(None, use_errno=True)
def filled():
    with open("/tmp/full", "wb") as file:
        while True:
            file.write(b"x" * (1 << 20))
def shared():
    from multiprocessing import shared_memory
    shared_memory.SharedMemory(create=True, size=100 << 20)
def called(number):
    if libc.syscall(number, 0, 4096, 0o1600) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def library(where):
    shutil.copy("/app/library.so", where)
    return ctypes.CDLL(where + "/library.so").answer()
def program():
    with open("/tmp/program", "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod("/tmp/program", 0o755)
    subprocess.run(["/tmp/program"])
for attempt in (
    lambda: library("/tmp"),
    program,
    lambda: open("/app/new", "w"),
    filled,
    shared,
    lambda: socket.socket(socket.AF_INET),
    lambda: socket.getaddrinfo("example.org", 80),
    pty.openpty,
    lambda: locale.setlocale(locale.LC_ALL, "fr_FR.UTF-8"),
    lambda: called(29),
    lambda: called(64),
    lambda: called(68),
    lambda: called(240),
    lambda: input(),
    lambda: called(165),
):
    try:
        print("went through", attempt())
    except Exception as error:
        print(error)
    if os.path.exists("/tmp/full"):
        os.remove("/tmp/full")
print(ctypes.CDLL("/app/library.so").answer())
"##;
    let function = function(code, None);
    let source = function.path().join("library.c");
    fs::write(&source, "int answer(void) { return 42; }\n").unwrap();
    tool(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(function.path().join("library.so"))
            .arg(&source),
    );
    shared().build(function.path(), "cases:messages");
    let (done, _) = shared().run_with_outcome(&["cases:messages"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let lines: Vec<&str> = done.stdout.lines().collect();
    let expected = [
        "failed to map segment from shared object",
        "Permission denied",
        "Read-only file system",
        "No space left on device",
        "File too large",
        "Address family not supported by protocol",
        "Temporary failure in name resolution",
        "out of pty devices",
        "unsupported locale setting",
        "Function not implemented",
        "Function not implemented",
        "Function not implemented",
        "Function not implemented",
        "EOF when reading a line",
        "Operation not permitted",
        // A library of the function's own directory.
        "42",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    let page = include_str!("../../../docs/functions.md");
    for (line, says) in lines.iter().zip(expected) {
        assert!(line.contains(says), "{line} is not {says}");
        assert!(
            says == "42" || page.contains(&format!("`{says}`")),
            "the page has no {says}"
        );
    }
}
