//! Reads the secrets of a run from a file, a variable or a descriptor of gantry's, for the sandbox and nobody else.
//!
//! A value is read here, lives in memory, and goes over the control socket. It is in no argument, document, journal,
//! report, cache key or error message.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::str::FromStr;

use crate::config;
use crate::policy::{Code, Kind};
use crate::sandbox::{Place, Secret};
use crate::sys::process;

/// Most bytes of a secret: a key file, not a data set.
const MAX_BYTES: u64 = 1 << 20;

/// Most bytes of a secret in a variable, which has 128 KiB at most with its name (MAX_ARG_STRLEN, execve(2)).
const MAX_VARIABLE_BYTES: u64 = 100 << 10;

/// A secret that a run wants, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretWanted {
    /// Name of the file or of the variable.
    pub name: String,
    /// How it is handed over.
    pub place: Place,
    /// Where it is now.
    pub source: Source,
}

/// Where a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// In a variable of gantry's environment.
    Variable(String),
    /// Behind a descriptor that gantry was started with, read to its end.
    Descriptor(u32),
}

impl FromStr for Source {
    type Err = String;

    /// `env:VARIABLE`, `fd:NUMBER`, else the path of a file.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Variable(name.to_owned())),
            Some(("fd", number)) => match number.parse() {
                // 0 is data for the workload or a job; 1 and 2 are for writing.
                Ok(number) if number > 2 => Ok(Self::Descriptor(number)),
                _ => Err(format!("want fd: and a descriptor above 2, got {text:?}")),
            },
            _ if text.is_empty() => Err("want a file, env:VARIABLE or fd:NUMBER".to_owned()),
            _ => Ok(Self::File(PathBuf::from(text))),
        }
    }
}

/// Why a secret cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No file or variable can have that name.
    #[error("name secret {name:?}: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What a name is.
        reason: &'static str,
    },
    /// The value cannot be read.
    #[error("read secret {name:?}")]
    Read {
        /// Its name; never its value.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The variable is not set.
    #[error("read secret {name:?}: variable {variable} is not set")]
    NotSet {
        /// Its name.
        name: String,
        /// Of gantry's environment.
        variable: String,
    },
    /// The value is too large.
    #[error("read secret {name:?}: it has over {most} bytes")]
    TooLarge {
        /// Its name.
        name: String,
        /// The limit.
        most: u64,
    },
}

impl SecretError {
    /// What a run that ended in it says.
    pub fn code(&self) -> Code {
        match self {
            Self::Name { .. } => Code::BadJob,
            Self::Read { .. } | Self::NotSet { .. } | Self::TooLarge { .. } => Code::SecretUnavailable,
        }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name { .. } => Kind::Usage,
            Self::Read { .. } | Self::NotSet { .. } | Self::TooLarge { .. } => Kind::Failed,
        }
    }
}

/// Whether reading it may wait for somebody: it is no regular file of ours.
pub(super) fn may_wait(wanted: &SecretWanted) -> bool {
    match &wanted.source {
        Source::File(path) => std::fs::metadata(path).is_ok_and(|found| !found.is_file()),
        Source::Descriptor(_) => true,
        Source::Variable(_) => false,
    }
}

/// Reads `wanted`.
pub(super) fn read(wanted: &SecretWanted) -> Result<Secret, SecretError> {
    check_name(wanted)?;
    let name = || wanted.name.clone();
    let value = match &wanted.source {
        Source::File(path) => File::open(path).and_then(bounded),
        // Not opened anew: it may be a socket, or a file that only the caller may open.
        Source::Descriptor(number) => process::duplicate(*number).map(File::from).and_then(bounded),
        Source::Variable(variable) => Ok(config::secret_variable(variable).ok_or_else(|| SecretError::NotSet {
            name: name(),
            variable: variable.clone(),
        })?),
    };
    let value = value.map_err(|source| SecretError::Read { name: name(), source })?;
    let most = match wanted.place {
        Place::File => MAX_BYTES,
        Place::Variable => MAX_VARIABLE_BYTES,
    };
    if value.len() as u64 > most {
        return Err(SecretError::TooLarge { name: name(), most });
    }
    Ok(Secret {
        name: name(),
        place: wanted.place,
        value,
    })
}

fn bounded(file: File) -> io::Result<Vec<u8>> {
    let mut value = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut value)?;
    Ok(value)
}

fn check_name(wanted: &SecretWanted) -> Result<(), SecretError> {
    let name = &wanted.name;
    let error = |reason| {
        Err(SecretError::Name {
            name: name.clone(),
            reason,
        })
    };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match wanted.place {
        _ if name.is_empty() || name.len() > 128 => error("a name has 1 to 128 characters"),
        Place::File if name.starts_with('.') || !name.bytes().all(|byte| is_word(byte) || b"-.".contains(&byte)) => {
            error("a file is named by letters, digits, _ - . and does not start with a dot")
        }
        Place::Variable if name.starts_with(|first: char| first.is_ascii_digit()) || !name.bytes().all(is_word) => {
            error("a variable is named by letters, digits and _ and does not start with a digit")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, place: Place, source: &str) -> SecretWanted {
        SecretWanted {
            name: name.to_owned(),
            place,
            source: source.parse().unwrap(),
        }
    }

    #[test]
    fn sources_are_files_variables_and_descriptors() {
        for (text, source) in [
            ("key.txt", Source::File("key.txt".into())),
            ("env:KEY", Source::Variable("KEY".to_owned())),
            ("fd:7", Source::Descriptor(7)),
            ("./env:KEY", Source::File("./env:KEY".into())),
        ] {
            assert_eq!(text.parse(), Ok(source));
        }
        for text in ["", "fd:", "fd:1", "fd:-1", "fd:x"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_names_that_are_paths_or_no_variables() {
        for name in ["", "..", "a/b", ".hidden", "a\nb"] {
            let refused = read(&wanted(name, Place::File, "/dev/null"));
            assert!(matches!(refused, Err(SecretError::Name { .. })), "{name:?}");
        }
        for name in ["", "1A", "A-B", "A=B", "A\0"] {
            let refused = read(&wanted(name, Place::Variable, "/dev/null"));
            assert!(matches!(refused, Err(SecretError::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_secret_without_an_end_is_refused() {
        let refused = read(&wanted("KEY", Place::File, "/dev/zero"));
        assert!(matches!(refused, Err(SecretError::TooLarge { .. })));
    }
}
