//! gantry builds OCI images for Python functions and runs them in a sandbox: no daemon, no root.
//!
//! The modules are ranked; a module uses only modules of strictly lower rank (`tests/architecture.rs`):
//!
//! ```text
//! 7 cli      argv -> options, rendering, exit codes        the only module that prints
//! 6 ops      one file per user-visible operation           the pipelines
//! 4 sandbox  confined execution
//! 3 build    function -> image, base image
//! 2 store    blobs, layers, snapshots, leases   config  file + environment -> values
//! 1 archive  tar, gzip, zstd, zip, deb   net  HTTP   journal  events
//! 0 oci      vocabulary   policy  limits as data   sys  the kernel edge, all unsafe
//! ```

pub mod archive;
pub mod build;
pub mod cli;
pub mod config;
pub mod journal;
pub mod net;
pub mod oci;
pub mod ops;
pub mod policy;
pub mod sandbox;
pub mod store;
pub mod sys;
