//! Bad input: each gives one clear error and its exit code, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{done, function, program, shared, tree, Gantry};

/// The build of `dir` fails with `code`, says all of `says`, prints no digest, and the store holds no image after it.
fn refuses(dir: &Path, code: i32, says: &[&str]) {
    let gantry = shared();
    let done = gantry.gantry(["build", dir.to_str().unwrap(), "--tag", "refused:1"]);
    assert_eq!((done.code, done.stdout.as_str()), (code, ""), "{}", done.stderr);
    for part in says {
        assert!(done.stderr.contains(part), "{part:?} is not in:\n{}", done.stderr);
    }
    let errors = done.stderr.lines().filter(|line| line.starts_with("error:")).count();
    assert_eq!(errors, 1, "{}", done.stderr);
    assert!(!gantry.ok(["images", "ls"]).contains("refused:1"), "an image was named");
}

fn refuses_requirements(text: &str, code: i32, says: &[&str]) {
    refuses(function("print(1)\n", Some(text)).path(), code, says);
}

#[test]
fn a_directory_without_an_entry_point_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    refuses(dir.path(), 1, &["user_function.py"]);
    refuses(Path::new("/nonexistent/function"), 1, &["/nonexistent/function"]);
    // Its file was named.
    let file = dir.path().join("user_function.py");
    fs::write(&file, "print(1)\n").unwrap();
    let directory = format!(
        "hint: a function is the directory that its user_function.py is in: `gantry build {}`",
        dir.path().display()
    );
    refuses(&file, 1, &["Not a directory", &directory]);
}

#[test]
fn syntax_that_the_target_python_does_not_take_is_shown_with_its_line() {
    let dir = function("x = 1\ndef f(:\n    pass\n", None);
    refuses(dir.path(), 1, &["user_function.py", "line 2", "def f(:", "^"]);
}

#[test]
fn requirements_that_reach_outside_are_refused_by_name_and_line() {
    for (line, says) in [
        ("evil @ https://example.org/evil-1.0-py3-none-any.whl", "evil"),
        ("https://example.org/evil-1.0-py3-none-any.whl", "URL"),
        ("git+https://example.org/evil.git", "git"),
        ("-e .", "-e"),
        ("--editable ./x", "--editable"),
        ("./local", "./local"),
        ("../up", "../up"),
        ("/etc/x.whl", "/etc/x.whl"),
        ("file:///etc/passwd", "file:"),
        ("--index-url https://example.org/simple", "--index-url"),
        ("-i https://example.org/simple", "-i"),
        ("--extra-index-url=https://example.org/simple", "--extra-index-url"),
        ("--find-links /tmp", "--find-links"),
        ("--trusted-host example.org", "--trusted-host"),
        ("--no-binary :all:", "--no-binary"),
        ("-r ../other.txt", "../other.txt"),
        ("-r /etc/passwd", "/etc/passwd"),
        ("-c http://example.org/c.txt", "http"),
        ("${HOME}", "${HOME}"),
        ("numpy==", "numpy"),
        ("num py", "num py"),
    ] {
        refuses_requirements(&format!("# a comment\n{line}\n"), 1, &[says, "requirements.txt", "2"]);
    }
}

#[test]
fn a_requirement_file_may_have_a_mark_and_windows_lines() {
    let dir = function("import six\nprint(six.__version__)\n", None);
    fs::write(
        dir.path().join("more.txt"),
        "six \\\r\n  ==1.16.0 ; python_version >= '3' # why\r\n",
    )
    .unwrap();
    fs::write(dir.path().join("requirements.txt"), "\u{feff}# all\r\n-r more.txt\r\n").unwrap();
    let gantry = shared();
    gantry.build(dir.path(), "crlf:1");
    assert_eq!(gantry.run(&["crlf:1"]).stdout, "1.16.0\n");
}

#[test]
fn requirements_that_cannot_be_met_name_the_package() {
    refuses_requirements("numpy==1.26.4\nnumpy<1\n", 1, &["numpy"]);
    refuses_requirements(
        "this-package-does-not-exist-anywhere-xyzzy==1\n",
        1,
        &["this-package-does-not-exist-anywhere-xyzzy"],
    );
}

#[test]
fn a_package_without_a_wheel_names_the_newest_that_has_one() {
    // numpy 1.0 years: only source archives.
    refuses_requirements("numpy==1.8.0\n", 1, &["numpy", "1.8.0", "wheel"]);
}

