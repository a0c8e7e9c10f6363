//! Compiles the seccomp profiles, so that a start only hands a finished program to the kernel, and tells the linker what
//! a start calls.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "cargo speaks to build scripts by environment and standard output"
)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "seccomp/compiler.rs"]
mod compiler;

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "seccomp/oci.rs"]
mod oci;

/// Names the commit for `gantry version`, of release builds alone: a build of every day would be compiled anew with every
/// commit, and is of none. Without git, or outside a checkout, there is none to name.
fn name_commit() {
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let git = |words: &[&str]| {
        let output = std::process::Command::new("git").args(words).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return;
    };
    println!("cargo::rustc-env=GANTRY_BUILT_FROM={commit}");
    // Where HEAD is, and what it moves with.
    for place in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", place]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// Lays what a run calls beside each other, in release builds (docs/decisions.md): a debug build is linked often, and is
/// not started a thousand times a day. A linker that reads no such script (gold, mold) is spared it by an empty
/// `GANTRY_LINK_ORDER`.
fn lay_out() -> Result<(), Box<dyn Error>> {
    const SCRIPT: &str = "link/start.ld";
    const VARIABLE: &str = "GANTRY_LINK_ORDER";
    println!("cargo::rerun-if-changed={SCRIPT}");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let is_wanted = std::env::var_os(VARIABLE).is_none_or(|value| !value.is_empty());
    if is_wanted && std::env::var("PROFILE")? == "release" {
        let script = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join(SCRIPT);
        for argument in ["-T", &script.display().to_string()] {
            println!("cargo::rustc-link-arg-bins=-Xlinker");
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=seccomp");
    println!("cargo::rerun-if-changed=build.rs");
    name_commit();
    lay_out()?;
    let out = std::env::var("OUT_DIR")?;
    let read = |name: &str| std::fs::read_to_string(name).map_err(|error| format!("{name}: {error}"));
    let default = read("seccomp/default.json")?;
    let overlaid = |name: &str| Ok::<_, String>(compiler::compile_overlaid(&default, &read(name)?));
    let programs = [
        ("default", compiler::compile(&default)),
        ("loopback", overlaid("seccomp/loopback.json")?),
        ("egress", overlaid("seccomp/egress.json")?),
        ("build", overlaid("seccomp/build.json")?),
    ];
    for (name, program) in programs {
        let mut source = String::from("[\n");
        for (code, jump_true, jump_false, constant) in
            program.map_err(|error| format!("seccomp/{name}.json: {error}"))?
        {
            writeln!(source, "    ({code:#x}, {jump_true}, {jump_false}, {constant:#x}),")?;
        }
        source.push(']');
        std::fs::write(Path::new(&out).join(format!("seccomp_{name}.in")), source)?;
    }
    let verdicts = compiler::verdicts(&default)?;
    let overlaid = |name: &str| compiler::overlaid_verdicts(&default, &read(name)?);
    let documents = [
        ("default", verdicts),
        ("loopback", overlaid("seccomp/loopback.json")?),
        ("build", overlaid("seccomp/build.json")?),
    ];
    for (name, (profile, verdicts)) in documents {
        let document = oci::document(&profile, &verdicts).map_err(|error| format!("seccomp/{name}.json: {error}"))?;
        std::fs::write(
            Path::new(&out).join(format!("seccomp_{name}.json")),
            document.to_string(),
        )?;
    }
    Ok(())
}
