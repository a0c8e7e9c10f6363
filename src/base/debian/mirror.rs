//! Where this machine gets Debian packages from, and whom it trusts to sign their indexes: its own apt sources, or the
//! configuration. No address is built in.

use std::fs;
use std::path::{Path, PathBuf};

use super::pinned::Archive;
use crate::net::Address;
use crate::policy::Kind;

/// An apt source file has a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// Debian's own keys, of the package `debian-archive-keyring`, which apt needs.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// Its address, without `dists` or `pool`.
    pub uri: Address,
    /// The keys that may sign its indexes.
    pub keyring: PathBuf,
}

/// The archives of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirrors {
    /// The release.
    pub main: Mirror,
    /// Updates between two point releases.
    pub updates: Mirror,
    /// Security updates.
    pub security: Mirror,
}

/// What the configuration says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Configured<'a> {
    /// Address of the release and its updates.
    pub main: Option<&'a Address>,
    /// Address of the security updates.
    pub security: Option<&'a Address>,
    /// The keys for all of them.
    pub keyring: Option<&'a Path>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
#[error("find a mirror of Debian {suite}{part}: neither the configuration nor the apt sources in {directory} name one")]
pub struct MirrorError {
    pub suite: String,
    /// `-security` or nothing.
    pub part: &'static str,
    /// Where was looked.
    pub directory: PathBuf,
}

impl MirrorError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        Kind::Failed
    }
}

impl Mirrors {
    /// The mirror of `archive`.
    pub(crate) fn of(&self, archive: Archive) -> &Mirror {
        match archive {
            Archive::Main => &self.main,
            Archive::Updates => &self.updates,
            Archive::Security => &self.security,
        }
    }
}

/// The mirrors of `suite`: those configured, else those of the apt sources below `apt` (usually `/etc/apt`). An archive
/// has all of the `releases`: sources that name another one of them lead to it, too. Not their keys, which may be those of
/// that release alone.
pub(crate) fn find_mirrors(
    suite: &str,
    releases: &[String],
    configured: Configured<'_>,
    apt: &Path,
) -> Result<Mirrors, MirrorError> {
    let sources = read_sources(apt);
    let find = |uri: Option<&Address>, part: &'static str| {
        let of = |release: &str| {
            let wanted = format!("{release}{part}");
            sources.iter().find(|source| source.suites.contains(&wanted))
        };
        let own = of(suite);
        let source = own.or_else(|| releases.iter().find_map(|release| of(release)));
        // Of a configured address the apt sources know nothing, not even whose keys it takes.
        let signed_by = own.filter(|_| uri.is_none()).and_then(|source| source.keyring.clone());
        let keyring = configured.keyring.map(Path::to_owned).or(signed_by);
        let uri = uri.cloned().or_else(|| Some(source?.uri.clone()));
        let error = || MirrorError {
            suite: suite.to_owned(),
            part,
            directory: apt.to_owned(),
        };
        Ok(Mirror {
            uri: uri.ok_or_else(error)?,
            keyring: keyring.unwrap_or_else(|| KEYRING.into()),
        })
    };
    let main = find(configured.main, "")?;
    Ok(Mirrors {
        updates: find(configured.main, "-updates").unwrap_or_else(|_| main.clone()),
        security: find(configured.security, "-security")?,
        main,
    })
}

struct Source {
    uri: Address,
    suites: Vec<String>,
    keyring: Option<PathBuf>,
}

fn read_sources(apt: &Path) -> Vec<Source> {
    let mut files = vec![apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(apt.join("sources.list.d")) {
        let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.extend(more);
    }
    let mut sources = Vec::new();
    for path in files {
        let small = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX_FILE);
        let Some(text) = small.then(|| fs::read_to_string(&path).ok()).flatten() else {
            continue;
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(text.split("\n\n").filter_map(deb822)),
            _ => {}
        }
    }
    sources
}

/// `deb [options] uri suite component...` (sources.list(5)).
fn one_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?,
        None => ("", rest),
    };
    let mut options = options.split_whitespace().filter_map(|option| option.split_once('='));
    let signed_by = options.find(|(name, _)| name.eq_ignore_ascii_case("signed-by"));
    let signed_by = signed_by.map(|(_, value)| value);
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    words
        .any(|component| component == "main")
        .then(|| source(uri, vec![suite.to_owned()], signed_by))
        .flatten()
}

