//! Every code of an outcome, made through the binary: it is there, its status is the documented one, and whoever reads
//! standard error is told the same.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use gantry::oci::ImageConfigBody;
use gantry::policy::Code;
use rustix::process::Signal;
use serde_json::Value;

use crate::common::port::ClosedPort;
use crate::common::wait::{eventually, is_so, send};
use crate::common::{done, function, holder_of, shared, tiny, tiny_as, tree, Done, Gantry, DEGRADED};

type Made = (Done, Value);

/// The name of the image of a function of one file: its own, as tests run at the same time.
fn name_of(code: &str) -> String {
    let hex = gantry::oci::Digest::of(code.as_bytes()).hex();
    format!("codes:{}", &hex[..12])
}

/// Builds a function of one file; returns the name of its image.
fn build(code: &str) -> String {
    let name = name_of(code);
    shared().build(function(code, None).path(), &name);
    name
}

/// Runs a function of one file.
fn python(code: &str, args: &[&str]) -> Made {
    shared().try_python(&name_of(code), code, args)
}

/// `gantry run` with an outcome and `args`, in `command`, which holds what comes before.
fn run(mut command: Command, args: &[&str]) -> Made {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    command.args(["run", "--report", report.to_str().unwrap()]).args(args);
    let done = done(command.output().unwrap());
    let outcome = fs::read(&report).unwrap_or_else(|error| panic!("no outcome: {error}; {}", done.stderr));
    (done, serde_json::from_slice(&outcome).unwrap())
}

/// A run of an image of `gantry`, with what this machine cannot enforce excepted.
fn degraded(gantry: &Gantry, args: &[&str]) -> Made {
    run(gantry.command(), &[&["--allow-degraded", DEGRADED], args].concat())
}

/// gantry after `preparation`, a shell's, as root of user and mount namespaces of its own.
fn prepared(gantry: &Gantry, preparation: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{preparation} && exec {} \"$@\"", env!("CARGO_BIN_EXE_gantry"));
    command.args(["--user", "--mount", "--map-root-user", "sh", "-c", &script, "sh"]);
    command.env("HOME", &gantry.home).env("GANTRY_ROOT", &gantry.root);
    command
}

/// A run that is up and waits to be ended.
fn meanwhile_of(options: &[&str]) -> std::process::Child {
    let gantry = shared();
    let code = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";
    gantry.build(function(code, None).path(), "codes:wait");
    let mut command = gantry.command();
    command.args(["run", "--allow-degraded", DEGRADED, "--timeout", "600s"]);
    command.args(options).arg("codes:wait");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0u8; 3]).unwrap();
    child
}

/// A run that waits until `act` has done something to it; `act` is given its init as well.
fn meanwhile(act: impl FnOnce(&std::process::Child, i32)) -> Made {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let child = meanwhile_of(&["--report", report.to_str().unwrap()]);
    let task = format!("/proc/{0}/task/{0}/children", child.id());
    let init = fs::read_to_string(task).unwrap().trim().parse().unwrap();
    act(&child, init);
    let done = done(child.wait_with_output().unwrap());
    (done, serde_json::from_slice(&fs::read(report).unwrap()).unwrap())
}

/// A job that waits, and what is put before it.
fn job(directory: &Path) -> std::path::PathBuf {
    let code = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";
    shared().build(function(code, None).path(), "codes:wait");
    let job = directory.join("job.json");
    let wanted = serde_json::json!({"image": "codes:wait", "timeout": "600s", "allow_degraded": ["memory", "cpu"]});
    fs::write(&job, wanted.to_string()).unwrap();
    job
}

