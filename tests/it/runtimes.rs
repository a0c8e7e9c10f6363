//! What makes the container of a run: each way comes to the same, and none of libcontainer's ways reaches a function.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use gantry::policy::Runtime;
use serde_json::{json, Value};

use crate::common::{add_layer, done, function, shared, tool, Done, Gantry, DEGRADED};

/// Says everything that differs when two containers do.
const LOOK: &str = r#"
import json, os, resource, stat, sys
def status(key):
    lines = open('/proc/self/status').read().splitlines()
    return [line.split(':', 1)[1].split() for line in lines if line.startswith(key)]
def mounts():
    for line in open('/proc/self/mountinfo'):
        before, after = line.split(' - ')
        _, _, _, root, place, flags, *_ = before.split()
        kind, source, options = after.split()
        # Directories of the store are named by the run, and the inode numbers of memory by nobody.
        options = sorted(o for o in options.split(',') if not o.startswith(('lowerdir', 'inode')))
        yield place, kind, sorted(flags.split(',')), options
def tree(top):
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            found = os.lstat(path)
            yield path, oct(found.st_mode), found.st_rdev, found.st_uid, found.st_gid
resources = [name for name in dir(resource) if name.startswith('RLIMIT_')]
print(json.dumps({
    'mounts': sorted(mounts()),
    'files': sorted([*tree('/dev'), *tree('/sys'), *tree('/run'), *tree('/output'), *tree('/tmp'), *tree('/input')]),
    'limits': {name: resource.getrlimit(getattr(resource, name)) for name in resources},
    'status': [status(key) for key in ('Cap', 'Seccomp', 'NoNewPrivs', 'Uid', 'Gid', 'Groups', 'SigBlk', 'SigIgn', 'SigCgt', 'Umask')],
    'descriptors': sorted((fd, stat.S_IFMT(os.stat(int(fd)).st_mode)) for fd in os.listdir('/proc/self/fd') if int(fd) < 3),
    'environment': dict(os.environ), 'directory': os.getcwd(), 'host': os.uname().nodename,
    'session': os.getsid(0) == os.getpid(), 'score': open('/proc/self/oom_score_adj').read(),
    'hosts': open('/etc/hosts').read(), 'root': os.listdir('/'),
}))
"#;

/// A run of `words` with `runtime`, and its outcome.
fn run_with(gantry: &Gantry, runtime: Runtime, words: &[&str]) -> (Done, Value) {
    gantry.run_with_outcome(&[&["--runtime", runtime.name()], words].concat())
}

/// An outcome without what differs between any two runs.
fn settled(outcome: &Value) -> Value {
    let mut outcome = outcome.clone();
    let fields = outcome.as_object_mut().unwrap();
    for of_each in ["started_at", "wall_ms", "phases_ms", "runtime", "usage"] {
        assert!(fields.remove(of_each).is_some(), "{of_each}");
    }
    outcome
}

/// What each runtime makes of `words`: the same exit code, words and outcome, and its own name in that.
fn compare(gantry: &Gantry, words: &[&str]) -> (Done, Value) {
    let mut runs = Runtime::BUILT_IN.iter().map(|runtime| {
        let (done, outcome) = run_with(gantry, *runtime, words);
        assert_eq!(outcome["runtime"], runtime.name(), "{words:?}");
        (done, outcome)
    });
    let (first, outcome) = runs.next().unwrap();
    for (other, of_other) in runs {
        assert_eq!(other.code, first.code, "{words:?}: {} {}", first.stderr, other.stderr);
        assert_eq!(other.stdout, first.stdout, "{words:?}");
        assert_eq!(other.stderr, first.stderr, "{words:?}");
        assert_eq!(settled(&of_other), settled(&outcome), "{words:?}");
    }
    (first, outcome)
}