/// A stanza of `Types: deb`, `URIs:`, `Suites:`, `Components:`.
fn deb822(stanza: &str) -> Option<Source> {
    let field = |name: &str| {
        let lines = stanza.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    };
    let words = |name: &str| field(name).into_iter().flat_map(str::split_whitespace);
    if field("Enabled").is_some_and(|enabled| enabled.eq_ignore_ascii_case("no")) {
        return None;
    }
    let usable = words("Types").any(|kind| kind == "deb") && words("Components").any(|component| component == "main");
    let uri = words("URIs").next()?;
    usable
        .then(|| source(uri, words("Suites").map(str::to_owned).collect(), field("Signed-By")))
        .flatten()
}

fn source(uri: &str, suites: Vec<String>, signed_by: Option<&str>) -> Option<Source> {
    let usable = uri.starts_with("http://") || uri.starts_with("https://");
    // Fingerprints, keys written out and armoured files are not what gpgv takes; Debian's own keys are used then.
    let keyring = signed_by.filter(|value| value.starts_with('/') && value.ends_with(".gpg") && !value.contains(' '));
    usable.then(|| Source {
        uri: Address::new(uri.trim_end_matches('/')),
        suites,
        keyring: keyring.map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt(files: &[(&str, &str)]) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(scratch.path().join(name), text).unwrap();
        }
        scratch
    }

    #[test]
    fn reads_both_formats_and_skips_other_archives() {
        let third =
            "deb https://third.example.org/apt cloud-sdk-bookworm main\n# deb http://off.example.org bookworm main\n";
        let new = "Types: deb\n# why\nURIs: http://a.example.org/debian/\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /x.gpg\n\nTypes: deb\nURIs: http://s.example.org/debian-security\nSuites: bookworm-security\nComponents: main contrib\n";
        let mirror = |uri: &str, keyring: &str| Mirror {
            uri: Address::new(uri),
            keyring: keyring.into(),
        };
        let main = mirror("http://a.example.org/debian", "/x.gpg");
        let expected = Mirrors {
            updates: main.clone(),
            security: mirror("http://s.example.org/debian-security", KEYRING),
            main,
        };
        let find = |suite: &str, configured: Configured<'_>, apt: &tempfile::TempDir| {
            find_mirrors(suite, &[], configured, apt.path())
        };
        let scratch = apt(&[
            ("sources.list.d/third.list", third),
            ("sources.list.d/debian.sources", new),
        ]);
        assert_eq!(find("bookworm", Configured::default(), &scratch).unwrap(), expected);
        let old = "deb [arch=amd64 signed-by=/x.gpg] http://a.example.org/debian bookworm main\ndeb http://s.example.org/debian-security bookworm-security main\n";
        let scratch = apt(&[("sources.list", old)]);
        assert_eq!(find("bookworm", Configured::default(), &scratch).unwrap(), expected);
        let address = Address::new("http://me:hunter2@c.example.org");
        let own = Configured {
            main: Some(&address),
            ..Configured::default()
        };
        let configured = find("bookworm", own, &scratch).unwrap();
        assert_eq!(configured.main, mirror(address.as_str(), KEYRING));
        let printed = format!("{configured:?} {own:?}");
        assert!(
            printed.contains("c.example.org") && !printed.contains("hunter2"),
            "{printed}"
        );
        assert_eq!(configured.updates, configured.main);
        let keys = Configured {
            keyring: Some(Path::new("/keys.gpg")),
            ..own
        };
        let configured = find("bookworm", keys, &scratch).unwrap();
        assert!([configured.main, configured.security]
            .iter()
            .all(|mirror| mirror.keyring == Path::new("/keys.gpg")));
        assert!(find("trixie", Configured::default(), &scratch).is_err());
        let releases = ["bookworm".to_owned(), "trixie".to_owned()];
        let other = find_mirrors("trixie", &releases, Configured::default(), scratch.path()).unwrap();
        assert_eq!(
            other.main,
            mirror("http://a.example.org/debian", KEYRING),
            "the archive of one release has the others, which others sign"
        );
        assert_eq!(other.security, expected.security);
    }
}
