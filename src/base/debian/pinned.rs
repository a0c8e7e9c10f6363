//! A pinned package of a Debian archive, and the line of a lock file that names it.

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LockedDeb {
    pub name: String,
    pub version: String,
    /// Which archive has it.
    pub archive: Archive,
    /// Path in that archive.
    pub path: String,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// The archives of a Debian release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Archive {
    /// The release itself.
    Main,
    /// Updates between two point releases; later part of the release.
    Updates,
    /// Security updates.
    Security,
}

/// A line of a lock file: `name version archive path size sha256`.
pub(crate) fn parse_locked(line: &str) -> Option<LockedDeb> {
    let mut fields = line.split(' ');
    let (name, version) = (fields.next()?.to_owned(), fields.next()?.to_owned());
    let archive = match fields.next()? {
        "main" => Archive::Main,
        "security" => Archive::Security,
        _ => return None,
    };
    let path = fields.next()?.to_owned();
    let (size, sha256) = (
        fields.next()?.parse().ok()?,
        format!("sha256:{}", fields.next()?).parse().ok()?,
    );
    is_pool_path(&path).then_some(LockedDeb {
        name,
        version,
        archive,
        path,
        size,
        sha256,
    })
}

/// Whether `path` is plainly a file below the pool of an archive; it becomes part of an address.
pub(super) fn is_pool_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+~-".contains(&byte);
    path.starts_with("pool/")
        && path.bytes().all(plain)
        && path.split('/').all(|component| !matches!(component, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_line_is_complete_and_stays_in_the_pool() {
        let hash = "0".repeat(64);
        assert!(parse_locked(&format!("a 1 main pool/a.deb 1 {hash}")).is_some());
        for line in [
            format!("a 1 other pool/a.deb 1 {hash}"),
            format!("a 1 main ../a.deb 1 {hash}"),
            "a 1 main pool/a.deb 1 x".into(),
        ] {
            assert!(parse_locked(&line).is_none(), "{line}");
        }
    }
}
