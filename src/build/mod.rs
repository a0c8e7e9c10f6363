//! Function directory -> image: lock, layers, config. Runs no code of the user's or of a package's.

pub mod base;
pub mod bytecode;
pub mod code;
pub mod elf;
pub mod fetch;
pub mod function;
pub mod image;
pub mod index;
pub mod layers;
mod links;
pub mod lock;
pub mod pins;
pub mod ports;
pub mod pylock;
pub mod requirements;
pub mod sdist;
pub mod secrets;
pub mod syntax;
pub mod uv;
pub mod wheel;