/// Runs `script`, a shell's with gantry and the job as its arguments, and waits for the outcome.
fn called_by(script: &str) -> Made {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let (out, err, report) = (place("out"), place("err"), place("outcome.json"));
    let mut command = Command::new("python3");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_gantry"), "run"])
        .arg("--job")
        .arg(job(directory.path()));
    command.arg("--report").arg(&report);
    command.env("HOME", &shared().home).env("GANTRY_ROOT", &shared().root);
    command
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap());
    assert!(command.current_dir(directory.path()).status().unwrap().success());
    eventually("no outcome", || is_so(report.exists(), fs::read_to_string(&err)));
    let outcome: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let done = Done {
        // Nobody waits for it.
        code: i32::try_from(outcome["exit_code"].as_i64().unwrap()).unwrap(),
        stdout: fs::read_to_string(&out).unwrap(),
        stderr: fs::read_to_string(&err).unwrap(),
    };
    (done, outcome)
}

/// The caller ends as soon as the function is up.
fn caller_ended() -> Made {
    called_by("import subprocess, sys, time\nsubprocess.Popen(sys.argv[1:])\nwhile open('out').read() != 'up\\n': time.sleep(0.01)\n")
}

/// gantry is started once its parent is gone, in a session that is not that of whoever takes over.
fn no_caller() -> Made {
    called_by("import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    own = os.getpid()\n    if os.fork() == 0:\n        while os.getppid() == own: time.sleep(0.01)\n        os.execv(sys.argv[1], sys.argv[1:])\n    os._exit(0)\nos.wait()\n")
}

/// A directory that nothing can be put into.
fn locked() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    directory
}

/// A store of its own with a small image, and the name of that.
fn own() -> (Gantry, &'static str) {
    let gantry = Gantry::new();
    tiny(&gantry, &["tiny:1"]);
    (gantry, "tiny:1")
}

const MAPPED: &str = "import mmap, os\nf = os.open('/dev/shm/x', os.O_RDWR | os.O_CREAT)\nos.ftruncate(f, 64 << 20)\nm = mmap.mmap(f, 64 << 20)\nfor at in range(0, 64 << 20, 4096): m[at] = 1\n";

