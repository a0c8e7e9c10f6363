//! Limits and confinement as data: what is allowed, in numbers; nothing here acts.

mod address;
mod baseline;
mod bytes;
mod causes;
mod confinement;
mod duration;
mod egress;
mod extraction;
mod kind;
mod limits;
mod outcome_code;
mod package_name;
mod plain_words;
mod scope;
mod trail;
mod typed;
mod verbosity;

pub use address::{canonical, is_loopback, refused_address};
pub use baseline::Baseline;
pub use bytes::{Bytes, ParseBytesError};
pub use causes::{causes, messages, one_line};
pub use confinement::{Confinement, Level, Network, NetworkMode, Promise};
pub use duration::{deserialize_duration, parse_age, parse_duration, Wait};
pub use egress::{Egress, Host, HostPort, ParseEgressError, MOST_EGRESS};
pub use extraction::ExtractionLimits;
pub use kind::Kind;
pub(crate) use limits::with_limits;
pub use limits::{Cpus, GivenLimits, Pids, Room, Time};
pub use outcome_code::Code;
pub(crate) use package_name::normalise;
pub use plain_words::in_plain_words;
pub use scope::Scope;
pub use trail::Trail;
pub use typed::Typed;
pub use verbosity::Verbosity;
