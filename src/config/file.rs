//! `config.toml`: every key is known, every value checked, and errors name file and line.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::Environment;
use crate::policy::{
    is_loopback, parse_duration, Bytes, Confinement, Egress, HostPort, Kind, Network, NetworkMode, Promise,
};

/// A configuration file has a few kilobytes.
const MAX_BYTES: u64 = 1 << 20;

/// The whole file; everything is optional.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Defaults of `gantry run`.
    pub run: RunSection,
    /// The Python package index.
    pub index: IndexSection,
    /// The Debian archive that base images are made of.
    pub base: BaseSection,
    #[serde(rename = "registry")]
    _registry: NotInThisVersion,
    #[serde(rename = "cache")]
    _cache: NotInThisVersion,
    #[serde(rename = "naming")]
    _naming: NotInThisVersion,
}

/// A section that the design has and this version has not. Nobody shall believe in a limit that is not there, so it is
/// refused with its own words; that of a section nobody knows is "unknown field".
#[derive(Debug, Clone, Default)]
struct NotInThisVersion;

impl<'de> Deserialize<'de> for NotInThisVersion {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        let reason = "not in this version: the section would do nothing, so it is refused";
        Err(serde::de::Error::custom(reason))
    }
}

/// `[run]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSection {
    memory: Option<Bytes>,
    cpus: Option<f64>,
    pids: Option<u32>,
    #[serde(deserialize_with = "duration")]
    timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    grace: Option<Duration>,
    tmp_size: Option<Bytes>,
    output_size: Option<Bytes>,
    output_limit: Option<Bytes>,
    network: Option<NetworkMode>,
    /// Of runs with egress that list nothing themselves.
    egress: Vec<HostPort>,
    /// All that any run may list; without it, any public host.
    egress_allowed: Option<Vec<HostPort>>,
    allow_degraded: Vec<Promise>,
}

/// `[index]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexSection {
    /// Simple index; default: that of the resolver. It holds no user and no password.
    pub url: Option<String>,
    /// User name there.
    pub user: Option<String>,
    /// Name of the environment variable that holds the password.
    pub password_env: Option<String>,
    /// The resolver; default: `uv` on the PATH.
    pub uv: Option<PathBuf>,
    /// How old the versions may be that requirements were resolved to; default: a day.
    #[serde(deserialize_with = "duration")]
    pub max_age: Option<Duration>,
}

/// `[base]`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BaseSection {
    /// Debian archive; default: this machine's apt sources.
    pub mirror: Option<String>,
    /// Debian security archive; default: this machine's apt sources.
    pub security_mirror: Option<String>,
    /// Keys that may sign the indexes of these archives, as gpgv takes them; default: what the apt sources say, else
    /// Debian's.
    pub keyring: Option<PathBuf>,
}

impl fmt::Debug for BaseSection {
    /// The addresses are left out: they may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BaseSection")
            .field("keyring", &self.keyring)
            .finish_non_exhaustive()
    }
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It says something unknown or impossible; the text has the line.
    #[error("read configuration {path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// There is no home to look in.
    #[error("find the store: neither GANTRY_ROOT, XDG_DATA_HOME nor HOME is set")]
    NoHome,
}

impl ConfigError {
    /// What is wrong is what the caller wrote, or where it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { .. } | Self::Parse { .. } | Self::NoHome => Kind::Usage,
        }
    }
}

impl Config {
    /// Reads `explicit`, else `$GANTRY_CONFIG`, else the default file if it exists.
    pub fn load(explicit: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let named = explicit
            .map(Path::to_owned)
            .or_else(|| environment.gantry_config.clone());
        let is_named = named.is_some();
        let Some(path) = named.or_else(|| environment.default_config()) else {
            return Ok(Self::default());
        };
        let text = match read_bounded(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => return Ok(Self::default()),
            other => other.map_err(|source| ConfigError::Read {
                path: path.clone(),
                source,
            })?,
        };
        let parse = |reason: String| ConfigError::Parse {
            path: path.clone(),
            reason,
        };
        let config: Self = toml::from_str(&text).map_err(|error| parse(error.to_string()))?;
        config.check().map_err(parse)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.index.check()?;
        if self.run.cpus.is_some_and(|cpus| !(0.01..=1024.0).contains(&cpus)) {
            return Err("run.cpus: want a number of cores from 0.01 to 1024".to_owned());
        }
        if self.run.pids.is_some_and(|pids| !(1..=4096).contains(&pids)) {
            return Err("run.pids: want a number from 1 to 4096".to_owned());
        }
        Ok(())
    }
}

