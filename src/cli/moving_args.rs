//! The arguments of the commands that move images between places, or out of one.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "documentation here is the help text: brackets say what is optional"
)]

use std::path::PathBuf;

use clap::Args;

use super::outlet::outlet;
use crate::oci::{Place, Reference};

/// The options of a command that fetches an image.
#[derive(Debug, Args)]
pub(super) struct MovingArgs {
    /// Ask the registry that is named and no other, whatever becomes of it
    #[arg(long)]
    pub no_failover: bool,
    /// Write a JSON report
    #[arg(long, value_name = "FILE", value_parser = outlet())]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "gantry copy [OPTIONS] <SOURCE> <DESTINATION>\n       gantry copy [OPTIONS] --all-from <FILE> [HOST[/PREFIX]]"
)]
pub(super) struct CopyArgs {
    /// NAME[:TAG], HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:NAME] or oci-archive:FILE[:NAME]; with --all-from HOST[/PREFIX], under which all images keep their repositories and tags
    #[arg(required_unless_present = "all_from")]
    pub source: Option<Place>,
    /// As the source; a NAME names the image in the store
    #[arg(required_unless_present = "all_from", conflicts_with = "all_from")]
    pub destination: Option<Place>,
    /// Copy each image of a list: a SOURCE and a DESTINATION a line, or only a SOURCE when HOST[/PREFIX] is given; - for standard input
    #[arg(long, value_name = "FILE")]
    pub all_from: Option<PathBuf>,
    /// Leave what refers to the image: signatures, statements, lists of packages
    #[arg(long)]
    pub no_referrers: bool,
    #[command(flatten)]
    pub moving: MovingArgs,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST; with both the tag has to mean the digest
    #[arg(required = true)]
    pub references: Vec<Reference>,
    /// Only say what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Write a JSON report
    #[arg(long, value_name = "FILE", value_parser = outlet())]
    pub report: Option<PathBuf>,
}
