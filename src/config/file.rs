//! Reads `config.toml`. Unknown keys and impossible values are errors that name the file and the line.
//!
//! `docs/configuration.md` describes every key, and a test here holds it against this file.

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::bounds::LimitsSection;
use super::cache_section::CacheSection;
use super::explained::explained_without_place;
use super::files::{layers, merged, Layer};
use super::naming_section::NamingSection;
use super::package_index::IndexSection;
use super::registry_section::{check_registries, RegistrySection, TransferSection};
use super::several::several_tables;
use super::{ConfigError, Environment};
use crate::policy::{
    with_limits, Bytes, Confinement, Egress, GivenLimits, HostPort, Network, NetworkMode, Promise, Room, Runtime,
    Scope, Time, Wait,
};

/// A configuration file; every section and every key may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Defaults of `gantry run`.
    pub(crate) run: RunSection,
    /// What no run goes beyond.
    pub(crate) limits: LimitsSection,
    /// The Python package index.
    pub(crate) index: IndexSection,
    /// The Debian archive that base images are made of.
    pub(crate) base: BaseSection,
    /// Debian packages that functions ask for.
    pub(crate) system: SystemSection,
    /// The store.
    pub(crate) store: StoreSection,
    /// How much the store holds.
    pub(crate) cache: CacheSection,
    /// Registries.
    #[serde(deserialize_with = "several_tables")]
    pub(crate) registry: Vec<RegistrySection>,
    /// How images move to and from them.
    pub(crate) transfer: TransferSection,
    /// Names of functions' images.
    pub(crate) naming: NamingSection,
    /// The file that was read.
    #[serde(skip)]
    file: Option<PathBuf>,
}

macro_rules! run_section {
    ($($(#[$doc:meta])* $name:ident: $given:ty => $value:ty = $default:expr, $word:literal;)*) => {
        /// `[run]`: what runs on this machine get that do not say otherwise, and the hosts they may list at all.
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct RunSection {
            $($name: Option<$given>,)*
            network: Option<NetworkMode>,
            /// Of runs with egress that list nothing themselves.
            egress: Vec<HostPort>,
            /// All that any run may list; without it, any public host.
            egress_allowed: Option<Vec<HostPort>>,
            /// Whether any run may have loopback; without it, any may.
            loopback_allowed: Option<bool>,
            /// For runs that do not say, and all that a job may name; without it, a job may name any.
            allow_degraded: Option<Vec<Promise>>,
            /// What makes the containers of runs that do not say.
            runtime: Option<Runtime>,
            /// Functions at once on this machine.
            slots: Option<NonZeroU32>,
            /// Sum of the memory limits of all runs at once.
            memory_total: Option<Room>,
            /// Where the files of the slots are; default: in the store.
            slots_dir: Option<PathBuf>,
            /// How long a run waits for a slot.
            wait: Option<Wait>,
            /// What a run does that has no cgroup delegated to it.
            scope: Option<Scope>,
        }

        impl RunSection {
            fn limits(&self) -> GivenLimits {
                GivenLimits { $($name: self.$name,)* }
            }
        }
    };
}
with_limits!(run_section);

/// `[base]`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BaseSection {
    /// Debian archive; default: this machine's apt sources.
    pub(crate) mirror: Option<String>,
    /// Debian security archive; default: this machine's apt sources.
    pub(crate) security_mirror: Option<String>,
    /// Keys that may sign the indexes of these archives, as gpgv takes them; default: what the apt sources say, else
    /// Debian's.
    pub(crate) keyring: Option<PathBuf>,
    /// Where archives of interpreters are; default: where their definitions say.
    pub(crate) interpreter_mirror: Option<String>,
    /// Directory of more definitions of bases.
    pub(crate) definitions: Option<PathBuf>,
}

impl BaseSection {
    fn check(&self) -> Result<(), String> {
        let Some(mirror) = &self.interpreter_mirror else {
            return Ok(());
        };
        // It may hold a password, so it is not repeated.
        let rest = mirror
            .strip_prefix("https://")
            .or_else(|| mirror.strip_prefix("http://"));
        match rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            true => Ok(()),
            false => Err("base.interpreter_mirror: expected a URL such as https://files.example.org/python".to_owned()),
        }
    }
}

/// `[store]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// How long the holder of a lock may give no sign of life; default: that of the store.
    pub(crate) patience: Option<Time>,
}

impl fmt::Debug for BaseSection {
    /// The addresses are left out: they may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BaseSection")
            .field("keyring", &self.keyring)
            .finish_non_exhaustive()
    }
}

/// `[system]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SystemSection {
    /// The packages that functions may ask for; default: those of `rootfs/system.toml`.
    pub(crate) allowed: Option<Vec<String>>,
    /// Whether they may ask for any.
    pub(crate) allow_all: bool,
}

