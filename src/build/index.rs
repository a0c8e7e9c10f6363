//! Which package index is asked: the one of gantry's configuration, else the one this machine's tools are told to use.
//!
//! The resolver is run without its own configuration, for that could change more than the index. So what it says of the
//! index is read here, and handed on: a private index that is left out is a package of the same name from elsewhere. A
//! machine whose tools ask several indexes is refused rather than asked in part.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::lock::MAX_MESSAGE;
use crate::policy::Kind;

/// Variables that name the one index, the strongest first.
const ONE: [&str; 3] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"];
/// Variables that name further ones.
const MORE: [&str; 3] = ["UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"];

/// A package index and who names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// May hold credentials.
    pub url: String,
    /// A variable, a file or a program.
    pub source: String,
}

/// Where this machine may say which index it uses.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Of gantry's configuration: nothing else counts when it is there.
    pub configured: Option<&'a str>,
    /// The environment, as far as it is about the network.
    pub network: &'a [(String, OsString)],
    /// Configuration files of uv.
    pub files: &'a [PathBuf],
    /// Configuration files of pip, as far as the environment names them.
    pub pip_files: &'a [PathBuf],
    /// Where `python3` is, whose pip is asked.
    pub path: Option<&'a OsString>,
}

/// Why no index is chosen.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There is more than one.
    #[error(
        "choose the package index: {place} names {} as a further one, and gantry asks one index only",
        shown(url)
    )]
    Several {
        /// Who names it.
        place: String,
        /// Its address.
        url: String,
    },
    /// A file that may name it cannot be understood.
    #[error("choose the package index: read {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// pip, which may know it, fails.
    #[error("choose the package index: `pip config list` fails: {reason}")]
    Pip {
        /// In pip's words, bounded.
        reason: String,
    },
}

