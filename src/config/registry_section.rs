//! `[[registry]]` and `[transfer]`: which registries there are, and how images move. Passwords are named, never written here.

use std::num::{NonZeroU32, NonZeroU8};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use crate::oci::{normal_host, Reference};
use crate::policy::{is_loopback, Room, Time, Wait};

/// Transfers of one image at once; more of them only wait for each other.
const MOST_AT_ONCE: u8 = 64;
/// More of them are no limit that a registry has.
const MOST_PER_MINUTE: u32 = 1000;

/// One `[[registry]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrySection {
    /// Its host, with a port if that is another one than usual.
    pub(crate) host: String,
    /// The lower, the earlier it is asked; default: the place in the list.
    pub(crate) priority: Option<u32>,
    /// What may be done with it; default: both.
    pub(crate) role: Option<RoleName>,
    /// Who we are there; default: what docker's and podman's files say.
    pub(crate) credentials: Option<CredentialsSection>,
    /// Whether it is spoken to without TLS; for a registry on this machine alone.
    #[serde(default)]
    pub(crate) plain_http: bool,
    /// Most bytes of one request of an upload; default: a blob is one request.
    pub(crate) chunk: Option<Room>,
    /// Repositories in which no tag is moved.
    #[serde(default)]
    pub(crate) immutable: Vec<String>,
    /// Blobs that go to and from it at once; default: as for others.
    pub(crate) connections: Option<AtOnce>,
    /// Pulls of one image in a minute; default: any number.
    pub(crate) pulls_per_minute: Option<PerMinute>,
    /// By which API it is listed and deleted from; default: by the protocol.
    pub(crate) management: Option<ManagementSection>,
}

/// How often something is done in a minute: 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerMinute(NonZeroU32);

impl<'de> Deserialize<'de> for PerMinute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = u64::deserialize(deserializer)?;
        let fits = u32::try_from(count).ok().and_then(NonZeroU32::new);
        let fits = fits.filter(|count| count.get() <= MOST_PER_MINUTE);
        let reason = || serde::de::Error::custom(format!("{count} a minute: want 1 to {MOST_PER_MINUTE}"));
        fits.map(Self).ok_or_else(reason)
    }
}

impl From<PerMinute> for u32 {
    fn from(count: PerMinute) -> Self {
        count.0.get()
    }
}

/// An API by which a registry says what it holds. It gets the password of the registry.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagementSection {
    /// Whose.
    pub(crate) api: ApiName,
    /// Where it is.
    pub(crate) url: String,
}

/// An API that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiName {
    /// Scaleway's: the address is that of a region.
    Scaleway,
    /// GitHub's: the address is that of an owner.
    GitHub,
}

/// What may be done with a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Images are fetched and nothing else.
    Pull,
    /// Images are pushed as well.
    Push,
}

/// Credentials by reference.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "{ user = NAME, password_env = VARIABLE }, { user = NAME, password_file = PATH }, { helper = NAME } or { anonymous = true }"
)]
pub struct CredentialsSection {
    /// User name.
    pub(crate) user: Option<String>,
    /// Name of the environment variable that holds the password.
    pub(crate) password_env: Option<String>,
    /// File that holds the password.
    pub(crate) password_file: Option<PathBuf>,
    /// The program `docker-credential-NAME`.
    pub(crate) helper: Option<String>,
    /// Nobody, whatever docker's files say.
    pub(crate) anonymous: bool,
}

/// `[transfer]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferSection {
    /// Layers of an image that are fetched at once; default: 10.
    pub(crate) downloads: Option<AtOnce>,
    /// Layers of an image that are pushed at once; default: 5.
    pub(crate) uploads: Option<AtOnce>,
    /// Blobs that go to and from one registry at once, over all processes of the store; default: 64.
    pub(crate) connections: Option<AtOnce>,
    /// How long a registry may be silent before the next one is asked as well; default: 250 ms.
    pub(crate) hedge: Option<Wait>,
    /// How long a registry may send nothing; default: 30 s.
    pub(crate) stall: Option<Time>,
    /// How long a connection may take; default: 10 s.
    pub(crate) connect: Option<Time>,
    /// Whether a large layer may come by several connections, in parts; default: yes.
    pub(crate) ranges: Option<bool>,
}

