//! The `gantry` binary: hands the arguments to [`gantry::cli`] and exits with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    gantry::cli::main()
}
