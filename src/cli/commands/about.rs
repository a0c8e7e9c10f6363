//! `gantry version`: which gantry this is, and what it was made for.

use crate::cli::error::CommandError;
use crate::cli::format_args::{Format, FormatArgs};
use crate::cli::output::{print_json, print_line};
use crate::sandbox::LANDLOCK_ABI;
use crate::store;

/// The commit that a release was built from, when it was built in a checkout.
const COMMIT: Option<&str> = option_env!("GANTRY_BUILT_FROM");

/// Prints the version.
pub(crate) fn version(format: &FormatArgs) -> Result<u8, CommandError> {
    let version = env!("CARGO_PKG_VERSION");
    match format.wanted() {
        Format::Json => print_json(&serde_json::json!({
            "schema": 1,
            "version": version,
            "commit": COMMIT,
            "store": store::FORMAT,
            "landlock_abi": LANDLOCK_ABI,
        })),
        Format::Table => print_line(&format!(
            "gantry         {version}\ncommit         {}\nstore          {}\nLandlock ABI   {LANDLOCK_ABI}",
            COMMIT.unwrap_or("not known: no release build of a checkout"),
            store::FORMAT
        )),
    }
}