/// Makes an outcome with `code`; none where that takes longer than a test may.
fn made(code: Code) -> Option<Made> {
    Some(match code {
        Code::NonzeroExit => python("raise SystemExit(3)\n", &[]),
        Code::Signal => python("import os\nos.kill(os.getpid(), 11)\n", &[]),
        // getpid of the x32 interface.
        Code::BadSystemCall => python("import ctypes\nctypes.CDLL(None).syscall(0x40000027)\n", &[]),
        Code::BusError => python(MAPPED, &["--shm-size", "16M"]),
        Code::CommandNotFound => python("", &["--env", "PATH=/nowhere"]),
        Code::CommandNotExecutable => {
            tiny(shared(), &["codes:tiny"]);
            degraded(shared(), &["codes:tiny", "--", "/etc/name"])
        }
        Code::WorkingDirectory => {
            let body = ImageConfigBody {
                working_dir: Some("/none".to_owned()),
                ..ImageConfigBody::default()
            };
            tiny_as(shared(), &["codes:directory"], &body);
            degraded(shared(), &["codes:directory", "--", "/etc/name"])
        }
        Code::Timeout => python("import time\ntime.sleep(600)\n", &["--timeout", "300ms"]),
        Code::Oom => python(
            "held = bytearray(b'x') * (300 << 20)\nimport time\ntime.sleep(600)\n",
            &["--memory", "100M", "--timeout", "600s"],
        ),
        Code::OutputRefused => {
            let directory = tempfile::tempdir().unwrap();
            let code = "import os\nos.symlink('/etc/passwd', '/output/link')\n";
            python(code, &["--output", directory.path().to_str().unwrap()])
        }
        Code::OutputTooLarge => python(
            "import time\nopen('/output/one', 'wb').write(b'x' * (3 << 20))\ntime.sleep(600)\n",
            &["--output-on-disk", "--output-size", "1M", "--timeout", "600s"],
        ),
        Code::Stopped => meanwhile(|child, _| send(child, Signal::TERM)),
        Code::CallerEnded => caller_ended(),
        Code::Deadline => python(
            "import time\ntime.sleep(600)\n",
            &["--timeout", "600s", "--deadline", "500ms"],
        ),
        Code::KilledFromOutside => meanwhile(|_, init| {
            let init = rustix::process::Pid::from_raw(init).unwrap();
            rustix::process::kill_process(init, Signal::KILL).unwrap();
        }),
        Code::PromiseLost => {
            let made = run(shared().command(), &[&build("print(1)\n")]);
            // Where cgroups are delegated nothing is lost.
            if made.1["status"] == "ok" {
                return None;
            }
            made
        }
        Code::NotAllowed => {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), "[limits]\nmemory = \"100M\"\n").unwrap();
            let config = ["--config", file.path().to_str().unwrap()];
            python("", &[&config[..], &["--memory", "101M"]].concat())
        }
        Code::NoSlot => {
            let file = tempfile::NamedTempFile::new().unwrap();
            let slots = tempfile::tempdir().unwrap();
            fs::write(
                file.path(),
                format!("[run]\nslots = 1\nslots_dir = {:?}\n", slots.path()),
            )
            .unwrap();
            let config = file.path().to_str().unwrap();
            let mut first = meanwhile_of(&["--config", config]);
            let made = python("", &["--config", config, "--wait", "100ms"]);
            first.kill().unwrap();
            first.wait().unwrap();
            made
        }
        Code::OverMemoryTotal => {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), "[run]\nmemory_total = \"100M\"\n").unwrap();
            python("", &["--config", file.path().to_str().unwrap(), "--memory", "101M"])
        }
        Code::BadArguments => run(shared().command(), &["--oops"]),
        Code::NoCaller => no_caller(),
        Code::BadJob => {
            let job = tempfile::NamedTempFile::new().unwrap();
            fs::write(job.path(), "[]").unwrap();
            run(shared().command(), &["--job", job.path().to_str().unwrap()])
        }
        Code::BadConfiguration => {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), "[runn]\n").unwrap();
            run(shared().command(), &["--config", file.path().to_str().unwrap(), "a:1"])
        }
        Code::UnknownImage => degraded(&Gantry::new(), &["none:1"]),
        Code::RegistryUnavailable => {
            let dead = ClosedPort::new();
            let made = degraded(&Gantry::new(), &[&format!("{}/team/a:1", dead.host)]);
            assert_eq!(made.0.code, 4, "{}", made.0.stderr);
            made
        }
        Code::RegistryRefused => {
            let gantry = Gantry::new();
            let file = gantry.home.join("refused.toml");
            // A registry that asks for a password, which there is none of.
            let registry = crate::registry::asks_for_a_password();
            fs::write(
                &file,
                format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", registry.host),
            )
            .unwrap();
            let config = file.to_str().unwrap();
            degraded(&gantry, &["--config", config, &registry.name("team/a:1")])
        }
        Code::BadImage => {
            let (gantry, image) = own();
            degraded(&gantry, &[image])
        }
        Code::InputUnusable => python("", &["--input", "/nonexistent"]),
        Code::OutputUnwritable => {
            let directory = locked();
            python("", &["--output", directory.path().to_str().unwrap()])
        }
        Code::StreamUnwritable => {
            let image = build("print('x' * 33)\n");
            let mut command = Command::new("sh");
            command.args(["-c", "exec \"$0\" \"$@\" > /dev/full", env!("CARGO_BIN_EXE_gantry")]);
            command.env("HOME", &shared().home).env("GANTRY_ROOT", &shared().root);
            run(command, &["--allow-degraded", DEGRADED, &image])
        }
        Code::InputTooLarge => {
            let image = build("import time\ntime.sleep(600)\n");
            let mut command = Command::new("sh");
            command.args(["-c", "exec \"$0\" \"$@\" < /dev/zero", env!("CARGO_BIN_EXE_gantry")]);
            command.env("HOME", &shared().home).env("GANTRY_ROOT", &shared().root);
            run(
                command,
                &["--allow-degraded", DEGRADED, "-i", "--input-limit", "100K", &image],
            )
        }
        Code::SecretUnavailable => python("", &["--secret", "KEY=env:NOT_SET"]),
        Code::StoreFull => {
            let (gantry, image) = own();
            let leases = gantry.root.join("leases");
            for lease in fs::read_dir(&leases).unwrap() {
                fs::remove_file(lease.unwrap().path()).unwrap();
            }
            let full = format!("mount -t tmpfs -o nr_inodes=1 tmpfs {}", leases.display());
            run(prepared(&gantry, &full), &["--allow-degraded", DEGRADED, image])
        }
        Code::StoreBusy => {
            let (gantry, image) = own();
            let mut holder = holder_of(&gantry.root.join("locks/collector"), "LOCK_EX");
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), "[store]\npatience = \"1s\"\n").unwrap();
            let made = degraded(&gantry, &["--config", file.path().to_str().unwrap(), image]);
            holder.kill().unwrap();
            holder.wait().unwrap();
            assert_eq!(made.0.code, 4, "{}", made.0.stderr);
            made
        }
        Code::StoreDamaged => {
            let (gantry, image) = own();
            let name = tree(&gantry.root.join("refs")).into_iter().find(|path| path.is_file());
            fs::write(name.unwrap(), "no digest\n").unwrap();
            degraded(&gantry, &[image])
        }
        Code::StoreVersion => {
            let (gantry, image) = own();
            fs::write(gantry.root.join("version"), "gantry store 9\n").unwrap();
            degraded(&gantry, &[image])
        }
        Code::StoreUnusable => {
            let gantry = Gantry::new();
            let mut command = gantry.command();
            command.env("GANTRY_ROOT", "/proc/store");
            run(command, &["a:1"])
        }
        Code::NoUserNamespace => {
            let (gantry, image) = own();
            let none = "echo 0 > /proc/sys/user/max_user_namespaces";
            run(
                prepared(&gantry, none),
                &["--allow-degraded", DEGRADED, image, "--", "/etc/name"],
            )
        }
        // What is mounted below an input could not be made read-only.
        Code::SandboxFailed => python("", &["--input", "/"]),
    })
}

