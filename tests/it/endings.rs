//! How a run ends when it is made to, what it may hold until then, and what it is trusted with.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::wait::{eventually, is_so, send, stop};
use crate::common::{done, function, shared, tree, Done, Gantry, DEGRADED};

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

/// Runs a function that prints "up" when it is ready, with the shortest time limit that lets it come so far here.
fn with_time_to_start(name: &str, code: &str, args: &[&str]) -> (Done, Value) {
    for limit in ["1s", "3s", "10s"] {
        let (done, outcome) = shared().try_python(name, code, &[&["--timeout", limit], args].concat());
        if done.stdout.starts_with("up") {
            return (done, outcome);
        }
    }
    shared().try_python(name, code, &[&["--timeout", "60s"], args].concat())
}

#[test]
fn with_grace_sigterm_comes_before_the_end() {
    let (done, outcome) = with_time_to_start("endings:polite", POLITE, &["--grace", "300s"]);
    assert_eq!((done.code, done.stdout.as_str()), (124, "up\nbye\n"), "{}", done.stderr);
    assert_eq!(
        outcome["status"], "timeout",
        "the limit struck, whatever the function made of it"
    );
    let ran = outcome["phases_ms"]["run"].as_f64().unwrap();
    assert!(ran < 200_000.0, "it was not waited for longer than it took: {ran} ms");
}

#[test]
fn a_function_that_ends_in_its_grace_while_gantry_stands_still_has_timed_out() {
    let gantry = shared();
    gantry.build(function(POLITE, None).path(), "endings:polite");
    for limit in ["2s", "10s", "60s"] {
        let mut command = gantry.command();
        command.args([
            "run",
            "--allow-degraded",
            DEGRADED,
            "--timeout",
            limit,
            "--grace",
            "300s",
        ]);
        let mut child = command.arg("endings:polite").stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        if std::io::Read::read_exact(&mut out, &mut [0u8; 3]).is_err() {
            // It was not up in time: a busy machine.
            child.wait().unwrap();
            continue;
        }
        let task = format!("/proc/{0}/task/{0}/children", child.id());
        if !stop(&child) || fs::read_to_string(&task).unwrap().trim().is_empty() {
            // Its time was over before it stood still.
            send(&child, Signal::CONT);
            child.wait().unwrap();
            continue;
        }
        let init = fs::read_to_string(task).unwrap().trim().to_owned();
        eventually("the init does not keep the time", || {
            let stat = fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
            is_so(stat.contains(") Z "), stat)
        });
        send(&child, Signal::CONT);
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
        assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(124), "bye\n"));
        return;
    }
    panic!("a function is not up within a minute");
}

#[test]
fn without_grace_there_is_no_sigterm() {
    let (done, _) = with_time_to_start("endings:polite", POLITE, &[]);
    assert_eq!((done.code, done.stdout.as_str()), (124, "up\n"), "{}", done.stderr);
}

#[test]
fn grace_ends() {
    let (done, outcome) = with_time_to_start("endings:deaf", DEAF, &["--grace", "700ms"]);
    assert_eq!(
        (done.code, outcome["status"].as_str()),
        (124, Some("timeout")),
        "{}",
        done.stderr
    );
    let ran = outcome["phases_ms"]["run"].as_f64().unwrap();
    assert!(
        (1700.0..60_000.0).contains(&ran),
        "{ran} ms: the limit and the grace, not the sleep"
    );
}

#[test]
fn the_memory_of_all_processes_together_is_limited_or_watched() {
    // 12 MB in each of 16 processes: no single one is near the limit.
    let code = "import os, time\nfor n in range(16):\n    if os.fork() == 0:\n        held = bytearray(os.urandom(1)) * (12 << 20)\n        time.sleep(300)\nprint('up', flush=True)\ntime.sleep(300)\n";
    let args = ["--memory", "128M", "--timeout", "250s"];
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
    let (done, _) = with_time_to_start("endings:memory", code, &["--memory", "512M"]);
    assert_eq!((done.code, done.stdout.as_str()), (124, "up\n"), "{}", done.stderr);
}