#[test]
fn every_runtime_makes_the_same_container() {
    let gantry = shared();
    gantry.build(function(LOOK, None).path(), "runtimes:look");
    let scratch = tempfile::tempdir().unwrap();
    let (input, key) = (scratch.path().join("in"), scratch.path().join("key"));
    fs::create_dir(&input).unwrap();
    fs::write(input.join("data"), "data").unwrap();
    fs::write(&key, "a secret").unwrap();
    let (input, secret) = (input.to_str().unwrap(), format!("KEY={}", key.display()));
    for words in [
        &[][..],
        &["--input", input],
        &["--secret", &secret, "--input", input],
        &["--output-on-disk"],
        &["--network", "loopback"],
        &["--network", "egress", "--egress", "service.example.org:8080"],
        &[
            "--pids",
            "8",
            "--tmp-size",
            "3M",
            "--shm-size",
            "2M",
            "--output-size",
            "1M",
        ],
    ] {
        let (done, outcome) = compare(gantry, &[words, &["runtimes:look"]].concat());
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{words:?}");
        let seen: Value = serde_json::from_str(&done.stdout).unwrap();
        assert!(seen["mounts"].as_array().unwrap().len() > 12, "{seen}");
        assert_eq!(outcome["enforced"].as_object().unwrap().len(), 16);
    }
}

/// What a function finds and makes has the modes of any other run, whoever starts it.
#[test]
fn the_mask_of_modes_of_the_caller_is_not_that_of_a_run() {
    let gantry = shared();
    gantry.build(function(LOOK, None).path(), "runtimes:look-under-a-mask");
    for runtime in Runtime::BUILT_IN {
        let seen = ["022", "000", "077"].map(|mask| {
            let words = ["sh", "-c", "umask $0; exec \"$@\"", mask].map(OsStr::new);
            tool(&mut through(gantry, &words, *runtime, "runtimes:look-under-a-mask"))
        });
        assert_eq!(seen[1], seen[0], "{runtime}");
        assert_eq!(seen[2], seen[0], "{runtime}");
    }
}

/// One of them is made beside the others: a host whose only interface is the loopback's would look like it.
#[test]
fn every_runtime_has_all_namespaces_of_its_own() {
    const KINDS: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];
    let gantry = shared();
    let look = "import os, sys\nfor kind in sys.argv[1:]: print(os.readlink('/proc/self/ns/' + kind))";
    gantry.build(function(look, None).path(), "runtimes:namespaces");
    for runtime in Runtime::BUILT_IN {
        let words = [&["runtimes:namespaces", "--"][..], &KINDS].concat();
        let (done, _) = run_with(gantry, *runtime, &words);
        assert_eq!(done.code, 0, "{runtime}: {}", done.stderr);
        let inside: Vec<&str> = done.stdout.lines().collect();
        assert_eq!(inside.len(), KINDS.len(), "{inside:?}");
        for (kind, inside) in KINDS.iter().zip(inside) {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert!(inside.starts_with(&format!("{kind}:[")), "{inside}");
            assert_ne!(ours.to_str(), Some(inside), "{runtime} shares {kind} with us");
        }
    }
}

/// Where a filter lets nobody enter a namespace, the first process makes that of the network itself. libcontainer enters one
/// by itself.
#[test]
fn a_machine_that_lets_nobody_enter_a_namespace_runs_without_libcontainer() {
    let gantry = shared();
    let look = "import os\nprint(os.readlink('/proc/self/ns/net'))";
    gantry.build(function(look, None).path(), "runtimes:network");
    let words = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "--trace=setns",
        "--inject=setns:error=EPERM",
    ];
    let inside = tool(&mut through(gantry, &words, Runtime::Native, "runtimes:network"));
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(inside.starts_with("net:["), "{inside}");
    assert_ne!(ours.to_str(), Some(inside.trim()));
}

/// The errors of libcontainer say "failed to prepare rootfs" and no more: what people can get wrong is said by us.
#[test]
fn every_runtime_ends_alike_what_cannot_be_run_and_says_the_same() {
    let gantry = shared();
    gantry.build(
        function("import sys\nsys.exit(int(sys.argv[1]))", None).path(),
        "runtimes:exit",
    );
    for (words, code) in [
        (&["runtimes:exit", "--", "7"][..], 7),
        (&["--entrypoint", "no-such-program", "runtimes:exit"], 127),
        (&["--entrypoint", "/etc/passwd", "runtimes:exit"], 126),
        // What is mounted below it could not be made read-only.
        (&["--input", "/", "runtimes:exit", "--", "0"], 125),
        (&["--input", "/no/such/directory", "runtimes:exit", "--", "0"], 125),
    ] {
        let (done, _) = compare(gantry, words);
        assert_eq!(done.code, code, "{words:?}: {}", done.stderr);
        assert!(!done.stderr.contains("rootfs"), "{words:?}: {}", done.stderr);
    }
}

