//! The wall clock, read here only so that nothing else can make a build depend on the time by accident.

use std::time::SystemTime;

/// The current time.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> SystemTime {
    SystemTime::now()
}
