//! Places: what a person typed to say where an image comes from or goes to.
//!
//! ```text
//! a reference               an image of the store, of a layout, of a registry    beam:1, oci:/tmp/layout:beam
//! oci-archive:FILE[:NAME]   an archive; NAME is the image's name inside it       oci-archive:beam.tar:beam:1
//! ```
//!
//! `FILE` ends at its first `:`, as in skopeo and podman.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::reference::{foreign_transport, is_name_in_place};
use super::{ParseReferenceError, Reference};

/// How archives are named.
const ARCHIVE: &str = "oci-archive:";

/// Where an image comes from or goes to; printing it gives the text back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Where a reference says.
    Image(Reference),
    /// A tar of an image layout.
    Archive {
        /// The file.
        file: PathBuf,
        /// The image's `org.opencontainers.image.ref.name` inside it.
        name: Option<String>,
    },
}

/// Takes `path` as a file that is an archive: with or without `oci-archive:` before it, as people type it who come from
/// other tools. An error says why it names none.
pub fn archive_file(path: PathBuf) -> Result<PathBuf, String> {
    let Some(text) = path.to_str() else { return Ok(path) };
    if text.starts_with(ARCHIVE) {
        return match text.parse::<Place>().map_err(|error| error.to_string())? {
            Place::Archive { file, name: None } => Ok(file),
            Place::Archive { .. } | Place::Image(_) => {
                Err("the name of an image in an archive is for `gantry copy` and `gantry pull`".to_owned())
            }
        };
    }
    match foreign_transport(text).filter(|_| text.contains(':')) {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(path),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(reference) => reference.fmt(f),
            Self::Archive { file, name } => {
                write!(f, "{ARCHIVE}{}", file.display())?;
                name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
            }
        }
    }
}

impl FromStr for Place {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        let Some(rest) = text.strip_prefix(ARCHIVE) else {
            return text.parse().map(Self::Image);
        };
        parse_archive(rest).map_err(|reason| ParseReferenceError {
            text: text.chars().take(100).collect(),
            reason,
        })
    }
}

fn parse_archive(rest: &str) -> Result<Place, &'static str> {
    let (file, name) = match rest.split_once(':') {
        Some((file, name)) => (file, Some(name)),
        None => (rest, None),
    };
    if file.is_empty() || file.contains('\0') {
        return Err("oci-archive: needs a file");
    }
    if file == "-" {
        return Err("an archive on standard input or output is for `gantry load -` and `gantry save NAME -`");
    }
    if !name.is_none_or(is_name_in_place) {
        return Err("the name in an archive is 1 to 400 letters, digits and - . _ : @ / +");
    }
    Ok(Place::Archive {
        file: Path::new(file).to_owned(),
        name: name.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_then_print_is_the_identity() {
        for text in [
            "beam:1",
            "oci:/tmp/x:1",
            "oci:x:registry.example.org/team/beam:1",
            "oci-archive:x.tar",
            "oci-archive:/tmp/x.tar:beam:1",
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        let named: Place = "oci-archive:x.tar:beam:1".parse().unwrap();
        let (file, name) = ("x.tar".into(), Some("beam:1".to_owned()));
        assert_eq!(named, Place::Archive { file, name });
    }

    #[test]
    fn refuses_what_is_no_archive() {
        for text in [
            "oci-archive:",
            "oci-archive::x",
            "oci-archive:-",
            "oci-archive:x:",
            "oci-archive:x:a b",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_is_an_archive_by_either_name() {
        let file = |text: &str| archive_file(text.into());
        assert_eq!(file("oci-archive:x.tar"), Ok("x.tar".into()));
        for text in ["x.tar", "-", "dir", "./docker-archive:x", "a:b"] {
            assert_eq!(file(text), Ok(text.into()), "{text}");
        }
        for text in [
            "docker-archive:x.tar",
            "oci-archive:x.tar:a:1",
            "dir:x",
            "https://a.example/x.tar",
        ] {
            assert!(file(text).is_err(), "{text}");
        }
    }
}
