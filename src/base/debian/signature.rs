//! OpenPGP signatures of an archive, checked by `gpgv`, which every Debian has for apt, against one keyring.
//!
//! A text with a signature around it has been turned into an attack more than once: by more text before, after or
//! between. So the file has to be one signed message and nothing else, and what is used is only what gpgv gives back.

use crate::policy::Kind;
use crate::sys::program::{Program, ProgramError};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// gpgv hashes some megabytes and reads a keyring: a tenth of a second, or some from a slow disk.
const DEADLINE: Duration = Duration::from_secs(60);
/// What gpgv says is shown up to here.
const MAX_MESSAGE: usize = 1000;
/// SHA-256 (RFC 4880, section 9.4); those below are broken or were never in use.
const WEAKEST_HASH: u32 = 8;

/// Why a text is not used.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// gpgv cannot be run, or does not end.
    #[error("check the signature with gpgv")]
    Run(#[from] ProgramError),
    /// What is checked cannot be passed through a file.
    #[error("check the signature with gpgv: pass {} through a file", path.display())]
    File { path: PathBuf, source: io::Error },
    /// There is nothing to check it with.
    #[error("open the keyring {path}")]
    Keyring { path: PathBuf, source: io::Error },
    /// Not what a signed index looks like.
    #[error("it is not one signed message")]
    Shape,
    /// No key of the keyring made a good signature, or one of the signatures is bad.
    #[error("its signature is refused: {reason}\n{explanation}")]
    Refused {
        reason: &'static str,
        /// In gpgv's words, bounded.
        explanation: String,
    },
}

impl SignatureError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Run(ProgramError::Deadline { .. }) => Kind::Unavailable,
            Self::Run(
                ProgramError::Start { .. }
                | ProgramError::Output { .. }
                | ProgramError::Ending { .. }
                | ProgramError::Wait { .. },
            )
            | Self::File { .. }
            | Self::Keyring { .. }
            | Self::Shape
            | Self::Refused { .. } => Kind::Failed,
        }
    }
}

/// The signed text of `message`, once a key of `keyring` vouches for it. `scratch` is a directory of the caller's.
pub(crate) fn signed_text(message: &[u8], keyring: &Path, scratch: &Path) -> Result<String, SignatureError> {
    checked(Program::new("gpgv", DEADLINE), message, keyring, scratch)
}

