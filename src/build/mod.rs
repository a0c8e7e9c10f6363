//! Function directory -> image: lock, layers, config. Runs no code of the user's or of a package's.

pub mod image;
pub mod layers;
pub mod ports;
pub mod wheel;
