//! File and environment -> values. The only place that reads either; nothing below `ops` sees the result.

mod environment;
mod file;

pub use environment::{secret_variable, Environment};
pub use file::{BaseSection, Config, ConfigError, IndexSection, RunSection};
