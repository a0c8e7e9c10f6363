//! Turns the configuration file and the environment into values. Nothing else reads either, and nothing below `ops` sees
//! the result.

mod environment;
mod error;
mod file;
mod limits;

pub use environment::{is_started_by_systemd, secret_variable, Environment};
pub use error::ConfigError;
pub use file::{BaseSection, Config, IndexSection, RunSection};
pub use limits::{Exceeded, LimitsSection};