/// Where the function is when its time is over differs between any two runs.
#[test]
fn every_runtime_ends_a_run_whose_time_is_over() {
    let gantry = shared();
    let forever = function("import time\nwhile True: time.sleep(60)", None);
    gantry.build(forever.path(), "runtimes:forever");
    for runtime in Runtime::BUILT_IN {
        let (done, outcome) = run_with(gantry, *runtime, &["--timeout", "1s", "runtimes:forever"]);
        assert_eq!(done.code, 124, "{runtime}: {}", done.stderr);
        assert_eq!(outcome["status"], "timeout", "{runtime}: {outcome}");
    }
}

#[test]
fn a_runtime_that_nobody_knows_is_refused() {
    let done = shared().gantry(["run", "--runtime", "runc", "runtimes:look"]);
    assert_eq!(done.code, 125, "{}", done.stderr);
    assert!(done.stderr.contains("libcontainer"), "{}", done.stderr);
}

#[test]
fn without_a_word_libcontainer_makes_the_container_and_a_job_or_the_machine_may_choose() {
    let gantry = shared();
    gantry.build(function("", None).path(), "runtimes:empty");
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let says_nothing = write("nothing.toml", "");
    let native = write("native.toml", "[run]\nruntime = \"native\"\n");
    let job = write("job.json", r#"{"image": "runtimes:empty", "runtime": "native"}"#);
    let report = scratch.path().join("outcome.json");
    let default = Runtime::default().name();
    for (config, what, runtime) in [
        (&says_nothing, &["runtimes:empty"][..], default),
        (&native, &["runtimes:empty"], "native"),
        (&says_nothing, &["--job", &job], "native"),
        (&native, &["--runtime", default, "--job", &job], default),
    ] {
        let words = ["--config", config, "run", "--allow-degraded", DEGRADED, "--report"];
        let done = gantry.gantry([&words[..], &[report.to_str().unwrap()], what].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        let outcome: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(outcome["runtime"], runtime, "{config} {what:?}");
    }
}

/// libcontainer opens `/dev/null` anew, read-only, where it finds it as a standard stream: the function's are pipes.
#[test]
fn a_gantry_without_streams_gives_a_function_streams_that_work() {
    let gantry = shared();
    let code = "import os, sys\nassert os.write(1, b'x') == 1 and os.write(2, b'x') == 1 and sys.stdin.read() == ''\n";
    gantry.build(function(code, None).path(), "runtimes:streams");
    for runtime in Runtime::BUILT_IN {
        let mut command = gantry.command();
        command.args([
            "run",
            "--allow-degraded",
            DEGRADED,
            "--runtime",
            runtime.name(),
            "runtimes:streams",
        ]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(command.status().unwrap().code(), Some(0), "{runtime}");
    }
}

/// `gantry run` of `image`, as the last words of another program's.
fn through<S: AsRef<OsStr>>(gantry: &Gantry, words: &[S], runtime: Runtime, image: &str) -> Command {
    let plain = gantry.command();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(plain.get_program());
    command.args(["run", "--allow-degraded", DEGRADED, "--runtime", runtime.name(), image]);
    command.env_clear().stdin(Stdio::null());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// libcontainer returns to the working directory by its name.
#[test]
fn a_working_directory_that_is_gone_or_closed_ends_no_run() {
    let gantry = shared();
    gantry.build(function("print('ran')", None).path(), "runtimes:ran");
    for runtime in Runtime::BUILT_IN {
        for what in ["rmdir", "chmod 000"] {
            let scratch = tempfile::tempdir().unwrap();
            let directory = scratch.path().join("here");
            fs::create_dir(&directory).unwrap();
            let script = format!("cd \"$0\" && {what} \"$0\" && exec \"$@\"");
            let words = ["sh", "-c", &script, directory.to_str().unwrap()];
            assert_eq!(
                tool(&mut through(gantry, &words, *runtime, "runtimes:ran")),
                "ran\n",
                "{runtime}, {what}"
            );
        }
    }
}

/// libcontainer reads the mount table as UTF-8, and anybody may mount something in a directory of any name.
#[test]
fn a_mount_of_the_host_whose_name_is_not_text_ends_no_run() {
    let gantry = shared();
    gantry.build(function("print('ran')", None).path(), "runtimes:ran-beside-a-mount");
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join(OsStr::from_bytes(b"not-text-\xff"));
    fs::create_dir(&directory).unwrap();
    // In namespaces of its own this user may mount; what it mounts is seen by the run as the host's.
    let script = "mount -t tmpfs none \"$0\" && grep -q not-text- /proc/self/mountinfo && exec \"$@\"";
    let before = ["unshare", "--map-root-user", "--mount", "sh", "-c", script].map(OsStr::new);
    let words = [&before[..], &[directory.as_os_str()]].concat();
    for runtime in Runtime::BUILT_IN {
        let mut command = through(gantry, &words, *runtime, "runtimes:ran-beside-a-mount");
        assert_eq!(tool(&mut command), "ran\n", "{runtime}");
    }
}

/// System calls of a run that name a file, or make or kill a process, by who made them: gantry, its init, the workload.
fn calls(gantry: &Gantry, runtime: Runtime) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("calls");
    let trace = "trace=file,process,kill,mount_setattr";
    let words = ["strace", "-f", "-s", "300", "-e", trace, "-o", log.to_str().unwrap()];
    tool(&mut through(gantry, &words, runtime, "runtimes:empty"));
    fs::read_to_string(log).unwrap()
}

/// Those of the init.
fn of_init(log: &str) -> Vec<&str> {
    let started = log.lines().find(|line| line.contains("gantry-init")).unwrap();
    let (pid, _) = started.split_once(' ').unwrap();
    let lines = log.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(of, _)| *of == pid)
        .map(|(_, call)| call.trim())
        .collect()
}

/// libcontainer as a whole makes three processes, a cgroup and files of its state. Its init, called in ours, does not.
#[test]
fn libcontainer_touches_no_cgroup_starts_no_process_and_keeps_no_state() {
    if !Runtime::BUILT_IN.contains(&Runtime::Libcontainer) {
        return;
    }
    let gantry = shared();
    gantry.build(function("", None).path(), "runtimes:empty");
    let (of_libcontainer, of_native) = (calls(gantry, Runtime::Libcontainer), calls(gantry, Runtime::Native));
    let count = |log: &str, word: &str| log.lines().filter(|line| line.contains(word)).count();
    // A file system of its own is mounted by our init on every way, and libcontainer makes a name that it alone makes.
    assert_eq!(count(&of_libcontainer, "mount_setattr"), 0, "{of_libcontainer}");
    for (log, expected) in [(&of_libcontainer, 1), (&of_native, 0)] {
        assert_eq!(count(log, "pts/ptmx"), expected, "{log}");
    }
    // gantry itself asks and waits as often as the machine makes it.
    let (init, native_init) = (of_init(&of_libcontainer), of_init(&of_native));
    let calls = |init: &[&str], word: &str| init.iter().filter(|call| call.contains(word)).count();
    for word in ["/sys/fs/cgroup", "clone3(", "clone(", "fork("] {
        assert_eq!(calls(&init, word), calls(&native_init, word), "{word}: {init:#?}");
    }
    let kills = |init: &[&str]| -> BTreeSet<String> {
        let kills = init.iter().filter(|call| call.contains("kill("));
        kills
            .filter_map(|call| Some(call.split_once(')')?.0.to_owned()))
            .collect()
    };
    assert_eq!(kills(&init), kills(&native_init));
    for word in ["gantry-is-placed-already", "config.json", "state.json", "youki"] {
        assert_eq!(count(&of_libcontainer, word), 0, "{word}: {of_libcontainer}");
    }
    // The positive twin: what is looked for can be seen.
    let started = ["clone(", "clone3(", "fork("].map(|word| calls(&init, word));
    assert!(
        started.iter().sum::<usize>() > 0 && calls(&init, "mount(") > 0,
        "{init:#?}"
    );
    assert!(count(&of_libcontainer, "clone3(") > 0 && count(&of_libcontainer, "gantry-init") > 0);
}

/// A module of the image's own C library that says when it is loaded. The C library looks for it wherever somebody asks for
/// a user's name or home while `/` is the image's.
const MODULE: &str = r#"
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) { write(2, "module loaded\n", 14); }
"#;

#[test]
fn no_process_of_ours_loads_a_module_that_the_image_names() {
    use base64::Engine;
    let gantry = shared();
    let scratch = tempfile::tempdir().unwrap();
    let (source, library) = (scratch.path().join("evil.c"), scratch.path().join("evil.so"));
    fs::write(&source, MODULE).unwrap();
    let mut compiler = Command::new("gcc");
    compiler
        .args(["-shared", "-fPIC", "-nostartfiles", "-o"])
        .arg(&library)
        .arg(&source);
    tool(&mut compiler);
    let module = base64::engine::general_purpose::STANDARD.encode(fs::read(&library).unwrap());
    // It asks for a user by name, which needs the module; or for nothing.
    let code = "import sys\nif len(sys.argv) > 1:\n    import pwd\n    pwd.getpwall()\n    try: pwd.getpwnam('nobody-of-this-name')\n    except KeyError: pass\n";
    gantry.build(function(code, None).path(), "runtimes:plain");
    let layout = scratch.path().join("layout");
    gantry.ok(["copy", "runtimes:plain", &format!("oci:{}", layout.display())]);
    let entries = json!({
        "etc/nsswitch.conf": "passwd: evil\ngroup: evil\n",
        "usr/lib/x86_64-linux-gnu/libnss_evil.so.2": {"base64": module},
    });
    add_layer(&layout, &entries, None);
    let image = "runtimes:evil";
    gantry.ok(["copy", &format!("oci:{}", layout.display()), image]);
    for runtime in Runtime::BUILT_IN {
        let run = |words: &[&str]| {
            let name = runtime.name();
            let done = gantry.run(&[&["--runtime", name, image], words].concat());
            assert_eq!(done.code, 0, "{}", done.stderr);
            done.stderr
        };
        assert!(!run(&[]).contains("module loaded"), "{runtime}: before the function");
        // The positive twin: whoever asks loads it.
        assert!(
            run(&["--", "ask"]).contains("module loaded"),
            "{runtime}: by the function itself"
        );
    }
}

/// A path of the store may be longer than an address of a local socket (108 bytes), such as libcontainer's.
#[test]
fn a_store_with_a_long_path_runs_functions() {
    let gantry = shared();
    gantry.build(function("print('ran')", None).path(), "runtimes:long");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("image.tar");
    gantry.ok(["save", "runtimes:long", file.to_str().unwrap()]);
    let long = scratch.path().join("a-directory-with-a-name-that-is-long".repeat(4));
    let with_long_path = |words: &[&str]| {
        let mut command = gantry.command();
        let done = done(command.env("GANTRY_ROOT", &long).args(words).output().unwrap());
        assert_eq!(done.code, 0, "{}", done.stderr);
        done.stdout
    };
    with_long_path(&["load", file.to_str().unwrap()]);
    for runtime in Runtime::BUILT_IN {
        let words = [
            "run",
            "--allow-degraded",
            DEGRADED,
            "--runtime",
            runtime.name(),
            "runtimes:long",
        ];
        assert_eq!(with_long_path(&words), "ran\n", "{runtime}");
    }
}

/// The effective, permitted and inheritable capabilities of a process, as the caps crate reads them by capget(2).
fn capabilities(pid: i32) -> usize {
    let sets = [
        caps::CapSet::Effective,
        caps::CapSet::Permitted,
        caps::CapSet::Inheritable,
    ];
    sets.map(|set| caps::read(Some(pid), set).unwrap().len()).iter().sum()
}

fn child_of(pid: u32) -> i32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

/// Our own read-back and the functions of the other tests look into `/proc`; this is asked from outside, by the code of others.
#[test]
fn another_reader_finds_no_capability_in_a_function_and_its_first_process() {
    let up = |child: &mut std::process::Child| {
        use std::io::Read;
        child.stdout.as_mut().unwrap().read_exact(&mut [0u8; 3]).unwrap();
    };
    let end = |mut child: std::process::Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let mut root = Command::new("unshare");
    root.args(["--user", "--map-root-user", "sh", "-c", "echo up; read line"]);
    let mut root = root.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    up(&mut root);
    let found = capabilities(i32::try_from(root.id()).unwrap());
    end(root);
    assert!(found > 60, "what is looked for can be seen: {found}");

    let gantry = shared();
    let code = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";
    gantry.build(function(code, None).path(), "runtimes:waits");
    for runtime in Runtime::BUILT_IN {
        let mut command = gantry.command();
        command.args([
            "run",
            "--runtime",
            runtime.name(),
            "--allow-degraded",
            DEGRADED,
            "runtimes:waits",
        ]);
        command.stdout(Stdio::piped());
        let mut run = command.spawn().unwrap();
        up(&mut run);
        let init = child_of(run.id());
        let workload = child_of(u32::try_from(init).unwrap());
        assert_eq!([init, workload].map(capabilities), [0, 0], "{runtime:?}");
        end(run);
    }
}
