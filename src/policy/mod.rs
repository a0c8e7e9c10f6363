//! Limits and confinement as data: what is allowed, in numbers; nothing here acts.

mod bytes;
mod confinement;
mod extraction;

pub use bytes::{Bytes, ParseBytesError};
pub use confinement::{Confinement, Level, Network, Promise};
pub use extraction::ExtractionLimits;
