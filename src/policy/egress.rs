//! The hosts that a run with egress may reach: pairs of host and port, strictly spelled.
//!
//! A host is a fully qualified name or a public IPv4 address. What a spelling could hide is refused where it enters:
//! names of this machine or its neighbourhood, other notations of addresses (`127.1`, `0x7f.1`), and dots at the end.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::address::refused_address;

/// Most entries of a run. Each is a listener, a descriptor passed between processes (the kernel passes 253 at once) and a
/// Landlock rule.
pub const MOST_EGRESS: usize = 64;
/// Most characters of a name (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Last labels of names that lead to this machine or its neighbourhood (RFC 6761, 6762, 8375, 9476; ICANN on .internal).
const NEARBY: [&str; 9] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home.arpa",
    "alt",
    "onion",
];

/// One host and one port of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    pub host: Host,
    pub port: u16,
}

/// A host that can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A fully qualified name in lower case, without a dot at the end.
    Name(String),
    /// A public address.
    Address(Ipv4Addr),
}

/// The error of a text that is no host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse egress {text:?}: {reason}")]
pub struct ParseEgressError {
    text: String,
    reason: String,
}

/// A sorted list of at least one and at most [`MOST_EGRESS`] different entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress(Vec<HostPort>);

impl Egress {
    /// Sorts and counts `entries`; an entry that is given twice counts once.
    pub fn new(entries: impl IntoIterator<Item = HostPort>) -> Result<Self, String> {
        let entries: std::collections::BTreeSet<HostPort> = entries.into_iter().collect();
        match entries.len() {
            0 => Err("network egress needs at least one egress HOST:PORT: `--egress example.org:443`, or \"egress\": [\"example.org:443\"] in a job".to_owned()),
            1..=MOST_EGRESS => Ok(Self(entries.into_iter().collect())),
            count => Err(format!("{count} egress entries, at most {MOST_EGRESS} are possible")),
        }
    }