#[test]
fn files_in_memory_count_as_memory() {
    let code = "import time\nwith open('/tmp/big', 'wb') as f:\n    for _ in range(200): f.write(b'x' * (1 << 20)); f.flush(); time.sleep(0.005)\ntime.sleep(300)\n";
    let args = ["--memory", "96M", "--tmp-size", "256M", "--timeout", "120s"];
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
    // All files of a store are looked at: of one that has little else.
    let gantry = Gantry::with_function(code, "endings:mask");
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

/// gantry as a worker may start it: with these signals ignored, and standard output as it comes.
fn started_by(ignored: &str, image: &str, options: &[&str]) -> std::process::Command {
    let starter = format!(
        "import os, signal, sys\nfor s in [{ignored}]: signal.signal(s, signal.SIG_IGN)\nos.execv(sys.argv[1], sys.argv[1:])"
    );
    let gantry = shared();
    let mut command = std::process::Command::new("/usr/bin/python3");
    command
        .env_clear()
        .env("HOME", &gantry.home)
        .env("GANTRY_ROOT", &gantry.root);
    command.args([
        "-c",
        &starter,
        env!("CARGO_BIN_EXE_gantry"),
        "run",
        "--allow-degraded",
        DEGRADED,
    ]);
    command.args(options).arg(image);
    command
}

#[test]
fn signals_that_the_caller_ignores_change_nothing_inside_or_outside() {
    let code = "import os, signal\nprint([s for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD) if signal.getsignal(s) != signal.SIG_DFL], flush=True)\nos.kill(os.getpid(), signal.SIGTERM)\n";
    let gantry = shared();
    gantry.build(function(code, None).path(), "endings:ignored");
    let all = "signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP";
    let done = done(started_by(all, "endings:ignored", &[]).output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (128 + 15, "[]\n"), "{}", done.stderr);
}

#[test]
fn a_signal_that_the_caller_ignores_does_not_end_the_run() {
    let code = "print('up', flush=True)\nopen('/input/go').read()\nprint('end')\n";
    let gantry = shared();
    gantry.build(function(code, None).path(), "endings:nohup");
    // The function waits for someone to write to this pipe, so the signal is there before it ends.
    let input = tempfile::tempdir().unwrap();
    let go = input.path().join("go");
    rustix::fs::mkfifoat(rustix::fs::CWD, &go, 0o644.into()).unwrap();
    let options = ["--input", input.path().to_str().unwrap()];
    let mut child = started_by("signal.SIGHUP", "endings:nohup", &options)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut [0u8; 3]).unwrap();
    send(&child, Signal::HUP);
    fs::write(&go, "now").unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(0), "end\n"));
}

