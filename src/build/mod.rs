//! Function directory -> image: lock, layers, config. Runs no code of the user's or of a package's.

pub mod ports;
