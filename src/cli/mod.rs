//! cli
use std::process::ExitCode;
/// main
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