#[test]
fn a_reader_that_stalls_keeps_nobody_from_stopping_the_run() {
    let gantry = shared();
    gantry.build(
        function("while True: print('x' * 100000)\n", None).path(),
        "endings:stall",
    );
    let mut child = gantry
        .command()
        .args([
            "run",
            "--allow-degraded",
            DEGRADED,
            "--output-limit",
            "1G",
            "endings:stall",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    // Full: a pipe has 64 KiB in pages, and small pieces of output would take a page each.
    let is_full = || is_so(rustix::io::ioctl_fionread(&out).unwrap() >= 60 << 10, "there is room");
    eventually("the pipe does not fill", is_full);
    // More than one: the first ends the run, what is not read yet would still be passed on.
    eventually("it hangs on its reader", || {
        let has_ended = child.try_wait().unwrap().is_some();
        if !has_ended {
            send(&child, Signal::TERM);
        }
        is_so(has_ended, "it runs")
    });
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    drop(out);
}

#[test]
fn output_that_nobody_reads_any_more_is_not_said_to_be_over_the_limit() {
    let gantry = shared();
    let code = "import sys\nfor line in range(40000): print(line)\nprint('-' * int(sys.argv[1]))\n";
    gantry.build(function(code, None).path(), "endings:head");
    // Under the limit a reader that has enough is no matter; over it, it was not the limit that took the rest.
    for (more, says) in [
        ("10", ""),
        (
            "1000000",
            "gantry: standard output is 1.2 MB, and nobody reads it any more: the rest was dropped\n",
        ),
    ] {
        let mut command = gantry.command();
        command.args([
            "run",
            "--allow-degraded",
            DEGRADED,
            "--output-limit",
            "1M",
            "endings:head",
            more,
        ]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut out, &mut [0]).unwrap();
        drop(out);
        let done = done(child.wait_with_output().unwrap());
        assert_eq!((done.code, &*done.stderr), (0, says));
    }
}

#[test]
fn output_that_is_read_after_the_time_limit_is_whole_and_no_timeout() {
    let gantry = shared();
    gantry.build(function("print('x' * 99999)\n", None).path(), "endings:late");
    gantry.build(function("while True: pass\n", None).path(), "endings:clock");
    let run = |limit: &str, image: &str| {
        let mut command = gantry.command();
        command.args(["run", "--allow-degraded", DEGRADED, "--timeout", limit, image]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    for limit in ["1s", "3s", "10s", "60s"] {
        let mut child = run(limit, "endings:late");
        eventually("the function does not end", || {
            let task = format!("/proc/{0}/task/{0}/children", child.id());
            let init = fs::read_to_string(task).unwrap();
            let out = rustix::io::ioctl_fionread(child.stdout.as_ref().unwrap()).unwrap();
            // Either it has printed all of it and is gone, and gantry has no child left, or its time was up first.
            is_so(
                init.is_empty() && (out >= 60 << 10 || child.try_wait().unwrap().is_some()),
                (init, out),
            )
        });
        // A run of that limit which begins now reaches it later than the first one would have.
        assert_eq!(run(limit, "endings:clock").wait().unwrap().code(), Some(124));
        let mut text = String::new();
        std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut text).unwrap();
        let code = child.wait().unwrap().code();
        // Its time was up before it had printed all of it.
        if code == Some(124) && text.len() < 100_000 {
            continue;
        }
        assert_eq!((code, text.len()), (Some(0), 100_000));
        return;
    }
    panic!("a function that prints a line takes a minute");
}

#[test]
fn an_output_that_does_not_block_gets_every_byte() {
    let gantry = shared();
    gantry.build(function("print('x' * 999999)\n", None).path(), "endings:nonblock");
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::empty()).unwrap();
    let mut child = gantry
        .command()
        .args(["run", "--allow-degraded", DEGRADED, "endings:nonblock"])
        .stdout(Stdio::from(write))
        .spawn()
        .unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut fs::File::from(read), &mut text).unwrap();
    assert_eq!((child.wait().unwrap().code(), text.len()), (Some(0), 1_000_000));
}

#[test]
fn output_that_cannot_be_written_is_said_as_that_and_is_no_ok() {
    let gantry = shared();
    gantry.build(
        function("import sys\nprint('x')\nsys.exit(len(sys.argv) - 1)\n", None).path(),
        "endings:full",
    );
    for (args, code, status, why) in [
        (&["endings:full"][..], 125, "error", "stream_unwritable"),
        // What the function came to is more to know.
        (&["endings:full", "--", "one"], 1, "failed", "nonzero_exit"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let report = scratch.path().join("outcome.json");
        let mut command = gantry.command();
        command.args([
            "run",
            "--allow-degraded",
            DEGRADED,
            "--report",
            report.to_str().unwrap(),
        ]);
        command.args(args).stderr(Stdio::piped());
        command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        let done = done(command.spawn().unwrap().wait_with_output().unwrap());
        assert_eq!(done.code, code, "{}", done.stderr);
        assert!(
            done.stderr.contains("standard output") && done.stderr.contains("No space left on device"),
            "{}",
            done.stderr
        );
        let outcome: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        assert_eq!((&outcome["status"], &outcome["code"]), (&status.into(), &why.into()));
        assert_eq!(outcome["output"]["truncated"], false, "nothing was over a limit");
    }
}

#[test]
fn a_worker_that_the_kernel_spares_does_not_pass_that_on() {
    let code = "print(open('/proc/self/oom_score_adj').read().strip())\n";
    let (done, _) = shared().try_python("endings:spared", code, &[]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "500\n"), "{}", done.stderr);
}

#[test]
fn a_secret_given_twice_is_refused() {
    let gantry = shared();
    gantry.build(function("print(1)", None).path(), "endings:none");
    let done = gantry.run(&["--secret", "KEY=env:HOME", "--secret", "KEY=env:PATH", "endings:none"]);
    assert_eq!((done.code, done.stdout.as_str()), (125, ""));
    assert!(done.stderr.contains("secret \"KEY\" is given twice"), "{}", done.stderr);
}

#[test]
fn what_a_killed_function_used_is_reported() {
    let code = "import time\nheld = bytearray(b'x') * (90 << 20)\nwhile time.process_time() < 0.4: pass\ntime.sleep(1)\nprint('up', flush=True)\ntime.sleep(60)\n";
    let (done, outcome) = with_time_to_start("endings:used", code, &[]);
    assert_eq!(done.code, 124, "{}", done.stderr);
    let (cpu, memory) = (&outcome["usage"]["cpu_ms"], &outcome["usage"]["memory_peak_bytes"]);
    assert!(cpu.as_u64().unwrap() > 300, "{cpu} ms");
    assert!(memory.as_u64().unwrap() > 90 << 20, "{memory} bytes");
}

#[test]
fn two_signals_at_once_are_one_wish_and_leave_the_grace() {
    let gantry = shared();
    gantry.build(function(POLITE, None).path(), "endings:polite");
    let mut child = gantry
        .command()
        .args(["run", "--allow-degraded", DEGRADED, "--grace", "20s", "endings:polite"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut [0u8; 3]).unwrap();
    // Stopped in between, so that it sees both at once however long we take.
    assert!(stop(&child));
    for signal in [Signal::TERM, Signal::HUP, Signal::CONT] {
        send(&child, signal);
    }
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert_eq!(rest, "bye\n");
    let code = child.wait().unwrap().code();
    assert!(
        code == Some(128 + 15) || code == Some(128 + 1),
        "{code:?}: whichever was seen first"
    );
}

#[test]
fn an_output_that_someone_outside_holds_open_ends_with_the_run() {
    let code = "import array, socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('/input/door')\ns.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1, 2]))])\nprint('sent')\n";
    let gantry = shared();
    gantry.build(function(code, None).path(), "endings:held");
    let scratch = tempfile::tempdir().unwrap();
    // Never accepted: what was sent, and with it our pipes, lies in the queue.
    let _door = std::os::unix::net::UnixListener::bind(scratch.path().join("door")).unwrap();
    let done = gantry.run(&["--input", scratch.path().to_str().unwrap(), "endings:held"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "sent\n"), "{}", done.stderr);
}
