//! References: what a person typed to name an image.
//!
//! ```text
//! host/repository[:tag][@digest]   an image in a registry          rg.example.org/mecapy/functions/beam:v1
//! name[:tag][@digest]              an image of this store alone    beam:1
//! sha256:HEX                       the image of a digest           sha256:264d4aa81287
//! oci:DIR[:name]                   an image layout on disk         oci:/tmp/layout:beam
//! ```
//!
//! `DIR` ends at its first `:`, as in skopeo and podman; the name behind it may have more of them.
//!
//! The first component is a host when it contains `.` or `:` or is `localhost` (the rule of Docker and
//! containers/image). A bare name may not contain `/`, and is not that of a digest algorithm. Without tag and digest the tag
//! is `latest`. A digest wins over a name. `HEX` are the first 6 or more digits of a manifest's digest; 12
//! or more mean it also without `sha256:`, when no image has them for a name.
//!
//! What other tools call a transport (`docker-archive:FILE`, `docker://...`) is refused by name: as a name of this store it
//! would look like a file or a registry that was never written.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Digest;

/// Longest repository name the distribution specification's clients accept.
const MAX_NAME: usize = 255;
/// Longest name in a layout or an archive: a repository and a tag.
const MAX_NAME_IN_PLACE: usize = 400;
/// Longest tag (distribution specification).
const MAX_TAG: usize = 128;
/// Fewest digits that stand for a digest: fewer are likely to be a word or to mean several images.
pub(super) const SHORTEST_ID: usize = 6;
/// Fewest digits that stand for a digest without `sha256:` before them, as many as are shown: shorter ones are also words.
const SHORTEST_BARE_ID: usize = 12;
/// The algorithm of the digests that images are called by.
const ALGORITHM: &str = "sha256";
/// The registered algorithms (OCI image specification, "Descriptors"). A name like one would pass for a digest.
const ALGORITHMS: [&str; 2] = [ALGORITHM, "sha512"];

/// A parsed reference; printing it gives the text back, with the host of a registry in its usual spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// An image of a registry, whether or not it is in the store.
    Registry {
        /// Host with optional port.
        host: String,
        /// Path below the host.
        repository: String,
        /// Tag, when one was typed.
        tag: Option<String>,
        /// Digest, when one was typed; wins over the tag.
        digest: Option<Digest>,
    },
    /// An image known to this store alone.
    Local {
        /// One component.
        name: String,
        /// Tag, when one was typed.
        tag: Option<String>,
        /// Digest, when one was typed; wins over name and tag.
        digest: Option<Digest>,
    },
    /// An image of this store by its digest, or by the beginning of it.
    Digest {
        /// Its first hexadecimal digits, at least [`SHORTEST_ID`] of them.
        hex: String,
        /// The digest, when all 64 were typed.
        digest: Option<Digest>,
    },
    /// An OCI image layout directory.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// The `org.opencontainers.image.ref.name` inside it.
        tag: Option<String>,
    },
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse reference {text:?}: {reason}")]
pub struct ParseReferenceError {
    /// The text, cut to 100 characters.
    pub text: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl Reference {
    /// The tag that is meant: the typed one, or `latest`.
    pub fn tag_or_latest(&self) -> &str {
        match self {
            Self::Registry { tag, .. } | Self::Local { tag, .. } | Self::Layout { tag, .. } => {
                tag.as_deref().unwrap_or("latest")
            }
            Self::Digest { .. } => "latest",
        }
    }

    /// The name with the tag that it means, without a digest: what other tools call the image.
    pub fn with_tag(&self) -> String {
        let tag = self.tag_or_latest();
        match self {
            Self::Local { name, .. } => format!("{name}:{tag}"),
            Self::Registry { host, repository, .. } => format!("{host}/{repository}:{tag}"),
            Self::Layout { .. } | Self::Digest { .. } => self.to_string(),
        }
    }

    /// This name with `tag` in place of its tag, and without a digest.
    ///
    /// # Errors
    ///
    /// The rule that `tag` breaks.
    pub(crate) fn tagged(&self, tag: &str) -> Result<Self, &'static str> {
        check_tag(tag)?;
        let tag = Some(tag.to_owned());
        Ok(match self.clone() {
            Self::Registry { host, repository, .. } => Self::Registry {
                host,
                repository,
                tag,
                digest: None,
            },
            Self::Local { name, .. } => Self::Local {
                name,
                tag,
                digest: None,
            },
            Self::Layout { dir, .. } => Self::Layout { dir, tag },
            Self::Digest { .. } => return Err("a digest has no tag"),
        })
    }

