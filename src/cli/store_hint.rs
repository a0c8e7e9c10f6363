//! What to do about a store or a configuration that cannot be used. Used by `hint`.

use std::io;

use crate::config::ConfigError;
use crate::store::StoreError;

const STORE: &str = "the store is $GANTRY_ROOT, else $XDG_DATA_HOME/gantry, else ~/.local/share/gantry: set GANTRY_ROOT to a directory that you may write";

pub(super) fn of_config(error: &ConfigError) -> Option<&'static str> {
    match error {
        ConfigError::NoHome => Some("set GANTRY_ROOT to a directory for the store"),
        ConfigError::Write { .. } => {
            Some("`gantry config init FILE` writes another file, `gantry config init -` to standard output")
        }
        ConfigError::Parse { .. } => Some("`gantry config init -` prints a file with every key and its default"),
        ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(
            "--config or GANTRY_CONFIG names a file that has to be there: `gantry config init FILE` writes one with every key and its default",
        ),
        ConfigError::Read { .. } | ConfigError::Log { .. } | ConfigError::SourceDateEpoch { .. } => None,
    }
}

pub(super) fn of_store(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Busy { .. } => Some("try again when they are done"),
        StoreError::Stalled { .. } => Some("end that process if it hangs, and try again"),
        StoreError::Version { .. } => Some(
            "use the gantry that made it, or set GANTRY_ROOT to another directory; `gantry version` says what this one reads",
        ),
        StoreError::Place { .. } => Some("set GANTRY_ROOT to a directory of your own on another file system, such as ext4, xfs or btrfs"),
        StoreError::NotAStore { .. } => {
            Some("set GANTRY_ROOT to a directory that is empty or not there; it becomes the store")
        }
        StoreError::Io {
            action: "make directory",
            ..
        } => Some(STORE),
        StoreError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied) =>
        {
            Some(STORE)
        }
        StoreError::NoBlob { .. } => Some(
            "`gantry cache check --repair` fetches again what a registry has; an image that none has is to be built or loaded again",
        ),
        StoreError::Io { .. }
        | StoreError::NoSpace { .. }
        | StoreError::OverLimit { .. }
        | StoreError::Size { .. }
        | StoreError::Digest { .. }
        | StoreError::DiffId { .. }
        | StoreError::Layer { .. }
        | StoreError::LayerLost { .. }
        | StoreError::Document { .. }
        | StoreError::Json { .. }
        | StoreError::Ambiguous { .. }
        | StoreError::NotAName { .. }
        | StoreError::PinnedName { .. }
        | StoreError::DamagedName { .. } => None,
    }
}
