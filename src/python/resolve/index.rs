//! Which package index is asked: the one of gantry's configuration, else the one this machine's tools are told to use.
//!
//! The resolver is run without its own configuration, for that could change more than the index. So what it says of the
//! index is read here, and handed on: a private index that is left out is a package of the same name from elsewhere. A
//! machine whose tools ask several indexes is refused rather than asked in part.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::programs::{kind_of, MAX_MESSAGE};
use crate::net::Address;
use crate::policy::Kind;
use crate::sys::program::{Program, ProgramError};

/// Variables that name the one index, the strongest first.
const ONE: [&str; 3] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"];
/// Variables that name further ones.
const MORE: [&str; 3] = ["UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"];

/// A package index and who names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Where it is; may hold credentials.
    pub url: Address,
    /// A variable, a file or a program.
    pub source: String,
}

/// Where this machine may say which index it uses. Not `Debug`: variables may hold credentials.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// Of gantry's configuration: nothing else counts when it is there.
    pub configured: Option<&'a Address>,
    /// The environment, as far as it is about the network.
    pub network: &'a [(String, OsString)],
    /// Configuration files of uv.
    pub files: &'a [PathBuf],
    /// Configuration files of pip, as far as the environment names them.
    pub pip_files: &'a [PathBuf],
    /// Where `python3` is, whose pip is asked.
    pub path: Option<&'a OsString>,
    /// How long pip may take to answer.
    pub deadline: Duration,
}

/// Why no index is chosen.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There is more than one.
    #[error("choose the package index: {place} names {url} as a further one, and gantry asks one index only")]
    Several {
        /// Who names it.
        place: String,
        /// Its address, without credentials.
        url: String,
    },
    /// Its address is of another protocol.
    #[error("choose the package index: {place} names {url}, and an index is an address that begins with https:// or http://")]
    Protocol {
        /// Who names it.
        place: String,
        /// Its address, without credentials.
        url: String,
    },
    /// A file that may name it cannot be understood.
    #[error("choose the package index: read {path}: {reason}")]
    File {
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// pip, which may know it, cannot be run or does not end.
    #[error("choose the package index: ask pip")]
    Run(#[from] ProgramError),
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
            Self::Run(source) => kind_of(source),
            Self::Several { .. } | Self::Protocol { .. } | Self::File { .. } | Self::Pip { .. } => Kind::Failed,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UvFile {
    index_url: Option<String>,
    extra_index_url: Vec<String>,
    index: Vec<UvIndex>,
    pip: UvPip,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UvPip {
    index_url: Option<String>,
    extra_index_url: Vec<String>,
}

#[derive(Deserialize)]
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
    pub(super) fn key(&self) -> String {
        match self.configured {
            Some(url) => url.shown(),
            None => {
                let named = ONE.iter().find_map(|name| self.variable(name)).into_iter();
                let more = MORE.iter().filter_map(|name| self.variable(name));
                named
                    .chain(more)
                    .map(|url| Address::new(url).shown())
                    .collect::<Vec<_>>()
                    .join(" ")
            }
        }
    }

    /// The index to ask; none for the resolver's own default.
    pub(super) fn find(&self) -> Result<Option<Index>, IndexError> {
        let found = self.named()?;
        match found.as_ref().filter(|index| !is_of_the_web(index.url.as_str())) {
            None => Ok(found),
            Some(index) => Err(IndexError::Protocol {
                place: index.source.clone(),
                url: index.url.shown(),
            }),
        }
    }

    fn named(&self) -> Result<Option<Index>, IndexError> {
        let from = |url: String, source: &str| Index {
            url: Address::new(url),
            source: source.to_owned(),
        };
        if let Some(url) = self.configured {
            return Ok(Some(from(url.as_str().to_owned(), "the configuration")));
        }
        let more = MORE
            .iter()
            .find_map(|name| Some(((*name).to_owned(), self.variable(name)?)));
        if let Some((place, url)) = more {
            return Err(several(place, url));
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
        // pip is set up by variables of many names, and by files that others name.
        let mut pip =
            Program::with_our_environment("python3", self.deadline).args(["-I", "-m", "pip", "config", "list"]);
        if let Some(path) = self.path {
            pip = pip.env("PATH", path);
        }
        let done = match pip.run() {
            Err(ProgramError::Start { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
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
pub(super) fn is_index_variable(name: &str) -> bool {
    ONE.contains(&name) || MORE.contains(&name)
}

/// Whether downloads can come from `url`.
fn is_of_the_web(url: &str) -> bool {
    let begins = |scheme: &str| {
        let begin = url.get(..scheme.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    begins("https://") || begins("http://")
}

fn several(place: String, url: String) -> IndexError {
    let url = Address::new(url).shown();
    IndexError::Several { place, url }
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
        return Err(several(path.display().to_string(), url));
    }
    let url = parsed.pip.index_url.or(parsed.index_url);
    let url = url.or_else(|| defaults.into_iter().map(|index| index.url).next());
    Ok(url.map(|url| Index {
        url: Address::new(url),
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
        (Some(url), _) => Err(several(source, url)),
        (None, url) => Ok(url.map(|url| Index {
            url: Address::new(url),
            source,
        })),
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
mod tests;