    /// The digest in the text, if any.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Registry { digest, .. } | Self::Local { digest, .. } | Self::Digest { digest, .. } => digest.as_ref(),
            Self::Layout { .. } => None,
        }
    }

    /// The hexadecimal digits that an image's digest begins with, when the text may mean that: `sha256:HEX`, and a bare name
    /// that consists of at least 12 such digits.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Digest { hex, .. } => Some(hex),
            Self::Local {
                name,
                tag: None,
                digest: None,
            } => (name.len() >= SHORTEST_BARE_ID && is_id(name)).then_some(name),
            Self::Registry { .. } | Self::Local { .. } | Self::Layout { .. } => None,
        }
    }

    /// The image of a digest.
    pub fn of_digest(digest: &Digest) -> Self {
        Self::Digest {
            hex: digest.hex(),
            digest: Some(*digest),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = match self {
            Self::Registry {
                host, repository, tag, ..
            } => {
                write!(f, "{host}/{repository}")?;
                tag
            }
            Self::Local { name, tag, .. } => {
                write!(f, "{name}")?;
                tag
            }
            Self::Digest { hex, .. } => return write!(f, "{ALGORITHM}:{hex}"),
            Self::Layout { dir, tag } => {
                write!(f, "oci:{}", dir.display())?;
                tag
            }
        };
        if let Some(tag) = tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest() {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        parse(text).map_err(|reason| ParseReferenceError {
            text: text.chars().take(100).collect(),
            reason,
        })
    }
}

/// Why `text` is nothing this version of gantry can read or write, when it begins as other tools name a place.
pub(super) fn foreign_transport(text: &str) -> Option<&'static str> {
    let (transport, rest) = text.split_once(':').unwrap_or((text, ""));
    match transport {
        "docker-archive" => Some(
            "docker-archive: is no place that gantry knows, which are NAME[:TAG], oci:DIR[:NAME] and oci-archive:FILE[:NAME]; `gantry load FILE` reads an archive of `docker save` or `podman save`",
        ),
        "docker" if rest.starts_with("//") => {
            Some("docker:// is how other tools name a registry; gantry knows NAME[:TAG], HOST/REPOSITORY[:TAG], oci:DIR[:NAME] and oci-archive:FILE[:NAME]")
        }
        "dir" | "containers-storage" | "docker-daemon" | "ostree" | "sif" | "tarball" => Some(
            "it is a transport of other tools; gantry knows NAME[:TAG], oci:DIR[:NAME] and oci-archive:FILE[:NAME], and skopeo copies between both. An image that an earlier version of gantry named so goes by its digest: `gantry images ls` shows both",
        ),
        _ if text.contains("://") => Some(
            "it is a URL; gantry knows NAME[:TAG], HOST/REPOSITORY[:TAG], oci:DIR[:NAME] and oci-archive:FILE[:NAME]",
        ),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if let Some(rest) = text.strip_prefix("oci:") {
        return parse_layout(rest);
    }
    if text == "oci-archive" || text.starts_with("oci-archive:") {
        return Err("oci-archive: names an archive, which `gantry pull`, `push`, `copy`, `load` and `save` take, and no image of the store");
    }
    if let Some(reason) = foreign_transport(text) {
        return Err(reason);
    }
    if matches!(text, "." | "..") || ["/", "./", "../", "~/"].iter().any(|begin| text.starts_with(begin)) {
        return Err("it looks like a path: an image layout is oci:DIR[:NAME], such as oci:./layout, and an archive oci-archive:FILE[:NAME], such as oci-archive:./beam.tar");
    }
    if let Some(hex) = text.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(':')) {
        if !is_id(hex) {
            return Err("sha256: stands before 6 to 64 lower-case hexadecimal digits of an image's digest");
        }
        return Ok(Reference::Digest {
            hex: hex.to_owned(),
            digest: text.parse().ok(),
        });
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (
            name,
            Some(
                digest
                    .parse()
                    .map_err(|_| "the digest after @ is not sha256: and 64 hexadecimal digits")?,
            ),
        ),
        None => (text, None),
    };
    let Some((host, path)) = name.split_once('/').filter(|(first, _)| is_host(first)) else {
        let (name, tag) = split_tag(name)?;
        if name.contains('/') {
            return Err("a name with / starts with a registry host, such as registry.example.org/team/image");
        }
        check_repository(name)?;
        if ALGORITHMS.contains(&name) {
            return Err("sha256 and sha512 begin a digest and are no names");
        }
        return Ok(Reference::Local {
            name: name.to_owned(),
            tag,
            digest,
        });
    };
    check_host(host)?;
    let host = normal_host(host);
    let (repository, tag) = split_tag(path)?;
    check_repository(repository)?;
    Ok(Reference::Registry {
        host,
        repository: repository.to_owned(),
        tag,
        digest,
    })
}

