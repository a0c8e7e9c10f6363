//! Images move to and from registries, through the binary: a registry of this process that does what it is told, and the
//! real one of the distribution.

mod collecting;
mod companions;
mod conformance;
mod copying;
mod failing_over;
pub mod fake;
mod full_disk;
mod hostile_answers;
pub mod images;
mod killed;
mod last_words;
mod limits;
mod logging_in;
mod managing;
mod many;
mod memory;
mod newcomer;
mod next_version;
mod other_services;
mod outage;
mod proxy;
mod pulling;
mod pushing;
mod real;
mod removing;
mod strangers;
mod two_real;
mod warming;

/// A registry that asks for a password.
pub fn asks_for_a_password() -> fake::Fake {
    let registry = fake::Fake::start();
    registry.rule(|_, _| Some(fake::Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x")));
    registry
}
