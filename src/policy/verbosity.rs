//! How much is said on standard error.

use std::str::FromStr;

/// How much a command says besides its result. Errors and warnings are always said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors and warnings only.
    Quiet,
    /// Steps as well, and what came of them.
    #[default]
    Normal,
    /// Files in use and times as well.
    Verbose,
}

impl FromStr for Verbosity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quiet" => Ok(Self::Quiet),
            "normal" => Ok(Self::Normal),
            "verbose" => Ok(Self::Verbose),
            _ => Err("want quiet, normal or verbose".to_owned()),
        }
    }
}