impl IndexError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Several { .. } | Self::File { .. } | Self::Pip { .. } => Kind::Failed,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UvFile {
    index_url: Option<String>,
    extra_index_url: Vec<String>,
    index: Vec<UvIndex>,
    pip: UvPip,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UvPip {
    index_url: Option<String>,
    extra_index_url: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct UvIndex {
    url: String,
    #[serde(default)]
    default: bool,
    /// Only for packages that name it: none here does.
    #[serde(default)]
    explicit: bool,
}

impl Places<'_> {
    /// What can be known without reading or running anything, for a key; no credentials.
    pub fn key(&self) -> String {
        match self.configured {
            Some(url) => shown(url),
            None => {
                let named = ONE.iter().find_map(|name| self.variable(name)).into_iter();
                let more = MORE.iter().filter_map(|name| self.variable(name));
                named.chain(more).map(|url| shown(&url)).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// The index to ask; none for the resolver's own default.
    pub fn find(&self) -> Result<Option<Index>, IndexError> {
        let from = |url: String, source: &str| Index {
            url,
            source: source.to_owned(),
        };
        if let Some(url) = self.configured {
            return Ok(Some(from(url.to_owned(), "the configuration")));
        }
        let more = MORE
            .iter()
            .find_map(|name| Some(((*name).to_owned(), self.variable(name)?)));
        if let Some((place, url)) = more {
            return Err(IndexError::Several { place, url });
        }
        let mut found = ONE.iter().find_map(|name| Some(from(self.variable(name)?, name)));
        for path in self.files {
            let of_file = uv_file(path)?;
            found = found.or(of_file);
        }
        match found {
            Some(index) => Ok(Some(index)),
            None => self.pip(),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        let (_, value) = self.network.iter().find(|(other, _)| other == name)?;
        Some(value.to_string_lossy().into_owned())
    }

    /// Whether pip can be told anything: starting it takes longer than resolving, and most machines tell it nothing.
    fn is_pip_told(&self) -> bool {
        let Some(path) = self.path else { return true };
        let python = std::env::split_paths(path).map(|folder| folder.join("python3"));
        let Some(python) = python.into_iter().find(|python| python.exists()) else {
            return true;
        };
        let real = fs::canonicalize(&python).unwrap_or_else(|_| python.clone());
        let mut magic = [0u8; 4];
        let is_program = fs::File::open(&real).and_then(|mut file| file.read_exact(&mut magic));
        if is_program.is_err() || magic != *b"\x7fELF" {
            // A script starts whatever interpreter it likes.
            return true;
        }
        // A virtual environment is named by its own path, another Python by where that leads.
        let is_told_at = |python: &Path| {
            python
                .ancestors()
                .nth(2)
                .is_some_and(|prefix| prefix.join("pip.conf").exists())
        };
        is_told_at(&python) || is_told_at(&real) || self.pip_files.iter().any(|file| file.exists())
    }

    /// What pip is told; nothing where there is no pip.
    fn pip(&self) -> Result<Option<Index>, IndexError> {
        if !self.is_pip_told() {
            return Ok(None);
        }
        let mut pip = Command::new("python3");
        pip.args(["-I", "-m", "pip", "config", "list"]).stdin(Stdio::null());
        if let Some(path) = self.path {
            pip.env("PATH", path);
        }
        let done = match pip.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| IndexError::Pip {
                reason: error.to_string(),
            })?,
        };
        let said = String::from_utf8_lossy(&done.stderr);
        if !done.status.success() {
            if said.contains("No module named") {
                return Ok(None);
            }
            let reason = said.trim().chars().take(MAX_MESSAGE).collect();
            return Err(IndexError::Pip { reason });
        }
        pip_settings(&String::from_utf8_lossy(&done.stdout))
    }
}

/// Whether a variable names an index: the resolver is told the one that was chosen, and sees none of these.
pub fn is_index_variable(name: &str) -> bool {
    ONE.contains(&name) || MORE.contains(&name)
}

/// An address without its credentials and its query.
pub fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // A name in front of the address, as in `UV_INDEX=name=https://...`, is none of it.
    let scheme = scheme.rsplit('=').next().unwrap_or_default();
    let (authority, path) = rest
        .find('/')
        .map_or((rest, ""), |at| rest.split_at_checked(at).unwrap_or((rest, "")));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

fn uv_file(path: &Path) -> Result<Option<Index>, IndexError> {
    let failed = |reason: String| IndexError::File {
        path: path.to_owned(),
        reason,
    };
    let text = match fs::read_to_string(path) {
        // A home that cannot be entered is none of ours.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(None)
        }
        other => other.map_err(|error| failed(error.to_string()))?,
    };
    // The parser's message quotes the line, which may hold a password.
    let parsed: UvFile = toml::from_str(&text).map_err(|error| failed(error.message().to_owned()))?;
    let (defaults, others): (Vec<UvIndex>, Vec<UvIndex>) = parsed.index.into_iter().partition(|index| index.default);
    let others = others
        .into_iter()
        .filter(|index| !index.explicit)
        .map(|index| index.url);
    let more = parsed.extra_index_url.into_iter().chain(parsed.pip.extra_index_url);
    if let Some(url) = more.chain(others).next() {
        let place = path.display().to_string();
        return Err(IndexError::Several { place, url });
    }
    let url = parsed.pip.index_url.or(parsed.index_url);
    let url = url.or_else(|| defaults.into_iter().map(|index| index.url).next());
    Ok(url.map(|url| Index {
        url,
        source: path.display().to_string(),
    }))
}

/// Reads lines such as `global.index-url='https://index.example.org/simple'`; what is for installing wins.
fn pip_settings(text: &str) -> Result<Option<Index>, IndexError> {
    let settings: Vec<(&str, &str, String)> = text
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let (section, key) = key.rsplit_once('.')?;
            Some((section, key, unquoted(value.trim())))
        })
        .collect();
    let find = |wanted: &str| {
        let mut sections = [":env:", "install", "global"].into_iter();
        sections.find_map(|section| {
            let mut all = settings.iter();
            let (.., value) = all.find(|(other, key, _)| *other == section && *key == wanted)?;
            (!value.is_empty()).then(|| value.clone())
        })
    };
    let source = "the configuration of pip".to_owned();
    match (find("extra-index-url"), find("index-url")) {
        (Some(url), _) => Err(IndexError::Several { place: source, url }),
        (None, url) => Ok(url.map(|url| Index { url, source })),
    }
}

/// A string as Python prints it; of several lines the first that says something.
fn unquoted(value: &str) -> String {
    let quote = |character: char| character == '\'' || character == '"';
    let inside = value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let lines = inside.unwrap_or(value).replace("\\n", "\n");
    let line = lines.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().replace("\\'", "'").replace("\\\\", "\\")
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