#[test]
fn a_hash_that_is_not_the_wheels_refuses_the_build() {
    let wrong = format!("six==1.16.0 --hash=sha256:{}\n", "0".repeat(64));
    refuses_requirements(&wrong, 1, &["six", &"0".repeat(64)]);
}

#[test]
fn a_hash_that_is_the_wheels_is_accepted() {
    let right = "six==1.16.0 --hash=sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254\n";
    let gantry = shared();
    gantry.build(function("import six\nprint('ok')\n", Some(right)).path(), "hashed:1");
    assert_eq!(gantry.run(&["hashed:1"]).stdout, "ok\n");
}

#[test]
fn files_that_look_like_secrets_refuse_the_build() {
    let dir = function("print(1)\n", None);
    fs::write(dir.path().join(".env"), "A=1\n").unwrap();
    refuses(dir.path(), 3, &[".env", "secret"]);
    fs::remove_file(dir.path().join(".env")).unwrap();
    let token = format!("ghp_{}", "a1B2".repeat(9));
    fs::write(dir.path().join("settings.py"), format!("x = 1\nT = '{token}'\n")).unwrap();
    let gantry = shared();
    let done = gantry.gantry(["build", dir.path().to_str().unwrap(), "--tag", "refused:1"]);
    assert_eq!(done.code, 3);
    assert!(
        done.stderr.contains("settings.py:2") && !done.stderr.contains(&token),
        "{}",
        done.stderr
    );
    gantry.ok([
        "build",
        dir.path().to_str().unwrap(),
        "--tag",
        "allowed:1",
        "--allow-file",
        "settings.py",
    ]);
}