/// The statuses in the row of `code` in `docs/formats.md`.
fn documented(code: Code) -> String {
    let document = include_str!("../../docs/formats.md");
    let row = document
        .lines()
        .find(|line| line.starts_with(&format!("| `{}` |", code.name())));
    row.unwrap().split('|').nth(2).unwrap().to_owned()
}

#[test]
fn every_code_is_made_with_its_status_and_said_on_standard_error() {
    for code in Code::ALL {
        let Some((done, outcome)) = made(*code) else { continue };
        let found = format!("{outcome}\n{}", done.stderr);
        assert_eq!(outcome["code"], code.name(), "{found}");
        let status = outcome["status"].as_str().unwrap();
        assert!(documented(*code).contains(&format!("`{status}`")), "{found}");
        assert_eq!(outcome["exit_code"], done.code, "{found}");
        let of_the_function = [
            "nonzero_exit",
            "signal",
            "bad_system_call",
            "bus_error",
            "timeout",
            "oom",
        ];
        let others = [
            "output_refused",
            "output_too_large",
            "stopped",
            "caller_ended",
            "killed_from_outside",
            "stream_unwritable",
            "input_too_large",
        ];
        let ran = of_the_function.contains(&code.name()) || others.contains(&code.name());
        // A deadline strikes before or after.
        let ran = if *code == Code::Deadline {
            status == "timeout"
        } else {
            ran
        };
        assert_eq!(outcome["started"], ran, "{found}");
        match outcome["error"].as_str() {
            None => assert_eq!(*code, Code::NonzeroExit, "{found}"),
            Some(error) => {
                assert!(!error.is_empty() && !error.contains('\n'), "{found}");
                // An error is printed with its causes on lines of their own.
                let first = error.split(": ").next().unwrap();
                assert!(done.stderr.contains(first), "{found}");
            }
        }
    }
}