    /// The entries, sorted.
    pub fn entries(&self) -> &[HostPort] {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl From<HostPort> for String {
    fn from(entry: HostPort) -> Self {
        entry.to_string()
    }
}

impl TryFrom<String> for HostPort {
    type Error = ParseEgressError;

    fn try_from(text: String) -> Result<Self, ParseEgressError> {
        text.parse()
    }
}

impl FromStr for HostPort {
    type Err = ParseEgressError;

    fn from_str(text: &str) -> Result<Self, ParseEgressError> {
        let error = |reason: &str| ParseEgressError {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        if text.contains("://") {
            return Err(error(
                "want HOST:PORT without what stands before the host, such as example.org:443",
            ));
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| error("want HOST:PORT, such as example.org:443"))?;
        if host.contains([':', '[']) {
            return Err(error("an IPv6 address cannot be listed; list its name"));
        }
        let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = Some(port)
            .filter(|port| digits && !port.starts_with('0'))
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| error("a port is a number from 1 to 65535"))?;
        let host = parse_host(host).map_err(|reason| error(&reason))?;
        Ok(Self { host, port })
    }
}

fn parse_host(text: &str) -> Result<Host, String> {
    let text = text.to_ascii_lowercase();
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return match refused_address(address.into()) {
            Some(what) => Err(format!("the address is {what}, which no run may reach")),
            None => Ok(Host::Address(address)),
        };
    }
    if text.is_empty() || text.len() > MAX_NAME {
        return Err(format!("a name has 1 to {MAX_NAME} characters"));
    }
    let ldh = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !text.split('.').all(ldh) {
        return Err(
            "a name is made of labels of 1 to 63 letters, digits and inner hyphens, with single dots between"
                .to_owned(),
        );
    }
    let is_within = |suffix: &str| {
        text.strip_suffix(suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if let Some(suffix) = NEARBY.into_iter().find(|suffix| is_within(suffix)) {
        return Err(format!("names in {suffix} are of this machine or its neighbourhood"));
    }
    let Some((_, last)) = text.rsplit_once('.') else {
        return Err("a name is fully qualified: it has a dot".to_owned());
    };
    // As in the WHATWG URL standard: a host that ends in a number is an address in some notation.
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if is_number {
        return Err("it ends in a number but is no IPv4 address in the usual notation".to_owned());
    }
    Ok(Host::Name(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    #[test]
    fn reads_names_and_public_addresses() {
        for (text, host, port) in [
            ("example.org:443", name("example.org"), 443),
            ("Files.Example.ORG:1", name("files.example.org"), 1),
            ("xn--bcher-kva.example:65535", name("xn--bcher-kva.example"), 65535),
            ("1a.2b.example:80", name("1a.2b.example"), 80),
            ("notlocal.example:80", name("notlocal.example"), 80),
            ("local.example:80", name("local.example"), 80),
            ("8.8.8.8:53", Host::Address(Ipv4Addr::new(8, 8, 8, 8)), 53),
        ] {
            assert_eq!(text.parse(), Ok(HostPort { host, port }), "{text}");
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["example.org:443", "8.8.8.8:53"] {
            let entry: HostPort = text.parse().unwrap();
            assert_eq!(entry.to_string(), text);
            assert_eq!(serde_json::to_value(&entry).unwrap(), text);
            assert_eq!(serde_json::from_value::<HostPort>(text.into()).unwrap(), entry);
        }
    }

    #[test]
    fn refuses_what_a_spelling_could_hide() {
        let long_label = format!("{}.example:80", "a".repeat(64));
        let long_name = format!("{}example:80", "a.".repeat(124));
        for (text, says) in [
            ("", "want HOST:PORT"),
            ("example.org", "want HOST:PORT"),
            (":80", "1 to 253"),
            ("example.org:", "port"),
            ("example.org:0", "port"),
            ("example.org:080", "port"),
            ("example.org:65536", "port"),
            ("example.org:+80", "port"),
            ("example.org:80 ", "port"),
            ("example.org:http", "port"),
            ("example.org.:80", "labels"),
            (".example.org:80", "labels"),
            ("example..org:80", "labels"),
            ("-a.example:80", "labels"),
            ("a-.example:80", "labels"),
            ("a_b.example:80", "labels"),
            ("a b.example:80", "labels"),
            ("a\nb.example:80", "labels"),
            ("a/b.example:80", "labels"),
            ("user@example.org:80", "labels"),
            ("*.example.org:80", "labels"),
            ("b\u{fc}cher.example:80", "labels"),
            ("example.org%00:80", "labels"),
            (&long_label, "labels"),
            (&long_name, "1 to 253"),
            ("localhost:80", "localhost"),
            ("LOCALHOST:80", "localhost"),
            ("a.localhost:80", "localhost"),
            ("printer.local:80", "local"),
            ("metadata.google.internal:80", "internal"),
            ("router.home.arpa:80", "home.arpa"),
            ("gateway:80", "fully qualified"),
            ("127.0.0.1:80", "loopback"),
            ("10.0.0.1:80", "private"),
            ("169.254.169.254:80", "metadata"),
            ("203.0.113.5:80", "documentation"),
            ("127.1:80", "number"),
            ("0x7f.1:80", "number"),
            ("0x7f.0x0.0x0.0x1:80", "number"),
            ("010.0.0.1:80", "number"),
            ("1.2.3.4.5:80", "number"),
            ("[::1]:80", "IPv6"),
            ("::1:80", "IPv6"),
        ] {
            let error = text.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_list_holds_one_to_sixty_four_different_entries() {
        let entry = |number: usize| format!("h{number}.example:80").parse::<HostPort>().unwrap();
        assert!(Egress::new([]).is_err());
        let twice = Egress::new([entry(2), entry(1), entry(2)]).unwrap();
        assert_eq!(twice.entries(), [entry(1), entry(2)]);
        assert_eq!(Egress::new((0..64).map(entry)).unwrap().entries().len(), 64);
        assert!(Egress::new((0..65).map(entry)).unwrap_err().contains("65"));
    }
}