impl SystemSection {
    fn check(&self) -> Result<(), String> {
        match (&self.allowed, self.allow_all) {
            (Some(_), true) => {
                Err("system: `allowed` says nothing beside `allow_all`; leave one of them out".to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl Config {
    /// Reads the machine's file, and above it `explicit`, else `$GANTRY_CONFIG`, else the user's own if it exists: of each
    /// key the upper one counts.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the file, the line and the key that is wrong; a file that was asked for has to be there.
    pub fn load(explicit: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let layers = layers(explicit, environment)?;
        let Some((top, below)) = layers.split_last() else {
            return Ok(Self::default());
        };
        let mut config: Self = top.parse()?;
        if !below.is_empty() {
            // Each answers for itself, with its lines.
            below.iter().try_for_each(|layer| layer.parse::<Self>().map(drop))?;
            let both = merged(&layers)?.try_into();
            config = both.map_err(|error: toml::de::Error| top.refused(explained_without_place(&error)))?;
        }
        config.check().map_err(|reason| top.refused(reason))?;
        config.file = Some(top.path.clone());
        Ok(config)
    }

    /// The uppermost file that it was read from; none when there is none.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Checks the file at `path` by itself.
    pub fn check_file(path: &Path) -> Result<(), ConfigError> {
        let layer = Layer::read(path)?;
        let config: Self = layer.parse()?;
        config.check().map_err(|reason| layer.refused(reason))
    }

    fn check(&self) -> Result<(), String> {
        self.limits.check(&self.run.confinement())?;
        self.system.check()?;
        self.base.check()?;
        check_registries(&self.registry)?;
        self.naming.check()?;
        self.index.check()
    }
}

impl RunSection {
    /// The section as a text of its own, for tests of what is made of it.
    #[cfg(test)]
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// The network of a run that asks for `mode` and lists `egress`, within what this machine allows.
    ///
    /// # Errors
    ///
    /// The text says what this machine does not allow, and which key allows it.
    pub fn network(&self, mode: Option<NetworkMode>, egress: Vec<HostPort>) -> Result<Network, String> {
        let listed = !egress.is_empty();
        let egress = if listed { egress } else { self.egress.clone() };
        match mode.or(self.network).unwrap_or(NetworkMode::None) {
            NetworkMode::None | NetworkMode::Loopback if listed => Err(
                "egress HOST:PORT needs the network as well: `--network egress`, or \"network\": \"egress\" in a job"
                    .to_owned(),
            ),
            NetworkMode::None => Ok(Network::None),
            NetworkMode::Loopback if self.loopback_allowed == Some(false) => {
                Err("loopback_allowed of this machine's configuration is false".to_owned())
            }
            NetworkMode::Loopback => Ok(Network::Loopback),
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

    /// How many functions run at once on this machine, how much memory they get together, and where that is written down.
    pub fn slots(&self) -> (Option<u32>, Option<Bytes>, Option<PathBuf>) {
        let memory = self.memory_total.map(Bytes::from);
        (self.slots.map(NonZeroU32::get), memory, self.slots_dir.clone())
    }

    /// What a run does that has no cgroup delegated to it.
    pub fn scope(&self) -> Scope {
        self.scope.unwrap_or_default()
    }

    /// How long a run waits for a slot that says `given` itself.
    pub fn wait(&self, given: Option<Wait>) -> Duration {
        // Some runs of most functions, and less than what queues and their users take for a hang.
        const DEFAULT: Duration = Duration::from_secs(30);
        given.or(self.wait).map_or(DEFAULT, Duration::from)
    }

    /// The first of `promises` whose loss a job may not accept on this machine, and those that it may.
    pub fn beyond(&self, promises: &[Promise]) -> Option<(Promise, &[Promise])> {
        let allowed = self.allow_degraded.as_deref()?;
        let promise = promises.iter().find(|promise| !allowed.contains(promise))?;
        Some((*promise, allowed))
    }

    /// The defaults of a run on this machine, but for its [`network`](Self::network).
    pub fn confinement(&self) -> Confinement {
        Confinement {
            allow_degraded: self.allow_degraded.iter().flatten().copied().collect(),
            runtime: self.runtime.unwrap_or_default(),
            ..Confinement::default().limited(&self.limits())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), &Environment::default())
    }

    /// The keys that serde knows of `section`, from what it says about a key that it does not know.
    fn known(section: &str) -> Vec<String> {
        let error = load(&format!("{section}\n\"no such key\" = 1\n"))
            .unwrap_err()
            .to_string();
        let list = error.split("expected").nth(1).unwrap();
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// The first and third column of the table under the heading of `section`.
    fn documented(section: &str) -> Vec<(String, String)> {
        let document = include_str!("../../docs/configuration.md");
        let rest = document.split(&format!("\n## `{section}`\n")).nth(1).unwrap();
        let table = rest.split("\n## ").next().unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        let cell = |row: &str, at: usize| row.split('|').nth(at).unwrap().trim().trim_matches('`').to_owned();
        rows.map(|row| (cell(row, 1), cell(row, 3))).collect()
    }

    #[test]
    fn a_mirror_of_interpreters_is_a_url() {
        let check = |mirror: &str| {
            let base = BaseSection {
                interpreter_mirror: Some(mirror.to_owned()),
                ..BaseSection::default()
            };
            base.check()
        };
        for mirror in ["https://files.example.org/python", "http://127.0.0.1:8000"] {
            assert_eq!(check(mirror), Ok(()), "{mirror}");
        }
        for mirror in ["", "file:///srv/python", "/srv/python", "https://", "https:///python"] {
            let reason = check(mirror).unwrap_err();
            assert!(reason.contains("base.interpreter_mirror"), "{reason}");
        }
    }

    #[test]
    fn every_key_is_documented_and_every_documented_key_is_known() {
        let sections = known("");
        assert_eq!(
            sections,
            ["run", "limits", "index", "base", "system", "store", "cache", "registry", "transfer", "naming"]
        );
        let whole = include_str!("../../docs/configuration.md");
        let example = whole.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        load(example).unwrap();
        let example: toml::Table = toml::from_str(example).unwrap();
        assert_eq!(example.len(), sections.len());
        for section in &sections {
            let heading = heading(section);
            let documented = documented(&heading);
            let keys: Vec<&str> = documented.iter().map(|(key, _)| key.as_str()).collect();
            let mut known = known(&heading);
            // The order of a document is its reader's.
            assert_eq!(
                known.len(),
                keys.len(),
                "{heading}: {known:?} are known, {keys:?} documented"
            );
            known.retain(|key| !keys.contains(&key.as_str()));
            assert!(known.is_empty(), "{heading}: {known:?} are not documented");
            let shown = example.get(section).unwrap();
            let shown = shown.get(0).unwrap_or(shown).as_table().unwrap();
            assert!(
                keys.iter().all(|key| shown.contains_key(*key)),
                "{heading}: the example lacks a key"
            );
            // A default that is a value is accepted where it stands.
            for (key, default) in documented
                .iter()
                .filter(|(_, default)| default.starts_with(['"', '[', '1', '6']))
            {
                let host = if section == "registry" {
                    "host = \"a.example\"\n"
                } else {
                    ""
                };
                load(&format!("{heading}\n{host}{key} = {default}\n")).unwrap();
            }
        }
    }

    /// How a section begins in a file.
    fn heading(section: &str) -> String {
        match section {
            "registry" => "[[registry]]".to_owned(),
            _ => format!("[{section}]"),
        }
    }

    #[test]
    fn the_file_that_is_written_has_every_key_and_every_default() {
        let template = crate::config::template();
        load(template).unwrap();
        let keys = |keep: &dyn Fn(&str) -> bool| -> String {
            let lines = template.lines().filter(|line| {
                line.starts_with('[')
                    || (line.starts_with('#') && !line.starts_with("# ") && *line != "#" && keep(line))
            });
            lines
                .map(|line| format!("{}\n", line.trim_start_matches('#')))
                .collect()
        };
        let every: toml::Table = toml::from_str(&keys(&|_| true)).unwrap();
        load(&keys(&|_| true)).unwrap();
        let sections = known("");
        assert_eq!(every.len(), sections.len());
        for section in sections {
            let mut missing = known(&heading(&section));
            let shown = every.get(&section).map(|shown| shown.get(0).unwrap_or(shown));
            missing.retain(|key| shown.and_then(|section| section.get(key)).is_none());
            assert!(missing.is_empty(), "{section}: template.toml lacks {missing:?}");
        }
        let config = load(&keys(&|line| !line.ends_with("# example"))).unwrap();
        assert_eq!(config.run.confinement(), Confinement::default());
        assert_eq!(config.run.network(None, Vec::new()), Ok(Confinement::default().network));
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let values: Vec<String> = documented("[run]")
            .into_iter()
            .filter(|(_, default)| default.starts_with(['"', '[', '1', '6']))
            .map(|(key, default)| format!("{key} = {default}"))
            .collect();
        assert!(values.len() > 8, "{values:?}");
        let run = load(&format!("[run]\n{}\n", values.join("\n"))).unwrap().run;
        assert_eq!(run.confinement(), Confinement::default());
        assert_eq!(run.network(None, Vec::new()), Ok(Confinement::default().network));
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
    fn reads_the_defaults_of_a_run() {
        let text = "[run]\nmemory = \"1G\"\ntimeout = \"5m\"\nallow_degraded = [\"memory\"]\n";
        let config = load(text).unwrap();
        let confinement = config.run.confinement();
        assert_eq!(
            (confinement.memory, confinement.timeout),
            (crate::policy::Bytes(1 << 30), std::time::Duration::from_secs(300))
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
            .contains("needs the network as well"));
        assert!(network("", none, &["a.example:1"])
            .unwrap_err()
            .contains("needs the network as well"));
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
        let loopback = Some(NetworkMode::Loopback);
        assert_eq!(network("", loopback, &[]), Ok(Vec::new()));
        assert!(network("", loopback, &["a.example:1"]).is_err());
        assert_eq!(
            network("[run]\nloopback_allowed = true\n", loopback, &[]),
            Ok(Vec::new())
        );
        let never = "[run]\nnetwork = \"loopback\"\nloopback_allowed = false\n";
        for asked in [loopback, None] {
            assert!(network(never, asked, &[]).unwrap_err().contains("loopback_allowed"));
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