/// A number of transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtOnce(NonZeroU8);

impl<'de> Deserialize<'de> for AtOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = u64::deserialize(deserializer)?;
        let fits = u8::try_from(count)
            .ok()
            .and_then(NonZeroU8::new)
            .filter(|count| count.get() <= MOST_AT_ONCE);
        let reason = || serde::de::Error::custom(format!("{count} transfers at once: want 1 to {MOST_AT_ONCE}"));
        fits.map(Self).ok_or_else(reason)
    }
}

impl From<AtOnce> for u32 {
    fn from(count: AtOnce) -> Self {
        count.0.get().into()
    }
}

/// Refuses registries that cannot be, or that would send a password in the clear.
pub(super) fn check_registries(sections: &[RegistrySection]) -> Result<(), String> {
    for (at, section) in sections.iter().enumerate() {
        let host = &section.host;
        // Who writes an address may write a password into it.
        let name = match host.rsplit_once('@') {
            Some((_, behind)) => format!("registry {:?}", format!("...@{behind}")),
            None => format!("registry {host:?}"),
        };
        let is_host = matches!(format!("{host}/x").parse(), Ok(Reference::Registry { host: parsed, .. }) if parsed == normal_host(host));
        if !is_host {
            let like = "want a host as it begins the name of an image, such as registry.example.org or localhost:5000";
            return Err(format!("{name}: {like}"));
        }
        if sections
            .iter()
            .take(at)
            .any(|other| normal_host(&other.host) == normal_host(host))
        {
            return Err(format!("{name} is listed twice"));
        }
        let bare = host.rsplit_once(':').map_or(host.as_str(), |(bare, _)| bare);
        if section.plain_http && !is_loopback(bare) {
            return Err(format!(
                "{name}: plain_http is for registries on this machine (loopback) only"
            ));
        }
        if section
            .credentials
            .as_ref()
            .is_some_and(|credentials| !credentials.is_one())
        {
            return Err(format!(
                "{name}: credentials are `user` with `password_env` or `password_file`, or `helper`, or `anonymous = true`"
            ));
        }
        let variable = section
            .credentials
            .as_ref()
            .and_then(|named| named.password_env.as_ref());
        if !variable.is_none_or(|variable| is_variable(variable)) {
            return Err(format!(
                "{name}: credentials: password_env is the name of an environment variable, such as REGISTRY_PASSWORD, and not the password itself"
            ));
        }
        let is_api = |management: &ManagementSection| is_api_address(&management.url, section.plain_http);
        if !section.management.as_ref().is_none_or(is_api) {
            return Err(format!(
                "{name}: management: want url = \"https://HOST/...\", as the password of the registry goes there"
            ));
        }
        if section.immutable.iter().any(String::is_empty) {
            return Err(format!("{name}: immutable: a pattern is empty"));
        }
    }
    Ok(())
}

/// Whether a text can be the name of a variable (POSIX, section 8.1).
fn is_variable(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(is_fine) && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// Whether a password may go to `url`: by TLS, or within this machine where the registry itself is spoken to so.
fn is_api_address(url: &str, is_plain: bool) -> bool {
    let rest = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => rest,
        (_, Some(rest)) if is_plain => rest,
        _ => return false,
    };
    let host = rest.split('/').next().unwrap_or_default();
    let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
    let is_host = !bare.is_empty() && !rest.contains(['@', '?', '#']) && !rest.contains(char::is_whitespace);
    is_host && (url.starts_with("https://") || is_loopback(bare))
}

impl CredentialsSection {
    /// Whether it names one way to credentials, and names it whole.
    fn is_one(&self) -> bool {
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let has_password = [filled(&self.password_env), self.password_file.is_some()];
        let passwords = has_password.iter().filter(|has| **has).count();
        let others = [filled(&self.helper), self.anonymous]
            .iter()
            .filter(|has| **has)
            .count();
        match (passwords, others) {
            (1, 0) => filled(&self.user),
            (0, 1) => self.user.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        registry: Vec<RegistrySection>,
    }

    fn check(text: &str) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        check_registries(&file.registry)
    }