fn parse_layout(rest: &str) -> Result<Reference, &'static str> {
    let (dir, tag) = match rest.split_once(':') {
        Some((dir, tag)) => (dir, Some(tag)),
        None => (rest, None),
    };
    if dir.is_empty() || dir.contains('\0') {
        return Err("oci: needs a directory");
    }
    if !tag.is_none_or(is_name_in_place) {
        return Err("the name in a layout is 1 to 400 letters, digits and - . _ : @ / +, and follows the first colon: a directory that has one cannot be named");
    }
    Ok(Reference::Layout {
        dir: Path::new(dir).to_owned(),
        tag: tag.map(str::to_owned),
    })
}

/// Whether an image can be called so in a layout or an archive (`org.opencontainers.image.ref.name`).
pub(super) fn is_name_in_place(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:@/+".contains(&byte);
    (1..=MAX_NAME_IN_PLACE).contains(&name.len()) && name.bytes().all(is_fine)
}

fn split_tag(text: &str) -> Result<(&str, Option<String>), &'static str> {
    match text.split_once(':') {
        Some((name, tag)) => {
            check_tag(tag)?;
            Ok((name, Some(tag.to_owned())))
        }
        None => Ok((text, None)),
    }
}

fn is_id(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (SHORTEST_ID..=64).contains(&text.len()) && text.bytes().all(hex)
}

fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

/// Whether a bare name with its tag is a registry in the eyes of whoever types it: a host of this machine or an address with or
/// without a port, or a name of several labels, the last of letters.
pub(crate) fn looks_like_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "0"));
    let labels: Vec<&str> = name.split('.').collect();
    let is_word = |label: &&str| label.len() >= 2 && label.bytes().all(|byte| byte.is_ascii_alphabetic());
    let is_name = labels.len() >= 3 && labels.last().is_some_and(is_word);
    let is_host = name == "localhost" || name.parse::<Ipv4Addr>().is_ok() || is_name;
    is_host && port.parse::<u16>().is_ok() && check_host(name).is_ok()
}

/// Whether a host is an address of this machine.
fn is_here(name: &str) -> bool {
    name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

/// The one spelling of a host, so that what is said of one holds however it is typed: lower case, no zeros before the port, and
/// no port 443 behind a name that is a host without it. On this machine any port may be spoken to without TLS, so it stays.
pub(crate) fn normal_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let Some((name, port)) = host.split_once(':') else {
        return host;
    };
    match port.parse::<u16>() {
        Ok(443) if name.contains('.') && !is_here(name) => name.to_owned(),
        Ok(port) => format!("{name}:{port}"),
        Err(_) => host,
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err("the port of the host is not a number from 0 to 65535");
    }
    let label_is_fine = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() > 253 || !name.split('.').all(label_is_fine) {
        return Err("the host is not a DNS name or an IPv4 address");
    }
    Ok(())
}

