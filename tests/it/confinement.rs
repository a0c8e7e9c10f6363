//! What a function finds itself in, seen from inside, and what happens when a promise cannot be kept.

use crate::common::{function, runtime, shared, DEGRADED};
use serde_json::{json, Value};

const PROBE: &str = r#"
import json, os, socket, ctypes, locale
def status(key):
    for line in open('/proc/self/status'):
        if line.startswith(key + ':'):
            return line.split(':', 1)[1].strip()
def errno_of(call):
    try:
        call()
        return 0
    except OSError as error:
        return error.errno
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    'uid': os.getresuid(), 'gid': os.getresgid(), 'pid': os.getpid(), 'ppid': os.getppid(),
    'caps': [status(c) for c in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')],
    'nnp': status('NoNewPrivs'), 'seccomp': status('Seccomp'),
    'uid_map': open('/proc/self/uid_map').read().split(),
    'write_root': errno_of(lambda: open('/usr/x', 'w')),
    'write_app': errno_of(lambda: open('/app/user_function.py', 'a')),
    'interfaces': [line.split(':')[0].strip() for line in open('/proc/self/net/dev').readlines()[2:]],
    'tcp': errno_of(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
    'unshare': (libc.unshare(0x10000000), ctypes.get_errno())[1],
    'exec_tmp': (open('/tmp/x', 'w').write('#!/usr/bin/python3\n'), os.chmod('/tmp/x', 0o755), errno_of(lambda: os.execv('/tmp/x', ['x'])))[2],
    'landlock': errno_of(lambda: open('/proc/self/oom_score_adj', 'w')),
    'sys': os.path.exists('/sys/kernel'), 'proc_sys': os.path.exists('/proc/sys'),
    'fds': sorted(os.listdir('/proc/self/fd')),
    'env': sorted(os.environ), 'cwd': os.getcwd(), 'host': os.uname().nodename,
    'locale': locale.setlocale(locale.LC_ALL, ''), 'encoding': locale.nl_langinfo(locale.CODESET),
    'init_environ': errno_of(lambda: open('/proc/1/environ').read()),
    'init_mem': errno_of(lambda: open('/proc/1/mem', 'rb')),
}))
"#;