    #[test]
    fn a_registry_is_a_host_with_credentials_by_reference() {
        let one = |rest: &str| format!("[[registry]]\nhost = \"registry.example.org\"\n{rest}\n");
        for rest in [
            "",
            "priority = 2\nrole = \"pull\"",
            "role = \"push\"\nchunk = \"4M\"\nimmutable = [\"base/*\"]",
            "connections = 64\npulls_per_minute = 20",
            "credentials = { user = \"me\", password_env = \"KEY\" }",
            "credentials = { user = \"me\", password_file = \"/run/key\" }",
            "credentials = { helper = \"pass\" }",
            "credentials = { anonymous = true }",
            "management = { api = \"scaleway\", url = \"https://api.example.org/registry/v1/regions/one\" }",
            "management = { api = \"github\", url = \"https://api.example.org:8443/orgs/team\" }",
        ] {
            check(&one(rest)).unwrap();
        }
        for host in ["localhost:5000", "127.0.0.1:5000", "localhost"] {
            check(&format!("[[registry]]\nhost = \"{host}\"\nplain_http = true\n")).unwrap();
        }
        for (text, says) in [
            (one("plain_http = true"), "loopback"),
            (one("role = \"admin\""), "unknown variant"),
            (one("chunk = \"4 apples\""), "chunk"),
            (one("password = \"x\""), "unknown field"),
            (one("connections = 0"), "want 1 to 64"),
            (one("pulls_per_minute = 0"), "want 1 to 1000"),
            (one("pulls_per_minute = 1001"), "want 1 to 1000"),
            (
                one("credentials = { user = \"me\", password = \"hunter2\" }"),
                "unknown field",
            ),
            (one("credentials = { user = \"me\" }"), "credentials are"),
            (one("credentials = { password_env = \"KEY\" }"), "credentials are"),
            (
                one("credentials = { user = \"me\", password_env = \"A\", password_file = \"b\" }"),
                "credentials are",
            ),
            (
                one("credentials = { user = \"me\", helper = \"pass\" }"),
                "credentials are",
            ),
            (one("credentials = {}"), "credentials are"),
            (
                one("credentials = { user = \"me\", password_env = \"h-nter2!\" }"),
                "name of an environment variable",
            ),
            (
                "[[registry]]\nhost = \"https://me:h-nter2@registry.example.org\"\n".to_owned(),
                "...@registry.example.org",
            ),
            (one("immutable = [\"\"]"), "pattern is empty"),
            (one("management = { api = \"x\", url = \"https://a\" }"), "unknown variant"),
            (one("management = { api = \"github\" }"), "missing field"),
            (
                one("management = { api = \"github\", url = \"http://localhost/x\" }"),
                "want url",
            ),
            (
                one("management = { api = \"github\", url = \"https://me:pw@a.example\" }"),
                "want url",
            ),
            (
                "[[registry]]\nhost = \"localhost:1\"\nplain_http = true\nmanagement = { api = \"github\", url = \"http://a.example/\" }\n".to_owned(),
                "want url",
            ),
            (format!("{}{}", one(""), one("")), "listed twice"),
            ("[[registry]]\npriority = 1\n".to_owned(), "missing field `host`"),
            (
                "[[registry]]\nhost = \"https://registry.example.org\"\n".to_owned(),
                "want a host",
            ),
            ("[[registry]]\nhost = \"registry\"\n".to_owned(), "want a host"),
            (
                "[[registry]]\nhost = \"registry.example.org/team\"\n".to_owned(),
                "want a host",
            ),
            (
                "[[registry]]\nhost = \"127.evil.example\"\nplain_http = true\n".to_owned(),
                "loopback",
            ),
        ] {
            let error = check(&text).unwrap_err();
            assert!(error.contains(says) && !error.contains("h-nter2"), "{text}: {error}");
        }
    }
}
