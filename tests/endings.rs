//! How a run ends when it is made to, what it may hold until then, and what it is trusted with.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and says why on standard error"
)]

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::{done, function, shared, tree, DEGRADED};

const POLITE: &str = r#"
import signal, sys, time
def bye(number, frame):
    print('bye', flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, bye)
print('up', flush=True)
time.sleep(60)
"#;
const DEAF: &str =
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)\n";

#[test]
fn with_grace_sigterm_comes_before_the_end() {
    let started = Instant::now();
    let (done, outcome) = shared().try_python("endings:polite", POLITE, &["--timeout", "1s", "--grace", "20s"]);
    assert_eq!((done.code, done.stdout.as_str()), (124, "up\nbye\n"), "{}", done.stderr);
    assert_eq!(
        outcome["status"], "timeout",
        "the limit struck, whatever the function made of it"
    );
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "it was not waited for longer than it took"
    );
}

#[test]
fn without_grace_there_is_no_sigterm() {
    let (done, _) = shared().try_python("endings:polite", POLITE, &["--timeout", "1s"]);
    assert_eq!((done.code, done.stdout.as_str()), (124, "up\n"), "{}", done.stderr);
}

#[test]
fn grace_ends() {
    let (done, outcome) = shared().try_python("endings:deaf", DEAF, &["--timeout", "500ms", "--grace", "700ms"]);
    assert_eq!(
        (done.code, outcome["status"].as_str()),
        (124, Some("timeout")),
        "{}",
        done.stderr
    );
    let ran = outcome["phases_ms"]["run"].as_f64().unwrap();
    assert!((1200.0..5000.0).contains(&ran), "{ran} ms");
}

#[test]
fn the_memory_of_all_processes_together_is_limited_or_watched() {
    // 12 MB in each of 16 processes: no single one is near the limit.
    let code = "import os, time\nfor n in range(16):\n    if os.fork() == 0:\n        held = bytearray(os.urandom(1)) * (12 << 20)\n        time.sleep(60)\nprint('up', flush=True)\ntime.sleep(60)\n";
    let args = ["--memory", "128M", "--timeout", "30s"];
    let (done, outcome) = shared().try_python("endings:memory", code, &args);
    assert_eq!(
        (done.code, outcome["status"].as_str()),
        (137, Some("oom")),
        "{}",
        done.stderr
    );
    let level = &outcome["enforced"]["memory"];
    assert!(level == "enforced" || level == "watched", "{level}");
    // The positive twin: with room for it, the same function runs on.
    let args = ["--memory", "512M", "--timeout", "3s"];
    let (done, _) = shared().try_python("endings:memory", code, &args);
    assert_eq!((done.code, done.stdout.as_str()), (124, "up\n"), "{}", done.stderr);
}

#[test]
fn files_in_memory_count_as_memory() {
    let code = "import time\nwith open('/tmp/big', 'wb') as f:\n    for _ in range(200): f.write(b'x' * (1 << 20)); f.flush(); time.sleep(0.005)\ntime.sleep(5)\n";
    let args = ["--memory", "96M", "--tmp-size", "256M", "--timeout", "30s"];
    let (done, outcome) = shared().try_python("endings:files", code, &args);
    assert_eq!(
        (done.code, outcome["status"].as_str()),
        (137, Some("oom")),
        "{}",
        done.stderr
    );
}

#[test]
fn secrets_come_from_files_variables_and_descriptors() {
    let code = "import os\nfor name in ('A', 'B', 'C'): print(name, len(open('/run/secrets/' + name).read()))\nprint('D', len(os.environ['D']), 'HIDDEN' in os.environ)\n";
    let gantry = shared();
    gantry.build(function(code, None).path(), "endings:sources");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "12345").unwrap();
    let opened = fs::File::open(&file).unwrap();
    rustix::io::fcntl_setfd(&opened, rustix::io::FdFlags::empty()).unwrap();
    let mut command = gantry.command();
    command
        .env("HIDDEN", "1234567")
        .args(["run", "--allow-degraded", DEGRADED]);
    command.args(["--secret", &format!("A={}", file.display()), "--secret", "B=env:HIDDEN"]);
    command.args(["--secret", &format!("C=fd:{}", opened.as_raw_fd())]);
    command.args(["--env", "D=plain", "--secret-env", "D=env:HIDDEN", "endings:sources"]);
    let done = done(command.output().unwrap());
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "A 5\nB 7\nC 5\nD 7 False\n"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_printed_secret_is_masked_and_nothing_keeps_it() {
    const VALUE: &str = "canary-5b1e77";
    let code = "import os, sys\nvalue = open('/run/secrets/KEY').read()\nprint('it is', value)\nsys.stdout.flush()\nos.write(2, value[:5].encode()); os.write(2, value[5:].encode())\nraise SystemExit(5)\n";
    let gantry = shared();
    gantry.build(function(code, None).path(), "endings:mask");
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let mut command = gantry.command();
    command
        .env("KEY", VALUE)
        .args(["run", "--allow-degraded", DEGRADED, "--secret", "KEY=env:KEY"]);
    command.args(["--report", report.to_str().unwrap(), "endings:mask"]);
    let done = done(command.output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (5, "it is ***\n"));
    assert_eq!(done.stderr, "***");
    assert!(!fs::read_to_string(&report).unwrap().contains(VALUE));
    for path in tree(&gantry.root) {
        let small = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() < 1 << 20);
        let bytes = if small {
            fs::read(&path).unwrap_or_default()
        } else {
            Vec::new()
        };
        let found = bytes.windows(VALUE.len()).any(|window| window == VALUE.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

#[test]
fn a_secret_that_is_not_there_names_itself_and_its_source() {
    let gantry = shared();
    gantry.build(function("print(1)", None).path(), "endings:none");
    for (source, says) in [
        ("env:NOT_SET", "variable NOT_SET is not set"),
        ("fd:77", "read secret \"KEY\""),
        ("/nonexistent", "read secret \"KEY\""),
        ("/dev/zero", "over 1048576 bytes"),
    ] {
        let done = gantry.run(&["--secret", &format!("KEY={source}"), "endings:none"]);
        assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{source}");
        assert!(done.stderr.contains(says), "{source}: {}", done.stderr);
    }
}