impl IndexSection {
    fn check(&self) -> Result<(), String> {
        let (scheme, rest) = self
            .url
            .as_deref()
            .and_then(|url| url.split_once("://"))
            .unwrap_or_default();
        let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            let instead = "name them by `user` and `password_env`, the name of a variable";
            return Err(format!("index.url: it holds a user or a password; {instead}"));
        }
        let (user, password) = (self.user.as_deref(), self.password_env.as_deref());
        if user.is_none() && password.is_none() {
            return Ok(());
        }
        if user.unwrap_or_default().is_empty() || password.unwrap_or_default().is_empty() || self.url.is_none() {
            return Err("index: credentials need `url`, `user` and `password_env`, the name of a variable".to_owned());
        }
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        if scheme == "https" || (scheme == "http" && (is_loopback(host) || is_loopback(authority))) {
            return Ok(());
        }
        Err("index.url: credentials are sent over https, and over http to loopback hosts, only".to_owned())
    }
}

impl RunSection {
    /// The network of a run that asks for `mode` and lists `egress`, within what this machine allows.
    pub fn network(&self, mode: Option<NetworkMode>, egress: Vec<HostPort>) -> Result<Network, String> {
        let listed = !egress.is_empty();
        let egress = if listed { egress } else { self.egress.clone() };
        match mode.or(self.network).unwrap_or(NetworkMode::None) {
            NetworkMode::None if listed => Err("egress HOST:PORT needs network egress".to_owned()),
            NetworkMode::None => Ok(Network::None),
            NetworkMode::Egress => {
                let allowed = |entry: &&HostPort| self.egress_allowed.as_ref().is_none_or(|all| all.contains(entry));
                match egress.iter().find(|entry| !allowed(entry)) {
                    Some(entry) => Err(format!(
                        "egress {entry} is not in egress_allowed of this machine's configuration"
                    )),
                    None => Egress::new(egress).map(Network::Egress),
                }
            }
        }
    }