fn check_repository(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err("the name must have 1 to 255 characters");
    }
    if !name.split('/').all(component_is_fine) {
        return Err("a name is lower-case letters and digits, separated by one of . _ __ - and /");
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of the distribution specification.
fn component_is_fine(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_well =
        component.bytes().next().is_some_and(alphanumeric) && component.bytes().last().is_some_and(alphanumeric);
    let separators = component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|s| !s.is_empty());
    ends_well
        && separators
            .into_iter()
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|byte| byte == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fine = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    fine.then_some(())
        .ok_or("a tag is 1 to 128 letters, digits, _ . - and does not start with . or -")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_then_print_is_the_identity() {
        let digest = Digest::of(b"").to_string();
        for text in [
            "beam",
            "beam:1",
            "localhost/beam:1",
            "127.0.0.1:5000/team/beam",
            "rg.fr-par.scw.cloud/mecapy/functions/user-1-func-2:v1-abcdef12",
            &format!("example.org/a/b:v1@{digest}"),
            &format!("example.org/a@{digest}"),
            &format!("beam:1@{digest}"),
            &format!("beam@{digest}"),
            &digest,
            "sha256:e3b0c4",
            "oci:/tmp/layout",
            "oci:relative/dir:tag",
            "oci:dir:beam:1",
            "oci:dir:example.org/team/beam:1",
            "oci:1",
            "docker:1",
            "directory:1",
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_would_escape_the_store() {
        for text in [
            "",
            "/",
            "..",
            "../x",
            "a/b",
            "Beam",
            "beam:",
            "beam:.x",
            "beam: x",
            "example.org/../x",
            "example.org//x",
            "example.org/a:b:c",
            "-.org/a",
            "a..b",
            "a@sha256:00",
            "sha256",
            "sha256:1",
            "sha256:E3B0C4",
            "sha512:e3b0c4",
            "sha512",
            "exa mple.org/a",
            "example.org:99999/a",
            "oci:",
            "oci::a",
            "oci:dir:",
            "oci:dir:a b",
            "./layout",
            "~/layout",
            "a\0b",
            "oci-archive:x.tar",
            "docker-archive:x.tar:beam:1",
            "docker-archive",
            "docker://alpine",
            "https://example.org/a",
            "dir:/tmp/x",
            "dir",
            "containers-storage:localhost/a",
            "docker-daemon:a:1",
            "example.org/a.",
            "_a",
            "beam:\u{e9}",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_host_alone_looks_like_one() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "10.0.0.1",
            "registry.example.org",
            "a.b.io:443",
        ] {
            assert!(looks_like_host(host), "{host}");
        }
        for name in [
            "beam",
            "beam:1",
            "beam.v2:1",
            "beam:v1.2.3",
            "a.b.c:v1",
            "a.b.3:1",
            "localhost:latest",
        ] {
            assert!(!looks_like_host(name), "{name}");
        }
    }

    #[test]
    fn the_directory_of_a_layout_ends_at_its_first_colon() {
        for (text, dir, name) in [
            ("oci:d", "d", None),
            ("oci:d:1", "d", Some("1")),
            ("oci:d:beam:1", "d", Some("beam:1")),
            ("oci:/a/b:team/beam:1", "/a/b", Some("team/beam:1")),
        ] {
            let expected = Reference::Layout {
                dir: dir.into(),
                tag: name.map(str::to_owned),
            };
            assert_eq!(text.parse::<Reference>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_name_is_printed_with_the_tag_that_it_means() {
        let digest = Digest::of(b"");
        for (text, full) in [
            ("beam", "beam:latest"),
            ("beam:1", "beam:1"),
            ("example.org/a/b", "example.org/a/b:latest"),
            (&format!("example.org/a:2@{digest}"), "example.org/a:2"),
            ("oci:dir", "oci:dir"),
            ("sha256:e3b0c4", "sha256:e3b0c4"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().with_tag(), full);
        }
    }

    #[test]
    fn what_may_mean_the_beginning_of_a_digest_says_so() {
        let digest = Digest::of(b"");
        for (text, id) in [
            ("sha256:e3b0c4", Some("e3b0c4")),
            ("e3b0c44298fc", Some("e3b0c44298fc")),
            ("facade", None),
            ("e3b0c44298fc:1", None),
            ("beam", None),
            ("example.org/e3b0c4", None),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().id(), id, "{text}");
        }
        let whole: Reference = digest.to_string().parse().unwrap();
        assert_eq!(
            (whole.digest(), whole.clone()),
            (Some(&digest), Reference::of_digest(&digest))
        );
        let named: Reference = format!("beam@{digest}").parse().unwrap();
        assert_eq!(named.digest(), Some(&digest));
    }
}
