//! `--output-on-disk`: results larger than memory, a limit that is watched, and nothing that stays.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{json, Value};

use crate::common::wait::{eventually, is_so, send};
use crate::common::{function, shared, tree, Done, Gantry, DEGRADED};

/// Runs `code` with `/output` on disk and its files taken to `directory`.
fn on_disk(name: &str, code: &str, directory: &Path, options: &[&str]) -> (Done, Value) {
    let place = ["--output-on-disk", "--output", directory.to_str().unwrap()];
    shared().try_python(name, code, &[&place[..], options].concat())
}

/// The files called `marker` in the scratch directories of a store.
fn scratch_files(gantry: &Gantry, marker: &str) -> Vec<PathBuf> {
    let mut found = tree(&gantry.root.join("tmp"));
    found.retain(|path| path.file_name().is_some_and(|name| name == marker));
    found
}

#[test]
fn a_result_larger_than_the_memory_of_the_run_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let code = "import os\nos.makedirs('/output/deep')\nwith open('/output/deep/large-result', 'wb') as f:\n    for _ in range(300): f.write(b'x' * (1 << 20))\nos.chmod('/output/deep/large-result', 0o777)\nos.link('/output/deep/large-result', '/output/other')\nos.remove('/output/other')\nopen('/output/twice', 'w').write('two')\nos.link('/output/twice', '/output/deep/twice')\n";
    let options = ["--memory", "128M", "--output-size", "400M", "--timeout", "600s"];
    let (done, outcome) = on_disk("disk:large", code, directory.path(), &options);
    assert_eq!((done.code, &outcome["status"]), (0, &json!("ok")), "{}", done.stderr);
    let large = fs::metadata(directory.path().join("deep/large-result")).unwrap();
    assert_eq!(large.len(), 300 << 20);
    // As a file that is made here: no more permissions, and no second name.
    let fresh = directory.path().join("fresh");
    fs::write(&fresh, "").unwrap();
    let fresh = fs::metadata(fresh).unwrap().permissions().mode();
    assert_eq!((large.permissions().mode(), large.nlink()), (fresh, 1));
    let inode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().ino();
    assert_ne!(
        inode("twice"),
        inode("deep/twice"),
        "what is written to one must not change the other"
    );
    assert_eq!(outcome["enforced"]["output"], "watched");
    assert_eq!(outcome["limits"]["output_on_disk"], true);
    assert_eq!(
        (&outcome["output"]["files"], &outcome["output"]["bytes"]),
        (&json!(3), &json!((300 << 20) + 6))
    );
    assert_eq!(scratch_files(shared(), "large-result"), [] as [PathBuf; 0]);
}

#[test]
fn programs_and_devices_are_none_there() {
    let directory = tempfile::tempdir().unwrap();
    let code = "import os, subprocess\nopen('/output/run', 'w').write('#!/bin/sh\\necho ran\\n')\nos.chmod('/output/run', 0o755)\ntry: subprocess.run(['/output/run'])\nexcept PermissionError: print('refused')\nflags = os.statvfs('/output').f_flag\nprint(flags & os.ST_NOSUID > 0, flags & os.ST_NODEV > 0, flags & os.ST_NOEXEC > 0)\n";
    let (done, _) = on_disk("disk:flags", code, directory.path(), &[]);
    assert_eq!(done.stdout, "refused\nTrue True True\n", "{}", done.stderr);
}

#[test]
fn what_is_over_the_limit_ends_the_run_and_is_not_taken() {
    for (name, code, says) in [
        (
            "disk:one",
            "import time\nopen('/output/one', 'wb').write(b'x' * (3 << 20))\ntime.sleep(600)\n",
            "/output is over its limit: ",
        ),
        (
            "disk:small",
            "import time\nfor n in range(600): open(f'/output/{n}', 'w').write('x' * 4096)\ntime.sleep(600)\n",
            "--output-size is 1M (1.0 MB)",
        ),
        (
            "disk:empty",
            "import time\nfor n in range(17000): open(f'/output/{n}', 'w').close()\ntime.sleep(600)\n",
            "more than 16384 files and directories",
        ),
        (
            "disk:unlinked",
            "import os, time\nf = open('/output/gone', 'wb')\nos.remove('/output/gone')\nf.write(b'x' * (3 << 20))\nf.flush()\ntime.sleep(600)\n",
            "--output-size is 1M (1.0 MB)",
        ),
        (
            "disk:mapped",
            "import mmap, os, time\nf = os.open('/output/gone', os.O_RDWR | os.O_CREAT)\nos.write(f, b'x' * (3 << 20))\nm = mmap.mmap(f, 3 << 20)\nos.remove('/output/gone')\nos.close(f)\ntime.sleep(600)\n",
            "--output-size is 1M (1.0 MB)",
        ),
        (
            "disk:closed",
            "import os, time\nos.mkdir('/output/closed')\nos.chmod('/output/closed', 0)\ntime.sleep(600)\n",
            "/output cannot be watched: ",
        ),
    ] {
        for options in [&[][..], &["--output-partial"]] {
            let directory = tempfile::tempdir().unwrap();
            let limits = ["--output-size", "1M", "--timeout", "600s"];
            let (done, outcome) = on_disk(name, code, directory.path(), &[&limits[..], options].concat());
            assert_eq!(done.code, 137, "{name}: {}", done.stderr);
            assert_eq!(
                (&outcome["status"], &outcome["code"], &outcome["started"]),
                (&json!("failed"), &json!("output_too_large"), &json!(true)),
                "{name}: {}",
                done.stderr
            );
            assert!(done.stderr.contains(says), "{name}: {}", done.stderr);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{name}");
            assert_eq!(outcome["output"]["files"], Value::Null);
        }
    }
}

#[test]
fn what_a_killed_gantry_had_on_disk_goes_with_the_next_command() {
    let marker = "disk-of-a-killed-run";
    let code = format!(
        "import os, time\nopen('/output/{marker}', 'w').close()\nos.mkdir('/output/closed')\nprint('up', flush=True)\ntime.sleep(600)\n"
    );
    // No other test sweeps it.
    let gantry = Gantry::with_function(&code, "disk:killed");
    let mut command = gantry.command();
    command.args([
        "run",
        "--output-on-disk",
        "--allow-degraded",
        DEGRADED,
        "--timeout",
        "600s",
    ]);
    let mut child = command.arg("disk:killed").stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    assert_eq!(scratch_files(&gantry, marker).len(), 1);
    send(&child, Signal::KILL);
    child.wait().unwrap();
    // The kernel ends the function with gantry, not before.
    eventually("it stays", || {
        let next = gantry.run(&["--entrypoint", "python", "disk:killed", "--", "-c", ""]);
        assert_eq!(next.code, 0, "{}", next.stderr);
        let left = scratch_files(&gantry, marker);
        is_so(left.is_empty(), left)
    });
}

#[test]
fn a_job_says_it_too() {
    let directory = tempfile::tempdir().unwrap();
    shared().build(function("open('/output/a', 'w').write('1')\n", None).path(), "disk:job");
    let job = directory.path().join("job.json");
    let wanted = json!({"image": "disk:job", "output_on_disk": true, "output": directory.path().join("out"),
        "allow_degraded": ["memory", "cpu"]});
    fs::write(&job, wanted.to_string()).unwrap();
    let report = directory.path().join("report");
    let places = ["--job", job.to_str().unwrap(), "--report", report.to_str().unwrap()];
    shared().ok([&["run", "--detached"][..], &places].concat());
    let outcome: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(outcome["enforced"]["output"], "watched");
    assert_eq!(fs::read(directory.path().join("out/a")).unwrap(), b"1");
}