#[test]
fn links_out_pipes_and_sparse_giants_refuse_the_build() {
    let dir = function("print(1)\n", None);
    symlink("/etc/passwd", dir.path().join("passwd")).unwrap();
    refuses(dir.path(), 3, &["passwd", "/etc/passwd", "absolute"]);
    fs::remove_file(dir.path().join("passwd")).unwrap();
    symlink("../outside.py", dir.path().join("link.py")).unwrap();
    refuses(dir.path(), 3, &["link.py", "../outside.py", "out of the directory"]);
    fs::remove_file(dir.path().join("link.py")).unwrap();
    symlink("user_function.py", dir.path().join(".env")).unwrap();
    refuses(dir.path(), 3, &[".env", "secret"]);
    fs::remove_file(dir.path().join(".env")).unwrap();

    assert!(std::process::Command::new("mkfifo")
        .arg(dir.path().join("pipe"))
        .status()
        .unwrap()
        .success());
    refuses(dir.path(), 3, &["pipe"]);
    fs::remove_file(dir.path().join("pipe")).unwrap();

    fs::File::create(dir.path().join("giant.bin"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    refuses(dir.path(), 3, &["giant.bin", "over 100M"]);
}

#[test]
fn an_unknown_reference_is_refused_by_name() {
    let gantry = shared();
    let done = gantry.run(&["never-built:1"]);
    assert_eq!(done.code, 125);
    assert!(done.stderr.contains("never-built:1"), "{}", done.stderr);
    assert_eq!(gantry.run(&["Not A Reference"]).code, 125);
    assert_eq!(gantry.gantry(["images", "show", "never-built:1"]).code, 1);
}

#[test]
fn a_command_that_is_not_there_is_127_and_one_that_is_not_executable_126() {
    let gantry = shared();
    let layout_of = |name: &str, command: &str| {
        // Another command by way of a layout: what a foreign image could say.
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("layout");
        gantry.build(function("print(1)\n", None).path(), name);
        gantry.ok(["push", name, &format!("oci:{}:x", dir.display())]);
        crate::common::tool(
            std::process::Command::new("umoci")
                .args(["config", "--config.cmd", command, "--image"])
                .arg(format!("{}:x", dir.display())),
        );
        gantry.ok(["copy", &format!("oci:{}:x", dir.display()), name]);
        gantry.run(&[name]).code
    };
    assert_eq!(layout_of("absent:1", "/usr/bin/no-such-thing"), 127);
    assert_eq!(layout_of("plain:1", "/etc/passwd"), 126);
}

#[test]
fn what_is_too_long_to_be_executed_is_said_and_no_program_is_blamed() {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "long:1");
    let scratch = tempfile::tempdir().unwrap();
    let job = scratch.path().join("job.json");
    let code = |job_says: serde_json::Value, says: &str| {
        fs::write(&job, job_says.to_string()).unwrap();
        let (done, outcome) = gantry.run_with_outcome(&["--job", job.to_str().unwrap()]);
        crate::common::says(
            &done,
            126,
            &[
                &format!("gantry: {says}"),
                "goes into a file of --input (/input), or to standard input\n",
            ],
        );
        assert!(!done.stderr.contains("python"), "{}", done.stderr);
        outcome["code"].as_str().unwrap().to_owned()
    };
    let job_of = |key: &str, value: serde_json::Value| serde_json::json!({"schema": 1, "image": "long:1", key: value});
    let long = "x".repeat(200_000);
    for (job, says) in [
        (
            job_of("args", serde_json::json!([long])),
            "an argument has 200000 bytes, and the kernel takes at most 131071 of each: what is long",
        ),
        (
            job_of("env", serde_json::json!({"DATA": long})),
            "variable \"DATA\" has 200005 bytes, and the kernel takes",
        ),
        (
            job_of("args", serde_json::json!(vec!["x".repeat(100_000); 36])),
            "the arguments and the variables have 3.6 MB together, and the kernel takes",
        ),
    ] {
        assert_eq!(code(job, says), "command_not_executable");
    }
}

#[test]
fn usage_errors_are_2_and_125() {
    let gantry = shared();
    assert_eq!(gantry.gantry(["build", "one", "two"]).code, 2);
    assert_eq!(gantry.gantry(["save", "x:1"]).code, 2);
    assert_eq!(gantry.gantry(["no-such-command"]).code, 2);
    assert_eq!(gantry.run(&["x:1", "--memory", "lots"]).code, 125);
    assert_eq!(gantry.gantry(["--help"]).code, 0);
}

#[test]
fn whatever_keeps_a_run_from_starting_is_125_and_has_an_outcome() {
    let gantry = shared();
    gantry.build(function("print('ran')\n", None).path(), "startless:1");
    let scratch = tempfile::tempdir().unwrap();
    let (bad, report) = (scratch.path().join("bad.toml"), scratch.path().join("outcome.json"));
    fs::write(&bad, "[run]\nmemmory = \"1G\"\n").unwrap();
    let bad = bad.to_str().unwrap();
    let cases: [(&[&str], &str, &str); 4] = [
        (&["--config", bad, "startless:1"], "", "memmory"),
        (&["--memory", "lots", "startless:1"], "", "invalid value"),
        (&["startless:1"], "/proc/version", "/proc/version"),
        (&["no-such:1"], "", "no-such:1"),
    ];
    for (args, root, reason) in cases {
        fs::write(&report, "of an earlier run").unwrap();
        let mut command = gantry.command();
        command
            .args(["run", "--allow-degraded", "memory,cpu", "--report"])
            .arg(&report)
            .args(args);
        if !root.is_empty() {
            command.env("GANTRY_ROOT", root);
        }
        let done = done(command.output().unwrap());
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (125, ""),
            "{args:?}: {}",
            done.stderr
        );
        let outcome: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(
            (&outcome["status"], &outcome["exit_code"]),
            (&"error".into(), &125.into())
        );
        assert_eq!(outcome["cache"], "miss");
        assert!(outcome["error"].as_str().unwrap().contains(reason), "{outcome}");
    }
}

#[test]
fn an_outcome_that_cannot_be_written_is_found_before_the_function_runs() {
    let gantry = shared();
    gantry.build(function("print('ran')\n", None).path(), "startless:1");
    let done = gantry.run(&["--report", "/proc/none/outcome.json", "startless:1"]);
    assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{}", done.stderr);
    assert!(done.stderr.contains("/proc/none/outcome.json"), "{}", done.stderr);
}

