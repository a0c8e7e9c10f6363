//! The arguments of the commands about what the store keeps.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "documentation here is the help text: brackets say what is optional"
)]

use std::time::Duration;

use clap::{Args, Subcommand};

use super::format_args::FormatArgs;
use super::warm_args::WarmArgs;
use crate::policy::{parse_age, Bytes, Wait};

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Remove what no image and no later build needs
    Gc(GcArgs),
    /// How much room each kind of thing takes
    Du {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Pull images before they are run, several at once, the most used first
    Warm(WarmArgs),
}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Remove layers kept for later builds, too
    #[arg(long)]
    pub all: bool,
    /// Remove what is kept for later builds, too, when none has used it for so long, such as 7d
    #[arg(long, value_name = "TIME", value_parser = parse_age, conflicts_with = "all")]
    pub older_than: Option<Duration>,
    /// Remove of what is kept for later builds the longest unused, until the store has at most so many bytes, such as 10G
    #[arg(long, value_name = "SIZE", conflicts_with = "all")]
    pub max_size: Option<Bytes>,
    /// Longest wait for builds and other commands that use the store [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub wait: Option<Wait>,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub format: FormatArgs,
}
