//! gantry builds OCI images for Python functions and runs them in a sandbox: no daemon, no root.
//!
//! The modules are ranked; a module uses only modules of strictly lower rank (`tests/architecture.rs`):
//!
//! ```text
//! 8 cli      argv -> requests, rendering, exit codes       the only module that prints
//! 7 ops      one file per user-visible operation           the pipelines
//! 6 build    function -> image                         directory -> Function -> Image
//! 5 python   requirements -> lock -> wheel layers   base  definition or reference -> BaseImage
//! 4 transfer images between places: store, layout, archive, registry; downloads
//! 3 registry the distribution protocol; no disk
//! 2 store    blobs, layers, snapshots, leases   sandbox  confined execution
//! 1 archive  tar, gzip, zstd, zip, deb   net  HTTP   journal  events   config  file + environment -> values
//! 0 oci      vocabulary   policy  limits and kinds as data   progress   sys  the kernel edge, all unsafe
//! ```
//!
//! # Use from code
//!
//! Every operation takes a [`store::Store`] and returns a value; errors say their [`policy::Kind`]. A function becomes an
//! image by [`ops::build`]:
//!
//! ```no_run
//! use std::collections::BTreeSet;
//! use gantry::config::{Config, Environment};
//! use gantry::ops::{self, BuildRequest, Created, Origin, LOCK_AGE};
//! use gantry::policy::Baseline;
//! use gantry::progress::Silent;
//! use gantry::store::Store;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let environment = Environment::read();
//! let config = Config::load(None, &environment)?;
//! let store = Store::open("/var/lib/gantry".as_ref())?;
//! let request = BuildRequest {
//!     directory: "examples/beam".into(),
//!     tag: Some("beam:1".parse()?),
//!     naming: None,
//!     base: None,
//!     python: None,
//!     labels: Vec::new(),
//!     allow_files: Vec::new(),
//!     allows_sdists: false,
//!     baseline: Baseline::default(),
//!     origin: Origin::Requirements,
//!     allow_degraded: BTreeSet::new(),
//!     lock_age: LOCK_AGE,
//!     created: Created::Fixed(std::time::UNIX_EPOCH),
//!     base_settings: ops::base_settings(&config, &environment),
//!     allowed_packages: ops::allowed_packages(&config),
//! };
//! let report = ops::build(&store, &request, &|| ops::resolver(&config, &environment), &Silent)?;
//! println!("{}", report.digest);
//! # Ok(())
//! # }
//! ```
//!
//! [`ops::run`] runs it; the outcome is there whether or not the run came about:
//!
//! ```no_run
//! use gantry::ops::{self, Admission, Fetch, OutputPlace, RunRequest, Take, Ticket};
//! use gantry::policy::{Confinement, Scope};
//! use gantry::sandbox::{Signals, Stdin, Stdout};
//! use gantry::store::Store;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open("/var/lib/gantry".as_ref())?;
//! let request = RunRequest {
//!     reference: "beam:1".parse()?,
//!     input: None,
//!     output: Some("results".into()),
//!     output_place: OutputPlace::Memory,
//!     take: Take::Whole,
//!     stdin: Stdin::Empty,
//!     env: Vec::new(),
//!     secrets: Vec::new(),
//!     confinement: Confinement::default(),
//!     scope: Scope::Auto,
//!     entrypoint: None,
//!     args: Vec::new(),
//!     ticket: Ticket::default(),
//!     admission: Admission::default(),
//!     fetch: Fetch::default(),
//!     stdout: Stdout::Own,
//! };
//! let (outcome, error) = ops::run(&store, &request, &Signals::watch()?);
//! # let _ = (outcome, error);
//! # Ok(())
//! # }
//! ```
//!
//! [`ops::copy`], [`ops::save`] and [`ops::load`] move images between places, [`ops::list`], [`ops::show`] and
//! [`ops::remove`] are about those in the store:
//!
//! ```no_run
//! use gantry::config::{Config, Environment};
//! use gantry::ops::{self, Transport};
//! use gantry::progress::Silent;
//! use gantry::store::Store;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let environment = Environment::read();
//! let registries = ops::registries(&Config::load(None, &environment)?, &environment);
//! let store = Store::open("/var/lib/gantry".as_ref())?;
//! let transport = Transport::new(&store, &registries, &Silent);
//! ops::copy(&transport, &"oci:/srv/images:beam".parse()?, &"beam:1".parse()?)?;
//! ops::push(&transport, &"beam:1".parse()?, Some(&"registry.example.org/team/beam:1".parse()?))?;
//! ops::save(&store, &"beam:1".parse()?, std::fs::File::create("beam.tar")?)?;
//! for (name, digest) in ops::load(&store, std::fs::File::open("beam.tar")?, None, &Silent)? {
//!     println!("{name} {digest}");
//! }
//! for image in ops::list(&store)? {
//!     println!("{}", image.reference);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What a person types is a [`oci::Reference`], what identifies bytes an [`oci::Digest`]:
//!
//! ```
//! use gantry::oci::{Digest, Reference};
//! use gantry::policy::Kind;
//!
//! let reference: Reference = "registry.example.org/team/beam:1".parse().unwrap();
//! assert_eq!(reference.tag_or_latest(), "1");
//! assert_eq!(reference.to_string(), "registry.example.org/team/beam:1");
//! assert!(Digest::of(b"").to_string().starts_with("sha256:e3b0c442"));
//! assert_eq!(Kind::Refused.exit_code(), 3);
//! ```

#![deny(unreachable_pub)]

pub mod archive;
pub(crate) mod base;
pub(crate) mod build;
pub mod cli;
pub mod config;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod journal;
pub(crate) mod net;
pub mod oci;
pub mod ops;
pub mod policy;
pub mod progress;
pub(crate) mod python;
pub(crate) mod registry;
pub mod sandbox;
pub mod store;
pub(crate) mod sys;
pub mod transfer;
pub(crate) mod upkeep;
