//! Turns the configuration file and the environment into values. Nothing else reads either, and nothing below `ops` sees
//! the result.

mod bounds;
mod environment;
mod error;
mod file;

pub use bounds::{Exceeded, LimitsSection};
pub use environment::{is_started_by_systemd, secret_variable, Environment};
pub use error::ConfigError;
pub use file::{BaseSection, Config, IndexSection, RunSection};
