//! The arguments of `gantry cache warm`.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "documentation here is the help text: brackets say what is optional"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::format_args::FormatArgs;
use super::outlet::outlet;
use crate::oci::Reference;
use crate::policy::parse_age;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("of").required(true).multiple(true).args(["references", "from", "top", "inventory"]))]
pub(super) struct WarmArgs {
    /// HOST/REPOSITORY[:TAG][@DIGEST], or an image of the store
    #[arg(value_name = "IMAGE")]
    pub references: Vec<Reference>,
    /// Images of a list, one a line; - for standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// The most used images of the journal; with --inventory the latest used of its functions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000), conflicts_with_all = ["references", "from"])]
    pub top: Option<u16>,
    /// The active images of the platform's functions, as its inventory says; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["references", "from"])]
    pub inventory: Option<PathBuf>,
    /// Only those that were used in this time [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = parse_age, conflicts_with_all = ["references", "from"])]
    pub since: Option<Duration>,
    /// Images at once
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// Read into memory what runs of each image read at first, too
    #[arg(long)]
    pub resident: bool,
    /// Pull from the registries that are named and from no others, whatever becomes of it
    #[arg(long)]
    pub no_failover: bool,
    /// Write a JSON report
    #[arg(long, value_name = "FILE", value_parser = outlet())]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub format: FormatArgs,
}
