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
    for profile in ["default", "build"] {
        let path = format!("seccomp/{profile}.json");
        let json = std::fs::read_to_string(&path)?;
        let program = compiler::compile(&json).map_err(|error| format!("{path}: {error}"))?;
        let mut source = String::from("[\n");
        for (code, jump_true, jump_false, constant) in &program {
            writeln!(source, "    ({code:#x}, {jump_true}, {jump_false}, {constant:#x}),")?;
        }
        source.push(']');
        std::fs::write(Path::new(&out).join(format!("seccomp_{profile}.in")), source)?;
    }
    Ok(())
}
