//! Limits and confinement as data: what is allowed, in numbers; nothing here acts.

mod bytes;
mod confinement;
mod duration;
mod extraction;

pub use bytes::{Bytes, ParseBytesError};
pub use confinement::{Confinement, Level, Network, Promise};
pub use duration::parse_duration;
pub use extraction::ExtractionLimits;