    /// The defaults of a run on this machine, but for its [`network`](Self::network).
    pub fn confinement(&self) -> Confinement {
        let ours = Confinement::default();
        Confinement {
            memory: self.memory.unwrap_or(ours.memory),
            cpus: self.cpus.unwrap_or(ours.cpus),
            pids: self.pids.unwrap_or(ours.pids),
            timeout: self.timeout.unwrap_or(ours.timeout),
            grace: self.grace.unwrap_or(ours.grace),
            tmp_size: self.tmp_size.unwrap_or(ours.tmp_size),
            output_size: self.output_size.unwrap_or(ours.output_size),
            output_limit: self.output_limit.unwrap_or(ours.output_limit),
            network: ours.network,
            allow_degraded: self.allow_degraded.iter().copied().collect(),
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(text)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_duration(&text).map_err(serde::de::Error::custom))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), &Environment::default())
    }

    #[test]
    fn a_configuration_is_printed_without_credentials() {
        let text =
            "[base]\nmirror = \"https://me:hunter2@a.example\"\nsecurity_mirror = \"https://hunter2@s.example\"\n";
        let printed = format!("{:?}", load(text).unwrap());
        assert!(
            printed.contains("BaseSection") && !printed.contains("hunter2"),
            "{printed}"
        );
    }

    #[test]
    fn a_section_that_would_do_nothing_is_refused_by_name_and_line() {
        for (section, line) in [
            ("[cache]\nmax_bytes = \"40GB\"\n", "[cache]"),
            ("[cache]\n", "[cache]"),
            ("cache.max_images = 200\n", "cache.max_images"),
            (
                "[[registry]]\nhost = \"registry.example.org\"\npriority = 1\n",
                "[[registry]]",
            ),
            ("registry = []\n", "registry = []"),
            ("[naming]\ntemplate = \"{registry}\"\n", "[naming]"),
        ] {
            let error = load(&format!("# one\n\n{section}")).unwrap_err();
            let ConfigError::Parse { reason, .. } = &error else {
                panic!("{error}")
            };
            assert!(reason.contains("line 3") && reason.contains(line), "{reason}");
            assert!(reason.contains("not in this version"), "{reason}");
        }
        let error = load("[cach]\n").unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
    }

    #[test]
    fn reads_the_defaults_of_a_run() {
        let text = "[run]\nmemory = \"1G\"\ntimeout = \"5m\"\nallow_degraded = [\"memory\"]\n";
        let config = load(text).unwrap();
        let confinement = config.run.confinement();
        assert_eq!(
            (confinement.memory, confinement.timeout),
            (Bytes(1 << 30), Duration::from_secs(300))
        );
        assert!(confinement.allow_degraded.contains(&Promise::Memory));
    }

    #[test]
    fn egress_is_what_a_run_lists_within_what_the_machine_allows() {
        let entries = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<HostPort>>()
        };
        let network = |config: &str, mode: Option<NetworkMode>, listed: &[&str]| {
            let network = load(config).unwrap().run.network(mode, entries(listed));
            network.map(|network| network.egress().iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (none, egress) = (Some(NetworkMode::None), Some(NetworkMode::Egress));
        assert_eq!(network("", None, &[]), Ok(vec![]));
        assert_eq!(
            network("", egress, &["a.example:1"]),
            Ok(vec!["a.example:1".to_owned()])
        );
        assert!(network("", None, &["a.example:1"])
            .unwrap_err()
            .contains("needs network egress"));
        assert!(network("", none, &["a.example:1"])
            .unwrap_err()
            .contains("needs network egress"));
        assert!(network("", egress, &[]).unwrap_err().contains("at least one"));
        let defaults = "[run]\nnetwork = \"egress\"\negress = [\"d.example:2\"]\n";
        assert_eq!(network(defaults, None, &[]), Ok(vec!["d.example:2".to_owned()]));
        assert_eq!(network(defaults, none, &[]), Ok(vec![]));
        assert_eq!(
            network(defaults, None, &["a.example:1"]),
            Ok(vec!["a.example:1".to_owned()])
        );
        let bound = "[run]\negress_allowed = [\"a.example:1\", \"b.example:2\"]\n";
        assert_eq!(network(bound, None, &[]), Ok(vec![]));
        assert_eq!(
            network(bound, egress, &["b.example:2"]),
            Ok(vec!["b.example:2".to_owned()])
        );
        for refused in ["b.example:1", "x.a.example:1", "c.example:2"] {
            let error = network(bound, egress, &["a.example:1", refused]).unwrap_err();
            assert!(error.contains(refused) && error.contains("egress_allowed"), "{error}");
        }
        assert!(network("[run]\negress_allowed = []\n", egress, &["a.example:1"]).is_err());
    }

    #[test]
    fn credentials_of_an_index_are_names_only() {
        let index = |text: &str| load(&format!("[index]\n{text}\n")).map(|config| config.index);
        let whole = "user = \"me\"\npassword_env = \"KEY\"";
        for url in [
            "https://index.example/simple",
            "http://127.0.0.1:8080/simple",
            "http://[::1]/x@y",
        ] {
            assert!(index(&format!("url = \"{url}\"\n{whole}")).is_ok(), "{url}");
        }
        for (text, says) in [
            ("url = \"https://me:hunter2@index.example/simple\"", "index.url"),
            ("url = \"https://token@index.example/simple\"", "index.url"),
            ("url = \"https://index.example\"\nuser = \"me\"", "password_env"),
            ("url = \"https://index.example\"\npassword_env = \"KEY\"", "user"),
            (whole, "url"),
            (&format!("url = \"http://index.example\"\n{whole}"), "https"),
            (&format!("url = \"http://127.evil.example\"\n{whole}"), "https"),
        ] {
            let error = index(text).unwrap_err().to_string();
            assert!(
                error.contains(says) && error.contains("/") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn errors_name_the_line() {
        for (text, says) in [
            ("[run]\nmemory = \"1G\"\nmemmory = \"1G\"\n", "line 3"),
            ("[run]\ntimeout = \"soon\"\n", "line 2"),
            ("[run]\ncpus = -1\n", "cpus"),
            ("[run]\n\negress_allowed = [\"localhost:80\"]\n", "line 3"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(matches!(
            Config::load(Some(Path::new("/nonexistent")), &Environment::default()),
            Err(ConfigError::Read { .. })
        ));
    }
}