fn probe() -> Value {
    let gantry = shared();
    gantry.build(function(PROBE, None).path(), "confinement:probe");
    let mut command = gantry.command();
    command
        .env("PLANTED", "x")
        .env("LISTEN_FDS", "3")
        .args(["run", "--allow-degraded", DEGRADED, "confinement:probe"]);
    let done = crate::common::done(command.output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

#[test]
fn the_inside_is_what_was_promised() {
    let seen = probe();
    assert_eq!(seen["uid"], json!([1000, 1000, 1000]));
    assert_eq!(seen["gid"], json!([1000, 1000, 1000]));
    assert_eq!(seen["uid_map"].as_array().unwrap().len(), 3, "one mapping");
    assert_eq!(seen["uid_map"][2], "1", "of one id");
    assert_ne!(seen["pid"], 1);
    assert_eq!(seen["ppid"], 1, "the trusted init is our parent");
    assert_eq!(seen["caps"], json!(vec!["0000000000000000"; 5]));
    assert_eq!((&seen["nnp"], &seen["seccomp"]), (&json!("1"), &json!("2")));
    assert_eq!(
        (&seen["write_root"], &seen["write_app"]),
        (&json!(30), &json!(30)),
        "EROFS, whatever Landlock says later"
    );
    assert_ne!(seen["tcp"], 0);
    assert_eq!(seen["interfaces"], json!(["lo"]));
    assert_eq!(seen["unshare"], 1, "EPERM");
    assert_eq!(seen["exec_tmp"], 13, "EACCES: /tmp is noexec");
    assert_eq!(
        seen["landlock"], 13,
        "EACCES: /proc is mounted writable, only Landlock refuses"
    );
    assert_eq!((&seen["sys"], &seen["proc_sys"]), (&json!(false), &json!(false)));
    // 0, 1, 2 and the descriptor that lists the directory.
    assert_eq!(seen["fds"].as_array().unwrap().len(), 4, "{}", seen["fds"]);
    let env: Vec<&str> = seen["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert!(!env.contains(&"PLANTED") && !env.contains(&"LISTEN_FDS"), "{env:?}");
    assert_eq!(seen["cwd"], "/app");
    assert_eq!(
        (&seen["locale"], &seen["encoding"]),
        (&json!("C.UTF-8"), &json!("UTF-8"))
    );
    assert_ne!(seen["init_environ"], 0);
    assert_ne!(seen["init_mem"], 0);
}

#[test]
fn the_probe_sees_the_difference_outside() {
    // The positive twin: the same code outside the sandbox finds another world, so the test above can fail.
    let scratch = tempfile::tempdir().unwrap();
    let script = scratch.path().join("probe.py");
    std::fs::write(
        &script,
        PROBE
            .replace("os.execv('/tmp/x', ['x'])", "None")
            .replace("/tmp/x", scratch.path().join("x").to_str().unwrap()),
    )
    .unwrap();
    let output = std::process::Command::new("/usr/bin/python3")
        .arg(&script)
        .output()
        .unwrap();
    let seen: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(
        (&seen["tcp"], &seen["seccomp"], &seen["nnp"]),
        (&json!(0), &json!("0"), &json!("0"))
    );
    assert_ne!(seen["write_root"], 30);
    assert_eq!(seen["landlock"], 0);
    assert_eq!((&seen["proc_sys"], &seen["unshare"]), (&json!(true), &json!(0)));
}

#[test]
fn the_outcome_has_every_field_and_every_promise() {
    let (done, outcome) = shared().try_python("confinement:outcome", "print('x')", &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = vec![
        "schema",
        "status",
        "exit_code",
        "signal",
        "code",
        "started",
        "image",
        "cache",
        "attempts",
        "started_at",
        "wall_ms",
        "phases_ms",
        "runtime",
        "limits",
        "usage",
        "output",
        "enforced",
        "error",
        "notes",
        "gantry_version",
        "id",
        "attempt",
        "labels",
        "action",
        "retry_after",
        "alert",
    ];
    expected.sort_unstable();
    assert_eq!(keys(&outcome), expected);
    assert_eq!(outcome["runtime"], runtime().name());
    assert_eq!(keys(&outcome["image"]), ["digest", "reference"]);
    assert_eq!(
        keys(&outcome["phases_ms"]),
        ["prepare", "pull", "resolve", "run", "start", "teardown", "unpack", "wait"]
    );
    assert_eq!(
        keys(&outcome["usage"]),
        ["cpu_ms", "memory_peak_bytes", "pids_peak", "read_bytes"]
    );
    assert_eq!(
        keys(&outcome["output"]),
        ["bytes", "files", "stderr_bytes", "stdout_bytes", "truncated"]
    );
    let levels = outcome["enforced"].as_object().unwrap();
    assert_eq!(levels.len(), 16, "{levels:?}");
    for (promise, level) in levels {
        let degraded = DEGRADED.split(',').any(|name| name == promise);
        assert!(level == "enforced" || degraded, "{promise} is {level}");
    }
}

#[test]
fn a_lost_promise_refuses_the_run_before_user_code() {
    let gantry = shared();
    gantry.build(function("print('ran')", None).path(), "confinement:lost");
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let done = gantry.gantry(["run", "--report", report.to_str().unwrap(), "confinement:lost"]);
    let outcome: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    if outcome["enforced"]["memory"] == "enforced" && outcome["enforced"]["cpu"] == "enforced" {
        assert_eq!(done.code, 0, "this machine delegates cgroups: nothing is lost");
        return;
    }
    assert_eq!((done.code, done.stdout.as_str()), (125, ""));
    assert_eq!(outcome["status"], "refused");
    // The hint is the literal option, and does what it says.
    let hint = done
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("hint: --allow-degraded "));
    let names = hint
        .unwrap_or_else(|| panic!("{}", done.stderr))
        .split(' ')
        .next()
        .unwrap();
    let again = gantry.gantry(["run", "--allow-degraded", names, "confinement:lost"]);
    assert_eq!((again.code, again.stdout.as_str()), (0, "ran\n"), "{}", again.stderr);
    // What would need a service manager is said where there is one.
    let has_manager = std::path::Path::new("/run/systemd/system").is_dir();
    assert!(has_manager || !done.stderr.contains("systemd"), "{}", done.stderr);
}

#[test]
fn limits_of_processes_files_and_disk_hold() {
    let code = r#"
import os, errno, time
kids = 0
try:
    while kids < 200:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        kids += 1
except OSError as error:
    print('fork', kids < 32, error.errno == errno.EAGAIN)
def fill(path):
    try:
        with open(path, 'wb', buffering=0) as f:
            for _ in range(64): f.write(b'x' * (1 << 20))
    except OSError as error:
        return error.errno
print('tmp', fill('/tmp/big') in (errno.ENOSPC, errno.EFBIG))
os.remove('/tmp/big')
try:
    for n in range(100_000): open(f'/output/{n}', 'w').close()
except OSError as error:
    print('inodes', error.errno == errno.ENOSPC)
"#;
    let args = ["--pids", "32", "--tmp-size", "8M", "--output-size", "8M"];
    let (done, _) = shared().try_python("confinement:limits", code, &args);
    assert_eq!(
        done.stdout, "fork True True\ntmp True\ninodes True\n",
        "{}",
        done.stderr
    );
}

#[test]
fn threads_processes_and_subprocesses_work() {
    let code = r#"
import threading, multiprocessing, subprocess, tempfile, sys
t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()
with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))
print(subprocess.run([sys.executable, '-c', 'print("sub")'], capture_output=True, text=True).stdout.strip())
with tempfile.TemporaryFile() as f: f.write(b'x'); print('temp')
"#;
    let (done, _) = shared().try_python("confinement:works", code, &[]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "thread\n[1, 2]\nsub\ntemp\n"),
        "{}",
        done.stderr
    );
}

#[test]
fn secrets_are_files_and_nowhere_else() {
    let code = "import os\np='/run/secrets/KEY'\nprint(len(open(p).read()), oct(os.stat(p).st_mode & 0o777), any('hunter2' in v for v in os.environ.values()))\n";
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    std::fs::write(&key, "hunter2").unwrap();
    let secret = format!("KEY={}", key.display());
    let (done, outcome) = shared().try_python("confinement:secret", code, &["--secret", &secret]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "7 0o400 False\n"),
        "{}",
        done.stderr
    );
    assert!(!outcome.to_string().contains("hunter2"));
}
