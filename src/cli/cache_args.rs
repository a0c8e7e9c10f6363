//! The arguments of the commands about what the store keeps.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "documentation here is the help text: brackets say what is optional"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::format_args::FormatArgs;
use super::outlet::outlet;
use super::warm_args::WarmArgs;
use crate::oci::Reference;
use crate::policy::{parse_age, Bytes, Sample, Wait};

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Remove what no image and no later build needs, and images over the limits of [cache]
    Gc(GcArgs),
    /// Which images and layers take the room on the disk, and how it compares with [cache]; `cache du`: which folders
    Stats {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Images by last use, what each takes, what the removal of each frees (UNIQUE), and where it can be fetched again
    Ls {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Keep images whatever the store may hold, and also without a name
    Pin {
        /// Images of the store
        #[arg(value_name = "REF", required = true)]
        references: Vec<Reference>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Let pinned images go like others
    Unpin {
        /// Images of the store
        #[arg(value_name = "REF", required = true)]
        references: Vec<Reference>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Which folders of the store take room, by the sizes of their files; `cache stats`: which images
    Du {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Pull images before they are run, several at once, the most used first
    Warm(WarmArgs),
    /// Compare all that the store has with its digests, and follow its names; exits with 1 when something is wrong
    Check(CheckArgs),
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

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Read only so many of the blobs, downloads and layers, chosen by chance: a share such as 10%, or a number
    #[arg(long, value_name = "SHARE")]
    pub sample: Option<Sample>,
    /// Remove what is wrong, make it again of what there is, and fetch what images of registries need
    #[arg(long)]
    pub repair: bool,
    /// Longest wait for builds and other commands that use the store, before something is removed [default: 10s]
    #[arg(long, value_name = "TIME", requires = "repair")]
    pub wait: Option<Wait>,
    /// Write a JSON report
    #[arg(long, value_name = "FILE", value_parser = outlet())]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub format: FormatArgs,
}

impl CacheCommand {
    /// Where the command writes its report.
    pub(super) fn report(&self) -> Option<&Path> {
        match self {
            Self::Check(args) => args.report.as_deref(),
            Self::Warm(args) => args.report.as_deref(),
            Self::Gc(_)
            | Self::Du { .. }
            | Self::Stats { .. }
            | Self::Ls { .. }
            | Self::Pin { .. }
            | Self::Unpin { .. } => None,
        }
    }
}
