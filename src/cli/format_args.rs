//! How a command prints its data.

use clap::{Args, ValueEnum};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One line, for programs
    Json,
    /// Columns, for people
    Table,
}

/// The options of a command that prints data.
#[derive(Debug, Clone, Args)]
pub(super) struct FormatArgs {
    /// Print JSON: --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
}

impl FormatArgs {
    /// The format, when one was asked for.
    pub(super) fn given(&self) -> Option<Format> {
        self.format.or(self.json.then_some(Format::Json))
    }

    /// The format; columns unless something else was asked for.
    pub(super) fn wanted(&self) -> Format {
        self.given().unwrap_or(Format::Table)
    }
}