#[test]
fn an_outcome_says_when_how_long_by_whom_and_under_which_limits() {
    let (done, outcome) = python(
        "print(1)\n",
        &["--timeout", "1500ms", "--memory", "200M", "--cpus", "0.5"],
    );
    if done.code == 124 {
        // A busy machine; the limits are the same.
        assert_eq!(outcome["status"], "timeout");
    }
    let limits = &outcome["limits"];
    assert_eq!(
        (&limits["timeout"], &limits["memory"], &limits["cpus"], &limits["grace"]),
        (&"1500ms".into(), &(200 << 20).into(), &0.5.into(), &Value::Null),
    );
    assert_eq!(
        (&limits["network"], &limits["egress"]),
        (&"none".into(), &Value::Array(vec![]))
    );
    assert_eq!(limits["allow_degraded"], serde_json::json!(["memory", "cpu"]));
    assert_eq!(outcome["gantry_version"], env!("CARGO_PKG_VERSION"));
    let at = outcome["started_at"].as_str().unwrap();
    assert!(
        at.len() == 24 && at.starts_with("20") && at.ends_with('Z') && at.contains('T'),
        "{at}"
    );
    let phases = outcome["phases_ms"].as_object().unwrap();
    let sum: f64 = phases.values().map(|phase| phase.as_f64().unwrap()).sum();
    let wall = outcome["wall_ms"].as_f64().unwrap();
    assert!(wall >= sum, "{wall} {sum}");
}

/// As a job may say them: the limits of an outcome are taken back by a job.
#[test]
fn the_limits_of_an_outcome_make_a_job() {
    let (_, outcome) = python("print(1)\n", &["--grace", "5s"]);
    let mut job = outcome["limits"].clone();
    job["image"] = name_of("print(1)\n").into();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), job.to_string()).unwrap();
    let (done, again) = run(shared().command(), &["--job", file.path().to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(again["limits"], outcome["limits"]);
}

#[test]
fn an_end_by_memory_a_signal_or_a_missing_command_is_one_line() {
    for (made, says) in [
        (made(Code::Oom).unwrap(), "--memory is 100M (104.9 MB)"),
        (
            made(Code::Signal).unwrap(),
            "gantry: ended by signal 11 (segmentation fault): native code",
        ),
        (made(Code::CommandNotFound).unwrap(), "gantry: \"python"),
        (
            made(Code::CommandNotFound).unwrap(),
            "is not in the image's PATH (/nowhere)\n",
        ),
        (
            made(Code::CommandNotExecutable).unwrap(),
            "gantry: \"/etc/name\" cannot be executed: Permission denied",
        ),
        (made(Code::BusError).unwrap(), "/dev/shm has 16M (--shm-size)"),
        (
            made(Code::BadSystemCall).unwrap(),
            "gantry: ended by signal 31 (bad system call): ",
        ),
    ] {
        let (done, outcome) = made;
        assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        assert_eq!(done.stderr.trim_start_matches("gantry: ").trim_end(), outcome["error"]);
    }
}

#[test]
fn what_was_printed_before_a_limit_struck_is_there() {
    let code = "import os, time\nprint('step 1', os.environ['PYTHONUNBUFFERED'])\ntime.sleep(600)\n";
    let mut found = String::new();
    // A busy machine takes longer to the first line.
    for limit in ["1s", "5s", "60s"] {
        let (done, _) = python(code, &["--timeout", limit]);
        assert_eq!(done.code, 124, "{}", done.stderr);
        found = done.stdout;
        if !found.is_empty() {
            break;
        }
    }
    assert_eq!(found, "step 1 1\n");
    let code = "import os\nprint(os.environ.get('PYTHONUNBUFFERED'))\n";
    let (done, _) = python(code, &["--env", "PYTHONUNBUFFERED="]);
    assert_eq!(done.stdout, "\n", "the caller's word counts");
}
