//! Machines that do not allow the namespaces of a sandbox: what a run and a build say of it.

use crate::common::{done, function, shared, Done, Gantry};

/// Runs `gantry ARGS` inside a user namespace that forbids further ones.
fn without_user_namespaces(gantry: &Gantry, args: &str) -> Done {
    without_namespaces("user", gantry, args)
}

/// Runs `gantry ARGS` inside a user namespace that forbids further namespaces of a kind.
pub fn without_namespaces(kind: &str, gantry: &Gantry, args: &str) -> Done {
    let script = format!(
        "echo 0 > /proc/sys/user/max_{kind}_namespaces && exec {} {args}",
        env!("CARGO_BIN_EXE_gantry")
    );
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "sh", "-c", &script])
        .env("HOME", &gantry.home)
        .env("GANTRY_ROOT", &gantry.root);
    done(command.output().unwrap())
}

#[test]
fn a_run_without_user_namespaces_says_what_to_do() {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "nons:1");
    let done = without_user_namespaces(gantry, "run --allow-degraded memory,cpu nons:1");
    assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{}", done.stderr);
    assert!(
        done.stderr.contains("user namespace") && done.stderr.contains("hint:"),
        "{}",
        done.stderr
    );
}

/// The network namespace is made beside the init, which waits for it.
#[test]
fn a_run_without_network_namespaces_says_what_to_do() {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "nonet:1");
    for runtime in gantry::policy::Runtime::BUILT_IN {
        let words = format!("run --runtime {runtime} --allow-degraded memory,cpu nonet:1");
        let done = without_namespaces("net", gantry, &words);
        assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{}", done.stderr);
        for part in ["make a network namespace in it", "hint:", "user.max_net_namespaces"] {
            assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
        }
    }
}

#[test]
fn a_build_without_user_namespaces_says_what_to_do() {
    let gantry = shared();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let dir = function(&format!("print({now})\n"), None);
    let done = without_user_namespaces(gantry, &format!("build {}", dir.path().display()));
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{}", done.stderr);
    for part in [
        "user namespace",
        "hint:",
        "kernel.apparmor_restrict_unprivileged_userns",
    ] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}
