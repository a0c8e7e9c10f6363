//! What runs behind the wall, in the order in which it happens: [`init`] is pid 1 of the sandbox and makes its file system
//! with [`mounts`], [`hosts`] and [`machine_files`], or has most of it made by libcontainer (`youki.rs`) in a root of its own
//! (`staging_root.rs`), and joins its [`network`]; [`guard`] makes the [`listeners`], gives everything up ([`restrict`],
//! [`seccomp`]), reads back that it did ([`verify`]), starts the [`workload`] and watches over it ([`reap`]).
//!
//! This code is privileged in its namespaces until [`restrict`] has run, and not after. It talks to gantry alone, over the
//! control socket, and never to the workload.

mod failure;
mod guard;
mod hosts;
mod init;
mod listeners;
mod machine_files;
mod mounts;
mod network;
mod reap;
mod restrict;
mod seccomp;
#[cfg(feature = "libcontainer")]
mod staging_root;
mod verify;
mod workload;
#[cfg(feature = "libcontainer")]
mod youki;

pub(crate) use hosts::hosts_file;
pub use init::{init_main, is_init};
pub use restrict::LANDLOCK_ABI;
pub use seccomp::install_time as filter_install_time;
