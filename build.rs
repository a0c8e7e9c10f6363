//! Compiles the seccomp profiles, so that a start only hands a finished program to the kernel.
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

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=seccomp");
    let out = std::env::var("OUT_DIR")?;
    let read = |name: &str| std::fs::read_to_string(name).map_err(|error| format!("{name}: {error}"));
    let default = read("seccomp/default.json")?;
    let overlaid = |name: &str| Ok::<_, String>(compiler::compile_overlaid(&default, &read(name)?));
    let programs = [
        ("default", compiler::compile(&default)),
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
    Ok(())
}