#[test]
fn unknown_configuration_is_refused_with_file_and_line() {
    let gantry = Gantry::new();
    let config = gantry.home.join("config.toml");
    fs::write(&config, "[run]\nmemory = \"1G\"\nmemmory = \"1G\"\n").unwrap();
    let done = gantry.gantry(["--config", config.to_str().unwrap(), "images", "ls"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("memmory") && done.stderr.contains("config.toml") && done.stderr.contains('3'),
        "{}",
        done.stderr
    );
}

#[test]
fn a_section_of_the_configuration_that_nobody_knows_is_refused_by_name_and_line() {
    let gantry = Gantry::new();
    let config = gantry.home.join("config.toml");
    for section in ["[pool]\nsize = 4\n", "[pool]\n"] {
        fs::write(&config, format!("# limits\n{section}")).unwrap();
        let done = gantry.gantry(["--config", config.to_str().unwrap(), "images", "ls"]);
        assert_eq!(done.code, 2, "{}", done.stderr);
        for part in ["config.toml", "line 2", "[pool]", "unknown field"] {
            assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
        }
    }
}

#[test]
fn no_network_is_4() {
    let gantry = Gantry::new();
    let dir = function("print(1)\n", None);
    // A network namespace of its own has only an idle loopback.
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--user", "--net", "--map-current-user"])
        .arg(env!("CARGO_BIN_EXE_gantry"));
    command.args(["build", dir.path().to_str().unwrap(), "--tag", "offline:1"]);
    command.env("HOME", &gantry.home).env("GANTRY_ROOT", &gantry.root);
    let done = done(command.output().unwrap());
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(tree(&gantry.root.join("tmp")).is_empty());
}

#[test]
fn no_network_to_fetch_uv_from_is_4_and_no_pip_is_1() {
    shared();
    let gantry = Gantry::with_downloads();
    let dir = function("print(1)\n", Some("six\n"));
    // Neither uv nor anything else but Python: with pip, whose index is a closed port, and without.
    let programs = tempfile::tempdir().unwrap();
    symlink("/usr/bin/python3", programs.path().join("python3")).unwrap();
    let build = || {
        let mut command = gantry.command();
        command
            .env("PATH", programs.path())
            .env("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
            .env("PIP_RETRIES", "0")
            .arg("build")
            .arg(dir.path());
        done(command.output().unwrap())
    };
    let offline = build();
    assert_eq!(offline.code, 4, "{}", offline.stderr);
    assert!(
        offline.stderr.contains("find uv") && offline.stderr.contains("cannot be reached"),
        "{}",
        offline.stderr
    );
    fs::remove_file(programs.path().join("python3")).unwrap();
    let python = programs.path().join("python3");
    program(&python, "#!/bin/sh\necho No module named pip >&2\nexit 1\n");
    let without = build();
    assert_eq!(without.code, 1, "{}", without.stderr);
    assert!(
        without.stderr.contains("No module named pip") && without.stderr.contains("hint:"),
        "{}",
        without.stderr
    );
}

#[test]
fn a_full_disk_names_the_way_out_and_leaves_nothing() {
    // A store on a file system of 20 MB, private to a mount namespace.
    let scratch = tempfile::tempdir().unwrap();
    let dir = function("print(1)\n", None);
    let script = format!(
        "mount -t tmpfs -o size=20m tmpfs {root} && mkdir {root}/home && GANTRY_ROOT={root}/store HOME={root}/home {gantry} build {dir} --tag full:1; code=$?; find {root}/store/tmp -mindepth 1; exit $code",
        root = scratch.path().display(),
        gantry = env!("CARGO_BIN_EXE_gantry"),
        dir = dir.path().display(),
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--mount", "--map-root-user", "sh", "-c", &script]);
    let done = done(command.output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{}", done.stderr);
    assert!(
        (done.stderr.contains("no space") || done.stderr.contains("No space"))
            && done.stderr.contains("hint: the disk of the store, ")
            && done
                .stderr
                .contains(", has too little room for this; `gantry cache gc` removes")
            // What was being made is gone by then: its room would seem to be enough.
            && !done.stderr.contains(" free")
            && done.stderr.contains("`gantry cache gc --all`"),
        "{}",
        done.stderr
    );
}

#[test]
fn an_image_over_two_gigabytes_is_refused_before_it_is_downloaded() {
    let gantry = Gantry::with_downloads();
    let downloaded = || {
        let files = tree(&gantry.root.join("downloads"));
        files.iter().map(|file| file.metadata().unwrap().len()).sum::<u64>()
    };
    let before = downloaded();
    let dir = function("print(1)\n", Some("torch==2.5.1\n"));
    let done = gantry.gantry(["build", dir.path().to_str().unwrap(), "--tag", "huge:1"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(
        done.stderr.contains("2.0 GB") && done.stderr.contains("torch"),
        "{}",
        done.stderr
    );
    assert!(!done.stderr.contains("Downloading torch"), "{}", done.stderr);
    // A resolver or a base at most.
    let bytes = downloaded() - before;
    assert!(bytes < 200_000_000, "{bytes}");
}

#[test]
fn a_build_that_fails_replaces_the_report_of_an_earlier_one() {
    let gantry = shared();
    let dir = function("print(1)\n", None);
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    let build = |report: &Path| {
        let dir = dir.path().to_str().unwrap();
        gantry.gantry([
            "build",
            dir,
            "--tag",
            "reported:1",
            "--report",
            report.to_str().unwrap(),
        ])
    };
    let read = || serde_json::from_slice::<serde_json::Value>(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(build(&report).code, 0);
    assert_eq!((&read()["status"], &read()["schema"]), (&"ok".into(), &1.into()));
    fs::write(dir.path().join(".env"), "A=1\n").unwrap();
    assert_eq!(build(&report).code, 3);
    let found = read();
    assert_eq!((&found["status"], &found["exit_code"]), (&"refused".into(), &3.into()));
    assert!(found["error"].as_str().unwrap().contains(".env"), "{found}");
    assert!(found["digest"].is_null(), "{found}");
    fs::remove_file(dir.path().join("user_function.py")).unwrap();
    assert_eq!(build(&report).code, 1);
    assert_eq!(read()["status"], "failed");
    let base = [
        "base",
        "build",
        "no-such-variant!",
        "--report",
        report.to_str().unwrap(),
    ];
    assert_eq!(gantry.gantry(base).code, 1);
    assert!(
        read()["error"].as_str().unwrap().contains("no-such-variant!"),
        "{}",
        read()
    );

    // A place that cannot be written is found before anything is done.
    let done = build(&scratch.path().join("none/report.json"));
    assert_eq!(
        (done.code, done.stderr.contains("Packing")),
        (1, false),
        "{}",
        done.stderr
    );
    assert_eq!(tree(scratch.path()), std::slice::from_ref(&report));
}

/// `gantry ARGS` on a kernel without Landlock.
fn without_landlock(gantry: &Gantry, args: &[&str]) -> crate::common::Done {
    let plain = gantry.command();
    let mut command = std::process::Command::new("strace");
    command
        .args(["-f", "-qq", "-o", "/dev/null", "--trace=landlock_create_ruleset"])
        .args(["--inject=landlock_create_ruleset:error=ENOSYS"])
        .arg(plain.get_program())
        .args(args)
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    done(command.output().unwrap())
}

#[test]
fn a_build_without_landlock_is_refused_until_it_is_accepted() {
    let gantry = shared();
    // Code of its own: bytecode that is there already starts no sandbox.
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let dir = function(&format!("print({now})\n"), None);
    let dir = dir.path().to_str().unwrap();
    let refused = without_landlock(gantry, &["build", dir, "--tag", "refused:1"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (3, ""), "{}", refused.stderr);
    for part in ["landlock cannot be enforced", "hint:", "--allow-degraded", "doctor"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let other = without_landlock(gantry, &["build", dir, "--allow-degraded", "seccomp,cpu"]);
    assert_eq!(other.code, 3, "{}", other.stderr);
    let unknown = gantry.gantry(["build", dir, "--allow-degraded", "everything"]);
    assert!(
        unknown.code == 2 && unknown.stderr.contains("landlock"),
        "{}",
        unknown.stderr
    );

    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(config.path(), "[run]\nallow_degraded = [\"landlock\"]\n").unwrap();
    let config = ["--config", config.path().to_str().unwrap()];
    let configured = without_landlock(gantry, &[&config[..], &["build", dir, "--tag", "degraded:1"]].concat());
    assert_eq!(configured.code, 0, "{}", configured.stderr);
    fs::write(Path::new(dir).join("user_function.py"), format!("print(-{now})\n")).unwrap();
    let accepted = without_landlock(
        gantry,
        &["build", dir, "--tag", "degraded:1", "--allow-degraded", "landlock"],
    );
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    assert_eq!(gantry.run(&["degraded:1"]).stdout, format!("-{now}\n"));
}
