//! Where this machine gets Debian packages from: its own apt sources, or the configuration. No address is built in.

use std::fs;
use std::path::{Path, PathBuf};

use super::Archive;

/// An apt source file has a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// Addresses of the two archives of a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// The release.
    pub main: String,
    /// Security updates.
    pub security: String,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
#[error("find a mirror of Debian {suite}{part}: neither the configuration nor the apt sources in {directory} name one")]
pub struct MirrorError {
    /// The suite.
    pub suite: String,
    /// `-security` or nothing.
    pub part: &'static str,
    /// Where was looked.
    pub directory: PathBuf,
}

impl Mirrors {
    pub(super) fn of(&self, archive: Archive) -> &str {
        match archive {
            Archive::Main => &self.main,
            Archive::Security => &self.security,
        }
    }
}

/// The mirrors of `suite`: those configured, else those of the apt sources below `apt` (usually `/etc/apt`).
pub fn find_mirrors(
    suite: &str,
    main: Option<&str>,
    security: Option<&str>,
    apt: &Path,
) -> Result<Mirrors, MirrorError> {
    let sources = read_sources(apt);
    let find = |configured: Option<&str>, part: &'static str| {
        let wanted = format!("{suite}{part}");
        let found = || {
            sources
                .iter()
                .find(|source| source.suites.contains(&wanted))
                .map(|source| source.uri.clone())
        };
        let error = || MirrorError {
            suite: suite.to_owned(),
            part,
            directory: apt.to_owned(),
        };
        configured.map(str::to_owned).or_else(found).ok_or_else(error)
    };
    Ok(Mirrors {
        main: find(main, "")?,
        security: find(security, "-security")?,
    })
}

struct Source {
    uri: String,
    suites: Vec<String>,
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
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    words
        .any(|component| component == "main")
        .then(|| source(uri, vec![suite.to_owned()]))
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
        .then(|| source(uri, words("Suites").map(str::to_owned).collect()))
        .flatten()
}

fn source(uri: &str, suites: Vec<String>) -> Option<Source> {
    let usable = uri.starts_with("http://") || uri.starts_with("https://");
    usable.then(|| Source {
        uri: uri.trim_end_matches('/').to_owned(),
        suites,
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
        let new = "Types: deb\n# why\nURIs: http://a.example.org/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://s.example.org/debian-security\nSuites: bookworm-security\nComponents: main contrib\n";
        let expected = Mirrors {
            main: "http://a.example.org/debian".into(),
            security: "http://s.example.org/debian-security".into(),
        };
        let scratch = apt(&[
            ("sources.list.d/third.list", third),
            ("sources.list.d/debian.sources", new),
        ]);
        assert_eq!(find_mirrors("bookworm", None, None, scratch.path()).unwrap(), expected);
        let old = "deb [arch=amd64 signed-by=/x] http://a.example.org/debian bookworm main\ndeb http://s.example.org/debian-security bookworm-security main\n";
        let scratch = apt(&[("sources.list", old)]);
        assert_eq!(find_mirrors("bookworm", None, None, scratch.path()).unwrap(), expected);
        let configured = find_mirrors("bookworm", Some("http://c.example.org"), None, scratch.path()).unwrap();
        assert_eq!(configured.main, "http://c.example.org");
        assert!(find_mirrors("trixie", None, None, scratch.path()).is_err());
    }
}
