//! gantry builds OCI images for Python functions and runs them in a sandbox: no daemon, no root.
//!
//! The modules are ranked; a module uses only modules of strictly lower rank (`tests/architecture.rs`):
//!
//! ```text
//! 8 cli      argv -> requests, rendering, exit codes       the only module that prints
//! 7 ops      one file per user-visible operation           the pipelines
//! 6 build    function -> image                         directory -> Function -> Image
//! 5 python   requirements -> lock -> wheel layers   base  definition or reference -> BaseImage
//! 4 transfer images between places: store, layout, archive; downloads
//! 2 store    blobs, layers, snapshots, leases   sandbox  confined execution
//! 1 archive  tar, gzip, zstd, zip, deb   net  HTTP   journal  events   config  file + environment -> values
//! 0 oci      vocabulary   policy  limits and kinds as data   progress   sys  the kernel edge, all unsafe
//! ```

pub mod archive;
pub mod base;
pub mod build;
pub mod cli;
pub mod config;
#[doc(hidden)]
pub mod fuzzing;
pub mod journal;
pub mod net;
pub mod oci;
pub mod ops;
pub mod policy;
pub mod progress;
pub mod python;
pub mod sandbox;
pub mod store;
pub mod sys;
pub mod transfer;
