//! The binary from the outside, in temporary directories, against real parts. One program, so that it is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and says why on standard error"
)]

mod common;

mod attacks;
mod bases;
mod bounds;
mod build;
mod bundle;
mod cache_words;
mod caller;
mod cases;
mod codes;
mod comfort;
mod confinement;
mod contract;
mod crowd;
mod deadline;
mod death;
mod differential;
mod digests;
mod disk;
mod doctor;
mod egress;
mod endings;
mod eviction;
mod examples;
mod failures;
mod faults;
mod first_hour;
mod first_mistakes;
mod full_store;
mod fuzzed;
mod hostile;
mod index;
mod integrity;
mod interop;
mod journal;
mod left_out;
mod loopback;
mod merged;
mod names;
mod namespaces;
mod patience;
mod places;
mod programs;
mod pythons;
mod refusals;
mod registry;
mod repair;
mod reports;
mod results;
mod runtimes;
mod sandbox;
mod sdist;
mod settings;
mod shell;
mod signals;
mod slots;
mod soak;
mod start_files;
mod stdin;
mod upkeep;
mod versions;
mod worker;