fn checked(gpgv: Program, message: &[u8], keyring: &Path, scratch: &Path) -> Result<String, SignatureError> {
    let text = std::str::from_utf8(message).map_err(|_| SignatureError::Shape)?;
    if !is_one_message(text) {
        return Err(SignatureError::Shape);
    }
    fs::File::open(keyring).map_err(|source| SignatureError::Keyring {
        path: keyring.to_owned(),
        source,
    })?;
    let (signed, plain) = (scratch.join("InRelease"), scratch.join("Release"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| SignatureError::File { path, source }
    };
    fs::write(&signed, message).map_err(failed(&signed))?;
    // A name without a slash would be looked for in the home directory.
    let keyring = std::path::absolute(keyring).map_err(failed(keyring))?;
    let done = gpgv
        .args(["--status-fd", "1", "--keyring"])
        .arg(keyring)
        .arg("--homedir")
        .arg(scratch)
        .arg("--output")
        .arg(&plain)
        .arg("--")
        .arg(&signed)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .run()?;
    if let Some(reason) = refused(&String::from_utf8_lossy(&done.stdout)) {
        let explanation = String::from_utf8_lossy(&done.stderr);
        return Err(SignatureError::Refused {
            reason,
            explanation: explanation.trim_end().chars().take(MAX_MESSAGE).collect(),
        });
    }
    let mut text = String::new();
    fs::File::open(&plain)
        .and_then(|file| file.take(message.len() as u64 + 1).read_to_string(&mut text))
        .map_err(failed(&plain))?;
    Ok(text)
}

/// Nothing before, after or between: one header at the start, one signature, its end at the end.
fn is_one_message(text: &str) -> bool {
    let armour: Vec<&str> = text.lines().filter(|line| line.starts_with("-----")).collect();
    let expected = [
        "-----BEGIN PGP SIGNED MESSAGE-----",
        "-----BEGIN PGP SIGNATURE-----",
        "-----END PGP SIGNATURE-----",
    ];
    armour == expected && text.starts_with(expected[0]) && text.trim_end().ends_with(expected[2])
}

/// Why the signatures are not enough, from gpgv's status lines (GnuPG, doc/DETAILS).
///
/// An index is signed by several keys, of which an older keyring may not know all: one good one is enough. Expired and
/// revoked keys have no GOODSIG.
fn refused(status: &str) -> Option<&'static str> {
    let lines: Vec<Vec<&str>> = status
        .lines()
        .filter_map(|line| line.strip_prefix("[GNUPG:] "))
        .map(|line| line.split(' ').collect())
        .collect();
    // Each GOODSIG is followed by its own VALIDSIG, which names the hash.
    let (mut is_good, mut announced) = (false, false);
    for line in &lines {
        match line.first().copied().unwrap_or_default() {
            "BADSIG" => return Some("it is not that of this text"),
            "GOODSIG" => announced = true,
            "VALIDSIG" => {
                let hash = line.get(8).and_then(|field| field.parse::<u32>().ok());
                is_good |= announced && hash.is_some_and(|hash| hash >= WEAKEST_HASH);
                announced = false;
            }
            "NEWSIG" | "EXPSIG" | "EXPKEYSIG" | "REVKEYSIG" | "ERRSIG" => announced = false,
            _ => {}
        }
    }
    (!is_good).then_some("no key of the keyring vouches for it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_message_has_nothing_around_it() {
        let message = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\na: b\n-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n";
        assert!(is_one_message(message));
        for other in [
            format!("a: b\n{message}"),
            format!("{message}a: b\n"),
            format!("{message}{message}"),
            message.replace("a: b", "-----BEGIN PGP SIGNED MESSAGE-----"),
            message.replace("-----END PGP SIGNATURE-----\n", ""),
            "a: b\n".to_owned(),
        ] {
            assert!(!is_one_message(&other), "{other}");
        }
    }

    #[test]
    fn a_gpgv_that_does_not_end_is_ended_by_the_deadline() {
        let scratch = tempfile::tempdir().unwrap();
        let message = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\na: b\n-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n";
        let (keyring, gpgv) = (scratch.path().join("keys.gpg"), scratch.path().join("gpgv"));
        fs::write(&keyring, "").unwrap();
        fs::write(&gpgv, "#!/bin/sh\nsleep 1000\n").unwrap();
        fs::set_permissions(&gpgv, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let gpgv = Program::new(&gpgv, Duration::from_millis(300));
        let error = checked(gpgv, message, &keyring, scratch.path()).unwrap_err();
        assert!(
            matches!(error, SignatureError::Run(ProgramError::Deadline { .. })),
            "{error:?}"
        );
        assert_eq!(error.kind(), Kind::Unavailable);
    }

    #[test]
    fn one_good_signature_is_enough_and_a_bad_one_too_much() {
        let status = |lines: &[&str]| {
            lines
                .iter()
                .map(|line| format!("[GNUPG:] {line}\n"))
                .collect::<String>()
        };
        let valid = "VALIDSIG F 2026-07-11 1783764997 0 4 0 1 8 01 P";
        let weak = "VALIDSIG F 2026-07-11 1783764997 0 4 0 1 2 01 P";
        assert_eq!(refused(&status(&["NEWSIG", "GOODSIG K n", valid])), None);
        let several = [
            "NEWSIG",
            "ERRSIG K 1 8 01 0 9",
            "NO_PUBKEY K",
            "NEWSIG",
            "GOODSIG K n",
            valid,
        ];
        assert_eq!(refused(&status(&several)), None);
        for lines in [
            &["NEWSIG", "GOODSIG K n", valid, "NEWSIG", "BADSIG K n"][..],
            &["NEWSIG", "ERRSIG K 1 8 01 0 9", "NO_PUBKEY K"],
            &["NEWSIG", "GOODSIG K n", weak],
            &["NEWSIG", "EXPKEYSIG K n", valid],
            &["NEWSIG", "REVKEYSIG K n", valid],
            &["NEWSIG", "GOODSIG K n", weak, "NEWSIG", "EXPKEYSIG K n", valid],
            &[],
        ] {
            assert!(refused(&status(lines)).is_some(), "{lines:?}");
        }
    }
}
